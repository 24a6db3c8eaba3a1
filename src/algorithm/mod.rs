//! What a method is: plain data, checked on construction, no device in sight.
//!
//! Every method of the trust-region family is `estimator x norm x scale x constraint`:
//!
//! ```text
//! m = Estimator(g)                        momentum in one of its forms
//! u = LMO(m) = argmax_{||u||<=1} <m, u>   the norm decides: l_inf -> sign, l_2 -> m/||m||, spectral -> U V^T
//! x = (1 - lr*wd) x - lr * scale * u      the constraint decides how x is held back
//! ```
//!
//! [`Algorithm::signum`], [`Algorithm::lion`], [`Algorithm::muon`], ... are presets of it ([`PRESETS`]); SGD, AdamW
//! and AdaGrad stand beside it.

mod constraint;
mod estimator;
pub mod newton_schulz;
mod norm;
mod presets;
mod scale;
mod setting;

pub use constraint::Constraint;
pub use estimator::{Estimator, Initial};
pub use newton_schulz::{Coefficients, NewtonSchulz, NsDtype, NsMethod};
pub use norm::Norm;
pub use presets::{PRESETS, Preset};
pub use scale::Scale;
pub(crate) use setting::Setting;

/// A method with its hyperparameters, except those of the parameter group (learning rate, weight decay).
#[derive(Debug, Clone, PartialEq)]
pub struct Algorithm {
    name: &'static str,
    rule: Rule,
    /// Builder calls that do not apply to the preset, reported when the group is checked.
    misuse: Vec<(&'static str, String)>,
}

/// The update rule as data.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// The trust-region family.
    Lmo(Lmo),
    /// torch.optim.SGD.
    Sgd(Sgd),
    /// torch.optim.AdamW.
    AdamW(AdamW),
    /// torch.optim.Adagrad.
    AdaGrad(AdaGrad),
}

/// One member of the trust-region family.
#[derive(Debug, Clone, PartialEq)]
pub struct Lmo {
    /// How `m` is formed.
    pub estimator: Estimator,
    /// The trust region's norm.
    pub norm: Norm,
    /// How the spectral norms' direction is approximated; unused by the others.
    pub newton_schulz: NewtonSchulz,
    /// Guard of divisions by a norm.
    pub eps: Eps,
    /// Radius factor by shape.
    pub scale: Scale,
    /// Weight decay and its kin.
    pub constraint: Constraint,
    /// Which comes first, estimator or LMO.
    pub order: Order,
}

/// Order of the two operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// `u = LMO(Estimator(g))`: everything but Orthogonal-SGDM.
    EstimateFirst,
    /// `u = Estimator(LMO(g))`: Orthogonal-SGDM (Tuddenham et al., arXiv 2202.07052).
    LmoFirst,
}

/// Guard of a division by a norm `n`. With value 0 the only guard is that zero divided by zero is zero, and steps do
/// not depend on the gradient's scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Eps {
    /// Finite and not negative.
    pub value: f64,
    /// Where it enters.
    pub form: EpsForm,
}

/// Where `eps` enters a division by a norm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EpsForm {
    /// `max(n, eps)`: torch.
    Clamp,
    /// `n + eps`: LIONS-EPFL's Scion.
    Add,
}

/// torch.optim.SGD: `g += wd x` (L2); `b = mu b + (1 - dampening) g`, `b = g` on the first step;
/// `x -= lr b`, or with Nesterov `x -= lr (g + mu b)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sgd {
    /// In [0, 1); 0 keeps no state.
    pub momentum: f64,
    /// In [0, 1].
    pub dampening: f64,
    /// Needs momentum above 0 and no dampening.
    pub nesterov: bool,
}

/// torch.optim.AdamW with decoupled weight decay; `eps` is added to `sqrt(v_hat)`, and a zero denominator gives a
/// zero update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamW {
    /// Each in [0, 1).
    pub betas: [f64; 2],
    /// Not negative.
    pub eps: f64,
    /// Divide by the largest second moment so far.
    pub amsgrad: bool,
}

/// torch.optim.Adagrad: `g += wd x` (L2); `v += g^2`; `x -= lr / (1 + (t-1) lr_decay) * g / (sqrt(v) + eps)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdaGrad {
    /// Not negative.
    pub lr_decay: f64,
    /// Not negative.
    pub initial_accumulator_value: f64,
    /// Not negative.
    pub eps: f64,
}

/// A named state buffer. Keys in checkpoints are `<parameter>.<slot>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Slot {
    /// First-moment buffer of any convention.
    Momentum,
    /// Second-moment buffer (AdamW, AdaGrad).
    Variance,
    /// Largest second moment so far (AdamW with amsgrad).
    VarianceMax,
    /// The iterate `x` of extrapolated methods.
    Point,
    /// Full-precision copy of a 16-bit parameter.
    Master,
    /// What a compact master has below its bf16 parameter: a signed 16-bit word for each element, in units of the last
    /// place of f32. The words are no floating-point numbers; they lie in bf16 storage by their bit patterns.
    Low,
}

