//! Ordinary kernels, as NVRTC compiles them, against plain Rust.
//!
//! `ORTHANT_STRANGERS=FOLDER` adds further compilations of the same sources: every file `strangers*.ptx` and
//! `maths*.ptx` in it, whatever its target and options; with `fast` in its name less is asked of approximations.

use crate::machine::{Machine, fixture, floats, noise};
use orthant_gpu::exec::{Card, FaultKind};
use orthant_gpu::gpu::{Arg, Error, Gpu, Options};

/// Runs a check on every compilation, with two schedules.
pub fn everywhere(stem: &str, check: impl Fn(&Machine, bool)) {
    let mut texts = vec![(stem.to_string(), fixture(&format!("{stem}.sm_80.ptx")))];
    if let Some(folder) = std::env::var_os("ORTHANT_STRANGERS") {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.starts_with(&format!("{stem}.")) && name.ends_with(".ptx") {
                texts.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    for (name, text) in &texts {
        for seed in [0, 5] {
            eprintln!("{name}, seed {seed}");
            let mut gpu = Gpu::new(Card::sm_90a(), Options { seed, ..Options::default() });
            let module = gpu.load_module(text).unwrap_or_else(|e| panic!("{name}: {e}"));
            check(&Machine { gpu, module }, name.contains("fast"));
        }
    }
}

pub fn near(got: f64, want: f64, tolerance: f64, what: &str) {
    let error = (got - want).abs() / want.abs().max(1.0);
    assert!(error <= tolerance, "{what}: {got:e}, not {want:e}: {error:e}");
}

fn nears(got: &[f32], want: &[f32], tolerance: f64) {
    assert_eq!(got.len(), want.len());
    for (i, (g, w)) in got.iter().zip(want).enumerate() {
        near(f64::from(*g), f64::from(*w), tolerance, &i.to_string());
    }
}

pub fn p(address: u64) -> Arg {
    Arg::U64(address)
}

pub fn n(count: usize) -> Arg {
    Arg::I32(count as i32)
}

pub fn words(seed: u64, count: usize) -> Vec<u32> {
    noise(seed).take(count).map(|z| (z >> 20) as u32).collect()
}

#[test]
fn saxpy() {
    everywhere("strangers", |m, _| {
        let (x, y) = (floats(1, 1000), floats(2, 1000));
        let (px, py) = (m.put(&x), m.put(&y));
        m.ok("saxpy", 3, 128, 0, &[n(1000), Arg::F32(1.5), p(px), p(py)]);
        let want: Vec<f32> = x.iter().zip(&y).map(|(x, y)| 1.5f32.mul_add(*x, *y)).collect();
        // Debug builds do not fuse.
        nears(&m.get(py, 1000), &want, 1e-6);
    });
}

#[test]
fn matrices() {
    everywhere("strangers", |m, _| {
        let (size, a, b) = (48, floats(3, 48 * 48), floats(4, 48 * 48));
        let (pa, pb, pc) = (m.put(&a), m.put(&b), m.empty(4 * size * size));
        m.gpu.launch(m.module, "matmul", [3, 3, 1], [16, 16, 1], 0, &[p(pa), p(pb), p(pc), n(size)]).unwrap();
        let dot = |i: usize, j: usize| (0..size).map(|k| a[i * size + k] * b[k * size + j]).sum::<f32>();
        let want: Vec<f32> = (0..size * size).map(|at| dot(at / size, at % size)).collect();
        nears(&m.get(pc, size * size), &want, 1e-5);
        let (w, h) = (48, 40);
        m.gpu.launch(m.module, "transpose", [2, 2, 1], [32, 8, 1], 0, &[p(pa), p(pc), n(w), n(h)]).unwrap();
        let got: Vec<f32> = m.get(pc, w * h);
        assert!((0..w * h).all(|at| got[at] == a[at % h * w + at / h]));
    });
}

#[test]
fn sums() {
    everywhere("strangers", |m, _| {
        let x: Vec<i32> = noise(5).take(3000).map(|z| (z % 1001) as i32 - 500).collect();
        let total: i32 = x.iter().sum();
        let out = m.put(&[0i64]);
        m.ok("sum_int", 4, 160, 0, &[p(m.put(&x)), p(out), n(3000)]);
        assert_eq!(m.get::<i32>(out, 1), [total]);
        let out = m.put(&[0f32, 0.0]);
        let f: Vec<f32> = x.iter().map(|&v| v as f32).collect();
        m.ok("sum_float", 4, 160, 0, &[p(m.put(&f)), p(out), n(3000)]);
        let parts = m.empty(4 * 4);
        m.ok("last_block_sum", 4, 128, 512, &[p(m.put(&f)), p(parts), p(out + 4), n(3000)]);
        assert_eq!(m.get::<f32>(out, 2), [total as f32; 2]);
        let out = m.put(&[0f64]);
        let d: Vec<f64> = x.iter().map(|&v| f64::from(v)).collect();
        m.ok("sum_double", 4, 160, 0, &[p(m.put(&d)), p(out), n(3000)]);
        assert_eq!(m.get::<f64>(out, 1), [f64::from(total)]);
        let out = m.put(&[0u64]);
        let u: Vec<u64> = x.iter().map(|&v| (v as u64) << 8).collect();
        m.ok("sum_u64", 4, 160, 0, &[p(m.put(&u)), p(out), n(3000)]);
        assert_eq!(m.get::<i64>(out, 1), [i64::from(total) << 8]);
    });
}

#[test]
fn prefix_sums() {
    everywhere("strangers", |m, _| {
        let x: Vec<i32> = (0..256).map(|i| i * 7 % 23 - 5).collect();
        let px = m.put(&x);
        let mut sum = 0;
        let inclusive: Vec<i32> = x
            .iter()
            .map(|v| {
                sum += v;
                sum
            })
            .collect();
        let out = m.empty(4 * 256);
        m.ok("scan_warps", 1, 256, 0, &[p(px), p(out), n(250)]);
        assert_eq!(m.get::<i32>(out, 250), inclusive[..250]);
        m.ok("scan_blelloch", 1, 128, 1024, &[p(px), p(out), n(256)]);
        let exclusive: Vec<i32> = inclusive.iter().zip(&x).map(|(s, v)| s - v).collect();
        assert_eq!(m.get::<i32>(out, 256), exclusive);
    });
}

#[test]
fn histograms_and_stencils() {
    everywhere("strangers", |m, _| {
        let bytes: Vec<u8> = noise(8).take(5000).map(|z| (z % 251) as u8 & !3).collect();
        let bins = m.put(&[0u32; 256]);
        m.ok("histogram", 3, 192, 0, &[p(m.put(&bytes)), n(5000), p(bins)]);
        let mut want = [0u32; 256];
        bytes.iter().for_each(|&b| want[usize::from(b)] += 1);
        assert_eq!(m.get::<u32>(bins, 256), want);
        let x = floats(9, 1000);
        let out = m.empty(4000);
        m.ok("stencil", 8, 128, 0, &[p(m.put(&x)), p(out), n(1000)]);
        let taps = [0.05f32, 0.1, 0.2, 0.3, 0.2, 0.1, 0.05];
        let at = |i: usize, k: usize| (i + k).checked_sub(3).and_then(|j| x.get(j)).copied().unwrap_or(0.0);
        let want: Vec<f32> = (0..1000).map(|i| (0..7).map(|k| taps[k] * at(i, k)).sum()).collect();
        nears(&m.get(out, 1000), &want, 1e-6);
    });
}

#[test]
fn module_variables() {
    everywhere("strangers", |m, _| {
        let out = m.put(&[-1i32; 5]);
        m.ok("globals", 2, 32, 0, &[p(out)]);
        let three = b"three".iter().fold(0i32, |n, &c| n.wrapping_mul(31).wrapping_add(i32::from(c)));
        assert_eq!(m.get::<i32>(out, 5), [130, 70, 5, three, 0]);
    });
}

#[test]
fn structures_by_value() {
    everywhere("strangers", |m, _| {
        let out = m.empty(4 * 8 * 8);
        let mut bytes = Vec::new();
        for v in [1.0f32, 2.0, 3.0, 4.0] {
            bytes.extend(v.to_le_bytes());
        }
        bytes.extend(9.5f64.to_le_bytes());
        bytes.extend(7i16.to_le_bytes());
        bytes.extend([1, 2, 3, 0, 0, 0]);
        (0..8i32).for_each(|w| bytes.extend((w * 10).to_le_bytes()));
        bytes.extend(out.to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(16), 0);
        m.ok("by_value", 1, 8, 0, &[Arg::Bytes(bytes.clone()), n(3)]);
        let got: Vec<f32> = m.get(out, 64);
        for t in 0..8 {
            let w = ((t + 3) % 8 * 10) as f32;
            assert_eq!(got[8 * t..][..8], [1.0 + w, 2.0, 3.0, 8.0, 9.5 - w, -7.0, 253.0, t as f32 * 10.0]);
        }
        m.ok("grid_constant", 1, 1, 0, &[Arg::Bytes(bytes), p(out)]);
        assert_eq!(m.get::<i32>(out, 1), [280]);
    });
}

#[test]
fn recursion_pointers_and_switches() {
    fn fibonacci(n: i32) -> i32 {
        if n < 2 { n } else { fibonacci(n - 1) + fibonacci(n - 2) }
    }
    everywhere("strangers", |m, _| {
        let out = m.empty(4 * 256);
        m.ok("recursion", 1, 40, 0, &[p(out)]);
        let want: Vec<i32> =
            (0..40).map(|t| fibonacci(t % 12) * 100 + (2 * (t % 4) + 3) * 4 + (1 - t % 2) * 2 + 1).collect();
        assert_eq!(m.get::<i32>(out, 40), want);
        let (a, b) = (floats(1, 64), floats(2, 64));
        m.ok("function_pointers", 1, 64, 0, &[p(m.put(&a)), p(m.put(&b)), p(out)]);
        let f = |t: usize| [a[t] + b[t], a[t] - b[t], a[t] * b[t], a[t].max(b[t])][t % 4];
        assert_eq!(m.get::<f32>(out, 64), (0..64).map(f).collect::<Vec<_>>());
        m.ok("virtuals", 1, 32, 0, &[p(out)]);
        let f = |t: u32| (t * t) as f32 * [3.0, 1.0][t as usize % 2] + [0.0, 400.0][t as usize % 2];
        assert_eq!(m.get::<f32>(out, 32), (0..32).map(f).collect::<Vec<_>>());
        let x: Vec<i32> = (0..200).map(|i| i * 5 % 14 - 1).collect();
        m.ok("switches", 2, 128, 0, &[p(m.put(&x)), p(out), n(200)]);
        let f = |i: i32| match x[i as usize] {
            0 => i * 3,
            1 => i ^ 0x55,
            2 | 3 => -i,
            4 => i % 7,
            5 => i.count_ones() as i32,
            6 => i / 5,
            7 => i * i,
            11 => 11,
            _ => -1,
        };
        assert_eq!(m.get::<i32>(out, 200), (0..200).map(f).collect::<Vec<_>>());
        m.ok("lambdas", 1, 32, 0, &[p(out), n(9)]);
        assert_eq!(m.get::<i32>(out, 32), (0..32).map(|t| t + 18 + 3 * 81).collect::<Vec<_>>());
    });
}

#[test]
fn atomics() {
    everywhere("strangers", |m, _| {
        let x: Vec<f32> = (0..96).map(|i| (i * 37 % 50) as f32 - 20.0).collect();
        let w = m.put(&[0u32, 5000, 50, 3, 0x8000_0000, !0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        let l = m.put(&[1u64, 5, 99, i64::MIN as u64, 0, 0, !0, 0, 10]);
        let (f, d, h) = (m.put(&[0f32, -100.0]), m.put(&[0.5f64]), m.put(&[0u32; 2]));
        m.ok("atomics", 3, 32, 0, &[p(w), p(l), p(f), p(d), p(h), p(m.put(&x))]);
        let sum = 96 * 95 / 2;
        let xor = (0..96u32).fold(0, |a, b| a ^ b);
        let big = |i: u64| i << 33 | i;
        let want = [sum, 5000 - sum, 0, 95, (-1i32) as u32, 0, !0, xor, 96 % 5, 0, 77, 0, 192, 32, 32, 32];
        let mut got: Vec<u32> = m.get(w, 16);
        // 96 decrements from 0 that wrap to 6.
        assert_eq!(got[9], (0..96).fold(0, |v, _| if v == 0 || v > 6 { 6 } else { v - 1 }));
        got[9] = 0;
        assert_eq!(got, want);
        let want = [
            1 + (0..96).map(big).sum::<u64>(),
            big(95),
            0,
            0,
            !0,
            (0..96).fold(0, |a, i| a ^ big(i)),
            0,
            99,
            10 + 3 * 96,
        ];
        assert_eq!(m.get::<u64>(l, 9), want);
        let total: f32 = x.iter().sum();
        assert_eq!(m.get::<f32>(f, 2), [total, 29.0]);
        assert_eq!(m.get::<f64>(d, 1), [0.5 + f64::from(total)]);
        // 96 times (1, 2) in halves; 96 times 1.
        assert_eq!(m.get::<u16>(h, 3), [0x5a00, 0x5600, 0x5600]);
    });
}

#[test]
fn locks_and_barriers() {
    everywhere("strangers", |m, _| {
        let cells = m.put(&[0i32, 0]);
        m.ok("spin_lock", 4, 33, 0, &[p(cells), p(cells + 4)]);
        assert_eq!(m.get::<i32>(cells, 2), [0, 132]);
        let (a, b) = (m.put(&(0..96).collect::<Vec<i32>>()), m.empty(4 * 96));
        m.ok("grid_barrier", 6, 16, 0, &[p(a), p(b), n(5)]);
        assert_eq!(m.get::<i32>(b, 96), (0..96).map(|i| (i + 5) % 96 + 5).collect::<Vec<_>>());
        let (x, out) = (m.put(&(0..64).collect::<Vec<i32>>()), m.empty(8 * 128));
        m.ok("clocks", 1, 64, 0, &[p(x), p(out)]);
        let got: Vec<i64> = m.get(out, 128);
        for t in 0..64 {
            assert_eq!((got[t], got[t + 64]), ((0..10).fold(t as i64, |v, _| 3 * v + 1), 1));
        }
    });
}

#[test]
fn algorithms() {
    everywhere("strangers", |m, _| {
        let mut x: Vec<i32> = words(31, 256).into_iter().map(|v| v as i32).collect();
        let px = m.put(&x);
        m.ok("bitonic_sort", 1, 256, 0, &[p(px)]);
        x.sort();
        assert_eq!(m.get::<i32>(px, 256), x);
        let order: Vec<i32> = (0..16).map(|i| i * 5 % 16).collect();
        let out = m.empty(4096);
        m.ok("local_array", 1, 20, 0, &[p(m.put(&order)), p(out)]);
        for (t, got) in m.get::<i32>(out, 20).into_iter().enumerate() {
            let at = (0..16).find(|&i| (order[i as usize] as usize + t) % 16 == t % 16).unwrap();
            let mut v = [1, 2, 3, 4];
            v[t % 4] += 10;
            assert_eq!(got, at * at * 1000 + v[0] + v[1] * v[2] + v[3]);
        }
        let (w, h) = (60, 40);
        m.gpu.launch(m.module, "mandelbrot", [4, 5, 1], [16, 8, 1], 0, &[p(out), n(w), n(h)]).unwrap();
        let got: Vec<u8> = m.get(out, w * h);
        let far = |at: &usize| {
            let (cr, ci) = ((at % w) as f32 * 3.0 / w as f32 - 2.0, (at / w) as f32 * 2.0 / h as f32 - 1.0);
            let (mut a, mut b, mut i) = (0f32, 0f32, 0u8);
            while i < 64 && a * a + b * b < 4.0 {
                (a, b, i) = (a * a - b * b + cr, 2.0 * a * b + ci, i + 1);
            }
            got[*at] != i
        };
        // Contraction to fused operations moves points at the edge.
        assert!((0..w * h).filter(far).count() < w * h / 20);
        let starts: Vec<u64> = (1..=100).map(|i| i * i * 31).collect();
        m.ok("collatz", 1, 128, 0, &[p(m.put(&starts)), p(out), n(100)]);
        let steps = |mut v: u64| {
            let mut s = 0;
            while v != 1 {
                (v, s) = (if v % 2 == 1 { 3 * v + 1 } else { v / 2 }, s + 1);
            }
            s
        };
        assert_eq!(m.get::<u32>(out, 100), starts.iter().map(|&v| steps(v)).collect::<Vec<u32>>());
        let bytes: Vec<u8> = noise(5).take(400).map(|z| z as u8).collect();
        m.ok("narrow", 1, 128, 0, &[p(m.put(&bytes)), p(out), n(100)]);
        let got: Vec<i16> = m.get(out, 200);
        for (i, v) in bytes.chunks(4).enumerate() {
            let d = (i32::from(v[2] as i8) - i32::from(v[3] as i8)) as i16;
            let want = [(i32::from(v[0]) * i32::from(v[1])) as i16, if d < 0 { d >> 1 } else { d << 1 }];
            assert_eq!(got[2 * i..][..2], want);
        }
    });
}

#[test]
fn bodies_and_sparse_matrices() {
    everywhere("strangers", |m, _| {
        let bodies = floats(41, 4 * 256);
        let out = m.empty(12 * 256);
        m.ok("nbody", 2, 128, 0, &[p(m.put(&bodies)), p(out), n(256)]);
        let got: Vec<f32> = m.get(out, 3 * 256);
        for i in 0..256 {
            let mut f = [0f64; 3];
            for o in bodies.chunks(4) {
                let d: [f64; 3] = std::array::from_fn(|k| f64::from(o[k]) - f64::from(bodies[4 * i + k]));
                let r = 1.0 / (d.iter().map(|v| v * v).sum::<f64>() + 0.01).sqrt();
                (0..3).for_each(|k| f[k] += d[k] * f64::from(o[3]) * r * r * r);
            }
            (0..3).for_each(|k| near(f64::from(got[3 * i + k]), f[k], 1e-3, "force"));
        }
        let size = 50;
        let rows: Vec<i32> = (0..=size).map(|r| r * r / 2).collect();
        let count = *rows.last().unwrap() as usize;
        let columns: Vec<i32> = (0..count).map(|k| k as i32 * 17 % size).collect();
        let values: Vec<f64> = floats(42, count).into_iter().map(f64::from).collect();
        let x: Vec<f64> = floats(43, size as usize).into_iter().map(f64::from).collect();
        let out = m.empty(8 * size as usize);
        let args =
            [p(m.put(&rows)), p(m.put(&columns)), p(m.put(&values)), p(m.put(&x)), p(out), n(size as usize)];
        m.ok("spmv", 7, 256, 0, &args);
        for (r, got) in m.get::<f64>(out, size as usize).into_iter().enumerate() {
            let all = rows[r] as usize..rows[r + 1] as usize;
            near(got, all.map(|k| values[k] * x[columns[k] as usize]).sum(), 1e-12, "row");
        }
    });
}

#[test]
fn assertions() {
    everywhere("strangers", |m, _| {
        let x = m.put(&[1i32, 2, -3, 4]);
        m.ok("asserts", 1, 4, 0, &[p(x), n(2)]);
        match m.run("asserts", 1, 4, 0, &[p(x), n(4)]) {
            Err(Error::Fault(fault)) => {
                assert_eq!((fault.kind, fault.thread.thread), (FaultKind::Assertion, [2, 0, 0]));
                assert!(fault.detail.contains("x[ID] >= 0"), "{fault}");
            }
            other => panic!("{other:?}"),
        }
    });
}

/// The counter's atomics are ordered before the store: the last one observed them, the store follows it (PTX ISA,
/// causality order: observation, then program order).
#[test]
fn stores_after_the_last_atomic() {
    everywhere("strangers", |m, _| {
        let cells = m.put(&[0u32, 0]);
        m.ok("plain_reset", 4, 1, 0, &[p(cells), p(cells + 4)]);
        assert_eq!(m.get::<u32>(cells, 2), [0, 1]);
    });
}
