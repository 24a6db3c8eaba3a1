//! A tiled product on tensor cores, as kernels for Ampere are written.

use crate::machine::{Machine, noise, schedules};
use crate::pipelines::LANDINGS;
use half::bf16;
use orthant_gpu::exec::Counters;
use orthant_gpu::gpu::{Arg, Options};
use orthant_gpu::memory::Checks;
use std::time::{Duration, Instant};

const PTX: &str = include_str!("tensor.sm_80.ptx");
/// Rows and columns of a block's tile, and bytes of its three stages.
const TILE: usize = 128;
const SHARED: u32 = 3 * 2 * 128 * 32 * 2;

/// Small integers, so that every sum is exact.
fn integers(seed: u64, count: usize) -> Vec<f32> {
    noise(seed).take(count).map(|z| (z % 15) as f32 - 7.0).collect()
}

/// Runs the product of random matrices and looks at every element. The time is that of the launch.
fn product(options: Options, [m, n, k]: [usize; 3]) -> (Counters, Duration) {
    let machine = Machine::new(PTX, options);
    let (a, b) = (integers(1, m * k), integers(2, n * k));
    let bits = |x: &[f32]| x.iter().map(|&x| bf16::from_f32(x).to_bits()).collect::<Vec<u16>>();
    let (pa, pb, pc) = (machine.put(&bits(&a)), machine.put(&bits(&b)), machine.empty(4 * m * n));
    let args = [Arg::U64(pa), Arg::U64(pb), Arg::U64(pc), Arg::U32(n as u32), Arg::U32(k as u32)];
    let grid = [(n / TILE) as u32, (m / TILE) as u32, 1];
    let start = Instant::now();
    let counters = machine.gpu.launch(machine.module, "product", grid, [128, 1, 1], SHARED, &args);
    let (counters, time) = (counters.unwrap_or_else(|e| panic!("{e}")), start.elapsed());
    let c: Vec<f32> = machine.get(pc, m * n);
    for (row, c) in c.chunks_exact(n).enumerate() {
        for (column, &c) in c.iter().enumerate() {
            let (a, b) = (&a[row * k..(row + 1) * k], &b[column * k..(column + 1) * k]);
            let want: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert_eq!(c, want, "row {row} column {column}");
        }
    }
    (counters, time)
}

#[test]
fn every_element_and_every_count() {
    let mut first = None;
    for options in schedules() {
        for landing in LANDINGS {
            let (counters, _) = product(Options { landing, ..options }, [128, 256, 96]);
            assert_eq!(counters, *first.get_or_insert(counters.clone()), "{options:?} {landing:?}");
        }
    }
    let counters = first.unwrap();
    let (tiles, steps) = (2, 3);
    assert_eq!(counters.tensor_flops, 2 * 128 * 256 * 96);
    assert_eq!(counters.instructions["tensor"].warp, tiles * 4 * steps * 64);
    // Each tile reads its rows of both factors once, in whole sectors.
    assert_eq!(counters.global_loads.bytes, tiles * (128 + 128) * 96 * 2);
    assert_eq!(counters.global_loads.efficiency(), 1.0);
    // Four passes for each load of four matrices and for each copy of 512 bytes: nothing collides.
    let (loads, copies) = (tiles * 4 * steps * 2 * 8, tiles * steps * 2 * 128 * 64 / 512);
    assert_eq!(counters.shared_accesses, 4 * (loads + copies));
    assert_eq!(counters.shared.bank_conflicts, 0);
    assert_eq!((counters.shared.load_bytes, counters.shared.store_bytes), (512 * loads, 512 * copies));
    let json = serde_json::to_value(&counters).unwrap();
    assert_eq!(json["tensor_flops"], counters.tensor_flops);
    assert_eq!(json["shared_accesses"], counters.shared_accesses);
    let mut twice = counters.clone();
    twice.add(&counters);
    assert_eq!(twice.tensor_flops, 2 * counters.tensor_flops);
    assert_eq!(twice.shared_accesses, 2 * counters.shared_accesses);
}

/// The rate is printed; `cargo bench` has more of it.
#[test]
fn speed() {
    for (what, checks) in [("on", Checks::ALL), ("off", Checks::NONE)] {
        let (counters, time) = product(Options { checks, ..Options::default() }, [512, 512, 512]);
        let seconds = time.as_secs_f64();
        let rate = counters.instructions["tensor"].warp as f64 / seconds / 1e6;
        println!("checks {what}: 512^3 in {seconds:.2} s, {rate:.2} M mma/s");
    }
}
