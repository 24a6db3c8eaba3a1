//! Where an optimizer's tensors are on a card: there already, or in copies of host tensors.

use super::super::AnyTensor;
use super::super::builder::Parameter;
use crate::cuda::{Buffer, Context, DeviceBuffer, OUT_OF_MEMORY, check_tensor};
use crate::error::{Error, Result};
use crate::tensor::{Dtype, numel};

#[derive(Debug, Default)]
pub(super) struct Mirror {
    pub data: Option<DeviceBuffer>,
    pub grad: Option<DeviceBuffer>,
    pub prev_grad: Option<DeviceBuffer>,
}

impl Mirror {
    /// Makes copies for the host tensors of a parameter.
    pub fn fit(&mut self, context: &Context, parameter: &Parameter) -> Result<()> {
        if let Some(data) = parameter.data.host() {
            self.data = Some(DeviceBuffer::new(context, data.numel() * data.dtype().size())?);
        }
        let new = self.missing(context, parameter)?;
        self.grad = new.grad.or(self.grad.take());
        self.prev_grad = new.prev_grad.or(self.prev_grad.take());
        Ok(())
    }

    /// Copies of gradients for which there is none that is large enough.
    pub fn missing(&self, context: &Context, parameter: &Parameter) -> Result<Mirror> {
        let copy = |tensor: &Option<AnyTensor>, have: &Option<DeviceBuffer>| {
            let Some(tensor) = tensor.as_ref().and_then(AnyTensor::host) else { return Ok(None) };
            let bytes = tensor.numel() * tensor.dtype().size();
            match have {
                Some(have) if have.bytes() >= bytes => Ok(None),
                _ => DeviceBuffer::new(context, bytes).map(Some),
            }
        };
        Ok(Mirror {
            data: None,
            grad: copy(&parameter.grad, &self.grad)?,
            prev_grad: copy(&parameter.prev_grad, &self.prev_grad)?,
        })
    }
}

/// The error of copies that do not fit, with what they all need.
pub(super) fn no_room(context: &Context, parameters: &[Parameter], error: Error) -> Error {
    if !matches!(error, Error::Driver { code: OUT_OF_MEMORY, call: "cuMemAlloc_v2", .. }) {
        return error;
    }
    let tensors = parameters.iter().flat_map(|p| [Some(&p.data), p.grad.as_ref(), p.prev_grad.as_ref()]);
    let bytes = tensors.flatten().map(|tensor| (numel(tensor.shape()) * tensor.dtype().size()) as u64);
    let first = parameters.first().map_or("", |p| &p.name);
    Error::OutOfMemory {
        device: context.device().to_string(),
        what: format!("the copy of tensors in host memory, from parameter `{first}` on,"),
        bytes: bytes.sum(),
        free: context.memory().map_or(0, |(free, _)| free),
    }
}

pub(super) type Bindings = (Buffer, Option<Buffer>, Option<Buffer>);

pub(super) fn bindings(parameter: &Parameter, mirror: &Mirror) -> Bindings {
    bindings_with(parameter, mirror, &Mirror::default())
}

/// The buffers of a parameter on the card; of copies, the newer.
pub(super) fn bindings_with(parameter: &Parameter, mirror: &Mirror, newer: &Mirror) -> Bindings {
    let of = |tensor: &AnyTensor, copy: Option<&DeviceBuffer>| match tensor {
        AnyTensor::Device(tensor) => Buffer::of(tensor),
        AnyTensor::Host(tensor) => Buffer::new(copy.map_or(0, DeviceBuffer::address), tensor.dtype()),
    };
    (
        of(&parameter.data, mirror.data.as_ref()),
        parameter.grad.as_ref().map(|t| of(t, newer.grad.as_ref().or(mirror.grad.as_ref()))),
        parameter.prev_grad.as_ref().map(|t| of(t, newer.prev_grad.as_ref().or(mirror.prev_grad.as_ref()))),
    )
}

/// Tensors lie all in host memory, or all on this card.
pub(super) fn check_places(context: &Context, parameters: &[Parameter], on_host: bool) -> Result<()> {
    for parameter in parameters {
        let roles = [
            ("it", Some(&parameter.data)),
            ("its gradient", parameter.grad.as_ref()),
            ("its previous gradient", parameter.prev_grad.as_ref()),
            ("its micro-batch's gradient", parameter.micro_grad.as_ref()),
        ];
        for (role, tensor) in roles {
            match tensor {
                None => {}
                Some(AnyTensor::Device(tensor)) if !on_host => {
                    check_tensor(context, &parameter.name, role, tensor)?
                }
                Some(AnyTensor::Host(tensor)) if on_host && tensor.dtype() == Dtype::F64 => {
                    let reason = format!("{role} is stored in f64; cards take f32");
                    return Err(Error::parameter(&parameter.name, reason));
                }
                Some(AnyTensor::Host(_)) if on_host => {}
                Some(_) => {
                    let (here, others) = if on_host {
                        ("on a card", "in host memory")
                    } else {
                        ("in host memory", "on the card")
                    };
                    let reason = format!(
                        "{role} lies {here}, and other tensors lie {others}: all must lie in one place"
                    );
                    return Err(Error::parameter(&parameter.name, reason));
                }
            }
        }
    }
    Ok(())
}
