//! The NVRTC fixtures, executed.

use crate::machine::{Machine, fixture, floats, noise, schedules};
use orthant_gpu::exec::Card;
use orthant_gpu::gpu::{Arg, Gpu, Options};

fn bf16(x: f32) -> u16 {
    if x.is_nan() {
        return 0x7fff;
    }
    let bits = x.to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

fn wide(b: u16) -> f32 {
    f32::from_bits(u32::from(b) << 16)
}

#[test]
fn vector_add_with_a_tail() {
    let n = 1000;
    let (a, b) = (floats(1, n), floats(2, n));
    let mut first = None;
    for options in schedules() {
        let m = Machine::new(&fixture("elementwise.sm_80.ptx"), options);
        let (pa, pb, pc) = (m.put(&a), m.put(&b), m.empty(4 * n));
        let args = [Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::U64(n as u64)];
        let counters = m.ok("vector_add", 8, 128, 0, &args);
        let c: Vec<f32> = m.get(pc, n);
        assert!((0..n).all(|i| c[i] == a[i] + b[i]));
        assert_eq!((counters.global_loads.bytes, counters.global_stores.bytes), (8000, 4000));
        assert_eq!((counters.global_loads.sectors, counters.global_stores.sectors), (250, 125));
        assert_eq!(counters.global_loads.efficiency(), 1.0);
        assert_eq!(counters, *first.get_or_insert(counters.clone()), "{options:?}");
        [pa, pb, pc].into_iter().for_each(|p| m.gpu.free(p).unwrap());
        assert!(m.gpu.leaks().is_empty());
    }
}

fn lion(p: u16, g: u16, m: u16, h: [f32; 4]) -> (u16, u16) {
    let [lr, beta1, beta2, decay] = h;
    let (p, g, m) = (wide(p), wide(g), wide(m));
    let u = beta1 * m + (1.0 - beta1) * g;
    let sign = if u > 0.0 {
        1.0
    } else if u < 0.0 {
        -1.0
    } else {
        0.0
    };
    (bf16(p * (1.0 - lr * decay) - lr * sign), bf16(beta2 * m + (1.0 - beta2) * g))
}

#[test]
fn lion_on_bf16() {
    let n = 4099;
    let values = |seed| floats(seed, n).into_iter().map(bf16).collect::<Vec<u16>>();
    let (p, g, s) = (values(1), values(2), values(3));
    let h = [0.01f32, 0.9, 0.99, 0.1];
    let mut first = None;
    for options in schedules() {
        let m = Machine::new(&fixture("elementwise.sm_80.ptx"), options);
        let (pp, pg, pm) = (m.put(&p), m.put(&g), m.put(&s));
        let h_bytes = h.iter().flat_map(|v| v.to_le_bytes()).collect();
        let args = [Arg::U64(pp), Arg::U64(pg), Arg::U64(pm), Arg::U64(n as u64), Arg::Bytes(h_bytes)];
        let counters = m.ok("lion_bf16", 2, 256, 0, &args);
        let (got_p, got_m): (Vec<u16>, Vec<u16>) = (m.get(pp, n), m.get(pm, n));
        for i in 0..n {
            assert_eq!((got_p[i], got_m[i]), lion(p[i], g[i], s[i], h), "{i}");
        }
        // Ten bytes an element, and all but the tail sixteen bytes wide.
        assert_eq!((counters.global_loads.bytes, counters.global_stores.bytes), (6 * n as u64, 4 * n as u64));
        assert_eq!(counters.global_loads.widths[&16], 3 * 512);
        assert_eq!(counters.global_loads.widths[&2], 3 * 3);
        assert_eq!(counters, *first.get_or_insert(counters.clone()), "{options:?}");
    }
}

#[test]
fn sign_step_templates() {
    let m = Machine::plain(&fixture("elementwise.sm_80.ptx"));
    let n = 131;
    let (p, g) = (floats(5, n), floats(6, n));
    let (pp, pg) = (m.put(&p), m.put(&g));
    let args = [Arg::U64(pp), Arg::U64(pg), Arg::F32(0.25), Arg::U64(n as u64)];
    m.ok("_Z9sign_stepIfLi4EEvPT_PKS0_S0_y", 2, 32, 0, &args);
    let got: Vec<f32> = m.get(pp, n);
    assert!((0..n).all(|i| got[i] == p[i] - 0.25 * g[i].signum()));
}

#[test]
fn block_reduction() {
    let n = 5000;
    let x: Vec<f32> = noise(9).take(n).map(|z| (z % 17) as f32 - 8.0).collect();
    let mut first = None;
    for options in schedules() {
        let m = Machine::new(&fixture("reduce.sm_80.ptx"), options);
        let (px, out) = (m.put(&x), m.empty(4 * 3));
        let counters = m.ok("block_sum", 3, 160, 0, &[Arg::U64(px), Arg::U64(out), Arg::U64(n as u64)]);
        let sums: Vec<f32> = m.get(out, 3);
        assert_eq!(sums.iter().sum::<f32>(), x.iter().map(|x| x * x).sum::<f32>());
        assert_eq!(counters.barriers, 3 * 5);
        assert_eq!(counters, *first.get_or_insert(counters.clone()), "{options:?}");
    }
}

#[test]
fn tree_in_dynamic_shared_memory() {
    for options in schedules() {
        let m = Machine::new(&fixture("reduce.sm_80.ptx"), options);
        let x: Vec<f32> = (0..512).map(|i| (i % 7) as f32).collect();
        let (px, out) = (m.put(&x), m.empty(8));
        let counters = m.ok("tree_sum", 2, 256, 1024, &[Arg::U64(px), Arg::U64(out)]);
        let sums: Vec<f32> = m.get(out, 2);
        let want = |b: usize| x[b * 256..(b + 1) * 256].iter().sum::<f32>().sqrt();
        assert_eq!(sums, [want(0), want(1)]);
        assert_eq!(counters.barriers, 2 * 8 * 9);
        assert_eq!(counters.shared.bank_conflicts, 0);
    }
}

#[test]
fn shuffles_votes_and_matches() {
    for options in schedules() {
        let m = Machine::new(&fixture("reduce.sm_80.ptx"), options);
        let v: Vec<i32> = (0..64).map(|i| (i * 7) % 23 - 3).collect();
        let (pv, out) = (m.put(&v), m.empty(4 * 64));
        m.ok("warp_tools", 1, 64, 0, &[Arg::U64(out), Arg::U64(pv)]);
        let got: Vec<u32> = m.get(out, 64);
        for t in 0..64usize {
            let warp = &v[t / 32 * 32..][..32];
            let (lane, own) = (t % 32, v[t]);
            let ballot = (0..32).fold(0u32, |b, i| b | u32::from(warp[i] > 0) << i);
            let any = u32::from(warp.contains(&7));
            let all = u32::from(warp.iter().all(|&x| x < 100));
            let up = if lane >= 1 { warp[lane - 1] } else { own };
            let down = if lane + 2 < 32 { warp[lane + 2] } else { own };
            let idx = warp[lane / 8 * 8 + 3];
            let same = (0..32).fold(0u32, |b, i| b | u32::from(warp[i] == own) << i);
            let agree = warp.iter().all(|&x| x == own);
            let same_all = if agree { u32::MAX } else { 0 };
            let top = warp.iter().map(|&x| x as u32).max().unwrap();
            let funnel = (((up as u32 as u64) << 32 | own as u32 as u64) << 3 >> 32) as u32;
            let ffs = if own == 0 { 0 } else { own.trailing_zeros() + 1 };
            let want = [
                ballot,
                any,
                all,
                up as u32,
                down as u32,
                idx as u32,
                same,
                same_all,
                u32::from(agree),
                top,
                ballot.count_ones(),
                ballot.leading_zeros(),
                own.reverse_bits() as u32,
                ffs,
                own as u32,
                funnel,
                u32::MAX,
                lane as u32,
            ];
            assert_eq!(got[t], want.iter().fold(0u32, |a, &b| a.wrapping_add(b)), "thread {t}");
        }
    }
}

/// The kernel's `atomicAdd_block` on one cell from several blocks is a race; one block is not.
#[test]
fn histogram_with_atomics() {
    let n = 700u32;
    let keys: Vec<u32> = noise(4).take(n as usize).map(|z| (z % 1000) as u32).collect();
    for options in schedules() {
        let m = Machine::new(&fixture("reduce.sm_80.ptx"), options);
        let (k, bins, wide) = (m.put(&keys), m.put(&[0u32; 256]), m.put(&[0u64; 3]));
        let (sum, dsum) = (m.put(&[0f32]), m.put(&[0f64]));
        let args = [k, bins, wide, sum, dsum].map(Arg::U64);
        let args: Vec<Arg> = args.into_iter().chain([Arg::U32(n)]).collect();
        m.ok("histogram", 1, 256, 0, &args);
        assert_eq!(m.get::<f32>(sum, 1), [n as f32]);
        assert_eq!(m.get::<f64>(dsum, 1), [n as f64 / 2.0]);
        let mut want = [0u32; 256];
        keys.iter().for_each(|k| want[(k & 255) as usize] += 1);
        let got: Vec<u32> = m.get(bins, 256);
        assert_eq!(got[3..], want[3..]);
        assert_eq!(m.get::<u64>(wide, 1), [u64::from(*keys.iter().max().unwrap())]);
    }
}

#[test]
fn blocks_that_wait_for_each_other() {
    let (blocks, threads) = (37u32, 64u32);
    for options in schedules() {
        let m = Machine::new(&fixture("sync.sm_80.ptx"), options);
        let flags = m.put(&vec![0u32; blocks as usize + 1]);
        let data = m.put(&vec![1f32; (blocks * threads) as usize]);
        m.ok("chain", blocks, threads, 0, &[Arg::U64(flags), Arg::U64(data), Arg::U32(blocks)]);
        let got: Vec<f32> = m.get(data, (blocks * threads) as usize);
        for (i, x) in got.iter().enumerate() {
            assert_eq!(*x, (i / threads as usize + 1) as f32);
        }
        assert_eq!(m.get::<u32>(flags, blocks as usize + 1)[blocks as usize], blocks);
        let (ticket, _) = m.gpu.global(m.module, "next_ticket").unwrap();
        assert_eq!(m.get::<u32>(ticket, 1), [blocks]);
    }
}

fn fib(n: i32) -> i32 {
    if n < 2 { n } else { fib(n - 1) + fib(n - 2) }
}

#[test]
fn switch_calls_pointers_recursion_constants() {
    let table = [0.5f32, 1.0, 2.0, 4.0, -1.0, 1e-7, 3.4445, -4.775];
    let n = 200usize;
    let x = floats(7, n);
    let kind: Vec<i32> = noise(8).take(n).map(|z| (z % 10) as i32).collect();
    let mut first = None;
    for options in schedules() {
        let m = Machine::new(&fixture("control.sm_80.ptx"), options);
        let (px, pk) = (m.put(&x), m.put(&kind));
        let counters = m.ok("dispatch", 4, 64, 0, &[Arg::U64(px), Arg::U64(pk), Arg::I32(n as i32)]);
        let got: Vec<f32> = m.get(px, n);
        for i in 0..n {
            let v = x[i];
            let want = match kind[i] {
                0 => -v,
                1 => v * v,
                2 => v * table[i & 7],
                3 => v.abs(),
                4 => v.max(0.0),
                5 => fib(i as i32 & 7) as f32,
                6 => 1.0 / v,
                7 => [v + 2.0, v * 2.0][i & 1],
                _ => 0.0,
            };
            assert_eq!(got[i], want, "{i}: kind {}", kind[i]);
        }
        assert_eq!(counters, *first.get_or_insert(counters.clone()), "{options:?}");
    }
}

#[test]
fn structures_by_value() {
    let m = Machine::plain(&fixture("control.sm_80.ptx"));
    let data = m.put(&[0f32; 32]);
    let mut item = data.to_le_bytes().to_vec();
    item.extend(20u64.to_le_bytes());
    item.extend(3u32.to_le_bytes());
    item.extend([5u8; 1]);
    item.resize(32, 0);
    let mut pair = 1.5f32.to_le_bytes().to_vec();
    pair.extend(2.25f32.to_le_bytes());
    pair.extend(10i32.to_le_bytes());
    let args = [Arg::Bytes(item), Arg::Bytes(pair), Arg::U8(7), Arg::U16(-3i16 as u16), Arg::F64(100.0)];
    m.ok("by_value", 1, 32, 0, &args);
    let got: Vec<f32> = m.get(data, 32);
    let want = 3.75f32 + 17.0 - 3.0 + 100.0 + 5.0;
    assert!((0..32).all(|i| got[i] == if i < 20 { want } else { 0.0 }), "{got:?}");
}

#[test]
fn local_arrays_and_tables() {
    let m = Machine::plain(&fixture("control.sm_80.ptx"));
    let input: Vec<i32> = (0..30).map(|i| if i % 4 == 3 { -1 } else { i }).collect();
    let grid_of = [[1, 2, 3], [-4, 5, 6]];
    let (letters, wide, text) = ([97, 98, 255, 0, 1], [1.0f64, -2.5, 1e300], *b"muon\0");
    let (pin, out) = (m.put(&input), m.put(&[0i32; 2]));
    m.ok("local_array", 1, 1, 0, &[Arg::U64(pin), Arg::U64(out), Arg::I32(30)]);
    let (mut stack, mut depth, mut sum) = ([0i32; 40], 0usize, 0);
    for (i, &v) in input.iter().enumerate() {
        if v >= 0 {
            stack[depth] = v * grid_of[i & 1][depth % 3];
            depth += 1;
        } else if depth > 0 {
            depth -= 1;
            sum += stack[depth];
        }
    }
    let last = depth as i32 + letters[depth % 5] + wide[depth % 3] as i32 + 42 + i32::from(text[depth & 3]);
    assert_eq!(m.get::<i32>(out, 2), [sum, last]);
}

fn arithmetic() -> Machine {
    Machine::plain(&fixture("arith.sm_80.ptx"))
}

#[test]
fn integer_arithmetic() {
    let m = arithmetic();
    let n = 64usize;
    let a: Vec<i32> = noise(1).take(2 * n).map(|z| (z as i32 >> (z % 29)) | 1).collect();
    let b: Vec<i64> = noise(2).take(2 * n).map(|z| (z as i64 >> (z % 61)) | 1).collect();
    let (pa, pb, out) = (m.put(&a), m.put(&b), m.put(&vec![0u64; 2 * n]));
    m.ok("integers", 1, 64, 0, &[Arg::U64(pa), Arg::U64(pb), Arg::U64(out), Arg::U32(n as u32)]);
    let got: Vec<u64> = m.get(out, 2 * n);
    for i in 0..n {
        let (x, y, p, q) = (a[i], a[i + n], b[i], b[i + n]);
        let mut r = x.wrapping_div(y) as u64 ^ x.wrapping_rem(y) as u64 ^ u64::from(x as u32 / 7);
        r ^= p.wrapping_div(q) as u64 ^ p.wrapping_rem(q) as u64 ^ (p as u64 / 10);
        let high = |a: i32, b: i32| ((i64::from(a) * i64::from(b)) >> 32) as i32;
        let uhigh = |a: u32, b: u32| ((u64::from(a) * u64::from(b)) >> 32) as u32;
        let high64 = |a: u64, b: u64| ((u128::from(a) * u128::from(b)) >> 64) as u64;
        let m24 = |v: i32| v << 8 >> 8;
        r = r
            .wrapping_add(high(x, y) as u64)
            .wrapping_add(high64(p as u64, q as u64))
            .wrapping_add(uhigh(x as u32, y as u32).into())
            .wrapping_add(m24(x).wrapping_mul(m24(y)) as u64)
            .wrapping_add(x.abs_diff(y).wrapping_add(1).into());
        r ^= (x.min(y) as u64) << (x & 63) | p.max(q) as u64 >> (y & 31);
        let bytes = |f: &dyn Fn(usize) -> i32| (0..4).map(f).fold(0i32, i32::wrapping_add);
        let (xb, yb) = (x.to_le_bytes(), y.to_le_bytes());
        let vadd4 = u32::from_le_bytes([0, 1, 2, 3].map(|k| xb[k].wrapping_add(yb[k])));
        let dp4a = bytes(&|k| i32::from(xb[k] as i8) * i32::from(yb[k] as i8)) + 3;
        let half = (i64::from(x) + i64::from(y)) >> 1;
        r = r
            .wrapping_add((x >> 3) as u64)
            .wrapping_add(r.count_ones().into())
            .wrapping_add((p as u64).leading_zeros().into())
            .wrapping_add(x.wrapping_abs() as u64)
            .wrapping_add(half as u64)
            .wrapping_add(vadd4.into())
            .wrapping_add(dp4a as u64);
        assert_eq!(got[i], r, "{i}");
        let carry = (x as u32).checked_add(y as u32).is_none();
        let t = (x as u32).wrapping_add(y as u32);
        assert_eq!(got[i + n], u64::from(t.wrapping_add(carry.into())), "{i}");
    }
}

#[test]
fn double_arithmetic() {
    let m = arithmetic();
    let n = 50usize;
    let x: Vec<f64> = noise(3).take(n).map(|z| (z % 1000) as f64 / 37.0).collect();
    let (px, py, pf) = (m.put(&x), m.empty(8 * n), m.empty(4 * n));
    m.ok("doubles", 1, 64, 0, &[Arg::U64(px), Arg::U64(py), Arg::U64(pf), Arg::U64(n as u64)]);
    let y: Vec<f64> = m.get(py, n);
    for i in 0..n {
        let a = x[i];
        // Adding 1e-300 towards zero leaves everything but zero as it is.
        let tiny = if a == 0.0 { 1e-300 } else { a };
        let want = a.mul_add(3.0, 1.0) / (a + 2.0) + a.sqrt() + a.floor() - tiny;
        assert_eq!(y[i], want, "{i}");
    }
    assert!(m.get::<f32>(pf, n).iter().skip(1).all(|f| !f.is_nan()));
}

#[test]
fn speed() {
    for (what, checks) in
        [("on", orthant_gpu::memory::Checks::ALL), ("off", orthant_gpu::memory::Checks::NONE)]
    {
        let m = Machine::new(&fixture("elementwise.sm_80.ptx"), Options { checks, ..Options::default() });
        let n = 1usize << 20;
        let a = vec![1f32; n];
        let (pa, pb, pc) = (m.put(&a), m.put(&a), m.put(&a));
        let args = [Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::U64(n as u64)];
        let start = std::time::Instant::now();
        m.ok("vector_add", (n / 256) as u32, 256, 0, &args);
        let add = n as f64 / start.elapsed().as_secs_f64() / 1e6;
        let h: Vec<u8> = [0.01f32, 0.9, 0.99, 0.1].iter().flat_map(|v| v.to_le_bytes()).collect();
        let args = [Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::U64(2 * n as u64), Arg::Bytes(h)];
        let start = std::time::Instant::now();
        m.ok("lion_bf16", 264, 256, 0, &args);
        let lion = 2.0 * n as f64 / start.elapsed().as_secs_f64() / 1e6;
        println!("checks {what}: vector_add {add:.1} M elements/s, lion_bf16 {lion:.1} M elements/s");
    }
}

/// Everything that NVRTC made of the fixtures loads, what only Hopper has aside.
#[test]
fn all_fixtures_load() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx/fixtures");
    for file in std::fs::read_dir(folder).unwrap() {
        let name = file.unwrap().file_name().into_string().unwrap();
        let later = name.starts_with("hopper");
        if !name.ends_with(".ptx") || later {
            continue;
        }
        let card = if name.contains("sm_90a") { Card::sm_90a() } else { Card::sm_80() };
        let mut gpu = Gpu::new(card, Options::default());
        match gpu.load_module(&fixture(&name)) {
            Ok(_) => {}
            Err(e) if name.starts_with("debug") => {
                assert!(e.to_string().contains("vprintf is declared"), "{e}")
            }
            Err(e) => panic!("{name}: {e}"),
        }
    }
}
