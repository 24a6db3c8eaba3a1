//! Whole steps on the parameters of models: Muon on their matrices, AdamW on the rest.

use orthant::algorithm::{NsDtype, NsMethod};
use orthant::cuda::{self, Context, Stream};
use orthant::{Algorithm, Error};

use super::Numbers;
use super::model::{Model, Planned};
use super::newton_schulz::{counted, name, timed};
use super::shapes::{MODELS, ModelShapes};
use super::work::{Tensor, Work, WorkRow};

pub const KERNEL: &str = "muon + adamw";
/// Floating-point operations of a step that the software GPU executes; of larger ones there is the plan alone.
const EXECUTED: u64 = 4_000_000_000;

/// Number formats of the iterations: in bf16 the standard method, in f16 the one that takes less work.
pub const DTYPES: [NsDtype; 2] = [NsDtype::Bf16, NsDtype::F16];

/// Those with these names.
pub fn select(names: &[String]) -> orthant::Result<Vec<&'static ModelShapes>> {
    let find = |name: &String| {
        let legal = || MODELS.iter().map(|model| model.name).collect::<Vec<_>>().join(", ");
        let found = MODELS.iter().find(|model| model.name == name);
        found.ok_or_else(|| Error::Config(format!("--set: there is no `{name}`; legal: {}", legal())))
    };
    names.iter().map(find).collect()
}

pub fn row(model: &ModelShapes, dtype: NsDtype, context: &Context) -> orthant::Result<WorkRow> {
    let muon = Algorithm::muon().ns_dtype(dtype);
    let tensors = model.tensors();
    let planned = Planned::new(model.groups(&muon), &tensors)?;
    let work = Work {
        kernel: KERNEL,
        shape: model.name.to_owned(),
        method: name(&NsMethod::ALL, &NsMethod::Auto),
        dtype: name(&NsDtype::ALL, &dtype),
        elements: planned.elements,
        tensors: tensors.len(),
        types: ["bf16", "bf16", "f32"],
    };
    let (ideal_flops, tensor_flops) = planned.flops;
    let mut tensor = Tensor { ideal_flops, tensor_flops, ..Tensor::default() };
    let emulated = cuda::counters().is_some();
    let numbers = if emulated && tensor_flops > EXECUTED {
        tensor.planned = true;
        let bytes = planned.plan.step_bytes(&super::model::options());
        Numbers {
            bytes_per_element: bytes as f64 / planned.elements as f64,
            launches: Some(planned.launches),
            ..Numbers::default()
        }
    } else {
        context.make_current()?;
        let stream = Stream::new(context)?;
        let new = || Model::new(model.groups(&muon), &tensors, context, &stream);
        if emulated {
            counted(new()?, &mut tensor, &stream)?
        } else {
            timed(&new, &planned, context, &stream, None)?.0
        }
    };
    Ok(WorkRow { work, numbers: Ok((numbers, tensor)) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::shapes::TINY;

    #[test]
    fn a_small_model_executes_what_is_planned() {
        let _turn = crate::cli::bench::turn();
        let context = Context::open("emulated".parse().expect("a device")).expect("the software GPU");
        for dtype in DTYPES {
            let planned = Planned::new(TINY.groups(&Algorithm::muon().ns_dtype(dtype)), &TINY.tensors())
                .expect("legal");
            let (numbers, tensor) = row(&TINY, dtype, &context).expect("a row").numbers.expect("counted");
            assert_eq!((tensor.ideal_flops, tensor.tensor_flops), planned.flops);
            assert!(!tensor.planned && tensor.bank_conflicts.is_some());
            assert_eq!(numbers.launches, Some(planned.launches));
        }
    }

    #[test]
    fn large_models_are_planned_alone() {
        let _turn = crate::cli::bench::turn();
        let context = Context::open("emulated".parse().expect("a device")).expect("the software GPU");
        for model in MODELS.iter().filter(|model| model.name != "cnn-126") {
            let (numbers, tensor) =
                row(model, NsDtype::F16, &context).expect("a row").numbers.expect("planned");
            assert!(
                tensor.planned
                    && tensor.bank_conflicts.is_none()
                    && numbers.instructions_per_element.is_none()
            );
            assert!(
                tensor.tensor_flops > tensor.ideal_flops
                    && tensor.tensor_flops as f64 <= 1.02 * tensor.ideal_flops as f64
            );
        }
    }
}
