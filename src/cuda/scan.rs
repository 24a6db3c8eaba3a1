//! The host's side of `kernels/scan.cu` and of the norms in `kernels/elementwise.cu`: matrices and their blocks.

use super::elementwise::{Buffer, Buffers, code, ranges};
use super::table::{ABSENT, Matrix, Range, Task};
use crate::algorithm::{EpsForm, Lmo, Norm, Rule, Scale, Slot};
use crate::group::Group;
use crate::plan::{MatrixView, PlannedParameter};

/// Elements of a block: as in the kernels and in `reference::reduce`.
pub(crate) const BLOCK: u64 = 4096;

/// The matrices of all parameters.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Matrices {
    pub matrices: Vec<Matrix>,
    /// The matrices of each parameter.
    pub parameters: Vec<Range>,
    /// The blocks of all matrices.
    pub tasks: Vec<Task>,
}

/// The matrices whose direction is their vector over its norm.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Normalised {
    /// Which matrices, group by group.
    pub which: Vec<u32>,
    /// Their blocks, and which of these belong to each.
    pub tasks: Vec<Task>,
    pub ranges: Vec<Range>,
    /// Of each group: its part of `which`, and of `tasks`.
    pub groups: Vec<(Range, Range)>,
}

impl Matrices {
    /// Adds a parameter whose segments begin at `first_segment`.
    pub fn push(&mut self, planned: &PlannedParameter, group: &Group, buffers: &Buffers, first_segment: u32) {
        let first = self.matrices.len() as u32;
        let parameter = self.parameters.len() as u32;
        let strided = [Some(buffers.parameter), buffers.gradient, buffers.previous];
        let by_rows = strided.into_iter().flatten().any(|buffer| buffer.row_stride.is_some());
        let mut segment = first_segment;
        for view in &planned.matrices {
            let place = |buffer: Option<Buffer>| match buffer {
                Some(b) => (b.place(view.offset, view.columns), code(b.dtype)),
                None => (0, ABSENT),
            };
            let held = matches!(group.algorithm.rule(), Rule::AdaGrad(_));
            let held = buffers.slot(&[Slot::Variance]).filter(|_| held);
            let momentum = buffers.slot(&[Slot::Momentum]);
            let places = [place(buffers.gradient), place(buffers.previous), place(momentum), place(held)];
            let gap = |buffer: Option<Buffer>| buffer.and_then(|b| b.row_stride);
            let contiguous = gap(buffers.gradient).is_none() && gap(buffers.previous).is_none();
            let aligned = contiguous && places.iter().all(|(address, _)| address.is_multiple_of(16));
            let stride = |buffer| gap(buffer).unwrap_or(view.columns) as u64;
            let (eps, eps_added) = match group.algorithm.rule() {
                Rule::Lmo(lmo) => frobenius_eps(lmo, *view),
                _ => (0.0, false),
            };
            let numel = (view.rows * view.columns) as u64;
            let tasks = numel.div_ceil(BLOCK) as u32;
            let segments = if by_rows { view.rows as u32 } else { 1 };
            let matrix = self.matrices.len() as u32;
            self.matrices.push(Matrix {
                gradient: places[0].0,
                previous: places[1].0,
                momentum: places[2].0,
                held: places[3].0,
                numel,
                columns: view.columns as u64,
                gradient_stride: stride(buffers.gradient),
                previous_stride: stride(buffers.previous),
                offset: view.offset as u64,
                eps,
                parameter,
                group: planned.group as u32,
                first_segment: segment,
                segments,
                first_task: self.tasks.len() as u32,
                tasks,
                type_gradient: places[0].1,
                type_previous: places[1].1,
                type_momentum: places[2].1,
                type_held: places[3].1,
                aligned: aligned.into(),
                eps_added: eps_added.into(),
                pad: [0; 18],
            });
            segment += segments;
            self.tasks.extend((0..tasks).map(|block| Task { matrix, block }));
        }
        self.parameters.push(Range { first, count: self.matrices.len() as u32 - first });
    }

    /// The matrices of groups whose norm is the Frobenius norm.
    pub fn normalised(&self, groups: &[Group]) -> Normalised {
        let of = |group: u32| matches!(groups[group as usize].algorithm.rule(), Rule::Lmo(l) if l.norm == Norm::Frobenius);
        let mut which: Vec<u32> = (0..self.matrices.len() as u32).collect();
        which.retain(|&m| of(self.matrices[m as usize].group));
        which.sort_by_key(|&m| self.matrices[m as usize].group);
        let mut out = Normalised::default();
        for &matrix in &which {
            let count = self.matrices[matrix as usize].tasks;
            out.ranges.push(Range { first: out.tasks.len() as u32, count });
            out.tasks.extend((0..count).map(|block| Task { matrix, block }));
        }
        let group_of = |m: u32| self.matrices[m as usize].group;
        let lists = ranges(which.iter().map(|&m| group_of(m)), groups.len());
        let tasks = ranges(out.tasks.iter().map(|t| group_of(t.matrix)), groups.len());
        out.groups = lists.into_iter().zip(tasks).collect();
        out.which = which;
        out
    }
}

/// What is added to a matrix's Frobenius norm, or its least value: as `reference::lmo` has it.
fn frobenius_eps(lmo: &Lmo, view: MatrixView) -> (f64, bool) {
    match lmo.eps.form {
        EpsForm::Clamp => (lmo.eps.value, false),
        EpsForm::Add if lmo.norm.is_spectral() => (lmo.eps.value, true),
        EpsForm::Add => {
            let radius = if let Scale::Scion(radius) = lmo.scale { radius } else { 1.0 };
            let factor = if radius == 0.0 {
                1.0
            } else {
                lmo.scale.factor(lmo.norm, view.rows, view.columns) / radius
            };
            (lmo.eps.value * factor, true)
        }
    }
}
