//! Kernels of `strangers.cu` that compute with integers, bits, halves and lanes.

use crate::machine::{floats, noise};
use crate::strangers::{everywhere, n, p, words};

#[test]
fn conversions() {
    everywhere("strangers", |m, _| {
        let x = floats(11, 300);
        let out = m.empty(4 * 16 * 300);
        m.ok("conversions", 3, 128, 0, &[p(m.put(&x)), p(out), n(300)]);
        let got: Vec<i32> = m.get(out, 16 * 300);
        for (i, &v) in x.iter().enumerate() {
            let d = f64::from(v) * 1000.0;
            // `v * 1000.0` is a double product here as there.
            let want = [
                v as i32,
                v.round_ties_even() as i32,
                v.ceil() as i32,
                v.floor() as i32,
                v as i32 as i8 as i32,
                v.abs() as u32 as i32,
                d as i64 as i32,
                d.abs() as u64 as i32,
                v.to_bits() as i32,
                (d.to_bits() >> 32) as i32,
                d.to_bits() as i32,
                d as i32 as i16 as i32,
                d as i32 as u8 as i32,
                (i as i64 * 1_234_567) as f32 as i32,
                4 * i32::from(v.is_sign_negative()),
                (v.abs() * 4e8).round_ties_even() as u32 as i32,
            ];
            for (k, want) in want.into_iter().enumerate() {
                assert_eq!(got[k * 300 + i], want, "{k} of {v}");
            }
        }
    });
}

#[test]
fn divisions() {
    everywhere("strangers", |m, _| {
        let count = 400;
        let (a, b) = (words(1, count), words(2, count));
        let b: Vec<i32> = b.iter().enumerate().map(|(i, &v)| (v >> (i % 31)) as i32 | 1).collect();
        let a: Vec<i32> = a.iter().map(|&v| v as i32).collect();
        let c: Vec<i64> = noise(3).take(count).map(|v| v as i64).collect();
        let d: Vec<i64> = noise(4).take(count).enumerate().map(|(i, v)| v as i64 >> (i % 63) | 1).collect();
        let out = m.empty(8 * 14 * count);
        let args = [p(m.put(&a)), p(m.put(&b)), p(m.put(&c)), p(m.put(&d)), p(out), n(count)];
        m.ok("divisions", 4, 128, 0, &args);
        let got: Vec<i64> = m.get(out, 14 * count);
        for i in 0..count {
            let (a, b, c, d) = (a[i], b[i], c[i], d[i]);
            let (ua, ub, uc, ud) = (a as u32, b as u32, c as u64, d as u64);
            let want = [
                a.wrapping_div(b).into(),
                a.wrapping_rem(b).into(),
                (ua / ub).into(),
                (ua % ub).into(),
                c.wrapping_div(d),
                c.wrapping_rem(d),
                (uc / ud) as i64,
                (uc % ud) as i64,
                (a / 7).into(),
                (ua % 10).into(),
                c / 1_000_003,
                (uc % 12_345_678_901) as i64,
                (i32::from(a as i16) / (i32::from(b as i16) | 1)).into(),
                ((u128::from(uc) * u128::from(ud)) >> 64) as i64,
            ];
            for (k, want) in want.into_iter().enumerate() {
                assert_eq!(got[k * count + i], want, "{k}: {a} {b} {c} {d}");
            }
        }
    });
}

