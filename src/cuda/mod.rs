//! The GPU backend on cudarc: finds and probes the driver, owns contexts, streams and memory, describes parameters and groups
//! to the kernels, and runs steps.
//!
//! A step (`engine.rs`, to be read first) is a copy of the control block, if it changed, and one launch of a graph.

mod accumulate;
mod api;
mod context;
mod control;
mod driver;
mod elementwise;
mod emulated;
mod engine;
mod graph;
mod kernels;
mod layout;
mod lines;
mod memory;
mod order;
mod orthogonal;
mod products;
mod scan;
mod stream;
pub(crate) mod table;

pub(crate) use accumulate::Accumulation;
pub(crate) use api::OUT_OF_MEMORY;
pub use context::Context;
pub(crate) use control::Outcome;
pub(crate) use driver::open;
pub(crate) use elementwise::Buffer;
pub use emulated::counters;
pub(crate) use engine::{Engine, Part};
pub use memory::DeviceBuffer;
pub use products::ProductBatch;
pub use stream::{Event, Stream};

use crate::algorithm::{Norm, NsDtype, Rule};
use crate::device::Device;
use crate::device_tensor::DeviceTensor;
use crate::error::{Error, Result};
use crate::group::Group;
use crate::optimizer::StepOptions;
use crate::plan::{Plan, Precision};
use crate::schedule::{self, Schedule};

/// Whether steps of a plan can run on a card. Looks at no card.
///
/// # Errors
/// Compute type f64; a group whose algorithm has no kernels, named with the remedy.
pub fn check_plan(device: Device, plan: &Plan) -> Result<()> {
    if plan.precision == Precision::F64 {
        let reason = "cards compute in f32: precision f64 and f64 tensors stay on device `cpu`".to_owned();
        return Err(Error::Device { device: device.to_string(), reason });
    }
    plan.groups.iter().try_for_each(|group| kernels(group, &StepOptions::default()).map(drop))
}

/// The families of kernels that take a group's parameters through a step, in order: `scan` where steps look at all gradients
/// first, `norms` where a direction is divided by its norm, `elementwise`; or `lines` where rows or columns are divided by
/// theirs; or `pack` and `sm80_product` where matrices are orthogonalised.
///
/// # Errors
/// An algorithm that has no kernels, with the group's name and the remedy; illegal hyperparameters.
pub fn kernels(group: &Group, options: &StepOptions) -> Result<Vec<&'static str>> {
    if elementwise::group_entry(group, group.hyperparameters()?).is_none() {
        let what = format!("group `{}`: `{}` on a card", group.name(), group.algorithm().name());
        return Err(Error::not_built(what, "; use device `cpu`"));
    }
    let rule = group.algorithm().rule();
    if let Some((spec, _)) = schedule::spectral(rule)
        && let Some(wide @ (NsDtype::F32 | NsDtype::F64)) = spec.dtype
    {
        let name = NsDtype::ALL.iter().find(|(_, d)| *d == wide).map_or("", |(name, _)| name);
        let what = format!("group `{}`: ns_dtype = {name} on a card", group.name());
        return Err(Error::not_built(what, "; tensor cores take bf16 and f16, and device `cpu` takes all"));
    }
    let normalised = matches!(rule, Rule::Lmo(lmo) if lmo.norm == Norm::Frobenius);
    let spectral = schedule::spectral(rule).is_some();
    let lines = lines::along_columns(rule).is_some();
    let families = [
        ("scan", options.decides()),
        ("norms", normalised),
        ("elementwise", !spectral && !lines),
        ("lines", lines),
        ("pack", spectral),
        ("sm80_product", spectral),
    ];
    Ok(families.into_iter().filter(|(_, used)| *used).map(|(name, _)| name).collect())
}

