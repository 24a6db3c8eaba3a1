//! The table of named algorithms. Each preset has one source; adding one is a row here, its rule and its test.

use super::*;
use crate::error::{Error, Result, suggest};

/// One named algorithm.
#[derive(Debug)]
pub struct Preset {
    /// Name in configurations.
    pub name: &'static str,
    /// Where rule and defaults come from.
    pub source: &'static str,
    /// Learning rate when none is given; `None` where the source has no default.
    pub lr: Option<f64>,
    /// Weight decay when none is given.
    pub weight_decay: f64,
    /// Options besides those of every group.
    pub options: &'static [&'static str],
    /// `None`: the name is reserved, not built yet.
    build: Option<fn() -> Rule>,
}

const NS: [&str; 6] = ["ns_steps", "ns_coefficients", "ns_dtype", "ns_method", "ns_restarts", "eps"];
const MUON: &[&str] = &[
    "momentum",
    "nesterov",
    "adjust_lr_fn",
    "cautious_weight_decay",
    NS[0],
    NS[1],
    NS[2],
    NS[3],
    NS[4],
    NS[5],
];
const ORTHOGONAL_SGDM: &[&str] =
    &["momentum", "adjust_lr_fn", "cautious_weight_decay", NS[0], NS[1], NS[2], NS[3], NS[4], NS[5]];
const SCION: &[&str] =
    &["momentum", "norm", "scale", "unconstrained", NS[0], NS[1], NS[2], NS[3], NS[4], NS[5]];
const LMO: &[&str] = &["estimator", "norm", "scale", "constraint", NS[0], NS[1], NS[2], NS[3], NS[4], NS[5]];

const fn reserved(name: &'static str, source: &'static str) -> Preset {
    Preset { name, source, lr: None, weight_decay: 0.0, options: &[], build: None }
}

/// All names, built and reserved.
pub static PRESETS: [Preset; 18] = [
    Preset {
        name: "sgd",
        source: "torch.optim.SGD; momentum starts from the first gradient, weight decay is L2",
        lr: Some(1e-3),
        weight_decay: 0.0,
        options: &["momentum", "dampening", "nesterov"],
        build: Some(|| Rule::Sgd(Sgd { momentum: 0.0, dampening: 0.0, nesterov: false })),
    },
    Preset {
        name: "nsgd",
        source: "arXiv 2503.12645 with the l_2 norm, per parameter; momentum starts from the first gradient",
        lr: None,
        weight_decay: 0.0,
        options: &["momentum", "eps", "cautious_weight_decay"],
        build: Some(|| {
            lmo(Estimator::Ema { momentum: 0.9, initial: Initial::FirstGradient }, Norm::Frobenius)
        }),
    },
    Preset {
        name: "sign-sgd",
        source: "optax.sign_sgd",
        lr: None,
        weight_decay: 0.0,
        options: &["cautious_weight_decay"],
        build: Some(|| lmo(Estimator::None, Norm::Sign)),
    },
    Preset {
        name: "signum",
        source: "optax.signum (its beta is momentum)",
        lr: None,
        weight_decay: 0.0,
        options: &["momentum", "cautious_weight_decay"],
        build: Some(|| lmo(Estimator::Ema { momentum: 0.9, initial: Initial::Zero }, Norm::Sign)),
    },
    Preset {
        name: "lion",
        source: "lion-pytorch",
        lr: Some(1e-4),
        weight_decay: 0.0,
        options: &["betas", "cautious_weight_decay"],
        build: Some(|| lmo(Estimator::Lion { betas: [0.9, 0.99] }, Norm::Sign)),
    },
    Preset {
        name: "muon",
        source: "torch.optim.Muon; here also for 3-D (batches) and 4-D (flattened) parameters",
        lr: Some(1e-3),
        weight_decay: 0.1,
        options: MUON,
        build: Some(|| {
            let estimator = Estimator::Nesterov { momentum: 0.95, initial: Initial::Zero };
            adjust(lmo(estimator, Norm::Spectral), |l| l.scale = Scale::Original)
        }),
    },
    Preset {
        name: "orthogonal-sgdm",
        source: "arXiv 2202.07052 as in 2503.12645: orthogonalise first, average after (EMA from zero)",
        lr: None,
        weight_decay: 0.0,
        options: ORTHOGONAL_SGDM,
        build: Some(|| {
            let estimator = Estimator::Ema { momentum: 0.95, initial: Initial::Zero };
            adjust(lmo(estimator, Norm::Spectral), |l| l.order = Order::LmoFirst)
        }),
    },
    Preset {
        name: "scion",
        source: "LIONS-EPFL/scion (its momentum 0.1 is written 0.9 here); norms carry its own factors",
        lr: Some(1e-3),
        weight_decay: 0.0,
        options: SCION,
        build: Some(|| {
            let estimator = Estimator::Ema { momentum: 0.9, initial: Initial::Zero };
            adjust(lmo(estimator, Norm::RmsToRms), |l| {
                l.scale = Scale::Scion(1.0);
                l.constraint = Constraint::ConvexCombination;
                l.eps.form = EpsForm::Add;
            })
        }),
    },
    Preset {
        name: "adamw",
        source: "torch.optim.AdamW (but eps defaults to 0)",
        lr: Some(1e-3),
        weight_decay: 0.01,
        options: &["betas", "eps", "amsgrad"],
        build: Some(|| Rule::AdamW(AdamW { betas: [0.9, 0.999], eps: 0.0, amsgrad: false })),
    },
    Preset {
        name: "adagrad",
        source: "torch.optim.Adagrad (but eps defaults to 0); weight decay is L2",
        lr: Some(1e-2),
        weight_decay: 0.0,
        options: &["lr_decay", "initial_accumulator_value", "eps"],
        build: Some(|| Rule::AdaGrad(AdaGrad { lr_decay: 0.0, initial_accumulator_value: 0.0, eps: 0.0 })),
    },
    Preset {
        name: "lmo",
        source: "a free composition: estimator x norm x scale x constraint",
        lr: None,
        weight_decay: 0.0,
        options: LMO,
        build: Some(|| lmo(Estimator::None, Norm::Frobenius)),
    },
    reserved("gluon", "arXiv 2505.13416"),
    reserved("normuon", "zichongli5/NorMuon"),
    reserved("adamuon", "Chongjie-Si/AdaMuon"),
    reserved("mars-m", "AGI-Arena/MARS"),
    reserved("shampoo", "arXiv 1802.09568"),
    reserved("asgo", "arXiv 2503.20762"),
    reserved("soap", "nikhilvyas/SOAP"),
];