#[test]
fn bits_and_bytes() {
    everywhere("strangers", |m, _| {
        let count = 300;
        let x = words(21, count);
        let (px, out) = (m.put(&x), m.empty(4 * 24 * count));
        m.ok("bits", 3, 128, 0, &[p(px), p(out), n(count)]);
        let got: Vec<u32> = m.get(out, 24 * count);
        for (i, &v) in x.iter().enumerate() {
            let w = x[(i + 1) % count];
            let q = u64::from(v) << 32 | u64::from(w);
            let both = [w.to_le_bytes(), v.to_le_bytes()];
            let (vb, wb) = (both[1].map(i32::from), both[0].map(i32::from));
            let signed = |b: i32| i32::from(b as u8 as i8);
            let all = [both[1], both[0]].concat();
            let s24 = |x: u32| i64::from((x << 8) as i32 >> 8);
            let average = |round: u64| ((u64::from(v) + u64::from(w) + round) / 2) as u32;
            let (low, high) = ((v & 0xffff) as i32, (v >> 16) as i32);
            let want = [
                v.count_ones(),
                v.reverse_bits(),
                if v == 0 { 0 } else { v.trailing_zeros() + 1 },
                v.leading_zeros(),
                u32::from_le_bytes([all[1], all[7], all[5], all[2]]),
                ((u64::from(w) << 32 | u64::from(v)) << (i % 32) >> 32) as u32,
                ((u64::from(w) << 32 | u64::from(v)) >> (i % 32)) as u32,
                q.count_ones(),
                q.leading_zeros(),
                if q == 0 { 0 } else { q.trailing_zeros() + 1 },
                q.reverse_bits() as u32,
                ((u64::from(v) * u64::from(w)) >> 32) as u32,
                ((i64::from(v as i32) * i64::from(w as i32)) >> 32) as u32,
                (s24(v) * s24(w)) as u32,
                (u64::from(v & 0xff_ffff) * u64::from(w & 0xff_ffff)) as u32,
                ((u128::from(q) * u128::from(!q)) >> 64) as u32,
                v.abs_diff(w).wrapping_add(5),
                (v as i32).abs_diff(w as i32).wrapping_add(7),
                average(0),
                average(1),
                (0..4).fold(9, |s, k| s + signed(vb[k]) * signed(wb[k])) as u32,
                (0..4).fold(9, |s, k| s + vb[k] * wb[k]) as u32,
                (3 + i32::from(low as i16) * signed(wb[0]) + i32::from(high as i16) * signed(wb[1])) as u32,
                3u32.wrapping_add((low * wb[2]) as u32).wrapping_add((high * wb[3]) as u32),
            ];
            for (k, want) in want.into_iter().enumerate() {
                assert_eq!(got[k * count + i], want, "{k} of {v:x} {w:x}");
            }
        }
        m.ok("simd_bytes", 3, 128, 0, &[p(px), p(out), n(count)]);
        let got: Vec<u32> = m.get(out, 12 * count);
        for (i, &v) in x.iter().enumerate() {
            let w = x[(i + 1) % count];
            let bytes = |f: fn(u8, u8) -> u8| {
                let (a, b) = (v.to_le_bytes(), w.to_le_bytes());
                u32::from_le_bytes(std::array::from_fn(|k| f(a[k], b[k])))
            };
            let halves = |f: fn(u16, u16) -> u16| {
                u32::from(f(v as u16, w as u16)) | u32::from(f((v >> 16) as u16, (w >> 16) as u16)) << 16
            };
            let sad =
                v.to_le_bytes().iter().zip(w.to_le_bytes()).map(|(a, b)| u32::from(a.abs_diff(b))).sum();
            let want = [
                bytes(u8::wrapping_add),
                bytes(u8::wrapping_sub),
                bytes(u8::abs_diff),
                bytes(u8::max),
                bytes(|a, b| (a as i8).min(b as i8) as u8),
                bytes(|a, b| if a > b { 255 } else { 0 }),
                sad,
                bytes(|a, b| (u16::from(a) + u16::from(b)).div_ceil(2) as u8),
                bytes(u8::saturating_add),
                halves(u16::wrapping_add),
                halves(|a, b| (a as i16).max(b as i16) as u16),
                halves(|a, b| if a == b { !0 } else { 0 }),
            ];
            for (k, want) in want.into_iter().enumerate() {
                assert_eq!(got[k * count + i], want, "{k} of {v:x} {w:x}");
            }
        }
    });
}

#[test]
fn warps() {
    everywhere("strangers", |m, _| {
        let x: Vec<u32> = (0..32).map(|i| i * 13 % 9).collect();
        let out = m.empty(4 * 16 * 32);
        m.ok("warps", 1, 32, 0, &[p(m.put(&x)), p(out)]);
        let got: Vec<u32> = m.get(out, 16 * 32);
        let mask = |f: &dyn Fn(usize) -> bool| (0..32).fold(0u32, |mask, t| mask | u32::from(f(t)) << t);
        for t in 0..32 {
            let down = if t % 8 + 3 < 8 { t + 3 } else { t };
            let want = [
                mask(&|o| x[o] & 1 != 0),
                1,
                1,
                !0,
                mask(&|o| x[o] == x[t]),
                !0,
                x.iter().sum(),
                0,
                8,
                x.iter().fold(0, |a, b| a ^ b),
                x[t * 7 % 32],
                x[t ^ 5],
                x[down],
                1,
                x[31 - t],
                x[t ^ 1] + if t % 3 == 0 { 11 } else { 0 },
            ];
            for (k, want) in want.into_iter().enumerate() {
                assert_eq!(got[k * 32 + t], want, "{k} of lane {t}");
            }
        }
    });
}

#[test]
fn halves() {
    use half::{bf16, f16};
    everywhere("strangers", |m, _| {
        let of =
            |seed| floats(seed, 200).into_iter().map(|v| f16::from_f32(v).to_bits()).collect::<Vec<u16>>();
        let (x, y) = (of(1), of(2));
        let out = m.empty(2 * 4 * 200);
        m.ok("halves", 2, 128, 0, &[p(m.put(&x)), p(m.put(&y)), p(out), n(200)]);
        let got: Vec<u16> = m.get(out, 800);
        for i in 0..200 {
            let (a, b) = (f16::from_bits(x[i]).to_f64(), f16::from_bits(y[i]).to_f64());
            let brain = |v: u16| bf16::from_bits(v).to_f32();
            let want = [
                f16::from_f64(a + b).to_bits(),
                f16::from_f64(a * b + a).to_bits(),
                f16::from_f32(a as f32 * 0.1).to_bits(),
                bf16::from_f32(brain(x[i]) + brain(y[i])).to_bits(),
            ];
            assert_eq!([0, 1, 2, 3].map(|k| got[k * 200 + i]), want, "{a} {b}");
        }
    });
}
