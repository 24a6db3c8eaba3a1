//! One step of one matrix in f64, with the bounds of f32: the formulas of `orthant::reference::rules`, operation by operation.
//!
//! It begins from what the parameter and its state are stored as, so rounding of earlier steps is no part of it.

use orthant::algorithm::{Constraint, EpsForm, Estimator, Lmo, Norm, Rule, Scale};
use orthant::reference::real::power;
use rayon::prelude::*;

use super::bounded::Bounded;

/// What a step is made with.
pub struct Step<'a> {
    pub rule: &'a Rule,
    pub lr: f64,
    pub weight_decay: f64,
    /// On gradients: clipping, the loss scale divided out, ascent.
    pub factor: f64,
    /// The parameter's step, from 1.
    pub t: u64,
    pub rows: usize,
    pub columns: usize,
}

/// An element's numbers before a step, and after it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Element {
    pub x: Bounded,
    pub g: Bounded,
    pub previous: Bounded,
    pub m: Bounded,
    pub v: Bounded,
    pub largest: Bounded,
    /// The extrapolated point.
    pub y: Bounded,
    /// Rounding decides a sign, or whether a denominator is zero, and with it where `x` goes.
    pub undecided: bool,
}

impl Step<'_> {
    pub fn run(&self, elements: &mut [Element]) {
        let factor = Bounded::scalar(self.factor);
        if factor.value as f32 != 1.0 {
            elements.par_iter_mut().for_each(|e| {
                e.g = e.g.times(factor);
                e.previous = e.previous.times(factor);
            });
        }
        match self.rule {
            Rule::Lmo(lmo) => self.lmo(lmo, elements),
            Rule::Sgd(sgd) => {
                let [lr, mu, new] = [self.lr, sgd.momentum, 1.0 - sgd.dampening].map(Bounded::scalar);
                elements.par_iter_mut().for_each(|e| {
                    self.l2(e);
                    let mut direction = e.g;
                    if sgd.momentum != 0.0 {
                        e.m = if self.t == 1 { e.g } else { mu.times(e.m).plus(new.times(e.g)) };
                        direction = if sgd.nesterov { e.g.plus(mu.times(e.m)) } else { e.m };
                    }
                    e.x = e.x.minus(lr.times(direction));
                });
            }
            Rule::AdamW(rule) => {
                let [b1, b2] = rule.betas;
                let [old1, new1, old2, new2] = [b1, 1.0 - b1, b2, 1.0 - b2].map(Bounded::scalar);
                let lost = self.lr * self.weight_decay;
                let keep = Bounded::scalar(1.0 - lost);
                let step_size = Bounded::scalar(self.lr / (1.0 - power(b1, self.t)));
                let inverse_root = Bounded::scalar(1.0 / (1.0 - power(b2, self.t)).sqrt());
                let eps = Bounded::scalar(rule.eps);
                elements.par_iter_mut().for_each(|e| {
                    e.m = old1.times(e.m).plus(new1.times(e.g));
                    e.v = old2.times(e.v).plus(new2.times(e.g).times(e.g));
                    if rule.amsgrad {
                        e.largest = e.v.largest(e.largest);
                    }
                    let second = if rule.amsgrad { e.largest } else { e.v };
                    let update = guarded(e, e.m, second.root().times(inverse_root).plus(eps));
                    let kept = if lost != 0.0 { keep.times(e.x) } else { e.x };
                    e.x = kept.minus(step_size.times(update));
                });
            }
            Rule::AdaGrad(rule) => {
                let lr = Bounded::scalar(self.lr / (1.0 + (self.t - 1) as f64 * rule.lr_decay));
                let eps = Bounded::scalar(rule.eps);
                elements.par_iter_mut().for_each(|e| {
                    self.l2(e);
                    e.v = e.v.plus(e.g.times(e.g));
                    let update = guarded(e, e.g, e.v.root().plus(eps));
                    e.x = e.x.minus(lr.times(update));
                });
            }
        }
    }

    fn l2(&self, e: &mut Element) {
        if self.weight_decay != 0.0 {
            e.g = e.g.plus(Bounded::scalar(self.weight_decay).times(e.x));
        }
    }

    fn lmo(&self, lmo: &Lmo, elements: &mut [Element]) {
        let first = self.t == 1 && lmo.estimator.starts_from_gradient();
        elements.par_iter_mut().for_each(|e| estimate(&lmo.estimator, first, e));
        // The vector for the LMO is in the gradient's place; its direction takes it.
        match lmo.norm {
            Norm::Frobenius => {
                let length = self.length(lmo, elements);
                if length.value != 0.0 {
                    // The inverse of a mantissa, and two exact multiplications, which may be subnormal.
                    let inverse = Bounded::exact(1.0).over(length);
                    let tiny = f64::from_bits((1023 - 148) << 52);
                    elements.par_iter_mut().for_each(|e| e.g = e.g.times(inverse).widened(0.0, tiny));
                }
            }
            Norm::Sign => elements.par_iter_mut().for_each(|e| {
                let sign = e.g.sign();
                e.undecided |= sign.is_none();
                e.g = Bounded::exact(sign.unwrap_or(0.0));
            }),
            // A case of another norm needs a bound of its own: until it has one, it misses.
            _ => elements.iter_mut().for_each(|e| e.g = Bounded::exact(f64::NAN)),
        }
        let lost = match lmo.constraint {
            Constraint::None => 0.0,
            Constraint::Decay | Constraint::CautiousDecay => self.lr * self.weight_decay,
            Constraint::ConvexCombination => self.lr,
        };
        let reach = match lmo.estimator {
            Estimator::Extrapolated { alpha } => Some(Bounded::scalar((1.0 - alpha) / alpha)),
            _ => None,
        };
        let eta = Bounded::scalar(self.lr * lmo.scale.factor(lmo.norm, self.rows, self.columns));
        let [keep, lose] = [1.0 - lost, lost].map(Bounded::scalar);
        let cautious = lmo.constraint == Constraint::CautiousDecay;
        elements.par_iter_mut().for_each(|e| {
            let mut decays = lost != 0.0;
            if decays && cautious {
                let agreement = e.g.times(e.x).sign();
                e.undecided |= agreement.is_none();
                decays = agreement.unwrap_or(0.0) >= 0.0;
            }
            let moved = eta.times(e.g);
            let kept = if decays { keep.times(e.x) } else { e.x };
            let gone = if decays { lose.times(e.x) } else { Bounded::default() };
            e.x = kept.minus(moved);
            if let Some(reach) = reach {
                e.y = e.x.minus(reach.times(gone.plus(moved)));
            }
        });
    }

    /// The Frobenius norm with its guard. Norms of two vectors differ by no more than the norm of their difference; the sum is
    /// f64 in any order, and the result is rounded to f32 once.
    fn length(&self, lmo: &Lmo, elements: &[Element]) -> Bounded {
        let norm = |of: &dyn Fn(&Element) -> f64| elements.iter().map(|e| of(e) * of(e)).sum::<f64>().sqrt();
        let (value, error) = (norm(&|e| e.g.value), norm(&|e| e.g.error));
        let summed = value * elements.len() as f64 * f64::EPSILON;
        let guarded = match lmo.eps.form {
            EpsForm::Clamp => value.max(lmo.eps.value),
            EpsForm::Add => {
                let radius = if let Scale::Scion(radius) = lmo.scale { radius } else { 1.0 };
                let factor = lmo.scale.factor(lmo.norm, self.rows, self.columns) / radius;
                value + lmo.eps.value * if radius == 0.0 { 1.0 } else { factor }
            }
        };
        Bounded { value: guarded, error: error + summed }.widened(1.0 / (1u64 << 24) as f64, 0.0)
    }
}

