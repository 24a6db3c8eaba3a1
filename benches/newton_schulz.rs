//! Newton-Schulz on the CPU beside the matrix crate's own product rate, in one run.
//!
//! The rate of Newton-Schulz counts executed multiplications and additions only: symmetric products at half price, as
//! they are computed. The bar is half of the product's rate on the same shapes and threads.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion};
use orthant::algorithm::{Coefficients, Eps, EpsForm, NewtonSchulz, NsDtype, NsMethod};
use orthant::reference::newton_schulz::{Orthogonaliser, orthogonalise};
use orthant::reference::product::{Matrix, product};

#[path = "../tests/common/mod.rs"]
mod common;

const BAR: f64 = 0.5;
const SHAPES: [(usize, usize); 3] = [(256, 1024), (768, 768), (1024, 2048)];

fn matrix(rows: usize, columns: usize) -> Vec<f32> {
    (0..rows * columns).map(|i| (((i * 2_654_435_761) % 2003) as f32) / 1000.0 - 1.0).collect()
}

fn spec(method: NsMethod) -> Orthogonaliser {
    Orthogonaliser::new(&NewtonSchulz { dtype: Some(NsDtype::F32), method, ..NewtonSchulz::default() })
}

fn run(x: &[f32], rows: usize, columns: usize, spec: &Orthogonaliser) {
    let mut out = x.to_vec();
    orthogonalise(&mut out, rows, columns, spec, Eps { value: 0.0, form: EpsForm::Clamp });
    black_box(out);
}

/// Floating-point operations of five steps with panels of 128 rows: a symmetric product of n x n x k costs
/// `n k (n + 128)`, since whole panels up to the diagonal are computed.
fn flops(n: f64, m: f64, method: NsMethod) -> f64 {
    let symmetric = |k: f64| n * k * (n + 128.0);
    match method {
        // Auto takes Gram in f16 alone.
        NsMethod::Standard | NsMethod::Auto => 5.0 * (symmetric(m) + symmetric(n) + 2.0 * n * n * m),
        // Two Gram matrices, five Z, three R updates of two products each, three Q products, two applications.
        NsMethod::Gram => 2.0 * symmetric(m) + 14.0 * symmetric(n) + 2.0 * 2.0 * n * n * m,
    }
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}

fn timed(times: &mut Vec<Duration>, body: impl FnOnce()) {
    let start = Instant::now();
    body();
    times.push(start.elapsed());
}

fn criterion_rows(c: &mut Criterion) {
    let mut group = c.benchmark_group("newton_schulz");
    group.sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    for (rows, columns) in SHAPES {
        let x = matrix(rows, columns);
        for (name, method) in [("standard", NsMethod::Standard), ("gram", NsMethod::Gram)] {
            let id = BenchmarkId::new(name, format!("{rows}x{columns}"));
            let spec = spec(method);
            group.bench_function(id, |b| b.iter(|| run(&x, rows, columns, &spec)));
        }
    }
    group.finish();
}

fn ratios() -> bool {
    println!(
        "\n{:<22} {:>10} {:>10} {:>8}   bar {BAR}",
        "Newton-Schulz f32 x5", "GFLOP/s", "product", "share"
    );
    let mut all = true;
    for (rows, columns) in SHAPES {
        let x = matrix(rows, columns);
        let square = Matrix::new(rows, rows, matrix(rows, rows));
        let wide = Matrix::new(rows, columns, x.clone());
        let (n, m) = (rows as f64, columns as f64);
        for (name, method) in [("standard", NsMethod::Standard), ("gram", NsMethod::Gram)] {
            let (mut own, mut plain) = (vec![], vec![]);
            let spec = spec(method);
            for _ in 0..7 {
                timed(&mut own, || run(&x, rows, columns, &spec));
                timed(&mut plain, || drop(black_box(product(&square, &wide))));
            }
            let own = flops(n, m, method) / median(own) / 1e9;
            let plain = 2.0 * n * n * m / median(plain) / 1e9;
            let reached = own >= BAR * plain;
            all &= reached;
            let verdict = if reached { "" } else { "  MISSED" };
            let label = format!("{rows}x{columns} {name}");
            println!("{label:<22} {own:>10.1} {plain:>10.1} {:>8.2}{verdict}", own / plain);
        }
    }
    all
}

/// Relative errors against f64: the table of docs/numerics.md. Largest of six seeds, Gaussian matrices.
fn accuracy() {
    println!("\n{:<26} {:>10} {:>10} {:>10}", "error against f64", "f16", "gram f16", "bf16");
    for (rows, columns) in [(32, 128), (64, 256), (256, 1024)] {
        for set in [Coefficients::Jordan, Coefficients::You, Coefficients::PolarExpress] {
            let error = |method: NsMethod, dtype: NsDtype| {
                (0..6u64).map(|seed| one_error(rows, columns, &set, method, dtype, seed)).fold(0.0, f64::max)
            };
            let label = format!("{rows}x{columns} {}", set.name());
            println!(
                "{label:<26} {:>10.1e} {:>10.1e} {:>10.1e}",
                error(NsMethod::Standard, NsDtype::F16),
                error(NsMethod::Gram, NsDtype::F16),
                error(NsMethod::Standard, NsDtype::Bf16)
            );
        }
    }
}

fn one_error(
    rows: usize,
    columns: usize,
    set: &Coefficients,
    method: NsMethod,
    dtype: NsDtype,
    seed: u64,
) -> f64 {
    let mut random = common::Random(seed + 100);
    let x: Vec<f32> = random.normals(rows * columns).iter().map(|v| *v as f32).collect();
    let spec = |dtype| {
        Orthogonaliser::new(&NewtonSchulz {
            coefficients: set.clone(),
            method,
            dtype: Some(dtype),
            ..NewtonSchulz::default()
        })
    };
    let eps = Eps { value: 0.0, form: EpsForm::Clamp };
    let mut exact: Vec<f64> = x.iter().map(|v| f64::from(*v)).collect();
    orthogonalise(&mut exact, rows, columns, &spec(NsDtype::F64), eps);
    let mut rounded = x;
    orthogonalise(&mut rounded, rows, columns, &spec(dtype), eps);
    common::relative(&rounded.iter().map(|v| f64::from(*v)).collect::<Vec<_>>(), &exact)
}

fn main() -> std::process::ExitCode {
    // `cargo test --benches` runs every bench once as a check.
    if std::env::args().any(|a| a == "--test") {
        return std::process::ExitCode::SUCCESS;
    }
    let mut criterion = Criterion::default().configure_from_args();
    criterion_rows(&mut criterion);
    accuracy();
    if ratios() { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE }
}
