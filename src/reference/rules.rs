//! The update rules on slices: the executable specification of everything that works element by element.
//!
//! Scalars are computed in f64 and rounded once to the working type; every operation after that is a single IEEE
//! operation in the order written, never fused, so that a GPU kernel can have the same bits.

use super::real::{Real, power};
use crate::algorithm::{AdaGrad, AdamW, Constraint, Estimator, Sgd};

/// `sign(+-0) = 0`, `sign(NaN) = NaN`.
pub fn sign<T: Real>(x: T) -> T {
    if x > T::zero() {
        T::one()
    } else if x < T::zero() {
        -T::one()
    } else if x == T::zero() {
        T::zero()
    } else {
        T::nan()
    }
}

/// Momentum: `m` takes in `g`, and `g` is replaced by the vector for the LMO. `first`: this is the parameter's first
/// applied step. `previous` is the gradient at the previous point (variance reduction only).
pub fn estimate<T: Real>(
    estimator: &Estimator,
    first: bool,
    g: &mut [T],
    previous: Option<&[T]>,
    m: &mut [T],
) {
    if first && estimator.starts_from_gradient() {
        m.copy_from_slice(g);
        if let Estimator::Nesterov { momentum, .. } = *estimator {
            mix(T::of(momentum), T::of(1.0 - momentum), g, m);
        }
        return;
    }
    match *estimator {
        Estimator::None => {}
        Estimator::HeavyBall { momentum, .. } => {
            let mu = T::of(momentum);
            for (g, m) in g.iter_mut().zip(m) {
                *m = mu * *m + *g;
                *g = *m;
            }
        }
        Estimator::Ema { momentum, .. } => ema(T::of(momentum), T::of(1.0 - momentum), g, m),
        Estimator::Extrapolated { alpha } => ema(T::of(1.0 - alpha), T::of(alpha), g, m),
        Estimator::Nesterov { momentum, .. } => {
            let (old, new) = (T::of(momentum), T::of(1.0 - momentum));
            for (g, m) in g.iter_mut().zip(m) {
                *m = old * *m + new * *g;
                *g = new * *g + old * *m;
            }
        }
        Estimator::Lion { betas: [beta1, beta2] } => {
            let [b1, c1, b2, c2] = [beta1, 1.0 - beta1, beta2, 1.0 - beta2].map(T::of);
            for (g, m) in g.iter_mut().zip(m) {
                let mixed = b1 * *m + c1 * *g;
                *m = b2 * *m + c2 * *g;
                *g = mixed;
            }
        }
        Estimator::Mvr { alpha } => {
            let keep = T::of(1.0 - alpha);
            for ((g, m), p) in g.iter_mut().zip(m).zip(previous.unwrap_or_default()) {
                *m = *g + keep * (*m - *p);
                *g = *m;
            }
        }
    }
}

fn ema<T: Real>(old: T, new: T, g: &mut [T], m: &mut [T]) {
    for (g, m) in g.iter_mut().zip(m) {
        *m = old * *m + new * *g;
        *g = *m;
    }
}

fn mix<T: Real>(old: T, new: T, g: &mut [T], m: &[T]) {
    for (g, m) in g.iter_mut().zip(m) {
        *g = new * *g + old * *m;
    }
}

/// The last operator: parameter, direction and decay.
#[derive(Debug, Clone, Copy)]
pub struct Apply<T> {
    /// `lr * scale`.
    pub eta: T,
    /// `1 - lr * weight_decay`, or `1 - lr` for convex combinations.
    pub keep: T,
    /// `lr * weight_decay`, or `lr`: what `keep` leaves out.
    pub lose: T,
    /// Decay only where parameter and direction agree.
    pub cautious: bool,
    /// Whether `keep` is used at all (it is not when there is no decay, so that `x` is not rounded for nothing).
    pub decays: bool,
    /// `(1 - alpha) / alpha` of the extrapolation.
    pub reach: T,
}

impl<T: Real> Apply<T> {
    /// Scalars of a step with this learning rate, weight decay and radius factor.
    pub fn new(
        constraint: Constraint,
        lr: f64,
        weight_decay: f64,
        scale: f64,
        estimator: &Estimator,
    ) -> Self {
        let lost = match constraint {
            Constraint::None => 0.0,
            Constraint::Decay | Constraint::CautiousDecay => lr * weight_decay,
            Constraint::ConvexCombination => lr,
        };
        let reach = match *estimator {
            Estimator::Extrapolated { alpha } => (1.0 - alpha) / alpha,
            _ => 0.0,
        };
        Self {
            eta: T::of(lr * scale),
            keep: T::of(1.0 - lost),
            lose: T::of(lost),
            cautious: constraint == Constraint::CautiousDecay,
            decays: lost != 0.0,
            reach: T::of(reach),
        }
    }