fn lmo(estimator: Estimator, norm: Norm) -> Rule {
    Rule::Lmo(Lmo {
        estimator,
        norm,
        newton_schulz: NewtonSchulz::default(),
        eps: Eps { value: 0.0, form: EpsForm::Clamp },
        scale: Scale::None,
        constraint: Constraint::Decay,
        order: Order::EstimateFirst,
    })
}

fn adjust(mut rule: Rule, change: impl FnOnce(&mut Lmo)) -> Rule {
    if let Rule::Lmo(lmo) = &mut rule {
        change(lmo);
    }
    rule
}

pub(super) fn find_built(name: &str) -> &'static Preset {
    // Algorithms are only ever made from this table; the first row stands in for the impossible.
    PRESETS.iter().find(|p| p.name == name).unwrap_or(&PRESETS[0])
}

impl Preset {
    /// Whether the name can be used in this version.
    pub fn is_built(&self) -> bool {
        self.build.is_some()
    }
}

impl Algorithm {
    /// The preset called `name` with its defaults.
    ///
    /// # Errors
    /// [`Error::NotBuilt`] for reserved names, [`Error::Config`] with the nearest name for unknown ones.
    pub fn by_name(name: &str) -> Result<Self> {
        let Some(preset) = PRESETS.iter().find(|p| p.name == name) else {
            let hint = suggest(name, PRESETS.iter().filter(|p| p.is_built()).map(|p| p.name));
            return Err(Error::Config(format!("unknown algorithm `{name}`{hint}")));
        };
        match preset.build {
            Some(build) => Ok(Self { name: preset.name, rule: build(), misuse: vec![] }),
            None => {
                let built: Vec<&str> = PRESETS.iter().filter(|p| p.is_built()).map(|p| p.name).collect();
                let remedy = format!("; built: {}", built.join(", "));
                Err(Error::not_built(format!("algorithm `{name}` ({})", preset.source), remedy))
            }
        }
    }

    fn preset_of(name: &'static str) -> Self {
        let preset = find_built(name);
        let rule = preset.build.map_or_else(|| lmo(Estimator::None, Norm::Frobenius), |build| build());
        Self { name: preset.name, rule, misuse: vec![] }
    }

    /// torch.optim.SGD.
    pub fn sgd() -> Self {
        Self::preset_of("sgd")
    }

    /// Normalised SGD with momentum, `x -= lr m/||m||`, per parameter.
    pub fn nsgd() -> Self {
        Self::preset_of("nsgd")
    }

    /// `x -= lr sign(g)`.
    pub fn sign_sgd() -> Self {
        Self::preset_of("sign-sgd")
    }

    /// `m = mu m + (1 - mu) g; x -= lr sign(m)`.
    pub fn signum() -> Self {
        Self::preset_of("signum")
    }

    /// Lion (arXiv 2302.06675).
    pub fn lion() -> Self {
        Self::preset_of("lion")
    }

    /// Muon as in torch.optim.Muon.
    pub fn muon() -> Self {
        Self::preset_of("muon")
    }

    /// Orthogonal-SGDM: momentum of orthogonalised gradients.
    pub fn orthogonal_sgdm() -> Self {
        Self::preset_of("orthogonal-sgdm")
    }

    /// Scion (arXiv 2502.07529).
    pub fn scion() -> Self {
        Self::preset_of("scion")
    }

    /// torch.optim.AdamW.
    pub fn adamw() -> Self {
        Self::preset_of("adamw")
    }

    /// torch.optim.Adagrad.
    pub fn adagrad() -> Self {
        Self::preset_of("adagrad")
    }

    /// A free composition, with decoupled weight decay and no shape factor until told otherwise.
    ///
    /// ```
    /// use orthant::algorithm::{Algorithm, Estimator, Norm, Scale};
    /// let storm_muon = Algorithm::lmo(Estimator::Mvr { alpha: 0.1 }, Norm::Spectral).scale(Scale::Rms);
    /// assert_eq!(storm_muon.composition(), "mvr(alpha 0.1) > spectral[jordan x5 auto] > scale rms > decay");
    /// ```
    pub fn lmo(estimator: Estimator, norm: Norm) -> Self {
        Self { name: "lmo", rule: lmo(estimator, norm), misuse: vec![] }
    }
}
