//! One hyperparameter with its value: what the builder methods and the TOML keys both turn into.

use super::*;

/// A hyperparameter of an algorithm. Names are PyTorch's where it has one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Setting {
    Momentum(f64),
    Nesterov(bool),
    Dampening(f64),
    Betas([f64; 2]),
    Eps(f64),
    Amsgrad(bool),
    LrDecay(f64),
    InitialAccumulatorValue(f64),
    NsSteps(u32),
    NsCoefficients(Coefficients),
    NsDtype(NsDtype),
    NsMethod(NsMethod),
    NsRestarts(Vec<u32>),
    AdjustLrFn(Scale),
    Scale(Scale),
    Norm(Norm),
    Unconstrained(bool),
    CautiousWeightDecay(bool),
    Estimator(Estimator),
    Constraint(Constraint),
}

impl Setting {
    /// The option's name in configurations.
    pub fn key(&self) -> &'static str {
        match self {
            Self::Momentum(_) => "momentum",
            Self::Nesterov(_) => "nesterov",
            Self::Dampening(_) => "dampening",
            Self::Betas(_) => "betas",
            Self::Eps(_) => "eps",
            Self::Amsgrad(_) => "amsgrad",
            Self::LrDecay(_) => "lr_decay",
            Self::InitialAccumulatorValue(_) => "initial_accumulator_value",
            Self::NsSteps(_) => "ns_steps",
            Self::NsCoefficients(_) => "ns_coefficients",
            Self::NsDtype(_) => "ns_dtype",
            Self::NsMethod(_) => "ns_method",
            Self::NsRestarts(_) => "ns_restarts",
            Self::AdjustLrFn(_) => "adjust_lr_fn",
            Self::Scale(_) => "scale",
            Self::Norm(_) => "norm",
            Self::Unconstrained(_) => "unconstrained",
            Self::CautiousWeightDecay(_) => "cautious_weight_decay",
            Self::Estimator(_) => "estimator",
            Self::Constraint(_) => "constraint",
        }
    }
}

impl Algorithm {
    /// Applies a setting; `Err` with a hint when the preset has no such option.
    pub(crate) fn set(&mut self, setting: Setting) -> Result<(), String> {
        let key = setting.key();
        let options = self.preset().options;
        if !options.contains(&key) {
            return Err(crate::error::suggest(key, options.iter().copied()));
        }
        let is_scion = self.name == "scion";
        match (&mut self.rule, setting) {
            (Rule::Lmo(lmo), setting) => lmo.set(setting, is_scion),
            (Rule::Sgd(s), Setting::Momentum(v)) => s.momentum = v,
            (Rule::Sgd(s), Setting::Dampening(v)) => s.dampening = v,
            (Rule::Sgd(s), Setting::Nesterov(v)) => s.nesterov = v,
            (Rule::AdamW(a), Setting::Betas(v)) => a.betas = v,
            (Rule::AdamW(a), Setting::Eps(v)) => a.eps = v,
            (Rule::AdamW(a), Setting::Amsgrad(v)) => a.amsgrad = v,
            (Rule::AdaGrad(a), Setting::LrDecay(v)) => a.lr_decay = v,
            (Rule::AdaGrad(a), Setting::InitialAccumulatorValue(v)) => a.initial_accumulator_value = v,
            (Rule::AdaGrad(a), Setting::Eps(v)) => a.eps = v,
            // The option list of a preset names only what its rule has; presets' tests walk every pair.
            (_, _) => return Err(String::new()),
        }
        Ok(())
    }

    fn with(mut self, setting: Setting) -> Self {
        let key = setting.key();
        if let Err(hint) = self.set(setting) {
            self.misuse.push((key, hint));
        }
        self
    }

    pub(crate) fn misuse(&self) -> &[(&'static str, String)] {
        &self.misuse
    }

    /// Weight of the old momentum, in [0, 1).
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        self.with(Setting::Momentum(momentum))
    }

    /// Nesterov's form of the momentum.
    #[must_use]
    pub fn nesterov(self, nesterov: bool) -> Self {
        self.with(Setting::Nesterov(nesterov))
    }

    /// SGD: the gradient enters the momentum with weight `1 - dampening`.
    #[must_use]
    pub fn dampening(self, dampening: f64) -> Self {
        self.with(Setting::Dampening(dampening))
    }

    /// AdamW's or Lion's `(beta1, beta2)`, each in [0, 1).
    #[must_use]
    pub fn betas(self, beta1: f64, beta2: f64) -> Self {
        self.with(Setting::Betas([beta1, beta2]))
    }

    /// Guard of divisions, finite and not negative; 0 (the default) keeps steps independent of the gradient's scale.
    #[must_use]
    pub fn eps(self, eps: f64) -> Self {
        self.with(Setting::Eps(eps))
    }

    /// AdamW: divide by the largest second moment so far.
    #[must_use]
    pub fn amsgrad(self, amsgrad: bool) -> Self {
        self.with(Setting::Amsgrad(amsgrad))
    }

