//! Parameter groups: which parameters, which algorithm, which learning rate.

use crate::algorithm::{Algorithm, DecayKind};
use crate::error::{Error, Result};

/// Precision of the state and of the parameters' hidden digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Master {
    /// The parameter itself is all there is.
    None,
    /// An f32 copy in the state; the 16-bit parameter is its rounding.
    F32,
    /// bf16 parameters only: an f32 number of which the parameter holds the upper half, and the state 16 bits more.
    /// Steps are those of an f32 copy; the parameter is its rounding to nearest, ties away from zero.
    Compact,
}

/// How results are rounded to bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// To nearest, ties to even.
    Nearest,
    /// Up or down with probability proportional to nearness; random bits are Philox4x32-10 keyed by a hash of the
    /// parameter's name, counted by element index, step and buffer, so they do not depend on sharding or order.
    Stochastic,
}

/// Element type of the state buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateDtype {
    /// f32, or f64 when computing in f64.
    Full,
    /// bfloat16.
    Bf16,
}

/// Row blocks of a matrix that are matrices of their own (fused QKV, attention heads).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Splits {
    /// So many blocks of equal height.
    Equal(usize),
    /// Blocks of these heights, which must add up to the rows.
    Sizes(Vec<usize>),
}

/// A parameter group: the parameters it owns, their algorithm and hyperparameters.
///
/// ```
/// use orthant::{Algorithm, Group};
/// let hidden = Group::new("hidden", Algorithm::muon()).lr(0.02).weight_decay(0.1).params(["blocks.*.weight"]).ndim(2);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    pub(crate) name: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) params: Vec<String>,
    pub(crate) exclude: Vec<String>,
    pub(crate) ndim: Option<usize>,
    pub(crate) lr: Option<f64>,
    pub(crate) weight_decay: Option<f64>,
    pub(crate) maximize: bool,
    pub(crate) splits: Option<Splits>,
    pub(crate) master: Master,
    pub(crate) state_dtype: StateDtype,
    pub(crate) rounding: Rounding,
}

impl Group {
    /// A group that owns nothing until [`params`](Self::params) is called.
    pub fn new(name: impl Into<String>, algorithm: Algorithm) -> Self {
        Self {
            name: name.into(),
            algorithm,
            params: vec![],
            exclude: vec![],
            ndim: None,
            lr: None,
            weight_decay: None,
            maximize: false,
            splits: None,
            master: Master::None,
            state_dtype: StateDtype::Full,
            rounding: Rounding::Nearest,
        }
    }

    /// Globs on parameter names; `*` crosses dots. The first group that matches owns the parameter.
    #[must_use]
    pub fn params<S: Into<String>>(mut self, globs: impl IntoIterator<Item = S>) -> Self {
        self.params.extend(globs.into_iter().map(Into::into));
        self
    }

    /// Globs on names that the group leaves to later groups.
    #[must_use]
    pub fn exclude<S: Into<String>>(mut self, globs: impl IntoIterator<Item = S>) -> Self {
        self.exclude.extend(globs.into_iter().map(Into::into));
        self
    }

    /// Only parameters with this many dimensions.
    #[must_use]
    pub fn ndim(mut self, ndim: usize) -> Self {
        self.ndim = Some(ndim);
        self
    }

    /// Learning rate, in [0, 1e10].
    #[must_use]
    pub fn lr(mut self, lr: f64) -> Self {
        self.lr = Some(lr);
        self
    }

    /// Weight decay, in [0, 1e10]; where it is decoupled, `lr * weight_decay` must stay below 1.
    #[must_use]
    pub fn weight_decay(mut self, weight_decay: f64) -> Self {
        self.weight_decay = Some(weight_decay);
        self
    }

    /// Ascend instead of descend: the gradient is negated first.
    #[must_use]
    pub fn maximize(mut self, maximize: bool) -> Self {
        self.maximize = maximize;
        self
    }

    /// Declares every matrix of the group to be row blocks, each a matrix of its own.
    #[must_use]
    pub fn splits(mut self, splits: Splits) -> Self {
        self.splits = Some(splits);
        self
    }

    /// Master copies of 16-bit parameters.
    #[must_use]
    pub fn master(mut self, master: Master) -> Self {
        self.master = master;
        self
    }

