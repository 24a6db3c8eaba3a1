//! How fast kernels run: elements a second of two fixtures, with every check on and with none.
//!
//! `cargo bench -p orthant-emulator --bench rates` ends with a table and fails where the best launch of a kernel misses
//! the bar: 5 million elements a second with every check, 20 million without. All cores work.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, SamplingMode, Throughput};
use orthant_gpu::exec::Card;
use orthant_gpu::gpu::{Arg, Gpu, ModuleHandle, Options};
use orthant_gpu::memory::Checks;

const MODES: [(&str, Checks, f64); 2] =
    [("every check", Checks::ALL, 5e6), ("no checks", Checks::NONE, 20e6)];
/// Floats in each array; twice as many of bf16.
const ELEMENTS: usize = 4 << 20;

/// A kernel of the fixture, ready to be launched.
struct Case {
    name: &'static str,
    elements: usize,
    grid: u32,
    args: Vec<Arg>,
}

fn prepare(checks: Checks) -> (Gpu, ModuleHandle, [Case; 2]) {
    let ptx = include_str!("../tests/ptx/fixtures/elementwise.sm_80.ptx");
    let mut gpu = Gpu::new(Card::sm_80(), Options { checks, ..Options::default() });
    let module = gpu.load_module(ptx).expect("the fixture loads");
    let pointers = [(); 3].map(|()| {
        let at = gpu.alloc(4 * ELEMENTS as u64).expect("memory");
        gpu.memset(at, 0x3f, 4 * ELEMENTS).expect("an allocation");
        Arg::U64(at)
    });
    let args = |more: Vec<Arg>| pointers.iter().cloned().chain(more).collect();
    let h = Arg::Bytes([0.01f32, 0.9, 0.99, 0.1].iter().flat_map(|v| v.to_le_bytes()).collect());
    let cases = [
        Case {
            name: "vector_add",
            elements: ELEMENTS,
            grid: (ELEMENTS / 256) as u32,
            args: args(vec![Arg::U64(ELEMENTS as u64)]),
        },
        Case {
            name: "lion_bf16",
            elements: 2 * ELEMENTS,
            grid: 264,
            args: args(vec![Arg::U64(2 * ELEMENTS as u64), h]),
        },
    ];
    (gpu, module, cases)
}

fn launch(gpu: &Gpu, module: ModuleHandle, case: &Case) {
    let done = gpu.launch(module, case.name, [case.grid, 1, 1], [256, 1, 1], 0, &case.args);
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
    for (mode, checks, bar) in MODES {
        let (gpu, module, cases) = prepare(checks);
        let mut group = criterion.benchmark_group(mode);
        for case in &cases {
            group.sampling_mode(SamplingMode::Flat);
            group.throughput(Throughput::Elements(case.elements as u64));
            let mut best = Duration::MAX;
            group.bench_function(BenchmarkId::from_parameter(case.name), |b| {
                b.iter_custom(|rounds| {
                    let start = Instant::now();
                    for _ in 0..rounds {
                        let start = Instant::now();
                        launch(&gpu, module, case);
                        best = best.min(start.elapsed());
                    }
                    start.elapsed()
                })
            });
            // Whatever a filter on the command line left out has no rate.
            if best < Duration::MAX {
                rates.push((case.name, mode, case.elements as f64 / best.as_secs_f64(), bar));
            }
        }
        group.finish();
    }
    criterion.final_summary();
    let mut missed = Vec::new();
    for (name, mode, rate, bar) in rates {
        let line = format!("{name}, {mode}: {:.1} M elements/s, the bar is {:.0}", rate / 1e6, bar / 1e6);
        println!("{line}");
        if measured && rate < bar {
            missed.push(line);
        }
    }
    assert!(missed.is_empty(), "too slow: {}", missed.join("; "));
}