    /// `x = keep x - eta u`.
    pub fn step(&self, x: &mut [T], u: &[T]) {
        match (self.decays, self.cautious) {
            (false, _) => x.iter_mut().zip(u).for_each(|(x, u)| *x -= self.eta * *u),
            (true, false) => x.iter_mut().zip(u).for_each(|(x, u)| *x = self.keep * *x - self.eta * *u),
            (true, true) => x.iter_mut().zip(u).for_each(|(x, u)| {
                let kept = if *u * *x >= T::zero() { self.keep * *x } else { *x };
                *x = kept - self.eta * *u;
            }),
        }
    }

    /// As [`step`](Self::step), and `y = x_new + reach (x_new - x_old)`, with the difference formed from the update
    /// itself rather than by subtracting two nearly equal numbers.
    pub fn step_extrapolated(&self, x: &mut [T], u: &[T], y: &mut [T]) {
        for ((x, u), y) in x.iter_mut().zip(u).zip(y) {
            let decays = self.decays && (!self.cautious || *u * *x >= T::zero());
            let (kept, lost) = if decays { (self.keep * *x, self.lose * *x) } else { (*x, T::zero()) };
            let moved = self.eta * *u;
            *x = kept - moved;
            *y = *x - self.reach * (lost + moved);
        }
    }
}

/// torch.optim.SGD.
pub fn sgd<T: Real>(
    rule: &Sgd,
    lr: f64,
    weight_decay: f64,
    first: bool,
    x: &mut [T],
    g: &mut [T],
    m: &mut [T],
) {
    l2(weight_decay, x, g);
    let lr = T::of(lr);
    if rule.momentum == 0.0 {
        x.iter_mut().zip(g).for_each(|(x, g)| *x -= lr * *g);
        return;
    }
    let (mu, new) = (T::of(rule.momentum), T::of(1.0 - rule.dampening));
    for ((x, g), m) in x.iter_mut().zip(g).zip(m) {
        *m = if first { *g } else { mu * *m + new * *g };
        let direction = if rule.nesterov { *g + mu * *m } else { *m };
        *x -= lr * direction;
    }
}

fn l2<T: Real>(weight_decay: f64, x: &[T], g: &mut [T]) {
    if weight_decay != 0.0 {
        let wd = T::of(weight_decay);
        g.iter_mut().zip(x).for_each(|(g, x)| *g += wd * *x);
    }
}

/// Scalars of an AdamW step.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep<T> {
    betas: [T; 2],
    new: [T; 2],
    keep: T,
    step_size: T,
    inverse_root: T,
    eps: T,
    decays: bool,
}

impl<T: Real> AdamWStep<T> {
    /// Scalars of applied step `t` (from 1).
    pub fn new(rule: &AdamW, lr: f64, weight_decay: f64, t: u64) -> Self {
        let [b1, b2] = rule.betas;
        Self {
            betas: [T::of(b1), T::of(b2)],
            new: [T::of(1.0 - b1), T::of(1.0 - b2)],
            keep: T::of(1.0 - lr * weight_decay),
            step_size: T::of(lr / (1.0 - power(b1, t))),
            inverse_root: T::of(1.0 / (1.0 - power(b2, t)).sqrt()),
            eps: T::of(rule.eps),
            decays: lr * weight_decay != 0.0,
        }
    }

    /// torch.optim.AdamW; `largest` is the amsgrad buffer. The root of the second moment is multiplied with the inverse of
    /// its correction, where torch divides: a division less an element.
    pub fn run(&self, x: &mut [T], g: &[T], m: &mut [T], v: &mut [T], mut largest: Option<&mut [T]>) {
        for i in 0..x.len() {
            m[i] = self.betas[0] * m[i] + self.new[0] * g[i];
            v[i] = self.betas[1] * v[i] + self.new[1] * g[i] * g[i];
            let second = match &mut largest {
                Some(largest) => {
                    if v[i] > largest[i] || v[i].is_nan() {
                        largest[i] = v[i];
                    }
                    largest[i]
                }
                None => v[i],
            };
            let denominator = second.sqrt() * self.inverse_root + self.eps;
            let update = guarded(m[i], denominator);
            let kept = if self.decays { self.keep * x[i] } else { x[i] };
            x[i] = kept - self.step_size * update;
        }
    }
}

/// torch.optim.Adagrad at applied step `t` (from 1).
pub fn adagrad<T: Real>(
    rule: &AdaGrad,
    lr: f64,
    weight_decay: f64,
    t: u64,
    x: &mut [T],
    g: &mut [T],
    v: &mut [T],
) {
    l2(weight_decay, x, g);
    let lr = T::of(lr / (1.0 + t.saturating_sub(1) as f64 * rule.lr_decay));
    let eps = T::of(rule.eps);
    for ((x, g), v) in x.iter_mut().zip(g).zip(v) {
        *v += *g * *g;
        *x -= lr * guarded(*g, v.sqrt() + eps);
    }
}

/// `a / b`, and 0 for a zero denominator (an element that has never seen a gradient, or only ones too small to square).
fn guarded<T: Real>(a: T, b: T) -> T {
    if b == T::zero() { T::zero() } else { a / b }
}
