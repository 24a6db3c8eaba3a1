//! The host's side of `kernels/elementwise.cu`: groups and parameters become the device table.

use bytemuck::Zeroable;
use half::bf16;
use sha2::{Digest, Sha256};

use super::table::{ABSENT, BF16, F16, F32, Group as Entry, LOW, Range, Segment, flag, rule};
use crate::algorithm::{Constraint, Estimator, Norm, Order, Rule, Slot};
use crate::device_tensor::DeviceTensor;
use crate::group::{Group, Hyperparameters, Rounding, StateDtype};
use crate::plan::PlannedParameter;
use crate::tensor::Dtype;

/// Elements of a chunk: as in the kernel.
pub(crate) const CHUNK: u64 = 1024;
/// Elements that a thread takes at once.
const GROUP: u64 = 8;

/// A buffer in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub address: u64,
    pub dtype: Dtype,
    /// Elements from one row to the next, where rows have gaps between them.
    pub row_stride: Option<usize>,
}

impl Buffer {
    /// Without gaps.
    pub fn new(address: u64, dtype: Dtype) -> Self {
        Self { address, dtype, row_stride: None }
    }

    /// A tensor's.
    pub fn of(tensor: &DeviceTensor) -> Self {
        Self { address: tensor.address(), dtype: tensor.dtype(), row_stride: tensor.row_stride() }
    }

    /// Where the row-major element `offset`, the first of a row of `columns`, is.
    pub fn place(&self, offset: usize, columns: usize) -> u64 {
        let elements = match self.row_stride {
            Some(stride) => offset / columns.max(1) * stride,
            None => offset,
        };
        self.address + (elements * self.dtype.size()) as u64
    }
}

/// The buffers of a parameter.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Buffers {
    pub parameter: Buffer,
    pub gradient: Option<Buffer>,
    pub previous: Option<Buffer>,
    pub state: Vec<(Slot, Buffer)>,
}

impl Buffers {
    pub fn slot(&self, wanted: &[Slot]) -> Option<Buffer> {
        self.state.iter().find(|(slot, _)| wanted.contains(slot)).map(|(_, buffer)| *buffer)
    }
}

/// Everything the kernels are told of tensors.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Table {
    pub segments: Vec<Segment>,
    /// The segments of each parameter.
    pub parameters: Vec<Range>,
    /// The segment of each chunk, group by group; a segment's chunks follow one another.
    pub owners: Vec<u32>,
    /// Whether steps measure what groups move by: then chunks do not depend on where buffers begin.
    pub measured: bool,
}

