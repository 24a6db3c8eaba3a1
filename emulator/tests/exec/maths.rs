//! The maths library, as NVRTC inlines it, against plain Rust in double precision.

use crate::machine::floats;
use crate::strangers::{everywhere, near};
use orthant_gpu::gpu::Arg;

/// The error function: its series, summed in double precision; good for |x| < 3.
fn erf(x: f64) -> f64 {
    let (mut term, mut sum) = (x, x);
    for n in 1..200 {
        term *= -x * x / f64::from(n);
        sum += term / f64::from(2 * n + 1);
    }
    sum * 2.0 / std::f64::consts::PI.sqrt()
}

/// ln Γ(x), x > 0: Stirling's series far up, then down by the recurrence.
fn ln_gamma(x: f64) -> f64 {
    let (mut y, mut product) = (x, 1.0);
    while y < 30.0 {
        product *= y;
        y += 1.0;
    }
    let series = 1.0 / (12.0 * y) - 1.0 / (360.0 * y.powi(3)) + 1.0 / (1260.0 * y.powi(5));
    (y - 0.5) * y.ln() - y + 0.5 * (2.0 * std::f64::consts::PI).ln() + series - product.ln()
}

fn remainder(x: f64, y: f64) -> f64 {
    x - (x / y).round_ties_even() * y
}

/// What `maths` and `maths64` compute of `v`, and the error allowed: `eps` is that of the type.
fn expected(v: f64, y: f64, eps: f64, single: bool) -> [(f64, f64); 40] {
    let (a, loose) = (v.abs(), eps.sqrt());
    let p = if single { f64::from(1.7f32) } else { 1.7 };
    [
        (v.sin(), eps),
        (v.cos(), eps),
        (v.tan(), 100.0 * eps),
        // Where the sine is near 1 nearly all its digits are lost.
        (v.sin().asin(), loose),
        (v.cos().acos(), loose),
        (v.atan(), eps),
        (v.atan2(2.0), eps),
        (v.sinh(), eps),
        (v.cosh(), eps),
        (v.tanh(), eps),
        (v.asinh(), eps),
        ((a + 1.0).acosh(), loose),
        ((v / (a + 1.0)).atanh(), 10.0 * eps),
        (v.exp(), eps),
        (v.exp2(), eps),
        (v.exp_m1(), eps),
        (a.ln(), eps),
        (a.log2(), eps),
        (a.log10(), eps),
        (a.ln_1p(), eps),
        (a.powf(p), eps),
        (a.sqrt(), eps),
        (1.0 / a.sqrt(), eps),
        (v.cbrt(), eps),
        (v.hypot(3.0), eps),
        (erf(v), eps),
        (1.0 - erf(v), eps),
        (ln_gamma(a), 20.0 * eps),
        (ln_gamma(v / 4.0 + 3.0).exp(), 50.0 * eps),
        (v % y, eps),
        (remainder(v, y), eps),
        (v, 0.0),
        (v, 0.0),
        (v.floor(), 0.0),
        (v.ceil(), 0.0),
        (v.round_ties_even(), 0.0),
        (v.round(), 0.0),
        (v.trunc(), 0.0),
        (1.0, eps),
        (-v.max(1.0), 0.0),
    ]
}

/// Arguments whose absolute value is not too small for a logarithm, and none on the brink of two remainders.
fn arguments() -> Vec<f32> {
    let fine = |v: &f32| v.abs() > 0.01 && (v.abs() % 0.35 - 0.175).abs() < 0.17;
    floats(51, 400).into_iter().filter(fine).collect()
}

#[test]
fn single_precision() {
    everywhere("maths", |m, fast| {
        let x = arguments();
        let n = x.len();
        let out = m.empty(4 * 40 * n);
        m.ok("maths", 4, 128, 0, &[Arg::U64(m.put(&x)), Arg::U64(out), Arg::I32(n as i32)]);
        let got: Vec<f32> = m.get(out, 40 * n);
        for (i, &v) in x.iter().enumerate() {
            let want = expected(v.into(), f64::from(0.7f32), if fast { 2e-5 } else { 1e-6 }, true);
            for (k, (want, eps)) in want.into_iter().enumerate() {
                near(got[k * n + i].into(), want, eps, &format!("function {k} of {v}"));
            }
        }
    });
}

#[test]
fn double_precision() {
    everywhere("maths", |m, _| {
        let x: Vec<f64> = arguments().into_iter().map(|v| f64::from(v) * 1.000_000_001).collect();
        let n = x.len();
        let out = m.empty(8 * 40 * n);
        m.ok("maths64", 4, 128, 0, &[Arg::U64(m.put(&x)), Arg::U64(out), Arg::I32(n as i32)]);
        let got: Vec<f64> = m.get(out, 40 * n);
        for (i, &v) in x.iter().enumerate() {
            for (k, (want, eps)) in expected(v, 0.7, 4e-15, false).into_iter().enumerate() {
                near(got[k * n + i], want, eps, &format!("function {k} of {v}"));
            }
        }
    });
}

#[test]
fn intrinsics() {
    everywhere("maths", |m, _| {
        let x = arguments();
        let n = x.len();
        let out = m.empty(4 * 20 * n);
        m.ok("intrinsics", 4, 128, 0, &[Arg::U64(m.put(&x)), Arg::U64(out), Arg::I32(n as i32)]);
        let got: Vec<f32> = m.get(out, 20 * n);
        for (i, &x) in x.iter().enumerate() {
            let (v, a) = (f64::from(x), f64::from(x.abs() + 0.5));
            let want = [
                v.sin(),
                v.cos(),
                v.exp(),
                a.ln(),
                a.powf(2.5),
                v / a,
                a.sqrt(),
                1.0 / a,
                v + a,
                v * a,
                v * a + v,
                v / a,
                v.clamp(0.0, 1.0),
                1.0 / a.sqrt(),
                v.tan(),
                a.log2(),
                a.log10(),
                v.exp().powf(10f64.ln()),
                v + 1e-3,
                v * a + (v / a + (v * a + v) + a.sqrt()),
            ];
            for (k, want) in want.into_iter().enumerate() {
                let eps = if k == 14 { 1e-3 } else { 1e-5 };
                near(got[k * n + i].into(), want, eps, &format!("intrinsic {k} of {v}"));
            }
        }
    });
}