    /// AdaGrad: the learning rate is divided by `1 + (t-1) lr_decay`.
    #[must_use]
    pub fn lr_decay(self, lr_decay: f64) -> Self {
        self.with(Setting::LrDecay(lr_decay))
    }

    /// AdaGrad: where the sum of squares starts.
    #[must_use]
    pub fn initial_accumulator_value(self, value: f64) -> Self {
        self.with(Setting::InitialAccumulatorValue(value))
    }

    /// Newton-Schulz iterations, 1 to 30.
    #[must_use]
    pub fn ns_steps(self, steps: u32) -> Self {
        self.with(Setting::NsSteps(steps))
    }

    /// Newton-Schulz coefficients.
    #[must_use]
    pub fn ns_coefficients(self, coefficients: Coefficients) -> Self {
        self.with(Setting::NsCoefficients(coefficients))
    }

    /// Newton-Schulz number format.
    #[must_use]
    pub fn ns_dtype(self, dtype: NsDtype) -> Self {
        self.with(Setting::NsDtype(dtype))
    }

    /// Newton-Schulz on the matrix or on its Gram matrix.
    #[must_use]
    pub fn ns_method(self, method: NsMethod) -> Self {
        self.with(Setting::NsMethod(method))
    }

    /// Iterations before which the Gram method restarts.
    #[must_use]
    pub fn ns_restarts(self, restarts: impl Into<Vec<u32>>) -> Self {
        self.with(Setting::NsRestarts(restarts.into()))
    }

    /// Muon's and Orthogonal-SGDM's radius by shape.
    #[must_use]
    pub fn adjust_lr_fn(self, scale: Scale) -> Self {
        self.with(Setting::AdjustLrFn(scale))
    }

    /// Radius: by shape in `lmo` compositions, a constant (as [`Scale::Factor`]) for Scion.
    #[must_use]
    pub fn scale(self, scale: Scale) -> Self {
        self.with(Setting::Scale(scale))
    }

    /// Scion's norm for this group.
    #[must_use]
    pub fn norm(self, norm: Norm) -> Self {
        self.with(Setting::Norm(norm))
    }

    /// Scion: plain steps instead of convex combinations.
    #[must_use]
    pub fn unconstrained(self, unconstrained: bool) -> Self {
        self.with(Setting::Unconstrained(unconstrained))
    }

    /// Decay only where parameter and update agree in sign (see [`Constraint::CautiousDecay`]).
    #[must_use]
    pub fn cautious_weight_decay(self, cautious: bool) -> Self {
        self.with(Setting::CautiousWeightDecay(cautious))
    }

    /// `lmo` compositions: the weight decay's form.
    #[must_use]
    pub fn constraint(self, constraint: Constraint) -> Self {
        self.with(Setting::Constraint(constraint))
    }
}

impl Lmo {
    fn set(&mut self, setting: Setting, is_scion: bool) {
        let ns = &mut self.newton_schulz;
        match setting {
            Setting::Momentum(v) => match &mut self.estimator {
                Estimator::HeavyBall { momentum, .. }
                | Estimator::Ema { momentum, .. }
                | Estimator::Nesterov { momentum, .. } => *momentum = v,
                _ => {}
            },
            Setting::Nesterov(nesterov) => {
                if let Estimator::Ema { momentum, initial } | Estimator::Nesterov { momentum, initial } =
                    self.estimator
                {
                    self.estimator = if nesterov {
                        Estimator::Nesterov { momentum, initial }
                    } else {
                        Estimator::Ema { momentum, initial }
                    };
                }
            }
            Setting::Betas(betas) => self.estimator = Estimator::Lion { betas },
            Setting::Eps(eps) => self.eps.value = eps,
            Setting::NsSteps(steps) => ns.steps = Some(steps),
            Setting::NsCoefficients(coefficients) => ns.coefficients = coefficients,
            Setting::NsDtype(dtype) => ns.dtype = Some(dtype),
            Setting::NsMethod(method) => ns.method = method,
            Setting::NsRestarts(restarts) => ns.restarts = Some(restarts),
            Setting::Scale(Scale::Factor(radius)) if is_scion => self.scale = Scale::Scion(radius),
            Setting::AdjustLrFn(scale) | Setting::Scale(scale) => self.scale = scale,
            // Scion's own `Spectral` is the RMS->RMS norm.
            Setting::Norm(Norm::Spectral) if is_scion => self.norm = Norm::RmsToRms,
            Setting::Norm(norm) => self.norm = norm,
            Setting::Unconstrained(unconstrained) => {
                self.constraint =
                    if unconstrained { Constraint::None } else { Constraint::ConvexCombination };
            }
            Setting::CautiousWeightDecay(cautious) => {
                self.constraint = if cautious { Constraint::CautiousDecay } else { Constraint::Decay };
            }
            Setting::Estimator(estimator) => self.estimator = estimator,
            Setting::Constraint(constraint) => self.constraint = constraint,
            Setting::Dampening(_)
            | Setting::Amsgrad(_)
            | Setting::LrDecay(_)
            | Setting::InitialAccumulatorValue(_) => {}
        }
    }
}
