//! The GPU backend on cudarc: finds and probes the driver, owns contexts, streams and memory, describes parameters and groups
//! to the kernels, and runs steps.
//!
//! Read [`engine`] first: a step is a copy of the control block, if it changed, and one launch of a graph.

mod accumulate;
mod api;
mod context;
mod control;
mod driver;
mod elementwise;
mod emulated;
mod engine;
mod kernels;
mod layout;
mod scan;
mod streams;
pub(crate) mod table;

pub(crate) use accumulate::Accumulation;
pub use context::{Context, DeviceBuffer, Event, Stream};
pub(crate) use control::Outcome;
pub(crate) use driver::open;
pub(crate) use elementwise::Buffer;
pub(crate) use engine::{Engine, Part};

use crate::device_tensor::DeviceTensor;
use crate::error::{Error, Result};
use crate::group::{Group, Hyperparameters};

/// Whether a group's algorithm has kernels.
pub(crate) fn check_group(group: &Group, hyper: Hyperparameters) -> Result<()> {
    if elementwise::group_entry(group, hyper).is_some() {
        return Ok(());
    }
    let what = format!("group `{}`: `{}` on a card", group.name(), group.algorithm().name());
    Err(Error::not_built(what, "; elementwise algorithms and nsgd are, or use device `cpu`"))
}

/// Whether a tensor's memory is what it is said to be: memory of this card, from the first byte to the last.
pub(crate) fn check_tensor(
    context: &Context,
    parameter: &str,
    role: &str,
    tensor: &DeviceTensor,
) -> Result<()> {
    let Some(last) = tensor.runs().last().map(|run| run.end - 1) else { return Ok(()) };
    let refuse = |reason: String| Err(Error::parameter(parameter, format!("{role} {reason}")));
    for address in [tensor.address(), last] {
        let found = context.run("looking at an address", || {
            Ok((api::is_device_memory(address), api::device_of_pointer(address)))
        })?;
        match found {
            (Ok(true), Ok(ordinal)) if ordinal == context.ordinal() => {}
            (Ok(true), Ok(ordinal)) => {
                return refuse(format!("lies on card {ordinal}, and steps run on {}", context.device()));
            }
            (Err(fault), _) | (_, Err(fault)) if fault.is_sticky() => {
                return Err(context.error("looking at an address", fault));
            }
            _ => return refuse(format!("is no device memory at address {address:#x}")),
        }
    }
    Ok(())
}