/// Launches of a step of a plan. Looks at no card.
///
/// # Errors
/// As [`check_plan`].
pub fn launches(plan: &Plan, options: &StepOptions) -> Result<u32> {
    check_plan(Device::Cuda(0), plan)?;
    let normalised = |p: &crate::plan::PlannedParameter| {
        let is = matches!(plan.group_of(p).algorithm().rule(), Rule::Lmo(lmo) if lmo.norm == Norm::Frobenius);
        is && !p.matrices.is_empty()
    };
    // Beside the scalars of the step: the scan with what it adds up to, norms with theirs, lines with theirs, the elements; of each
    // cohort norms, strips, products, and what the guard sends elsewhere.
    let scan = if options.decides() { 3 } else { 0 };
    let norms = if plan.parameters.iter().any(normalised) { 2 } else { 0 };
    let rules =
        || plan.parameters.iter().filter(|p| p.numel() > 0).map(|p| plan.group_of(p).algorithm().rule());
    let is_lined = |rule: &Rule| lines::along_columns(rule).is_some();
    let elementwise = rules().any(|rule| schedule::spectral(rule).is_none() && !is_lined(rule));
    let lines = if rules().any(is_lined) { 2 } else { 0 };
    let schedule = Schedule::new(plan, options.max_workspace)?;
    let cohorts: usize = schedule.cohorts.iter().map(|cohort| 3 + cohort.launches.len()).sum();
    let measure = u32::from(options.diagnostics);
    Ok(1 + scan + norms + lines + u32::from(elementwise) + measure + cohorts as u32)
}

/// Bytes of device memory that an optimizer of this plan holds beside the tensors: state, work space, tables. Exact for
/// tensors without gaps that begin at multiples of 16 bytes; tables of others are larger (in a batch whose gradient has another
/// type than the parameter, by up to 4 bytes a matrix). Looks at no card.
///
/// # Errors
/// As [`check_plan`]; more than 2^40 elements, which no card holds.
pub fn device_bytes(plan: &Plan, options: &StepOptions) -> Result<[usize; 3]> {
    check_plan(Device::Cuda(0), plan)?;
    let elements = plan.parameters.iter().fold(0usize, |sum, p| sum.saturating_add(p.numel()));
    if elements > 1 << 40 {
        return Err(Error::Tensor(format!("{elements} elements: no card holds more than 2^40")));
    }
    let layout = layout::Layout::new(plan, options)?;
    let buffers: Vec<_> = (0..plan.parameters.len())
        .map(|i| {
            // Sizes depend on boundaries, and all of these lie on one. Whether there is a gradient does not matter.
            let tensor = Buffer::new(0, plan.parameters[i].spec.dtype);
            layout.buffers(0, i, (tensor, None, None))
        })
        .collect();
    let tables = layout::Tables::new(plan, &layout, &buffers, 0, options.seed, options.diagnostics);
    let [state, work, tables, strips] = layout.bytes(&tables);
    Ok([state, work + strips, tables])
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
    // An address that the driver does not know is an invalid value; every other error is about something else.
    const UNKNOWN_ADDRESS: u32 = 1;
    for address in [tensor.address(), last] {
        let found = context.run("looking at an address", || {
            Ok((api::is_device_memory(address), api::device_of_pointer(address)))
        })?;
        match found {
            (Ok(true), Ok(ordinal)) if ordinal == context.ordinal() => {
                // Memory of the driver's pools belongs to no context.
                let of = context.run("looking at an address", || Ok(api::context_of_pointer(address)))?;
                if of.is_ok_and(|of| !of.is_null() && of != context.raw()) {
                    return refuse("lies in memory of another context of the card".into());
                }
            }
            (Ok(true), Ok(ordinal)) => {
                return refuse(format!("lies on card {ordinal}, and steps run on {}", context.device()));
            }
            (Err(fault), _) | (_, Err(fault)) if fault.code != UNKNOWN_ADDRESS => {
                return Err(context.error("looking at an address", fault));
            }
            _ => return refuse(format!("is no device memory at address {address:#x}")),
        }
    }
    Ok(())
}
