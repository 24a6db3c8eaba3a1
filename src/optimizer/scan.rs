//! A step in two halves: what it is decided from, which ranks of a parallel training reduce, and the rest.

use super::{Backend, Optimizer, StepReport};
use crate::error::{Error, Result};

/// What a step is decided from: found by [`Optimizer::scan_host`], reduced over all ranks by the caller, and given back to
/// [`Optimizer::step_with`].
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub struct ScanScalars {
    /// To be added up: the sum of the squares of all gradients as they are, with the loss scale. 0 without clipping. With f64
    /// gradients of a norm beyond 1e150 it is infinite, and the step is refused.
    pub squares: f64,
    /// The largest counts: 1 where a gradient is not finite, else 0; 0 under [`NonFinite::Propagate`](crate::NonFinite::Propagate).
    pub found: f64,
    /// The largest counts: the most that a gradient is of what its state takes in (at least 0; above 1 the step is refused,
    /// unless clipping and loss scale bring it down). 0 under [`NonFinite::Propagate`](crate::NonFinite::Propagate).
    pub too_large: f64,
}

/// Where [`ScanScalars`] lie in device memory, to be reduced there over all ranks, in place and in the scan's stream.
#[cfg(feature = "cuda")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct DeviceScalars {
    /// Device address of one f64, `squares`: to be added up.
    pub sum: u64,
    /// Device address of two f64, `found` and `too_large`: of each, the largest counts.
    pub max: u64,
}

impl Optimizer {
    /// The first half of a step of tensors in host memory: looks at all gradients, and returns what the step is decided from.
    /// [`step_with`](Self::step_with) is the second half.
    ///
    /// # Errors
    /// As [`step`](Self::step) before it looks; a scan that is open already; options with which there is nothing to reduce;
    /// devices other than `cpu`.
    pub fn scan_host(&mut self) -> Result<ScanScalars> {
        self.check_scan("scan_host")?;
        let (step, backend) = self.parts();
        match backend {
            Backend::Cpu(cpu) => Ok(cpu.scan_open(&step)),
            #[cfg(feature = "cuda")]
            Backend::Card(_) => Err(Error::Step(format!(
                "scan_host: device `{}` has its scalars in device memory: use `scan`, with tensors on the card",
                self.device
            ))),
        }
    }

    /// The second half of a step of tensors in host memory: clipping, and whether the step is applied at all, follow from these
    /// scalars.
    ///
    /// # Errors
    /// As [`step`](Self::step); no open scan. [`Error::RefusedElsewhere`] where the scalars refuse the step and the gradients
    /// here do not, under [`NonFinite::Error`](crate::NonFinite::Error). A scan is open no more when its step was refused.
    pub fn step_with(&mut self, scalars: ScanScalars) -> Result<StepReport> {
        let report = self.check_step(None)?;
        let (step, backend) = self.parts();
        let report = match backend {
            Backend::Cpu(cpu) if cpu.open.is_none() => {
                return Err(Error::Step("step_with: no scan is open; scan_host comes first".into()));
            }
            Backend::Cpu(cpu) => cpu.step_with(&step, Some(scalars), report)?,
            #[cfg(feature = "cuda")]
            Backend::Card(_) => {
                let reason = format!("step_with: device `{}` has its scalars in device memory", self.device);
                return Err(Error::Step(reason));
            }
        };
        self.micro_batches = 0;
        Ok(report)
    }

    /// Gives up the first half of a step, if there is one: nothing was changed by it.
    pub fn forget_scan(&mut self) {
        match &mut self.backend {
            Backend::Cpu(cpu) => cpu.open = None,
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.forget_scan(),
        }
    }

    /// Whether the first half of a step can be done.
    pub(super) fn check_scan(&self, what: &str) -> Result<StepReport> {
        let report = self.check_step(None)?;
        self.check_no_scan(what)?;
        if !self.options.decides() {
            let reason = "nothing is to be reduced: gradients are neither clipped (max_grad_norm) nor looked at \
                          (nonfinite = \"propagate\"); use step";
            return Err(Error::Step(format!("{what}: {reason}")));
        }
        Ok(report)
    }

    /// Refuses what would make an open scan one of other gradients, state or options.
    pub(super) fn check_no_scan(&self, what: &str) -> Result<()> {
        self.check_device()?;
        let open = match &self.backend {
            Backend::Cpu(cpu) => cpu.open.is_some(),
            #[cfg(feature = "cuda")]
            Backend::Card(card) => card.has_open_scan(),
        };
        if open {
            let reason =
                format!("{what}: a scan is open: the step that it belongs to comes first, or forget_scan");
            return Err(Error::Step(reason));
        }
        Ok(())
    }
}
