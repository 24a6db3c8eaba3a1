//! The whole method in plain loops: one matrix, one step, no blocks, threads, dtypes or tricks. Read this first.
//!
//! Tests hold the fast reference to it: elementwise rules bit for bit, Newton-Schulz to rounding.

#![allow(clippy::needless_range_loop, reason = "indices read like the formulas")]

use super::real::Real;
use super::rules::sign;
use crate::algorithm::{Constraint, Estimator, Lmo, Norm, Order};

/// A row-major matrix with its momentum and, for extrapolated methods, the point the next gradient is taken at.
#[derive(Debug, Clone, PartialEq)]
pub struct Naive<T> {
    /// Rows (fan_out).
    pub rows: usize,
    /// Columns (fan_in).
    pub columns: usize,
    /// The iterate.
    pub x: Vec<T>,
    /// Where the next gradient is to be taken; `x` itself except for extrapolation.
    pub y: Vec<T>,
    /// Momentum.
    pub m: Vec<T>,
    /// Steps done.
    pub t: u64,
}

impl<T: Real> Naive<T> {
    /// Starts at `x` with zero momentum.
    pub fn new(rows: usize, columns: usize, x: Vec<T>) -> Self {
        Self { rows, columns, y: x.clone(), m: vec![T::zero(); x.len()], x, t: 0 }
    }

    /// One step of any member of the trust-region family with gradient `g` and, for variance reduction, the gradient
    /// at the previous point.
    pub fn step(&mut self, method: &Lmo, lr: f64, weight_decay: f64, g: &[T], g_previous: &[T]) {
        self.t += 1;
        let u = match method.order {
            Order::EstimateFirst => {
                let c = self.estimate(&method.estimator, g, g_previous);
                self.lmo(method, &c)
            }
            Order::LmoFirst => {
                let o = self.lmo(method, g);
                self.estimate(&method.estimator, &o, g_previous)
            }
        };
        let eta = T::of(lr * method.scale.factor(method.norm, self.rows, self.columns));
        for i in 0..self.x.len() {
            let decays = match method.constraint {
                Constraint::None => false,
                Constraint::Decay => weight_decay * lr != 0.0,
                Constraint::CautiousDecay => weight_decay * lr != 0.0 && u[i] * self.x[i] >= T::zero(),
                Constraint::ConvexCombination => true,
            };
            let rate =
                if method.constraint == Constraint::ConvexCombination { lr } else { lr * weight_decay };
            let (kept, lost) = if decays {
                (T::of(1.0 - rate) * self.x[i], T::of(rate) * self.x[i])
            } else {
                (self.x[i], T::zero())
            };
            self.x[i] = kept - eta * u[i];
            self.y[i] = match method.estimator {
                Estimator::Extrapolated { alpha } => {
                    self.x[i] - T::of((1.0 - alpha) / alpha) * (lost + eta * u[i])
                }
                _ => self.x[i],
            };
        }
    }

    /// The vector for the LMO; updates the momentum.
    fn estimate(&mut self, estimator: &Estimator, g: &[T], g_previous: &[T]) -> Vec<T> {
        let mut c = vec![T::zero(); g.len()];
        let from_gradient = self.t == 1 && estimator.starts_from_gradient();
        for i in 0..g.len() {
            let old = self.m[i];
            let average =
                |mu: f64| if from_gradient { g[i] } else { T::of(mu) * old + T::of(1.0 - mu) * g[i] };
            (self.m[i], c[i]) = match *estimator {
                Estimator::None => (old, g[i]),
                Estimator::HeavyBall { momentum, .. } => {
                    let m = if from_gradient { g[i] } else { T::of(momentum) * old + g[i] };
                    (m, m)
                }
                Estimator::Ema { momentum, .. } => (average(momentum), average(momentum)),
                Estimator::Nesterov { momentum, .. } => {
                    let m = average(momentum);
                    (m, T::of(1.0 - momentum) * g[i] + T::of(momentum) * m)
                }
                Estimator::Lion { betas: [b1, b2] } => {
                    (T::of(b2) * old + T::of(1.0 - b2) * g[i], T::of(b1) * old + T::of(1.0 - b1) * g[i])
                }
                Estimator::Extrapolated { alpha } => {
                    let m = if from_gradient { g[i] } else { T::of(1.0 - alpha) * old + T::of(alpha) * g[i] };
                    (m, m)
                }
                Estimator::Mvr { alpha } => {
                    let m =
                        if from_gradient { g[i] } else { g[i] + T::of(1.0 - alpha) * (old - g_previous[i]) };
                    (m, m)
                }
            };
        }
        c
    }

    /// The unit direction of the method's norm (eps = 0).
    fn lmo(&self, method: &Lmo, m: &[T]) -> Vec<T> {
        let (rows, columns) = (self.rows, self.columns);
        let divide = |value: T, length: T| if length == T::zero() { T::zero() } else { value / length };
        let length = |index: &dyn Fn(usize) -> usize, n: usize| {
            (0..n).map(|k| m[index(k)] * m[index(k)]).fold(T::zero(), |a, b| a + b).sqrt()
        };
        match method.norm {
            Norm::Sign => m.iter().map(|v| sign(*v)).collect(),
            Norm::Frobenius => {
                let norm = length(&|k| k, m.len());
                m.iter().map(|v| divide(*v, norm)).collect()
            }
            Norm::Rows => {
                (0..m.len()).map(|i| divide(m[i], length(&|k| i / columns * columns + k, columns))).collect()
            }
            Norm::Columns => {
                (0..m.len()).map(|i| divide(m[i], length(&|k| k * columns + i % columns, rows))).collect()
            }
            Norm::Spectral | Norm::RmsToRms => {
                let ns = &method.newton_schulz;
                let norm = length(&|k| k, m.len()) * T::of(ns.coefficients.input_margin());
                let x: Vec<T> = m.iter().map(|v| divide(*v, norm)).collect();
                ns.schedule().iter().fold(x, |x, tuple| newton_schulz_step(&x, rows, columns, *tuple))
            }
        }
    }
}

/// `a X + b (X X^T) X + c (X X^T)^2 X` without rounding to 16 bits, on the left side whatever the shape.
fn newton_schulz_step<T: Real>(x: &[T], rows: usize, columns: usize, [a, b, c]: [f64; 3]) -> Vec<T> {
    let gram: Vec<T> = (0..rows * rows)
        .map(|ij| {
            (0..columns)
                .map(|k| x[ij / rows * columns + k] * x[ij % rows * columns + k])
                .fold(T::zero(), |s, v| s + v)
        })
        .collect();
    let square = matmul(&gram, &gram, rows, rows, rows);
    let update: Vec<T> = gram.iter().zip(&square).map(|(g, s)| T::of(b) * *g + T::of(c) * *s).collect();
    let moved = matmul(&update, x, rows, rows, columns);
    x.iter().zip(&moved).map(|(x, m)| T::of(a) * *x + *m).collect()
}

fn matmul<T: Real>(a: &[T], b: &[T], n: usize, k: usize, m: usize) -> Vec<T> {
    (0..n * m)
        .map(|ij| (0..k).map(|l| a[ij / m * k + l] * b[l * m + ij % m]).fold(T::zero(), |s, v| s + v))
        .collect()
}
