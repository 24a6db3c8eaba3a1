//! Approximations: the ISA's tables of special values, and its error bounds against series summed here.

use crate::exact::F32;
use crate::harness::{Rng, op};
use orthant_gpu::isa::Class;

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;
const TINY: f32 = 1e-40;

/// Positive and negative numbers of every exponent from `low` to `high`.
fn numbers(low: i32, high: i32) -> Vec<f32> {
    let mut rng = Rng(71);
    (low..high)
        .flat_map(|exponent| (0..40).map(move |_| exponent))
        .map(|exponent| {
            let x = (1.0 + (rng.next() >> 11) as f64 * 2_f64.powi(-53)) * 2_f64.powi(exponent);
            (if rng.next() & 1 != 0 { -x } else { x }) as f32
        })
        .collect()
}

fn special(text: &str, table: &[(f32, f32)]) {
    let op = op(text);
    assert_eq!(op.class, Class::Special);
    let canonical = |x: f32| if F32.is_nan(x.to_bits().into()) { 0x7fff_ffff } else { x.to_bits() };
    op.check(table.iter().map(|(x, y)| (x.to_bits(), canonical(*y))), |(_, want)| want);
}

/// Checks the error at every input that `inputs` has; `error` gives it from the result and the exact value.
fn bounded(
    text: &str,
    inputs: &[f32],
    exact: impl Fn(f64) -> f64,
    error: impl Fn(f64, f64) -> f64,
    bound: f64,
) {
    let inputs = inputs.iter().map(|x| (x.to_bits(),));
    op(text).check_by(inputs, |(x,), got: u32| {
        let want = exact(f32::from_bits(x).into());
        let error = error(f32::from_bits(got).into(), want);
        (error <= bound).then_some(()).ok_or_else(|| format!("{want} is wanted, the error is {error:e}"))
    });
}

fn relative(got: f64, want: f64) -> f64 {
    ((got - want) / want).abs()
}

fn absolute(got: f64, want: f64) -> f64 {
    (got - want).abs()
}

/// Sums a series until its terms vanish.
fn series(first: f64, next: impl Fn(f64, f64) -> f64) -> f64 {
    let (mut sum, mut term, mut n) = (0.0, first, 1.0);
    while sum + term != sum {
        sum += term;
        term = next(term, n);
        n += 1.0;
    }
    sum
}

fn exp(x: f64) -> f64 {
    // e^x = (e^(x/1024))^1024
    let mut power = series(1.0, |term, n| term * (x / 1024.0) / n);
    for _ in 0..10 {
        power *= power;
    }
    power
}

fn sin(x: f64) -> f64 {
    series(x, |term, n| -term * x * x / ((2.0 * n) * (2.0 * n + 1.0)))
}

fn cos(x: f64) -> f64 {
    series(1.0, |term, n| -term * x * x / ((2.0 * n - 1.0) * (2.0 * n)))
}

fn log2(x: f64) -> f64 {
    let mut exponent = 0.0;
    let mut x = x;
    while x > 1.5 {
        (x, exponent) = (x / 2.0, exponent + 1.0);
    }
    while x < 0.75 {
        (x, exponent) = (x * 2.0, exponent - 1.0);
    }
    let z = (x - 1.0) / (x + 1.0);
    // 2 atanh(z): the terms are z^(2n-1) / (2n-1).
    let mut sum = 0.0;
    let mut power = z;
    for n in 0..40 {
        sum += power / f64::from(2 * n + 1);
        power *= z * z;
    }
    exponent + 2.0 * sum / std::f64::consts::LN_2
}

