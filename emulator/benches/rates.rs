//! How fast kernels run: elements a second of two fixtures, and `mma` instructions a second of a tiled product of two
//! 1024x1024 matrices of bf16, with every check on and with none.
//!
//! `cargo bench -p orthant-emulator --bench rates` ends with a table and fails where the best launch of a kernel misses
//! the bar: 5 million elements a second with every check, 20 million without; 50 thousand `mma` and 150 thousand. All
//! cores work.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use orthant_gpu::exec::Card;
use orthant_gpu::gpu::{Arg, Gpu, ModuleHandle, Options};
use orthant_gpu::memory::Checks;

const MODES: [(&str, Checks); 2] = [("every check", Checks::ALL), ("no checks", Checks::NONE)];
/// Floats in each array; twice as many of bf16.
const ELEMENTS: usize = 4 << 20;
/// Rows and columns of the matrices.
const SIDE: usize = 1024;

/// A kernel of a fixture, ready to be launched.
struct Case {
    name: &'static str,
    module: ModuleHandle,
    /// What is counted, and how many of it.
    unit: &'static str,
    count: usize,
    grid: [u32; 3],
    block: u32,
    shared: u32,
    args: Vec<Arg>,
    /// Least rates, by mode.
    bars: [f64; 2],
}

fn prepare(checks: Checks) -> (Gpu, [Case; 3]) {
    let mut gpu = Gpu::new(Card::sm_80(), Options { checks, ..Options::default() });
    let elementwise = include_str!("../tests/ptx/fixtures/elementwise.sm_80.ptx");
    let elementwise = gpu.load_module(elementwise).expect("the fixture loads");
    let tensor = gpu.load_module(include_str!("../tests/exec/tensor.sm_80.ptx")).expect("the fixture loads");
    let pointers = [(); 3].map(|()| {
        let at = gpu.alloc(4 * ELEMENTS as u64).expect("memory");
        gpu.memset(at, 0x3f, 4 * ELEMENTS).expect("an allocation");
        Arg::U64(at)
    });
    let args = |more: Vec<Arg>| pointers.iter().cloned().chain(more).collect();
    let h = Arg::Bytes([0.01f32, 0.9, 0.99, 0.1].iter().flat_map(|v| v.to_le_bytes()).collect());
    let add = Case {
        name: "vector_add",
        module: elementwise,
        unit: "elements",
        count: ELEMENTS,
        grid: [(ELEMENTS / 256) as u32, 1, 1],
        block: 256,
        shared: 0,
        args: args(vec![Arg::U64(ELEMENTS as u64)]),
        bars: [5e6, 20e6],
    };
    let lion = Case {
        name: "lion_bf16",
        count: 2 * ELEMENTS,
        grid: [264, 1, 1],
        args: args(vec![Arg::U64(2 * ELEMENTS as u64), h]),
        ..add.same_kind()
    };
    let product = Case {
        name: "product",
        module: tensor,
        unit: "mma",
        count: SIDE * SIDE * SIDE / (16 * 8 * 16),
        grid: [(SIDE / 128) as u32, (SIDE / 128) as u32, 1],
        block: 128,
        shared: 3 * 2 * 128 * 32 * 2,
        args: args(vec![Arg::U32(SIDE as u32), Arg::U32(SIDE as u32)]),
        bars: [0.05e6, 0.15e6],
    };
    (gpu, [add, lion, product])
}

impl Case {
    fn same_kind(&self) -> Case {
        Case { args: Vec::new(), ..*self }
    }
}

fn launch(gpu: &Gpu, case: &Case) {
    let done = gpu.launch(case.module, case.name, case.grid, [case.block, 1, 1], case.shared, &case.args);
    done.unwrap_or_else(|e| panic!("{}: {e}", case.name));
}

fn main() {
    // Cargo passes `--bench` to benchmarks; under `cargo test --benches` it does not, and no rate is looked at.
    let measured = std::env::args().any(|arg| arg == "--bench");
    let mut criterion = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(5))
        .configure_from_args();
    let mut rates = Vec::new();
    for (index, (mode, checks)) in MODES.into_iter().enumerate() {
        let (gpu, cases) = prepare(checks);
        let mut group = criterion.benchmark_group(mode);
        for case in &cases {
            group.sampling_mode(SamplingMode::Flat);
            group.throughput(Throughput::Elements(case.count as u64));
            let mut best = Duration::MAX;
            group.bench_function(BenchmarkId::from_parameter(case.name), |b| {
                b.iter_custom(|rounds| {
                    let start = Instant::now();
                    for _ in 0..rounds {
                        let start = Instant::now();
                        launch(&gpu, case);
                        best = best.min(start.elapsed());
                    }
                    start.elapsed()
                })
            });
            // Whatever a filter on the command line left out has no rate.
            if best < Duration::MAX {
                rates.push((case.name, case.unit, mode, best, case.count, case.bars[index]));
            }
        }
        group.finish();
    }
    criterion.final_summary();
    let mut missed = Vec::new();
    for (name, unit, mode, best, count, bar) in rates {
        let (seconds, rate) = (best.as_secs_f64(), count as f64 / best.as_secs_f64());
        let (rate, bar) = (rate / 1e6, bar / 1e6);
        let line = format!("{name}, {mode}: {seconds:.2} s, {rate:.2} M {unit}/s, the bar is {bar:.2}");
        println!("{line}");
        if measured && rate < bar {
            missed.push(line);
        }
    }
    assert!(missed.is_empty(), "too slow: {}", missed.join("; "));
}
