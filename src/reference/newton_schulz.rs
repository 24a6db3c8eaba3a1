//! Newton-Schulz iterations on the CPU.

use super::product::{Matrix, product, symmetric_product};
use super::real::Real;
use super::reduce::{Scaled, Strided, exponent_of, norm};
use super::rounding::round_to;
use crate::algorithm::{Coefficients, Eps, EpsForm, NewtonSchulz, NsDtype, NsMethod};

/// The smallest divisor accepted of a matrix: `x / divide_by(norm)` is what normalisation means.
fn guarded(norm: Scaled, margin: f64, eps: Eps) -> Scaled {
    let value = norm.value * margin;
    if value.is_nan() {
        return Scaled { value, exponent: 0 };
    }
    if eps.value == 0.0 || norm.exponent > 0 {
        // Beside a norm beyond 1e140 no legal eps can be seen.
        return Scaled { value, exponent: norm.exponent };
    }
    let value = value * two_to(norm.exponent);
    let value = match eps.form {
        EpsForm::Clamp => value.max(eps.value),
        EpsForm::Add => value + eps.value,
    };
    Scaled { value, exponent: 0 }
}

/// `x / max(margin * ||x||_F, eps)` (or with eps added), for any finite `x` from the smallest subnormal to the largest
/// number: the norm is split into a mantissa in [1, 2), whose inverse is rounded once, and a power of two, which is applied
/// exactly. (A division an element is what a card has no time for.)
/// Zero divided by a zero norm is zero; NaN and infinities in give NaN out.
pub fn normalise<T: Real>(x: &mut [T], norm: Scaled, margin: f64, eps: Eps) {
    let divisor = guarded(norm, margin, eps);
    if divisor.value == 0.0 {
        return;
    }
    if !divisor.value.is_finite() {
        x.fill(T::nan());
        return;
    }
    let inner = exponent_of(divisor.value);
    let inverse = T::of(1.0 / (divisor.value * two_to(-inner)));
    let exponent = -(inner + divisor.exponent);
    // Two exact multiplications, because 2^exponent alone may leave the type's range.
    let (first, second) = (T::of(two_to(exponent / 2)), T::of(two_to(exponent - exponent / 2)));
    for v in x {
        *v = *v * first * second * inverse;
    }
}

/// `2^exponent`, for exponents beyond -1022 through a subnormal's worth of halving.
fn two_to(exponent: i32) -> f64 {
    let ordinary = exponent.clamp(-1022, 1023);
    2f64.powi(ordinary) * 2f64.powi((exponent - ordinary).clamp(-100, 100))
}

/// What became of one orthogonalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The iteration asked for was used.
    Ok,
    /// It left its bound (or was not finite) for a finite input, and five standard Jordan steps in f32 or wider
    /// were used instead.
    FellBack,
}

/// A Newton-Schulz iteration with what follows from its coefficients.
#[derive(Debug, Clone, PartialEq)]
pub struct Orthogonaliser {
    spec: NewtonSchulz,
    schedule: Vec<[f64; 3]>,
    sigma_bound: f64,
}

impl Orthogonaliser {
    /// Computes the schedule and its bound once.
    pub fn new(spec: &NewtonSchulz) -> Self {
        Self { spec: spec.clone(), schedule: spec.schedule(), sigma_bound: spec.sigma_bound() }
    }
}

/// Replaces the row-major matrix by its orthogonalisation `~ U V^T`.
///
/// # Panics
/// When `data` does not have `rows * columns` elements.
pub fn orthogonalise<T: Real>(
    data: &mut [T],
    rows: usize,
    columns: usize,
    method: &Orthogonaliser,
    eps: Eps,
) -> Outcome {
    assert_eq!(data.len(), rows * columns, "a {rows} x {columns} matrix");
    let spec = &method.spec;
    let length = norm(Strided::row_major(data, rows, columns));
    normalise(data, length, spec.coefficients.input_margin(), eps);
    if length.value == 0.0 || !length.value.is_finite() {
        return Outcome::Ok;
    }
    // Short side first. Tall matrices are transposed, so that X and X^T go through the same arithmetic.
    let tall = rows > columns;
    let mut x = Matrix::new(rows, columns, data.to_vec());
    if tall {
        x = x.transposed();
    }
    let default = if T::PRECISION == crate::plan::Precision::F64 { NsDtype::F64 } else { NsDtype::Bf16 };
    let dtype = spec.dtype.unwrap_or(default);
    let (mut out, mut outcome) = (run(&x, spec, &method.schedule, dtype), Outcome::Ok);
    if !within_bound(&out, method.sigma_bound) {
        let safe = NewtonSchulz { coefficients: Coefficients::Jordan, ..NewtonSchulz::default() };
        let wide = if dtype == NsDtype::F64 { NsDtype::F64 } else { NsDtype::F32 };
        (out, outcome) = (run(&x, &safe, &safe.schedule(), wide), Outcome::FellBack);
    }
    if tall {
        out = out.transposed();
    }
    data.copy_from_slice(&out.data);
    outcome
}

/// The divergence guard: `||out||_F` can be at most `sigma_bound * sqrt(short side)`; a quarter more is rounding.
fn within_bound<T: Real>(out: &Matrix<T>, sigma_bound: f64) -> bool {
    let length = norm(Strided::row_major(&out.data, out.rows, out.columns));
    length.exponent <= 0 && length.value <= 1.25 * sigma_bound * (out.rows as f64).sqrt()
}