#[test]
fn reciprocals_and_roots() {
    let table = [(-INF, -0.0), (-0.0, -INF), (0.0, INF), (INF, 0.0), (NAN, NAN), (2.0, 0.5), (-4.0, -0.25)];
    special("rcp.approx.f32 %r0, %r1;", &table);
    special("rcp.approx.ftz.f32 %r0, %r1;", &table);
    special("rcp.approx.ftz.f32 %r0, %r1;", &[(TINY, INF), (-TINY, -INF), (2_f32.powi(127), 0.0)]);
    let all = numbers(-125, 125);
    bounded("rcp.approx.f32 %r0, %r1;", &all, |x| 1.0 / x, relative, 2_f64.powi(-23));
    bounded(
        "rcp.approx.f32 %r0, %r1;",
        &[TINY * 100.0, -TINY * 1000.0],
        |x| 1.0 / x,
        relative,
        2_f64.powi(-23),
    );
    let positive: Vec<f32> = numbers(-148, 128).into_iter().map(f32::abs).collect();
    let table = [(-INF, NAN), (-1.0, NAN), (INF, INF), (NAN, NAN), (0.0, 0.0), (-0.0, -0.0), (4.0, 2.0)];
    special("sqrt.approx.f32 %r0, %r1;", &table);
    special("sqrt.approx.ftz.f32 %r0, %r1;", &[(TINY, 0.0), (-TINY, -0.0), (9.0, 3.0)]);
    bounded("sqrt.approx.f32 %r0, %r1;", &positive, f64::sqrt, relative, 2_f64.powi(-23));
    let table = [(-INF, NAN), (-1.0, NAN), (-0.0, -INF), (0.0, INF), (INF, 0.0), (NAN, NAN), (4.0, 0.5)];
    special("rsqrt.approx.f32 %r0, %r1;", &table);
    special("rsqrt.approx.ftz.f32 %r0, %r1;", &[(TINY, INF), (-TINY, -INF), (16.0, 0.25)]);
    bounded("rsqrt.approx.f32 %r0, %r1;", &positive, |x| 1.0 / x.sqrt(), relative, 2_f64.powf(-22.9));
}

#[test]
fn trigonometry() {
    let angles: Vec<f32> = numbers(-30, 2).into_iter().filter(|x| x.abs() <= std::f32::consts::PI).collect();
    bounded("sin.approx.f32 %r0, %r1;", &angles, sin, absolute, 2_f64.powf(-20.9));
    bounded("cos.approx.f32 %r0, %r1;", &angles, cos, absolute, 2_f64.powf(-20.9));
    special("sin.approx.f32 %r0, %r1;", &[(-INF, NAN), (-0.0, -0.0), (0.0, 0.0), (INF, NAN), (NAN, NAN)]);
    special("sin.approx.ftz.f32 %r0, %r1;", &[(TINY, 0.0), (-TINY, -0.0)]);
    special(
        "cos.approx.f32 %r0, %r1;",
        &[(-INF, NAN), (-0.0, 1.0), (0.0, 1.0), (INF, NAN), (NAN, NAN), (TINY, 1.0)],
    );
    special("cos.approx.ftz.f32 %r0, %r1;", &[(TINY, 1.0)]);
}

#[test]
fn logarithm_and_exponential() {
    let near: Vec<f32> = (0..4000).map(|i| 0.5 + 1.5 * i as f32 / 4000.0).collect();
    bounded("lg2.approx.f32 %r0, %r1;", &near, log2, absolute, 2_f64.powi(-22));
    let far: Vec<f32> =
        numbers(-148, 128).into_iter().map(f32::abs).filter(|x| !(0.5..2.0).contains(x)).collect();
    bounded("lg2.approx.f32 %r0, %r1;", &far, log2, relative, 2_f64.powi(-22));
    special(
        "lg2.approx.f32 %r0, %r1;",
        &[(-INF, NAN), (-1.0, NAN), (-0.0, -INF), (0.0, -INF), (INF, INF), (NAN, NAN)],
    );
    special("lg2.approx.ftz.f32 %r0, %r1;", &[(TINY, -INF), (-TINY, -INF), (8.0, 3.0)]);
    let exponents: Vec<f32> = numbers(-30, 7).into_iter().filter(|x| x.abs() < 126.0).collect();
    let power = |x: f64| exp(x * std::f64::consts::LN_2);
    bounded("ex2.approx.f32 %r0, %r1;", &exponents, power, relative, 2_f64.powi(-22));
    special(
        "ex2.approx.f32 %r0, %r1;",
        &[(-INF, 0.0), (-0.0, 1.0), (0.0, 1.0), (INF, INF), (NAN, NAN), (-140.0, 2_f32.powi(-140))],
    );
    special("ex2.approx.ftz.f32 %r0, %r1;", &[(TINY, 1.0), (-140.0, 0.0), (128.0, INF)]);
    let tanh = |x: f64| 1.0 - 2.0 / (exp(2.0 * x) + 1.0);
    let arguments: Vec<f32> = numbers(-10, 5);
    bounded("tanh.approx.f32 %r0, %r1;", &arguments, tanh, relative, 2_f64.powi(-11));
    special(
        "tanh.approx.f32 %r0, %r1;",
        &[(-INF, -1.0), (-0.0, -0.0), (0.0, 0.0), (INF, 1.0), (NAN, NAN), (TINY, TINY)],
    );
}

