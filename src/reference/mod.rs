//! The CPU backend: the executable specification of every method, generic over f32 and f64.
//!
//! Clear before fast. f64 is the oracle of every parity test; f32 is what runs where there is no GPU. Read
//! [`naive`] first: it is the whole method in plain loops, and it checks the rest.
//!
//! Results do not depend on the number of threads: reductions have a fixed order ([`reduce`]) and every element's
//! sum in a product runs over k in an order that depends on the shape only ([`product`]).

pub mod compact;
pub mod lmo;
pub mod naive;
pub mod newton_schulz;
pub mod product;
pub mod real;
pub mod reduce;
pub mod rounding;
pub mod rules;
pub(crate) mod streams;
pub(crate) mod sweep;

use rayon::prelude::*;

use crate::algorithm::{Lmo, Norm, Order, Rule, Slot};
use crate::error::Result;
use crate::group::{Group, Hyperparameters, Rounding};
use crate::plan::{MatrixView, PlannedParameter};
use crate::tensor::{Storage, Tensor, with_elements};
use newton_schulz::{Orthogonaliser, Outcome};
use real::Real;
use reduce::Scaled;
use rounding::DitherKey;
use rules::{AdamWStep, Apply};
use streams::{Slice, SliceMut};
use sweep::{Buffers, Op, Pass, sweep};

/// State of one parameter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct State {
    /// Steps applied so far.
    pub step: u64,
    /// Buffers in the plan's order.
    pub slots: Vec<(Slot, Storage)>,
}

/// One parameter's part of a step.
pub(crate) struct Work<'a> {
    pub planned: &'a PlannedParameter,
    pub group: &'a Group,
    /// Of the trust-region family only.
    pub method: Option<&'a Orthogonaliser>,
    pub hyper: Hyperparameters,
    pub parameter: &'a Tensor,
    pub gradient: &'a Tensor,
    pub previous: Option<&'a Tensor>,
    pub state: &'a mut State,
    /// Where the squares of what it moves by go, by chunks of its matrices, where they are asked for.
    pub moved: Option<&'a mut [f64]>,
    /// Where the inner product of what is orthogonalised with its direction goes, where it is asked for.
    pub dual: Option<&'a mut f64>,
}

/// First non-finite element, size and norm of a gradient.
pub(crate) struct Scan {
    /// Largest absolute value; meaningless where there is a non-finite one.
    pub largest: f64,
    /// Row-major index and value.
    pub non_finite: Option<(usize, f64)>,
    /// Sums of squares of the matrices, in the specified order.
    pub squares: Vec<Scaled>,
}

/// Looks at a gradient without changing anything.
pub(crate) fn scan<T: Real>(planned: &PlannedParameter, gradient: &Tensor, with_norm: bool) -> Scan {
    let values = load::<T>(gradient);
    let non_finite = values.iter().position(|g| !g.is_finite()).map(|i| (i, values[i].to_f64()));
    let largest = values.iter().fold(T::zero(), |most, g| most.max(g.abs())).to_f64();
    let matrices = planned.matrices.iter().filter(|_| with_norm);
    let squares =
        matrices.map(|m| reduce::flat_squares(&values[m.offset..m.offset + m.rows * m.columns])).collect();
    Scan { largest, non_finite, squares }
}

/// `sum = sum + scale * addend`, or `scale * addend` for the `first` of a batch: two roundings to the working type, and one
/// to the sum's.
pub(crate) fn accumulate<T: Real>(sum: &Tensor, addend: &Tensor, scale: f64, first: bool) -> Result<()> {
    let scale = T::of(scale);
    let (mut values, addends) = (load::<T>(sum), load::<T>(addend));
    for (value, addend) in values.iter_mut().zip(addends) {
        let scaled = scale * addend;
        *value = if first { scaled } else { *value + scaled };
    }
    let mut rounded = Storage::zeros(sum.dtype(), values.len());
    with_elements!(Storage, &mut rounded, out => {
        out.iter_mut().zip(values).for_each(|(out, value)| *out = value.put());
    });
    sum.assign(&rounded)
}

fn load<T: Real>(tensor: &Tensor) -> Vec<T> {
    let guard = tensor.read();
    with_elements!(Storage, &*guard, values => {
        if tensor.is_contiguous() {
            values[tensor.offset()..tensor.offset() + tensor.numel()].iter().map(|v| T::get(*v)).collect()
        } else {
            tensor.indices().map(|i| T::get(values[i])).collect()
        }
    })
}

