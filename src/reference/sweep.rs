//! One pass over the elements of a parameter: load a block of every buffer into the working type, run the rule,
//! store. Blocks are small enough for the first-level cache and tasks large enough for threads; neither size can be
//! seen in the result.

use rayon::prelude::*;

use super::real::Real;
use super::reduce;
use super::rounding::{Dither, DitherKey};
use super::rules::{self, AdamWStep, Apply};
use super::streams::{Slice, SliceMut};
use crate::algorithm::{Estimator, Rule, Slot};
use crate::tensor::Element;

const BLOCK: usize = 512;
const TASK: usize = 64 * BLOCK;
/// Elements whose movements are added up together. A task begins with one.
pub const CHUNK: usize = 2 * BLOCK;
/// Elements of a row of a chunk, and lanes that they belong to.
const ROW: usize = 256;
const LANES: usize = 32;

/// What is done with each block.
pub enum Op<'a, T> {
    /// `g` (scaled) through the estimator; the result goes to `out`.
    Estimate { estimator: &'a Estimator, first: bool },
    /// `g` is the direction already: `x = keep x - eta u`.
    Apply(Apply<T>),
    /// Both, with the sign between them: the l_inf family in one pass.
    SignStep { estimator: &'a Estimator, first: bool, apply: Apply<T> },
    /// A rule that stands beside the family.
    Beside { rule: &'a Rule, lr: f64, weight_decay: f64, step: u64, adamw: Option<AdamWStep<T>> },
}

/// The buffers of one parameter (or one matrix of it), all of the same length.
pub struct Buffers<'a, T> {
    /// The parameter as the training loop sees it.
    pub visible: Option<SliceMut<'a>>,
    /// State buffers, by slot.
    pub state: Vec<(Slot, SliceMut<'a>)>,
    /// Gradient (or direction).
    pub gradient: Slice<'a>,
    /// Gradient at the previous point.
    pub previous: Option<Slice<'a>>,
    /// Where an estimate goes.
    pub out: Option<&'a mut [T]>,
    /// Where the squares of what the elements move by are added up, by chunks of [`CHUNK`].
    pub moved: Option<&'a mut [f64]>,
}

/// What every block needs to know.
pub struct Pass<'a, T> {
    /// The rule.
    pub op: Op<'a, T>,
    /// Factor on gradients: clipping, the loss scale divided out, and -1 for ascent.
    pub factor: T,
    /// When bf16 stores are rounded stochastically.
    pub stochastic: Option<DitherKey<'a>>,
    /// Position of the first element in its parameter.
    pub index: usize,
}

/// Runs `pass` over `len` elements.
pub fn sweep<T: Real>(pass: &Pass<'_, T>, mut buffers: Buffers<'_, T>, len: usize) {
    if len <= TASK {
        return run_task(pass, buffers, pass.index, len);
    }
    let mut tasks = vec![];
    let mut start = 0;
    while start < len {
        let n = TASK.min(len - start);
        let front = Buffers {
            visible: buffers.visible.as_mut().map(|s| s.take_front(n)),
            state: buffers.state.iter_mut().map(|(slot, s)| (*slot, s.take_front(n))).collect(),
            gradient: buffers.gradient.sub(start, n),
            previous: buffers.previous.map(|p| p.sub(start, n)),
            out: buffers.out.as_mut().and_then(|out| out.split_off_mut(..n)),
            moved: buffers.moved.as_mut().and_then(|moved| moved.split_off_mut(..n.div_ceil(CHUNK))),
        };
        tasks.push((pass.index + start, n, front));
        start += n;
    }
    tasks.into_par_iter().for_each(|(index, n, front)| run_task(pass, front, index, n));
}

/// Working copies of one block.
struct Block<T> {
    x: [T; BLOCK],
    y: [T; BLOCK],
    g: [T; BLOCK],
    previous: [T; BLOCK],
    before: [T; BLOCK],
    momentum: [T; BLOCK],
    variance: [T; BLOCK],
    largest: [T; BLOCK],
}

fn run_task<T: Real>(pass: &Pass<'_, T>, mut b: Buffers<'_, T>, index: usize, len: usize) {
    let zero = [T::zero(); BLOCK];
    let mut w = Block {
        x: zero,
        y: zero,
        g: zero,
        previous: zero,
        before: zero,
        momentum: zero,
        variance: zero,
        largest: zero,
    };
    let mut lanes = [T::zero(); LANES];
    let dithers: Option<[Dither; 4]> =
        pass.stochastic.map(|key| std::array::from_fn(|buffer| Dither::new(key, buffer as u32)));
    let dither = |buffer: usize| dithers.as_ref().map(|d| &d[buffer]);
    // The iterate: the extrapolated methods' point, else the master, else the parameter itself.
    let full = b.state.iter().position(|(slot, _)| matches!(slot, Slot::Point | Slot::Master));
    let low = b.state.iter().position(|(slot, _)| *slot == Slot::Low);
    let extrapolated = b.state.iter().any(|(slot, _)| *slot == Slot::Point);

    for start in (0..len).step_by(BLOCK) {
        let n = BLOCK.min(len - start);
        let at = (index + start) as u64;
        b.gradient.load(start, &mut w.g[..n]);
        if pass.factor != T::one() {
            w.g[..n].iter_mut().for_each(|g| *g *= pass.factor);
        }
        if let Some(previous) = &b.previous {
            previous.load(start, &mut w.previous[..n]);
            if pass.factor != T::one() {
                w.previous[..n].iter_mut().for_each(|g| *g *= pass.factor);
            }
        }
        match (full, low, &b.visible) {
            (Some(i), ..) => b.state[i].1.load(start, &mut w.x[..n]),
            (None, Some(i), Some(visible)) => visible.load_joined(&b.state[i].1, start, &mut w.x[..n]),
            (None, None, Some(visible)) => visible.load(start, &mut w.x[..n]),
            (None, _, None) => {}
        }
        for (slot, stream) in &b.state {
            match slot {
                Slot::Momentum => stream.load(start, &mut w.momentum[..n]),
                Slot::Variance => stream.load(start, &mut w.variance[..n]),
                Slot::VarianceMax => stream.load(start, &mut w.largest[..n]),
                Slot::Point | Slot::Master | Slot::Low => {}
            }
        }
        if b.moved.is_some() {
            w.before[..n].copy_from_slice(&w.x[..n]);
        }
        run_block(&pass.op, &mut w, n, extrapolated);
        if let Some(moved) = &mut b.moved {
            let first = start % CHUNK;
            let end = CHUNK.min(len - (start - first));
            if first == 0 {
                lanes = [T::zero(); LANES];
            }
            add_moved(&mut lanes, &w.x[..n], &w.before[..n], first, end);
            if first + n == end {
                moved[start / CHUNK] = reduce::halve(&mut lanes.map(|lane| Element::to_f64(lane)));
            }
        }
        if let Some(out) = &mut b.out {
            out[start..start + n].copy_from_slice(&w.g[..n]);
        }
        if let (Some(visible), Some(i)) = (&mut b.visible, low) {
            visible.store_split(&mut b.state[i].1, start, &w.x[..n]);
        } else if let Some(visible) = &mut b.visible {
            let shown = if extrapolated { &w.y } else { &w.x };
            // A parameter with a full-precision copy is that copy's rounding, never a random one.
            visible.store(start, &shown[..n], if full.is_none() { dither(0) } else { None }, at);
        }
        for (slot, stream) in &mut b.state {
            match slot {
                Slot::Momentum => stream.store(start, &w.momentum[..n], dither(1), at),
                Slot::Variance => stream.store(start, &w.variance[..n], dither(2), at),
                Slot::VarianceMax => stream.store(start, &w.largest[..n], dither(3), at),
                Slot::Point | Slot::Master => stream.store(start, &w.x[..n], None, at),
                // Written with the parameter.
                Slot::Low => {}
            }
        }
    }
}

/// Adds the squares of what elements from `first` on of a chunk of `len` moved by to its lanes: 8 neighbours of a row of 256
/// belong to a lane, and those behind the last whole row to one lane each, in turn.
fn add_moved<T: Real>(lanes: &mut [T; LANES], x: &[T], before: &[T], first: usize, len: usize) {
    let whole = len / ROW * ROW;
    for ((e, x), before) in (first..).zip(x).zip(before) {
        let lane = if e < whole { e % ROW / (ROW / LANES) } else { (e - whole) % LANES };
        let moved = *x - *before;
        lanes[lane] += moved * moved;
    }
}

fn run_block<T: Real>(op: &Op<'_, T>, w: &mut Block<T>, n: usize, extrapolated: bool) {
    let (x, y, g) = (&mut w.x[..n], &mut w.y[..n], &mut w.g[..n]);
    let (m, v) = (&mut w.momentum[..n], &mut w.variance[..n]);
    let previous = Some(&w.previous[..n]);
    let mut apply = |apply: &Apply<T>, u: &[T]| {
        if extrapolated { apply.step_extrapolated(x, u, y) } else { apply.step(x, u) }
    };
    match op {
        Op::Estimate { estimator, first } => rules::estimate(estimator, *first, g, previous, m),
        Op::Apply(scalars) => apply(scalars, g),
        Op::SignStep { estimator, first, apply: scalars } => {
            rules::estimate(estimator, *first, g, previous, m);
            g.iter_mut().for_each(|g| *g = rules::sign(*g));
            apply(scalars, g);
        }
        Op::Beside { rule, lr, weight_decay, step, adamw } => match rule {
            Rule::Sgd(sgd) => rules::sgd(sgd, *lr, *weight_decay, *step == 1, x, g, m),
            Rule::AdaGrad(adagrad) => rules::adagrad(adagrad, *lr, *weight_decay, *step, x, g, v),
            Rule::AdamW(rule) => {
                if let Some(scalars) = adamw {
                    scalars.run(x, g, m, v, rule.amsgrad.then_some(&mut w.largest[..n]));
                }
            }
            // The family goes through the other operations.
            Rule::Lmo(_) => {}
        },
    }
}