#[test]
fn division() {
    let (mut a, b) = (numbers(-60, 60), numbers(-60, 60));
    a.rotate_left(77);
    let inputs: Vec<(u32, u32)> = a.iter().zip(&b).map(|(a, b)| (a.to_bits(), b.to_bits())).collect();
    for text in ["div.approx.f32", "div.approx.ftz.f32", "div.full.f32", "div.full.ftz.f32"] {
        let div = op(&format!("{text} %r0, %r1, %r2;"));
        div.check_by(inputs.iter().copied(), |(a, b), got: u32| {
            let want = f64::from(f32::from_bits(a)) / f64::from(f32::from_bits(b));
            let error = relative(f32::from_bits(got).into(), want);
            (error <= 2_f64.powi(-22)).then_some(()).ok_or_else(|| format!("{want} is wanted"))
        });
        assert_eq!(div.class, Class::Special);
    }
    // Divisors above 2^126 give zero, or NaN for an infinity.
    let huge = 2_f32.powi(127);
    let table = [
        (1e30, huge, 0.0),
        (-1e30, huge, -0.0),
        (INF, huge, NAN),
        (NAN, huge, NAN),
        (1.0, INF, 0.0),
        (1.0, 0.0, INF),
        (0.0, 0.0, NAN),
    ];
    for (a, b, want) in table {
        op("div.approx.f32 %r0, %r1, %r2;").check([(f32::to_bits(a), f32::to_bits(b))], |_| {
            if F32.is_nan(want.to_bits().into()) { 0x7fff_ffff } else { want.to_bits() }
        });
    }
    op("div.full.f32 %r0, %r1, %r2;").check([(huge.to_bits(), huge.to_bits())], |_| 1_f32.to_bits());
    let flushed = [(TINY.to_bits(), 1_f32.to_bits()), (1e-30_f32.to_bits(), 1e20_f32.to_bits())];
    op("div.full.ftz.f32 %r0, %r1, %r2;").check(flushed, |_| 0_u32);
}