/// Runs the iteration in the number format asked for.
fn run<T: Real>(x: &Matrix<T>, spec: &NewtonSchulz, schedule: &[[f64; 3]], dtype: NsDtype) -> Matrix<T> {
    match dtype {
        NsDtype::F64 => convert(&iterate(convert::<T, f64>(x), spec, schedule, &|_: &mut [f64]| {})),
        NsDtype::F32 => convert(&iterate(convert::<T, f32>(x), spec, schedule, &|_: &mut [f32]| {})),
        half => convert(&iterate(convert::<T, f32>(x), spec, schedule, &|v: &mut [f32]| round_to(half, v))),
    }
}

fn convert<A: Real, B: Real>(m: &Matrix<A>) -> Matrix<B> {
    Matrix::new(m.rows, m.columns, m.data.iter().map(|v| B::get(*v)).collect())
}

/// The iteration on `x` (rows <= columns). `round` is applied to the input and to every product's result; operands
/// are therefore in the number format, sums and epilogues (`+ b A`, `+ a X`) in the working type.
fn iterate<W: Real>(
    mut x: Matrix<W>,
    spec: &NewtonSchulz,
    schedule: &[[f64; 3]],
    round: &dyn Fn(&mut [W]),
) -> Matrix<W> {
    round(&mut x.data);
    let schedule: Vec<[W; 3]> = schedule.iter().map(|tuple| tuple.map(W::of)).collect();
    match spec.method_for(x.rows, x.columns) {
        NsMethod::Gram => gram(x, &schedule, spec.resolved_restarts(), round),
        _ => standard(x, &schedule, round),
    }
}

fn standard<W: Real>(mut x: Matrix<W>, schedule: &[[W; 3]], round: &dyn Fn(&mut [W])) -> Matrix<W> {
    for &[a, b, c] in schedule {
        let gram = finish(symmetric_product(&x, None), W::one(), &[], round);
        let update = finish(symmetric_product(&gram, Some(&gram)), c, &[(b, &gram)], round);
        x = finish(product(&update, &x), W::one(), &[(a, &x)], round);
    }
    x
}

/// What the Gram iteration has collected since the last restart.
enum Factor<W> {
    Nothing,
    /// `Z + a I` after one iteration, kept in two parts: rounding a into 16 bits would hurt.
    First(Matrix<W>, W),
    Product(Matrix<W>),
}

/// Gram Newton-Schulz (Dao-AILab, 2026): the polynomial is applied to `R = X X^T`, the factors are collected in `Q`,
/// and `X` is touched only at restarts and at the end.
fn gram<W: Real>(
    mut x: Matrix<W>,
    schedule: &[[W; 3]],
    restarts: &[u32],
    round: &dyn Fn(&mut [W]),
) -> Matrix<W> {
    let restarts_at = |t: usize| t > 0 && restarts.contains(&(t as u32));
    let apply = |factor: Factor<W>, x: Matrix<W>| match factor {
        Factor::Nothing => x,
        Factor::First(z, a) => finish(product(&z, &x), W::one(), &[(a, &x)], round),
        Factor::Product(q) => finish(product(&q, &x), W::one(), &[], round),
    };
    let gram_of = |x: &Matrix<W>| finish(symmetric_product(x, None), W::one(), &[], round);
    let mut r = gram_of(&x);
    let mut factor = Factor::Nothing;
    for (t, &[a, b, c]) in schedule.iter().enumerate() {
        if restarts_at(t) {
            x = apply(std::mem::replace(&mut factor, Factor::Nothing), x);
            r = gram_of(&x);
        }
        let z = finish(symmetric_product(&r, Some(&r)), c, &[(b, &r)], round);
        if t + 1 < schedule.len() && !restarts_at(t + 1) {
            let rz = finish(symmetric_product(&r, Some(&z)), W::one(), &[(a, &r)], round);
            r = finish(symmetric_product(&z, Some(&rz)), W::one(), &[(a, &rz)], round);
        }
        factor = match factor {
            Factor::Nothing => Factor::First(z, a),
            // (Z1 + a1 I)(Z + a I)
            Factor::First(first, a1) => {
                let mut q = combine(symmetric_product(&first, Some(&z)), W::one(), &[(a1, &z), (a, &first)]);
                for i in 0..q.rows {
                    q.data[i * q.columns + i] += a1 * a;
                }
                round(&mut q.data);
                Factor::Product(q)
            }
            Factor::Product(q) => {
                Factor::Product(finish(symmetric_product(&q, Some(&z)), W::one(), &[(a, &q)], round))
            }
        };
    }
    apply(factor, x)
}

/// The epilogue of a product in the working type: `alpha P + sum of factor * C`.
fn combine<W: Real>(mut p: Matrix<W>, alpha: W, terms: &[(W, &Matrix<W>)]) -> Matrix<W> {
    if alpha != W::one() {
        p.data.iter_mut().for_each(|v| *v *= alpha);
    }
    for (factor, c) in terms {
        p.data.iter_mut().zip(&c.data).for_each(|(p, c)| *p += *factor * *c);
    }
    p
}

fn finish<W: Real>(p: Matrix<W>, alpha: W, terms: &[(W, &Matrix<W>)], round: &dyn Fn(&mut [W])) -> Matrix<W> {
    let mut out = combine(p, alpha, terms);
    round(&mut out.data);
    out
}