/// Applies one step to every parameter given, with gradients times `scale`: clipping, and the loss scale divided out.
/// Nothing here can fail; everything was checked before. Returns how many orthogonalisations fell back to the safe
/// iteration.
pub(crate) fn step<T: Real>(works: Vec<Work<'_>>, scale: f64, seed: u64) -> usize {
    let (elementwise, mut matrix): (Vec<_>, Vec<_>) =
        works.into_iter().partition(|w| w.group.algorithm.is_elementwise());
    // Directions are found side by side and touch no parameter. Parameters are then updated one after the other, in
    // parallel inside: a task that waited for another while holding a buffer's lock could be handed a third that
    // wants the same lock.
    let found: Vec<(Storage, usize)> =
        matrix.par_iter_mut().map(|work| find_direction::<T>(work, scale, seed)).collect();
    let mut fallbacks = 0;
    for (work, (direction, fell_back)) in matrix.into_iter().zip(found) {
        apply_direction::<T>(work, &direction, seed);
        fallbacks += fell_back;
    }
    for work in elementwise {
        elementwise_step::<T>(work, scale, seed);
    }
    fallbacks
}

/// The one factor on gradients, rounded once.
fn factor<T: Real>(group: &Group, scale: f64) -> T {
    T::of(if group.maximize { -scale } else { scale })
}

/// The buffers of a matrix (or any range) of a parameter.
fn state_streams<'a>(
    slots: &'a mut [(Slot, Storage)],
    range: &std::ops::Range<usize>,
    wanted: impl Fn(Slot) -> bool,
) -> Vec<(Slot, SliceMut<'a>)> {
    slots
        .iter_mut()
        .filter(|(slot, _)| wanted(*slot))
        .map(|(slot, storage)| (*slot, SliceMut::of(storage, range.start, range.len())))
        .collect()
}

/// Runs `body` on the parameter's storage as a row-major run of elements: in place where it is one, else on a copy
/// that is written back.
fn with_row_major(parameter: &Tensor, body: impl FnOnce(&mut Storage, usize)) {
    if parameter.is_contiguous() {
        body(&mut parameter.write(), parameter.offset());
        return;
    }
    let mut copy = parameter.to_storage();
    body(&mut copy, 0);
    // Type and length are those of the tensor itself.
    let _ = parameter.assign(&copy);
}

fn row_major_gradient(gradient: &Tensor, body: impl FnOnce(&Storage, usize)) {
    if gradient.is_contiguous() {
        body(&gradient.read(), gradient.offset());
    } else {
        body(&gradient.to_storage(), 0);
    }
}

fn elementwise_step<T: Real>(work: Work<'_>, scale: f64, seed: u64) {
    let Work { planned, group, hyper, parameter, gradient, previous, state, mut moved, .. } = work;
    let first = state.step == 0;
    state.step += 1;
    let stochastic = dither_key(group, planned, state.step, seed);
    let previous_copy = previous.map(Tensor::to_storage);
    let (step, slots) = (state.step, &mut state.slots);
    row_major_gradient(gradient, |gradient, gradient_at| {
        with_row_major(parameter, |visible, visible_at| {
            for matrix in &planned.matrices {
                let range = matrix.offset..matrix.offset + matrix.rows * matrix.columns;
                let op = match group.algorithm.rule() {
                    Rule::Lmo(lmo) => {
                        Op::SignStep { estimator: &lmo.estimator, first, apply: scalars(lmo, hyper, *matrix) }
                    }
                    rule => {
                        let adamw = match rule {
                            Rule::AdamW(a) => Some(AdamWStep::new(a, hyper.lr, hyper.weight_decay, step)),
                            _ => None,
                        };
                        Op::Beside { rule, lr: hyper.lr, weight_decay: hyper.weight_decay, step, adamw }
                    }
                };
                let pass = Pass { op, factor: factor(group, scale), stochastic, index: range.start };
                let len = range.len();
                let buffers = Buffers {
                    visible: Some(SliceMut::of(visible, visible_at + range.start, len)),
                    state: state_streams(slots, &range, |_| true),
                    gradient: Slice::of(gradient, gradient_at + range.start, len),
                    previous: previous_copy.as_ref().map(|p| Slice::of(p, range.start, len)),
                    out: None,
                    moved: chunks_of(&mut moved, len),
                };
                sweep::<T>(&pass, buffers, len);
            }
        });
    });
}

fn scalars<T: Real>(lmo: &Lmo, hyper: Hyperparameters, matrix: MatrixView) -> Apply<T> {
    let scale = lmo.scale.factor(lmo.norm, matrix.rows, matrix.columns);
    Apply::new(lmo.constraint, hyper.lr, hyper.weight_decay, scale, &lmo.estimator)
}

