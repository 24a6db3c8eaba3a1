//! Momentum estimators: how the vector handed to the LMO is formed from gradients.

/// How `m` is formed from the gradients `g`. `momentum` (here always `mu`) weights the **old** value.
///
/// Sources: Kovalev, arXiv 2503.12645 (EMA, extrapolation) and 2511.11466 (all three); Chen et al., arXiv 2302.06675
/// (Lion); Jordan et al., the Muon repository (Nesterov); Cutkosky & Orabona, arXiv 1905.10018 (variance reduction).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Estimator {
    /// `c = g`. No state.
    None,
    /// `m = mu m + g; c = m`.
    HeavyBall {
        /// Weight of the old value, in [0, 1).
        momentum: f64,
        /// First value of `m`.
        initial: Initial,
    },
    /// `m = mu m + (1 - mu) g; c = m`.
    Ema {
        /// Weight of the old value, in [0, 1).
        momentum: f64,
        /// First value of `m`.
        initial: Initial,
    },
    /// `m = mu m + (1 - mu) g; c = (1 - mu) g + mu m`: Muon's Nesterov mix.
    Nesterov {
        /// Weight of the old value, in [0, 1).
        momentum: f64,
        /// First value of `m`.
        initial: Initial,
    },
    /// `c = beta1 m + (1 - beta1) g` with the old `m`, then `m = beta2 m + (1 - beta2) g`.
    Lion {
        /// `[beta1, beta2]`, each in [0, 1).
        betas: [f64; 2],
    },
    /// EMA of gradients taken at `y = x + ((1 - alpha)/alpha) (x - x_prev)`, from the first gradient. The parameter
    /// buffer holds `y`; `x` is kept in the state slot `point`.
    Extrapolated {
        /// Weight of the new gradient, in (0, 1].
        alpha: f64,
    },
    /// `m = g + (1 - alpha) (m - g_prev)` with `g_prev` the gradient at the previous point on the current sample;
    /// `m = g` on the first step.
    Mvr {
        /// Weight of the new gradient, in (0, 1].
        alpha: f64,
    },
}

/// The value `m` has before the first gradient is mixed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initial {
    /// Zero, as torch and optax do.
    Zero,
    /// The first gradient (so `m = g` after the first step), as the papers do.
    FirstGradient,
}

impl Estimator {
    /// Name in configurations and checkpoints: the momentum convention.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::HeavyBall { .. } => "heavy-ball",
            Self::Ema { .. } => "ema",
            Self::Nesterov { .. } => "nesterov",
            Self::Lion { .. } => "lion",
            Self::Extrapolated { .. } => "extrapolated",
            Self::Mvr { .. } => "mvr",
        }
    }

    /// What the state slot `momentum` holds. Equal conventions may load each other's checkpoints: Nesterov keeps the
    /// same buffer as EMA, and so do Lion (with `beta2`) and extrapolation.
    pub fn convention(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::HeavyBall { .. } => "heavy-ball",
            Self::Ema { .. } | Self::Nesterov { .. } | Self::Lion { .. } | Self::Extrapolated { .. } => "ema",
            Self::Mvr { .. } => "mvr",
        }
    }

    /// Whether a buffer `momentum` is kept.
    pub fn has_momentum(&self) -> bool {
        !matches!(self, Self::None)
    }

    /// Whether the first gradient becomes `m` unmixed.
    pub fn starts_from_gradient(&self) -> bool {
        match self {
            Self::HeavyBall { initial, .. } | Self::Ema { initial, .. } | Self::Nesterov { initial, .. } => {
                *initial == Initial::FirstGradient
            }
            Self::Extrapolated { .. } | Self::Mvr { .. } => true,
            Self::None | Self::Lion { .. } => false,
        }
    }

    /// Whether steps need the gradient at the previous point (`prev_grad`).
    pub fn needs_previous_gradient(&self) -> bool {
        matches!(self, Self::Mvr { .. })
    }

    /// Whether the parameter buffer holds the extrapolated point and the state holds the iterate.
    pub fn is_extrapolated(&self) -> bool {
        matches!(self, Self::Extrapolated { .. })
    }

    /// `(field, value, legal interval)` of every hyperparameter that is outside its interval.
    pub(crate) fn defects(&self) -> Vec<(&'static str, f64, &'static str)> {
        let half_open = |field, v: f64| (!(0.0..1.0).contains(&v)).then_some((field, v, LEGAL_MOMENTUM));
        let alpha = |v: f64| (!(v > 0.0 && v <= 1.0)).then_some(("alpha", v, "it must lie in (0, 1]"));
        match *self {
            Self::None => vec![],
            Self::HeavyBall { momentum, .. }
            | Self::Ema { momentum, .. }
            | Self::Nesterov { momentum, .. } => half_open("momentum", momentum).into_iter().collect(),
            Self::Lion { betas } => betas.iter().filter_map(|&b| half_open("betas", b)).collect(),
            Self::Extrapolated { alpha: a } | Self::Mvr { alpha: a } => alpha(a).into_iter().collect(),
        }
    }
}

pub(crate) const LEGAL_MOMENTUM: &str =
    "it must lie in [0, 1): at 1 the average would never take in a gradient";