/// A group's entry in the control block; none if its algorithm has no kernels.
pub(crate) fn group_entry(group: &Group, hyper: Hyperparameters) -> Option<Entry> {
    let mut flags = 0;
    let mut set = |on: bool, bit: u32| flags |= if on { bit } else { 0 };
    set(group.maximize, flag::MAXIMIZE);
    set(group.rounding == Rounding::Stochastic, flag::STOCHASTIC);
    let (rule, c) = match group.algorithm.rule() {
        Rule::Lmo(lmo) => {
            match (lmo.norm, lmo.order) {
                (Norm::Sign, _) => {}
                (Norm::Frobenius, Order::EstimateFirst) => set(true, flag::NORMALISED),
                (Norm::Spectral | Norm::RmsToRms, _) => {}
                (Norm::Rows | Norm::Columns, Order::EstimateFirst) => {}
                _ => return None,
            }
            let estimator = &lmo.estimator;
            set(estimator.starts_from_gradient(), flag::STARTS_FROM_GRADIENT);
            set(lmo.constraint == Constraint::CautiousDecay, flag::CAUTIOUS);
            set(lmo.constraint == Constraint::ConvexCombination, flag::CONVEX);
            set(matches!(estimator, Estimator::Extrapolated { .. }), flag::EXTRAPOLATED);
            match *estimator {
                Estimator::None => (rule::NONE, [0.0; 4]),
                Estimator::HeavyBall { momentum, .. } => (rule::HEAVY_BALL, [momentum, 0.0, 0.0, 0.0]),
                Estimator::Ema { momentum, .. } => (rule::EMA, [momentum, 0.0, 0.0, 0.0]),
                Estimator::Nesterov { momentum, .. } => (rule::NESTEROV, [momentum, 0.0, 0.0, 0.0]),
                Estimator::Lion { betas: [a, b] } => (rule::LION, [a, b, 0.0, 0.0]),
                // An EMA that weights the new gradient with alpha.
                Estimator::Extrapolated { alpha } => (rule::EMA, [alpha, 0.0, 0.0, 0.0]),
                Estimator::Mvr { alpha } => (rule::MVR, [alpha, 0.0, 0.0, 0.0]),
            }
        }
        Rule::Sgd(sgd) => {
            set(sgd.nesterov, flag::SGD_NESTEROV);
            (rule::SGD, [sgd.momentum, sgd.dampening, 0.0, 0.0])
        }
        Rule::AdamW(adamw) => {
            set(adamw.amsgrad, flag::AMSGRAD);
            (rule::ADAMW, [adamw.betas[0], adamw.betas[1], adamw.eps, 0.0])
        }
        Rule::AdaGrad(adagrad) => (rule::ADAGRAD, [0.0, 0.0, adagrad.eps, adagrad.lr_decay]),
    };
    // No decay is no constraint, whatever weight decay says.
    let decays = !matches!(group.algorithm.rule(), Rule::Lmo(lmo) if lmo.constraint == Constraint::None);
    let weight_decay = if decays { hyper.weight_decay } else { 0.0 };
    let narrow = group.state_dtype == StateDtype::Bf16;
    let max = if narrow { bf16::MAX.to_f64() } else { f32::MAX.into() };
    // AdaGrad's limit depends on the sums so far: the kernel takes the root of what they leave.
    let limit = if rule == rule::ADAGRAD { max } else { group.algorithm.gradient_limit(max) };
    Some(Entry { lr: hyper.lr, weight_decay, c, rule, flags, limit })
}

impl Table {
    /// Adds a parameter: a segment for each of its matrices, or for each row of them where a buffer has gaps.
    pub fn push(&mut self, planned: &PlannedParameter, group: &Group, buffers: &Buffers, seed: u64) {
        let first = self.segments.len() as u32;
        let parameter = self.parameters.len() as u32;
        let strided = [Some(buffers.parameter), buffers.gradient, buffers.previous];
        let strided = strided.into_iter().flatten().any(|buffer| buffer.row_stride.is_some());
        let key = key(&planned.spec.name, seed);
        for matrix in &planned.matrices {
            let scale = match group.algorithm.rule() {
                Rule::Lmo(lmo) => lmo.scale.factor(lmo.norm, matrix.rows, matrix.columns),
                _ => 1.0,
            };
            let (rows, numel) =
                if strided { (matrix.rows, matrix.columns) } else { (1, matrix.rows * matrix.columns) };
            for row in 0..rows {
                let offset = matrix.offset + row * matrix.columns;
                let at = |buffer: Option<Buffer>| match buffer {
                    Some(b) => (b.place(offset, matrix.columns), code(b.dtype), b.dtype.size() as u64),
                    None => (0, ABSENT, 1),
                };
                let low = buffers.slot(&[Slot::Low]);
                let all = [
                    at(Some(buffers.parameter)),
                    at(buffers.gradient),
                    at(buffers.previous),
                    at(buffers.slot(&[Slot::Point, Slot::Master]).or(low)),
                    at(buffers.slot(&[Slot::Momentum])),
                    at(buffers.slot(&[Slot::Variance])),
                    at(buffers.slot(&[Slot::VarianceMax])),
                ];
                let shift = boundary(&all).filter(|&shift| shift == 0 || !self.measured);
                let wide = all.iter().any(|(_, code, _)| *code == F32);
                self.segments.push(Segment {
                    visible: all[0].0,
                    gradient: all[1].0,
                    previous: all[2].0,
                    full: all[3].0,
                    momentum: all[4].0,
                    variance: all[5].0,
                    largest: all[6].0,
                    numel: numel as u64,
                    index: offset as u64,
                    scale,
                    parameter,
                    group: planned.group as u32,
                    key,
                    type_visible: all[0].1,
                    type_gradient: all[1].1,
                    type_previous: all[2].1,
                    type_full: if low.is_some() { LOW } else { all[3].1 },
                    type_momentum: all[4].1,
                    type_variance: all[5].1,
                    shift: shift.unwrap_or(0) as u8,
                    aligned: shift.is_some().into(),
                    plain: (!wide && all[2].0 == 0 && all[3].0 == 0).into(),
                    pad: [0; 3],
                    first_chunk: 0,
                    chunks: chunks_of(numel as u64, shift),
                    more: [0; 3],
                });
            }
        }
        if planned.matrices.is_empty() {
            // It has no elements, and its steps count all the same. Nothing is read there.
            let gradient = buffers.gradient.map_or(0, |_| 16);
            self.segments.push(Segment {
                gradient,
                parameter,
                group: planned.group as u32,
                ..Segment::zeroed()
            });
        }
        self.parameters.push(Range { first, count: self.segments.len() as u32 - first });
    }

