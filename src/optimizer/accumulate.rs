//! Micro-batches: their gradients are added up before a step. Steps know nothing of them.

use super::{AnyTensor, Optimizer};
use crate::error::{Error, Result};
use crate::plan::Precision;
use crate::reference;

impl Optimizer {
    /// Adds the gradients of a micro-batch to the gradients, for every parameter that has both:
    /// `grad = grad + scale * micro_grad`, or `grad = scale * micro_grad` for the `first` micro-batch of a step. The product
    /// and the sum are rounded to f32 (f64 when computing in f64), the result to the gradient's type; f32 gradients lose
    /// nothing worth mentioning over many micro-batches.
    ///
    /// Tensors in host memory are added there, on every device. Tensors on a card are added by one launch in the builder's
    /// stream, which is not waited for.
    ///
    /// # Errors
    /// A scale that is not finite, no micro-batch's gradient bound, tensors on a card without a stream; what the driver says.
    pub fn accumulate(&mut self, scale: f64, first: bool) -> Result<()> {
        self.check_accumulate(scale)?;
        #[cfg(feature = "cuda")]
        if let super::Backend::Card(card) = &mut self.backend
            && !card.on_host()
        {
            card.accumulate(None, scale as f32, first)?;
        }
        for parameter in &self.parameters {
            let (Some(AnyTensor::Host(sum)), Some(AnyTensor::Host(addend))) =
                (&parameter.grad, &parameter.micro_grad)
            else {
                continue;
            };
            match self.plan.precision {
                Precision::F32 => reference::accumulate::<f32>(sum, addend, scale, first)?,
                Precision::F64 => reference::accumulate::<f64>(sum, addend, scale, first)?,
            }
        }
        self.micro_batches = if first { 1 } else { self.micro_batches + 1 };
        Ok(())
    }

    /// The same of tensors on a card, in a stream of the caller's.
    ///
    /// # Errors
    /// As [`accumulate`](Self::accumulate); tensors in host memory.
    #[cfg(feature = "cuda")]
    pub fn accumulate_on(&mut self, stream: &crate::cuda::Stream, scale: f64, first: bool) -> Result<()> {
        self.check_accumulate(scale)?;
        let super::Backend::Card(card) = &mut self.backend else {
            return Err(Error::Step("device `cpu` has no streams: use `accumulate`".into()));
        };
        card.accumulate(Some(stream), scale as f32, first)?;
        self.micro_batches = if first { 1 } else { self.micro_batches + 1 };
        Ok(())
    }

    fn check_accumulate(&self, scale: f64) -> Result<()> {
        self.check_no_scan("accumulate")?;
        if !scale.is_finite() || !(scale as f32).is_finite() {
            return Err(Error::Step(format!("accumulate: scale = {scale} is not legal; it must be finite")));
        }
        if self.parameters.iter().all(|p| p.micro_grad.is_none()) {
            return Err(Error::Step("accumulate: no parameter has a micro-batch's gradient".into()));
        }
        Ok(())
    }

    /// Binds other tensors (or none) for the gradients of micro-batches, all or nothing.
    ///
    /// # Errors
    /// As [`rebind_gradients`](Self::rebind_gradients).
    pub fn rebind_micro_gradients<S: AsRef<str>, T: Into<AnyTensor>>(
        &mut self,
        gradients: impl IntoIterator<Item = (S, Option<T>)>,
    ) -> Result<()> {
        self.rebind(gradients, |parameter, tensor| parameter.micro_grad = tensor)
    }
}