/// `a / b`, and 0 for a zero denominator.
fn guarded(e: &mut Element, a: Bounded, b: Bounded) -> Bounded {
    if b == Bounded::exact(0.0) {
        return Bounded::exact(0.0);
    }
    let quotient = a.over(b);
    if quotient.error.is_finite() {
        return quotient;
    }
    e.undecided = true;
    Bounded::default()
}

fn estimate(estimator: &Estimator, first: bool, e: &mut Element) {
    let mixed = |old: f64, m: Bounded, g: Bounded| {
        Bounded::scalar(old).times(m).plus(Bounded::scalar(1.0 - old).times(g))
    };
    if first {
        e.m = e.g;
        if let Estimator::Nesterov { momentum, .. } = *estimator {
            e.g = mixed(momentum, e.m, e.g);
        }
        return;
    }
    match *estimator {
        Estimator::None => return,
        Estimator::HeavyBall { momentum, .. } => e.m = Bounded::scalar(momentum).times(e.m).plus(e.g),
        Estimator::Ema { momentum, .. } => e.m = mixed(momentum, e.m, e.g),
        Estimator::Extrapolated { alpha } => {
            let [old, new] = [1.0 - alpha, alpha].map(Bounded::scalar);
            e.m = old.times(e.m).plus(new.times(e.g));
        }
        Estimator::Nesterov { momentum, .. } => {
            e.m = mixed(momentum, e.m, e.g);
            e.g = mixed(momentum, e.m, e.g);
            return;
        }
        Estimator::Lion { betas: [beta1, beta2] } => {
            let before = e.m;
            e.m = mixed(beta2, before, e.g);
            e.g = mixed(beta1, before, e.g);
            return;
        }
        Estimator::Mvr { alpha } => {
            e.m = e.g.plus(Bounded::scalar(1.0 - alpha).times(e.m.minus(e.previous)));
        }
    }
    e.g = e.m;
}