impl Slot {
    /// Name in checkpoints.
    pub fn name(self) -> &'static str {
        match self {
            Self::Momentum => "momentum",
            Self::Variance => "variance",
            Self::VarianceMax => "variance_max",
            Self::Point => "point",
            Self::Master => "master",
            Self::Low => "low",
        }
    }
}

impl Algorithm {
    /// Preset name, or `lmo`.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The rule with all its hyperparameters.
    pub fn rule(&self) -> &Rule {
        &self.rule
    }

    /// The method as its composition, in words: what `orthant plan` prints.
    pub fn composition(&self) -> String {
        match &self.rule {
            Rule::Lmo(lmo) => {
                let estimator = match lmo.estimator {
                    Estimator::None => "gradient".to_owned(),
                    Estimator::HeavyBall { momentum, .. }
                    | Estimator::Ema { momentum, .. }
                    | Estimator::Nesterov { momentum, .. } => {
                        format!("{}({momentum})", lmo.estimator.kind())
                    }
                    Estimator::Lion { betas: [b1, b2] } => format!("lion({b1}, {b2})"),
                    Estimator::Extrapolated { alpha } | Estimator::Mvr { alpha } => {
                        format!("{}(alpha {alpha})", lmo.estimator.kind())
                    }
                };
                let norm = if lmo.norm.is_spectral() {
                    let ns = &lmo.newton_schulz;
                    let dtype = ns.dtype.map_or("auto", |d| {
                        NsDtype::ALL.iter().find(|(_, x)| *x == d).map_or("", |(name, _)| name)
                    });
                    let gram = if ns.method == NsMethod::Gram { " gram" } else { "" };
                    format!(
                        "{}[{} x{} {dtype}{gram}]",
                        lmo.norm.name(),
                        ns.coefficients.name(),
                        ns.resolved_steps()
                    )
                } else {
                    lmo.norm.name().to_owned()
                };
                let (first, second) = match lmo.order {
                    Order::EstimateFirst => (estimator, norm),
                    Order::LmoFirst => (norm, estimator),
                };
                format!("{first} > {second} > scale {} > {}", lmo.scale, lmo.constraint.name())
            }
            Rule::Sgd(s) => format!(
                "sgd(momentum {}, dampening {}{})",
                s.momentum,
                s.dampening,
                if s.nesterov { ", nesterov" } else { "" }
            ),
            Rule::AdamW(a) => format!(
                "adamw({}, {}, eps {}{})",
                a.betas[0],
                a.betas[1],
                a.eps,
                if a.amsgrad { ", amsgrad" } else { "" }
            ),
            Rule::AdaGrad(a) => format!(
                "adagrad(lr_decay {}, initial {}, eps {})",
                a.lr_decay, a.initial_accumulator_value, a.eps
            ),
        }
    }

    /// State buffers kept for each parameter, besides the step count.
    pub fn slots(&self) -> Vec<Slot> {
        match &self.rule {
            Rule::Lmo(lmo) => {
                let mut slots = vec![];
                if lmo.estimator.has_momentum() {
                    slots.push(Slot::Momentum);
                }
                if lmo.estimator.is_extrapolated() {
                    slots.push(Slot::Point);
                }
                slots
            }
            Rule::Sgd(sgd) if sgd.momentum == 0.0 => vec![],
            Rule::Sgd(_) => vec![Slot::Momentum],
            Rule::AdamW(a) if a.amsgrad => vec![Slot::Momentum, Slot::Variance, Slot::VarianceMax],
            Rule::AdamW(_) => vec![Slot::Momentum, Slot::Variance],
            Rule::AdaGrad(_) => vec![Slot::Variance],
        }
    }