/// The update direction of a rule that needs whole matrices, and how many orthogonalisations fell back; momentum
/// advances.
fn find_direction<T: Real>(work: &mut Work<'_>, scale: f64, seed: u64) -> (Storage, usize) {
    let (planned, group, state) = (work.planned, work.group, &mut *work.state);
    let first = state.step == 0;
    state.step += 1;
    let mut direction: Vec<T> = load(work.gradient);
    let (Rule::Lmo(lmo), Some(method)) = (group.algorithm.rule(), work.method) else {
        // Rules beside the family are elementwise and do not come here.
        return (T::wrap(direction), 0);
    };
    debug_assert_ne!(lmo.norm, Norm::Sign);
    let previous = work.previous.map(Tensor::to_storage);
    let factor: T = factor(group, scale);
    let mut estimate = |direction: &mut Vec<T>, factor: T| {
        let len = direction.len();
        let gradient = T::wrap(direction.clone());
        let op = Op::Estimate { estimator: &lmo.estimator, first };
        let stochastic = dither_key(group, planned, state.step, seed);
        let pass = Pass { op, factor, stochastic, index: 0 };
        let buffers = Buffers {
            visible: None,
            state: state_streams(&mut state.slots, &(0..len), |slot| slot == Slot::Momentum),
            gradient: Slice::of(&gradient, 0, len),
            previous: previous.as_ref().map(|p| Slice::of(p, 0, len)),
            out: Some(direction.as_mut_slice()),
            moved: None,
        };
        sweep(&pass, buffers, len);
    };
    let oracle = |direction: &mut Vec<T>| -> usize {
        let mut rest = direction.as_mut_slice();
        let mut parts = Vec::with_capacity(planned.matrices.len());
        for m in &planned.matrices {
            // The matrices follow one another without gaps.
            let (part, tail) = rest.split_at_mut(m.rows * m.columns);
            parts.push((*m, part));
            rest = tail;
        }
        let fell_back = |(m, part)| usize::from(lmo::direction(lmo, method, m, part) == Outcome::FellBack);
        parts.into_par_iter().map(fell_back).sum()
    };
    let measures = work.dual.is_some() && lmo.norm.is_spectral();
    let mut dual = |direction: &mut Vec<T>| {
        let before = if measures { direction.clone() } else { vec![] };
        let fallbacks = oracle(direction);
        let products = before.iter().zip(direction.iter()).map(|(m, u)| (*m).to_f64() * (*u).to_f64());
        if let Some(dual) = &mut work.dual {
            **dual = products.sum();
        }
        fallbacks
    };
    let fallbacks = match lmo.order {
        Order::EstimateFirst => {
            estimate(&mut direction, factor);
            dual(&mut direction)
        }
        Order::LmoFirst => {
            direction.iter_mut().for_each(|g| *g *= factor);
            let fallbacks = dual(&mut direction);
            estimate(&mut direction, T::one());
            fallbacks
        }
    };
    (T::wrap(direction), fallbacks)
}

fn apply_direction<T: Real>(work: Work<'_>, direction: &Storage, seed: u64) {
    let Work { planned, group, hyper, parameter, state, mut moved, .. } = work;
    let Rule::Lmo(lmo) = group.algorithm.rule() else { return };
    let stochastic = dither_key(group, planned, state.step, seed);
    with_row_major(parameter, |visible, visible_at| {
        for matrix in &planned.matrices {
            let range = matrix.offset..matrix.offset + matrix.rows * matrix.columns;
            let op = Op::Apply(scalars(lmo, hyper, *matrix));
            let pass = Pass { op, factor: T::one(), stochastic, index: range.start };
            let full = |slot| matches!(slot, Slot::Point | Slot::Master | Slot::Low);
            let buffers = Buffers {
                visible: Some(SliceMut::of(visible, visible_at + range.start, range.len())),
                state: state_streams(&mut state.slots, &range, full),
                gradient: Slice::of(direction, range.start, range.len()),
                previous: None,
                out: None,
                moved: chunks_of(&mut moved, range.len()),
            };
            sweep(&pass, buffers, range.len());
        }
    });
}

/// The places of a matrix of so many elements, which come next.
fn chunks_of<'a>(moved: &mut Option<&'a mut [f64]>, len: usize) -> Option<&'a mut [f64]> {
    moved.as_mut().and_then(|moved| moved.split_off_mut(..len.div_ceil(sweep::CHUNK)))
}

/// Chunks of a parameter, whose movements are added up together.
pub(crate) fn chunks(planned: &PlannedParameter) -> usize {
    planned.matrices.iter().map(|m| (m.rows * m.columns).div_ceil(sweep::CHUNK)).sum()
}

/// What stochastic rounding is keyed by, where the group asks for it.
fn dither_key<'a>(
    group: &Group,
    planned: &'a PlannedParameter,
    step: u64,
    seed: u64,
) -> Option<DitherKey<'a>> {
    let parameter = planned.spec.name.as_str();
    (group.rounding == Rounding::Stochastic).then_some(DitherKey { parameter, step, seed })
}