    /// Element type of state buffers.
    #[must_use]
    pub fn state_dtype(mut self, state_dtype: StateDtype) -> Self {
        self.state_dtype = state_dtype;
        self
    }

    /// Rounding of bf16 parameters and state.
    #[must_use]
    pub fn rounding(mut self, rounding: Rounding) -> Self {
        self.rounding = rounding;
        self
    }

    /// Group name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The algorithm with its hyperparameters.
    pub fn algorithm(&self) -> &Algorithm {
        &self.algorithm
    }

    /// The learning rate in force: given, or the preset's.
    pub fn learning_rate(&self) -> Option<f64> {
        self.lr.or(self.algorithm.preset().lr)
    }

    /// The weight decay in force: given, or the preset's.
    pub fn decay(&self) -> f64 {
        self.weight_decay.unwrap_or(self.algorithm.preset().weight_decay)
    }

    /// Learning rate and weight decay, checked.
    pub(crate) fn hyperparameters(&self) -> Result<Hyperparameters> {
        let lr = self.learning_rate().ok_or_else(|| {
            Error::Config(format!(
                "group `{}`: lr is missing and `{}` has no default for it",
                self.name,
                self.algorithm.name()
            ))
        })?;
        Hyperparameters::checked(self, lr, self.decay())
    }

    /// Checks every hyperparameter against its legal interval.
    pub(crate) fn validate(&self) -> Result<()> {
        if let Some((field, hint)) = self.algorithm.misuse().first() {
            return Err(Error::NotAnOption {
                group: self.name.clone(),
                algorithm: self.algorithm.name().to_owned(),
                field: (*field).to_owned(),
                hint: hint.clone(),
            });
        }
        if let Some((field, value, legal)) = self.algorithm.defects().into_iter().next() {
            return Err(self.illegal(field, value, legal));
        }
        if self.params.is_empty() {
            return Err(Error::Config(format!("group `{}`: params is missing or empty", self.name)));
        }
        if self.splits.is_some() && self.algorithm.is_elementwise() {
            return Err(self.illegal(
                "splits",
                "given",
                format!("`{}` works element by element, so blocks mean nothing", self.algorithm.name()),
            ));
        }
        match &self.splits {
            Some(Splits::Equal(0)) => return Err(self.illegal("splits", "0", "it must be at least 1")),
            Some(Splits::Sizes(sizes)) if sizes.is_empty() || sizes.contains(&0) => {
                return Err(self.illegal(
                    "splits",
                    format!("{sizes:?}"),
                    "every block needs at least one row",
                ));
            }
            _ => {}
        }
        self.hyperparameters().map(drop)
    }

    pub(crate) fn illegal(
        &self,
        field: &str,
        value: impl std::fmt::Display,
        legal: impl Into<String>,
    ) -> Error {
        Error::Hyperparameter {
            group: self.name.clone(),
            field: field.to_owned(),
            value: value.to_string(),
            legal: legal.into(),
        }
    }
}

/// The hyperparameters that schedules change between steps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Hyperparameters {
    pub lr: f64,
    pub weight_decay: f64,
}

impl Hyperparameters {
    pub fn checked(group: &Group, lr: f64, weight_decay: f64) -> Result<Self> {
        let legal = 0.0..=1e10;
        for (field, value) in [("lr", lr), ("weight_decay", weight_decay)] {
            if !legal.contains(&value) {
                return Err(group.illegal(field, value, "it must be finite and in [0, 1e10]"));
            }
        }
        match group.algorithm.decay_kind() {
            DecayKind::Decoupled if lr * weight_decay >= 1.0 => Err(group.illegal(
                "weight_decay",
                weight_decay,
                format!(
                    "lr * weight_decay must stay below 1, and with lr = {lr} it is {}",
                    lr * weight_decay
                ),
            )),
            DecayKind::None if weight_decay != 0.0 => Err(group.illegal(
                "weight_decay",
                weight_decay,
                "this algorithm's constraint takes no weight decay",
            )),
            _ if group.algorithm.is_convex() && lr > 1.0 => {
                Err(group.illegal("lr", lr, "x = (1 - lr) x - lr scale u needs lr in [0, 1]"))
            }
            _ => Ok(Self { lr, weight_decay }),
        }
    }
}