    /// What the momentum slot means; part of a checkpoint entry's kind.
    pub fn convention(&self) -> &'static str {
        match &self.rule {
            Rule::Lmo(lmo) => match lmo.order {
                Order::EstimateFirst => lmo.estimator.convention(),
                Order::LmoFirst => "ema-of-directions",
            },
            Rule::Sgd(sgd) if sgd.momentum == 0.0 => "none",
            Rule::Sgd(_) => "heavy-ball",
            Rule::AdamW(_) => "ema",
            Rule::AdaGrad(_) => "sum",
        }
    }

    /// Whether steps of `other` can follow steps of this one: the same kind of rule on the same state.
    pub(crate) fn is_compatible(&self, other: &Self) -> bool {
        let same_kind = match (&self.rule, &other.rule) {
            (Rule::Lmo(a), Rule::Lmo(b)) => {
                let estimators = std::mem::discriminant(&a.estimator) == std::mem::discriminant(&b.estimator);
                estimators && a.norm == b.norm && a.order == b.order
            }
            (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b),
        };
        self.name == other.name
            && same_kind
            && self.slots() == other.slots()
            && self.convention() == other.convention()
    }

    /// Whether the update of an element depends on that element alone, so that shape plays no part.
    pub fn is_elementwise(&self) -> bool {
        match &self.rule {
            Rule::Lmo(lmo) => lmo.norm == Norm::Sign,
            _ => true,
        }
    }

    /// Whether a 1-D parameter has no meaning under this method.
    pub fn needs_matrix(&self) -> bool {
        match &self.rule {
            Rule::Lmo(lmo) => lmo.norm.needs_matrix() || lmo.scale.needs_matrix(lmo.norm),
            _ => false,
        }
    }

    /// Whether steps need the gradient at the previous point.
    pub fn needs_previous_gradient(&self) -> bool {
        matches!(&self.rule, Rule::Lmo(lmo) if lmo.estimator.needs_previous_gradient())
    }

    /// Whether the parameter buffer holds the extrapolated point `y`.
    pub fn is_extrapolated(&self) -> bool {
        matches!(&self.rule, Rule::Lmo(lmo) if lmo.estimator.is_extrapolated())
    }

    /// Whether weight decay multiplies the parameter (decoupled), is added to the gradient (L2), or has no place.
    pub(crate) fn decay_kind(&self) -> DecayKind {
        match &self.rule {
            Rule::Lmo(lmo) if lmo.constraint.takes_weight_decay() => DecayKind::Decoupled,
            Rule::Lmo(_) => DecayKind::None,
            Rule::AdamW(_) => DecayKind::Decoupled,
            Rule::Sgd(_) | Rule::AdaGrad(_) => DecayKind::L2,
        }
    }

    /// Largest absolute gradient whose state stays finite where it can still grow by `max`: second moments square it,
    /// heavy balls add up to `1 / (1 - momentum)` of it, variance reduction to `2 / alpha`. Averages and stateless
    /// rules take everything.
    pub(crate) fn gradient_limit(&self, max: f64) -> f64 {
        match &self.rule {
            Rule::AdamW(_) | Rule::AdaGrad(_) => max.sqrt(),
            Rule::Sgd(Sgd { momentum, .. }) => max * (1.0 - momentum),
            Rule::Lmo(lmo) => match lmo.estimator {
                Estimator::HeavyBall { momentum, .. } => max * (1.0 - momentum),
                Estimator::Mvr { alpha } => max * alpha / 2.0,
                _ => max,
            },
        }
    }

    /// Whether the step is a convex combination of the parameter and the direction.
    pub(crate) fn is_convex(&self) -> bool {
        matches!(&self.rule, Rule::Lmo(lmo) if lmo.constraint == Constraint::ConvexCombination)
    }

    pub(crate) fn preset(&self) -> &'static Preset {
        presets::find_built(self.name)
    }

    /// `(field, value, legal)` for every hyperparameter outside its legal interval.
    pub(crate) fn defects(&self) -> Vec<(&'static str, String, String)> {
        let mut out: Vec<(&'static str, String, String)> = vec![];
        let mut check = |ok: bool, field: &'static str, value: f64, legal: &str| {
            if !ok {
                out.push((field, value.to_string(), legal.to_owned()));
            }
        };
        let not_negative = "it must be finite and in [0, 1e10]";
        let legal_eps = |v: f64| (0.0..=1e10).contains(&v);
        let half_open = |v: f64| (0.0..1.0).contains(&v);
        match &self.rule {
            Rule::Lmo(lmo) => {
                check(legal_eps(lmo.eps.value), "eps", lmo.eps.value, not_negative);
                for (field, value, legal) in lmo.estimator.defects() {
                    check(false, field, value, legal);
                }
                if let Scale::Factor(s) | Scale::Scion(s) = lmo.scale {
                    check((0.0..=1e10).contains(&s), "scale", s, not_negative);
                }
                if lmo.norm.is_spectral() {
                    out.extend(lmo.newton_schulz.defects());
                }
            }
            Rule::Sgd(s) => {
                check(half_open(s.momentum), "momentum", s.momentum, estimator::LEGAL_MOMENTUM);
                check((0.0..=1.0).contains(&s.dampening), "dampening", s.dampening, "it must lie in [0, 1]");
                if s.nesterov && !(s.momentum > 0.0 && s.dampening == 0.0) {
                    out.push((
                        "nesterov",
                        "true".into(),
                        "it needs momentum above 0 and dampening = 0".into(),
                    ));
                }
            }
            Rule::AdamW(a) => {
                for beta in a.betas {
                    check(half_open(beta), "betas", beta, "each must lie in [0, 1)");
                }
                check(legal_eps(a.eps), "eps", a.eps, not_negative);
            }
            Rule::AdaGrad(a) => {
                check(legal_eps(a.lr_decay), "lr_decay", a.lr_decay, not_negative);
                let initial = a.initial_accumulator_value;
                check(legal_eps(initial), "initial_accumulator_value", initial, not_negative);
                check(legal_eps(a.eps), "eps", a.eps, not_negative);
            }
        }
        out
    }
}

/// See [`Algorithm::decay_kind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DecayKind {
    None,
    Decoupled,
    L2,
}
