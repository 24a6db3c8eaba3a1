//! What a step is asked for and what it answers.

use super::builder::Parameter;
use crate::error::{Error, Result};
use crate::group::Hyperparameters;
use crate::plan::Plan;

/// What a step does when a gradient holds NaN or an infinity. It always concerns the whole step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NonFinite {
    /// The step is an error and nothing changes anywhere.
    #[default]
    Error,
    /// Nothing changes anywhere, and the report says so. Finite gradients too large for the state are skipped too.
    Skip,
    /// Gradients are not scanned; non-finite values spread as IEEE arithmetic has it (`sign(NaN)` is NaN).
    Propagate,
}

/// Options of a step, for all groups.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepOptions {
    /// Global-norm clipping before anything else: gradients are multiplied with `min(1, max/(norm + 1e-6))`, as
    /// torch's `clip_grad_norm_` does; the norm is that of the unscaled gradients. In (0, 1e30].
    pub max_grad_norm: Option<f64>,
    /// What the training loop multiplied its loss with, and with it the gradients; every step divides it out again.
    /// In [1e-30, 1e30].
    pub loss_scale: f64,
    /// Policy for non-finite gradients.
    pub nonfinite: NonFinite,
    /// Whether steps measure what each group's parameters move by ([`StepReport::update_rms`]) and dual norms
    /// ([`StepReport::dual_norms`]). In force at registration.
    pub diagnostics: bool,
    /// Seed of stochastic rounding. It is not stored in checkpoints: a resumed run needs the same one.
    pub seed: u64,
    /// Bytes of work space for orthogonalisations on a card, shared equally by the groups that orthogonalise. They are done in
    /// turns that keep within it; which does not change any bit. Without a limit each group has 1 GiB, or what its largest
    /// matrix needs. Read at registration.
    pub max_workspace: Option<usize>,
}

impl Default for StepOptions {
    fn default() -> Self {
        Self {
            max_grad_norm: None,
            loss_scale: 1.0,
            nonfinite: NonFinite::default(),
            diagnostics: false,
            seed: 0,
            max_workspace: None,
        }
    }
}

impl StepOptions {
    pub(crate) fn validate(&self) -> Result<()> {
        let illegal = |field: &str, value: f64, legal: &str| {
            let reason = format!("{field} = {value} is not legal; it must be finite and in {legal}");
            Err(Error::Config(format!("[step]: {reason}")))
        };
        match (self.max_grad_norm, self.loss_scale) {
            (Some(v), _) if !(v > 0.0 && v <= 1e30) => illegal("max_grad_norm", v, "(0, 1e30]"),
            (_, v) if !(1e-30..=1e30).contains(&v) => illegal("loss_scale", v, "[1e-30, 1e30]"),
            _ => Ok(()),
        }
    }

    /// Whether steps look at all gradients before anything changes.
    pub(crate) fn decides(&self) -> bool {
        self.max_grad_norm.is_some() || self.nonfinite != NonFinite::Propagate
    }
}

/// What a step did.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct StepReport {
    /// Whether parameters and state advanced.
    pub applied: bool,
    /// Parameters that were updated.
    pub updated: usize,
    /// Parameters left alone because they have no gradient.
    pub without_gradient: usize,
    /// Global gradient norm before clipping and without the loss scale, where clipping is on.
    pub grad_norm: Option<f64>,
    /// First parameter whose gradient is not finite, or too large for its state, when the step was skipped for it. None when
    /// it was skipped for another rank's ([`ScanScalars`](crate::ScanScalars)).
    pub non_finite: Option<String>,
    /// Of each group, in their order: the root mean square of what the elements of its parameters moved by, decay included and
    /// before they were rounded to the parameter's type; 0 for a group without gradients. In steps that were applied, where
    /// [`StepOptions::diagnostics`] asks for it.
    pub update_rms: Option<Vec<f64>>,
    /// Of each group, in their order: the sum over its matrices of `<m, u>`, the inner product of what is orthogonalised with its
    /// direction. With an exact direction it is the dual norm of `m`, the nuclear norm; a Newton-Schulz iteration gives a little
    /// less or more. 0 for groups that orthogonalise nothing. Where [`StepOptions::diagnostics`] asks for it.
    pub dual_norms: Option<Vec<f64>>,
    /// Orthogonalisations that left their bound and were redone with the safe iteration.
    pub orthogonalise_fallbacks: usize,
    /// Micro-batches accumulated since the step before.
    pub micro_batches: usize,
    /// The step was given to a card's stream, and what became of it is not known yet.
    pub pending: bool,
}

/// What a step is made with.
pub(crate) struct Step<'a> {
    pub plan: &'a Plan,
    pub hyper: &'a [Hyperparameters],
    pub options: &'a StepOptions,
    /// Host tensors are copied to cards from here.
    #[cfg(feature = "cuda")]
    pub parameters: &'a [Parameter],
    /// Parameters with a gradient.
    pub present: &'a [usize],
}

/// Which parameters steps concern. Kept, so that a step's cost does not grow with their number.
#[derive(Debug, Default)]
pub(super) struct Roster {
    /// With a gradient.
    pub present: Vec<usize>,
    /// Of these, those that need a gradient at the previous point and have none: legal for a first step.
    pub unpaired: Vec<usize>,
}

impl Roster {
    pub fn new(plan: &Plan, parameters: &[Parameter]) -> Self {
        let present: Vec<usize> = (0..parameters.len()).filter(|&i| parameters[i].grad.is_some()).collect();
        let needs = |i: usize| plan.group_of(&plan.parameters[i]).algorithm.needs_previous_gradient();
        let unpaired = present.iter().copied().filter(|&i| parameters[i].prev_grad.is_none() && needs(i));
        Self { unpaired: unpaired.collect(), present }
    }
}
