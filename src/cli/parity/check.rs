//! One case: the device's bits beside the CPU's, and its distance from the f64 reference.

use orthant::algorithm::Slot;
use orthant::plan::MatrixView;
use orthant::{Dtype, Plan, StepReport};

use super::bounded::Bounded;
use super::cases::Case;
use super::oracle::{Element, Step};
use super::sets::{Host, Snapshot};
use crate::cli::noise::Noise;

/// Micro-batches of a step, and the factor on each.
const MICRO_BATCHES: usize = 3;
const SCALE: f64 = 0.3;

/// What a case came to.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Elements whose bits are not the CPU's, and reports that differ; `None` on the CPU itself.
    pub differing: Option<u64>,
    /// The largest distance from the f64 reference, in parts of what rounding can do.
    pub error: f64,
    /// The largest distance of a parameter, relative to the largest element of its tensor.
    pub relative: f64,
    /// Numbers that were held to the f64 reference.
    pub compared: u64,
    /// Elements that were not, because rounding decides a sign or whether a denominator is zero.
    pub undecided: u64,
}

/// The side that is tested.
enum Tested {
    Cpu,
    #[cfg(feature = "cuda")]
    Card(Box<super::sets::Card>),
}

/// Where cases run.
pub enum Place {
    Cpu,
    #[cfg(feature = "cuda")]
    Card(orthant::cuda::Context),
}

pub fn run(case: &Case, place: &Place, seed: u64) -> orthant::Result<Outcome> {
    let config = case.config(seed)?;
    let mut noise = Noise(seed ^ case.elements() as u64);
    let mut host = Host::new(case, &config, &mut noise)?;
    let mut tested = match place {
        Place::Cpu => Tested::Cpu,
        #[cfg(feature = "cuda")]
        Place::Card(context) => {
            Tested::Card(Box::new(super::sets::Card::new(case, &config, context, &host)?))
        }
    };
    let mut outcome = Outcome { differing: tested.is_card().then_some(0), ..Outcome::default() };
    let mut before = tested.snapshot(&host)?;
    for step in 1..=case.steps {
        let bad = [f64::NAN, 3e38].get(step.wrapping_sub(2) as usize).filter(|_| case.refused);
        host.renew(&mut noise, bad.copied())?;
        if case.micro.is_some() {
            accumulate(&mut host, &mut tested, &mut noise, &mut outcome)?;
        }
        let expected = host.optimizer.step()?;
        let found = tested.step(&host)?;
        let after = tested.snapshot(&host)?;
        if let Some(differing) = &mut outcome.differing {
            *differing += host.snapshot()?.differing(&after);
            // As text, in which a norm that is NaN equals another.
            let differs = |found: StepReport| format!("{found:?}") != format!("{expected:?}");
            *differing += u64::from(found.is_some_and(differs));
        }
        if expected.applied {
            let factor = factor(case, &config.options, &host, &expected, &mut outcome);
            hold_to_reference(case, host.optimizer.plan(), &host, factor, (&before, &after), &mut outcome);
        }
        before = after;
    }
    Ok(outcome)
}

impl Tested {
    fn is_card(&self) -> bool {
        !matches!(self, Self::Cpu)
    }

    fn snapshot(&self, host: &Host) -> orthant::Result<Snapshot> {
        match self {
            Self::Cpu => host.snapshot(),
            #[cfg(feature = "cuda")]
            Self::Card(card) => card.snapshot(),
        }
    }

    #[cfg_attr(not(feature = "cuda"), expect(unused_variables))]
    fn step(&mut self, host: &Host) -> orthant::Result<Option<StepReport>> {
        match self {
            Self::Cpu => Ok(None),
            #[cfg(feature = "cuda")]
            Self::Card(card) => card.step(host).map(Some),
        }
    }
}

