//! Elementwise rules on the CPU beside memcpy of the same number of bytes, in one run.
//!
//! Bytes are what the rule must move: read parameter, gradient and state, write parameter and state. The bar is a
//! quarter of memcpy's rate with the same number of threads; `cargo bench --bench elementwise` ends with a table and
//! fails when a rule misses it.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput};
use orthant::{Algorithm, Device, Dtype, Group, NonFinite, Optimizer, Parameter, Storage, Tensor};
use rayon::prelude::*;

/// 16 M elements: 64 MB a buffer in f32, well beyond the caches.
const ELEMENTS: usize = 1 << 24;
const BAR: f64 = 0.25;

fn rules() -> Vec<(&'static str, Algorithm, Dtype)> {
    vec![
        ("sign-sgd f32", Algorithm::sign_sgd(), Dtype::F32),
        ("signum f32", Algorithm::signum(), Dtype::F32),
        ("lion f32", Algorithm::lion(), Dtype::F32),
        ("sgd momentum f32", Algorithm::sgd().momentum(0.9), Dtype::F32),
        ("adagrad f32", Algorithm::adagrad(), Dtype::F32),
        ("adamw f32", Algorithm::adamw(), Dtype::F32),
        ("lion bf16", Algorithm::lion(), Dtype::Bf16),
        ("adamw f64", Algorithm::adamw(), Dtype::F64),
    ]
}

fn values(dtype: Dtype, scale: f64) -> Tensor {
    let at = |i: usize| (((i * 2_654_435_761) % 1000) as f64 / 500.0 - 1.0) * scale;
    let storage = match dtype {
        Dtype::F64 => Storage::F64((0..ELEMENTS).map(at).collect()),
        Dtype::F32 => Storage::F32((0..ELEMENTS).map(|i| at(i) as f32).collect()),
        Dtype::Bf16 => Storage::Bf16((0..ELEMENTS).map(|i| half::bf16::from_f64(at(i))).collect()),
        Dtype::F16 => Storage::F16((0..ELEMENTS).map(|i| half::f16::from_f64(at(i))).collect()),
    };
    Tensor::from_storage(storage, &[ELEMENTS]).expect("one dimension")
}

/// An optimizer over one large tensor, and the bytes one of its steps moves. Gradients are not scanned: the scan is a
/// pass of its own.
fn prepare(algorithm: &Algorithm, dtype: Dtype) -> (Optimizer, usize) {
    let optimizer = Optimizer::builder(Device::Cpu)
        .group(Group::new("g", algorithm.clone()).lr(1e-4).params(["*"]))
        .nonfinite(NonFinite::Propagate)
        .register([Parameter::new("w", values(dtype, 1.0)).grad(values(dtype, 0.1))])
        .expect("legal");
    let state = optimizer.plan().state_bytes() - size_of::<u64>();
    (optimizer, 3 * ELEMENTS * dtype.size() + 2 * state)
}

/// Reads and writes `bytes` in all, with every thread of the pool.
fn memcpy(target: &mut [u8], source: &[u8], bytes: usize) {
    let half = bytes / 2;
    let chunk = 1 << 20;
    target[..half]
        .par_chunks_mut(chunk)
        .zip(source[..half].par_chunks(chunk))
        .for_each(|(t, s)| t.copy_from_slice(s));
    black_box(target);
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn criterion_rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("elementwise");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    for (name, algorithm, dtype) in rules() {
        let (mut optimizer, bytes) = prepare(&algorithm, dtype);
        group.throughput(Throughput::Bytes(bytes as u64));
        group.bench_function(BenchmarkId::from_parameter(name), |b| {
            b.iter(|| optimizer.step().expect("a step"))
        });
    }
    group.finish();
}

/// Rule and memcpy alternately, so that both see the same machine. Returns whether every rule reached its bar.
fn ratios() -> bool {
    let source = vec![1u8; 16 * ELEMENTS];
    let mut target = vec![2u8; 16 * ELEMENTS];
    println!("\n{:<18} {:>10} {:>10} {:>8}   bar {BAR}", "rule", "GB/s", "memcpy", "share");
    let mut all = true;
    for (name, algorithm, dtype) in rules() {
        let (mut optimizer, bytes) = prepare(&algorithm, dtype);
        let copied = bytes.min(2 * source.len());
        let (mut own, mut copy) = (vec![], vec![]);
        for _ in 0..9 {
            let start = Instant::now();
            optimizer.step().expect("a step");
            own.push(start.elapsed());
            let start = Instant::now();
            memcpy(&mut target, &source, copied);
            copy.push(start.elapsed());
        }
        let (own, copy) = (bytes as f64 / median(own) / 1e9, copied as f64 / median(copy) / 1e9);
        let reached = own >= BAR * copy;
        all &= reached;
        let verdict = if reached { "" } else { "  MISSED" };
        println!("{name:<18} {own:>10.2} {copy:>10.2} {:>8.2}{verdict}", own / copy);
    }
    all
}

fn main() -> std::process::ExitCode {
    // `cargo test --benches` runs every bench once as a check.
    if std::env::args().any(|a| a == "--test") {
        return std::process::ExitCode::SUCCESS;
    }
    let mut criterion = Criterion::default().configure_from_args();
    criterion_rows(&mut criterion);
    if ratios() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