#[test]
fn doubles() {
    let mut rng = Rng(72);
    let inputs: Vec<(u64,)> = (0..4000).map(|_| (rng.next() & !(1 << 62) | 1 << 61,)).collect();
    let close = |got: u64, want: f64, bound: i32| {
        let error = relative(f64::from_bits(got), want);
        (error <= 2_f64.powi(bound)).then_some(()).ok_or_else(|| format!("{want} is wanted"))
    };
    op("rcp.approx.ftz.f64 %d0, %d1;").check_by(inputs.iter().copied(), |(x,), got: u64| {
        assert_eq!(got & 0xffff_ffff, 0);
        close(got, 1.0 / f64::from_bits(x), -19)
    });
    for (text, low) in [("rsqrt.approx.ftz.f64", true), ("rsqrt.approx.f64", false)] {
        let positive = inputs.iter().map(|&(x,)| (x & !(1 << 63),));
        op(&format!("{text} %d0, %d1;")).check_by(positive, |(x,), got: u64| {
            assert!(!low || got & 0xffff_ffff == 0);
            close(got, 1.0 / f64::from_bits(x).sqrt(), -19)
        });
    }
    let inf = f64::INFINITY;
    let table = |text: &str, table: &[(f64, f64)]| {
        op(text).check(table.iter().map(|(x, y)| (x.to_bits(), y.to_bits())), |(_, want)| want);
    };
    table(
        "rcp.approx.ftz.f64 %d0, %d1;",
        &[(-inf, -0.0), (-1e-310, -inf), (-0.0, -inf), (0.0, inf), (1e-310, inf), (inf, 0.0)],
    );
    table(
        "rsqrt.approx.ftz.f64 %d0, %d1;",
        &[(-1e-310, -inf), (-0.0, -inf), (0.0, inf), (1e-310, inf), (inf, 0.0), (4.0, 0.5)],
    );
    op("rsqrt.approx.f64 %d0, %d1;").check([((-1_f64).to_bits(),)], |_| 0xfff8_0000_0000_0000_u64);
}

/// All inputs of the half-precision forms; a documented bound is several units in the last place.
#[test]
fn halves() {
    let value = |format: crate::exact::Format, bits: u16| {
        let number = format.value(bits.into());
        let size = i32::try_from(&number.size).expect("eleven bits");
        f64::from(size) * 2_f64.powi(number.exponent as i32)
    };
    let tanh = |x: f64| if x.abs() > 20.0 { x.signum() } else { 1.0 - 2.0 / (exp(2.0 * x) + 1.0) };
    for (name, format) in [("f16", crate::exact::F16), ("bf16", crate::exact::BF16)] {
        let ex2 = if name == "f16" { "ex2.approx.f16" } else { "ex2.approx.ftz.bf16" };
        let all = || (0..=u16::MAX).map(|x| (x,));
        let largest = value(format, format.infinity() as u16 - 1);
        let least = value(format, 1 << format.fraction);
        op(&format!("{ex2} %h0, %h1;")).check_by(all(), |(x,), got: u16| {
            let bits = u64::from(x);
            if format.is_nan(bits) {
                return (got == 0x7fff).then_some(()).ok_or_else(|| "a NaN is wanted".into());
            }
            let x =
                if format.is_finite(bits) { value(format, x) } else { if x >> 15 != 0 { -1e9 } else { 1e9 } };
            let want = if x.abs() > 150.0 {
                if x > 0.0 { 1e300 } else { 0.0 }
            } else {
                exp(x * std::f64::consts::LN_2)
            };
            let ok = match want {
                big if big > largest * 1.0001 => u64::from(got) == format.infinity(),
                small if small < least * 0.999 => value(format, got) <= least && (name == "f16" || got == 0),
                _ => {
                    relative(value(format, got), want)
                        <= if name == "f16" { 2_f64.powf(-9.9) } else { 2_f64.powi(-7) }
                }
            };
            ok.then_some(()).ok_or_else(|| format!("{want} is wanted"))
        });
        op(&format!("tanh.approx.{name} %h0, %h1;")).check_by(all(), |(x,), got: u16| {
            let bits = u64::from(x);
            if format.is_nan(bits) {
                return (got == 0x7fff).then_some(()).ok_or_else(|| "a NaN is wanted".into());
            }
            let want = if format.is_finite(bits) {
                tanh(value(format, x))
            } else {
                if x >> 15 != 0 { -1.0 } else { 1.0 }
            };
            let bound = if name == "f16" { 2_f64.powf(-10.987) } else { 2_f64.powi(-8) };
            let ok = absolute(value(format, got), want) <= bound && (got ^ x) >> 15 == 0;
            ok.then_some(()).ok_or_else(|| format!("{want} is wanted"))
        });
    }
    assert!(F32.is_nan(0x7fff_ffff));
}