/// Micro-batches on both sides, each held to the CPU's bits and to the f64 sum of what there was.
fn accumulate(
    host: &mut Host,
    tested: &mut Tested,
    noise: &mut Noise,
    outcome: &mut Outcome,
) -> orthant::Result<()> {
    for batch in 0..MICRO_BATCHES {
        host.renew_micro(noise)?;
        let before: Vec<Vec<f64>> = host.grads.iter().map(orthant::Tensor::to_vec_f64).collect();
        host.optimizer.accumulate(SCALE, batch == 0)?;
        let expected: Vec<Vec<f64>> = host.grads.iter().map(orthant::Tensor::to_vec_f64).collect();
        let found = match tested {
            Tested::Cpu => expected.clone(),
            #[cfg(feature = "cuda")]
            Tested::Card(card) => {
                card.accumulate(host, SCALE, batch == 0)?;
                let (found, damaged) = card.grads()?;
                if let Some(differing) = &mut outcome.differing {
                    let unequal = |(a, b): (&Vec<f64>, &Vec<f64>)| {
                        a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count()
                    };
                    *differing += (expected.iter().zip(&found).map(unequal).sum::<usize>() + damaged) as u64;
                }
                found
            }
        };
        for (i, found) in found.iter().enumerate() {
            let addends = host.micro[i].to_vec_f64();
            for (j, found) in found.iter().enumerate() {
                let mut sum = Bounded::scalar(SCALE).times(Bounded::exact(addends[j]));
                if batch > 0 {
                    sum = Bounded::exact(before[i][j]).plus(sum);
                }
                outcome.hold(sum.stored(host.grads[i].dtype(), false), *found);
            }
        }
    }
    Ok(())
}

/// What gradients are multiplied with. The norm is f64 in another order than the CPU's, which must not show.
fn factor(
    case: &Case,
    options: &orthant::StepOptions,
    host: &Host,
    report: &StepReport,
    outcome: &mut Outcome,
) -> f64 {
    let mut clip = 1.0;
    if let Some(max) = options.max_grad_norm {
        let (mut squares, mut count) = (0.0, 0);
        for grad in &host.grads {
            squares += grad.to_vec_f64().iter().map(|g| g * g).sum::<f64>();
            count += grad.numel();
        }
        let norm = squares.sqrt() / options.loss_scale;
        let sum_error = norm * (count + 4) as f64 * f64::EPSILON;
        outcome.hold(Bounded { value: norm, error: sum_error }, report.grad_norm.unwrap_or(f64::NAN));
        clip = (max / (norm + 1e-6)).min(1.0);
    }
    let sign = if case.rule.maximizes() { -1.0 } else { 1.0 };
    sign * clip / options.loss_scale
}

impl Outcome {
    fn hold(&mut self, expected: Bounded, found: f64) {
        self.compared += 1;
        self.error = self.error.max(expected.miss(found));
    }
}

fn hold_to_reference(
    case: &Case,
    plan: &Plan,
    host: &Host,
    factor: f64,
    (before, after): (&Snapshot, &Snapshot),
    outcome: &mut Outcome,
) {
    for (i, planned) in plan.parameters.iter().enumerate() {
        let (old, new) = (iterate(before, i), iterate(after, i));
        let largest = old.iter().chain(&new).fold(f64::MIN_POSITIVE, |most, x| most.max(x.abs()));
        let type_of = |slot: Slot| planned.slots.iter().find(|(s, _)| *s == slot).map(|(_, dtype)| *dtype);
        let copied = [Slot::Point, Slot::Master, Slot::Low].into_iter().any(|slot| type_of(slot).is_some());
        for matrix in &planned.matrices {
            let range = matrix.offset..matrix.offset + matrix.rows * matrix.columns;
            for (k, e) in range.zip(reference(plan, host, factor, before, i, *matrix)) {
                for (slot, expected) in
                    [(Slot::Momentum, e.m), (Slot::Variance, e.v), (Slot::VarianceMax, e.largest)]
                {
                    if let (Some(dtype), Some(found)) = (type_of(slot), after.slot(i, slot)) {
                        outcome.hold(expected.stored(dtype, case.kept.stochastic), found[k]);
                    }
                }
                if e.undecided {
                    outcome.undecided += 1;
                    continue;
                }
                if copied {
                    outcome.hold(e.x.stored(Dtype::F32, false), new[k]);
                }
                let shown = if type_of(Slot::Point).is_some() { e.y } else { e.x };
                let shown = shown.stored(case.param, case.kept.stochastic && !copied);
                let found = after.visible[i][k];
                outcome.hold(shown, found);
                outcome.relative = outcome.relative.max((found - shown.value).abs() / largest);
            }
        }
    }
}