    /// Lists the chunks of all segments, group by group, and says which are whose. Those of groups that go through other
    /// kernels come last.
    pub fn list_chunks(&mut self, groups: usize, is_elementwise: impl Fn(usize) -> bool) -> Vec<Range> {
        let mut order: Vec<usize> = (0..self.segments.len()).collect();
        order.sort_by_key(|&i| {
            let group = self.segments[i].group;
            (!is_elementwise(group as usize), group)
        });
        for &i in &order {
            let segment = &mut self.segments[i];
            segment.first_chunk = self.owners.len() as u32;
            self.owners.extend(std::iter::repeat_n(i as u32, segment.chunks as usize));
        }
        let group_of = |&segment: &u32| self.segments[segment as usize].group;
        ranges(self.owners.iter().map(group_of).filter(|&group| is_elementwise(group as usize)), groups)
    }
}

/// The ranges of `0..groups` in a sorted list.
pub(crate) fn ranges(sorted: impl Iterator<Item = u32>, groups: usize) -> Vec<Range> {
    let mut out = vec![Range { first: 0, count: 0 }; groups];
    for group in sorted {
        out[group as usize].count += 1;
    }
    let mut first = 0;
    for range in &mut out {
        range.first = first;
        first += range.count;
    }
    out
}

/// The number of chunks of so many elements, the first of which lies `shift` elements before a boundary.
pub(crate) fn chunks_of(numel: u64, shift: Option<u64>) -> u32 {
    let before = (GROUP - shift.unwrap_or(0)) % GROUP;
    if numel == 0 { 0 } else { (numel + before).div_ceil(CHUNK) as u32 }
}

/// The element, of the first 8, at which every buffer has a 16-byte boundary. Buffers are (address, type, element's bytes).
pub(crate) fn boundary(buffers: &[(u64, u8, u64)]) -> Option<u64> {
    let meets = |shift: &u64| {
        let there = buffers.iter().filter(|(address, ..)| *address != 0);
        there.into_iter().all(|(address, _, size)| (address + shift * size).is_multiple_of(16))
    };
    (0..GROUP).find(meets)
}

pub(crate) fn code(dtype: Dtype) -> u8 {
    match dtype {
        Dtype::F32 => F32,
        Dtype::Bf16 => BF16,
        Dtype::F16 => F16,
        // The planner keeps f64 on the CPU.
        Dtype::F64 => ABSENT,
    }
}

/// The key of a parameter's random bits, as `reference::rounding` makes it.
fn key(name: &str, seed: u64) -> [u32; 2] {
    let hash = Sha256::digest(name.as_bytes());
    let word = |i: usize| u32::from_le_bytes([hash[i], hash[i + 1], hash[i + 2], hash[i + 3]]);
    [word(0) ^ seed as u32, word(4) ^ (seed >> 32) as u32]
}