/// A matrix of a parameter after one step of the f64 reference.
fn reference(
    plan: &Plan,
    host: &Host,
    factor: f64,
    before: &Snapshot,
    parameter: usize,
    matrix: MatrixView,
) -> Vec<Element> {
    let group = plan.group_of(&plan.parameters[parameter]);
    let old = iterate(before, parameter);
    let grads = host.grads[parameter].to_vec_f64();
    let previous = host.previous.get(parameter).map(orthant::Tensor::to_vec_f64);
    let get = |values: Option<&[f64]>, k: usize| Bounded::exact(values.map_or(0.0, |v| v[k]));
    let element = |k: usize| Element {
        x: Bounded::exact(old[k]),
        g: Bounded::exact(grads[k]),
        previous: get(previous.as_deref(), k),
        m: get(before.slot(parameter, Slot::Momentum), k),
        v: get(before.slot(parameter, Slot::Variance), k),
        largest: get(before.slot(parameter, Slot::VarianceMax), k),
        ..Element::default()
    };
    let range = matrix.offset..matrix.offset + matrix.rows * matrix.columns;
    let mut elements: Vec<Element> = range.map(element).collect();
    let step = Step {
        rule: group.algorithm().rule(),
        lr: group.learning_rate().unwrap_or_default(),
        weight_decay: group.decay(),
        factor,
        t: before.steps[parameter] + 1,
        rows: matrix.rows,
        columns: matrix.columns,
    };
    step.run(&mut elements);
    elements
}

/// The iterate, as exactly as it is kept.
fn iterate(of: &Snapshot, parameter: usize) -> Vec<f64> {
    let visible = &of.visible[parameter];
    if let Some(full) = of.slot(parameter, Slot::Point).or(of.slot(parameter, Slot::Master)) {
        return full.to_vec();
    }
    let Some(low) = of.slot(parameter, Slot::Low) else { return visible.clone() };
    // bf16 is the upper half of f32, and the word counts from there.
    let join = |(high, low): (&f64, &f64)| {
        let word = (*low as i16 as i32) as u32;
        f64::from(f32::from_bits((*high as f32).to_bits().wrapping_add(word)))
    };
    visible.iter().zip(low).map(join).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::parity::cases;

    /// The values that bounds are put around are those of the library's f64 steps, to f64's own rounding.
    #[test]
    fn the_reference_is_the_cpu_in_f64() {
        for mut case in cases::all(3000) {
            if case.kept != cases::Kept::default() || case.micro.is_some() || case.refused {
                continue;
            }
            (case.param, case.grad) = (Dtype::F64, Dtype::F64);
            let config = case.config(1).expect("legal");
            let mut noise = Noise(case.elements() as u64);
            let mut host = Host::new(&case, &config, &mut noise).expect("legal");
            let mut compared = 0;
            for _ in 0..3 {
                host.renew(&mut noise, None).expect("it fits");
                let before = host.snapshot().expect("on the host");
                let report = host.optimizer.step().expect("finite");
                let after = host.snapshot().expect("on the host");
                let factor = factor(&case, &config.options, &host, &report, &mut Outcome::default());
                let plan = host.optimizer.plan();
                for (i, planned) in plan.parameters.iter().enumerate() {
                    let (old, new) = (iterate(&before, i), iterate(&after, i));
                    for matrix in &planned.matrices {
                        let elements = reference(plan, &host, factor, &before, i, *matrix);
                        for (k, e) in (matrix.offset..).zip(&elements).filter(|(_, e)| !e.undecided) {
                            let near = |what: &str, value: f64, found: f64, scale: f64| {
                                let off = (value - found).abs();
                                assert!(
                                    off <= 1e-12 * scale.abs().max(value.abs()) + 1e-300,
                                    "{}: {what} of p{i}[{k}]: {value}, {found}",
                                    case.name()
                                );
                            };
                            near("x", e.x.value, new[k], old[k].abs().max(0.01));
                            if let Some(m) = after.slot(i, Slot::Momentum) {
                                near("m", e.m.value, m[k], 1.0);
                            }
                            if let Some(v) = after.slot(i, Slot::Variance) {
                                near("v", e.v.value, v[k], v[k]);
                            }
                            if planned.slots.iter().any(|(slot, _)| *slot == Slot::Point) {
                                near("y", e.y.value, after.visible[i][k], old[k].abs().max(1.0));
                            }
                            compared += 1;
                        }
                    }
                }
            }
            assert!(compared > 100, "{}", case.name());
        }
    }
}
