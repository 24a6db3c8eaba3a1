//! The host's side of `kernels/lines.cu`: matrices whose rows or columns are divided by their norms, and their tiles.

use bytemuck::{Pod, Zeroable};

use super::elementwise::{Buffers, ranges};
use super::orthogonal::has_groups;
use super::scan::Matrices;
use super::table::{Range, Task};
use crate::algorithm::{Norm, Order, Rule};
use crate::plan::{MatrixView, Plan};

/// Lines of a band, and elements of a tile along them: as in the kernels and in `reference::reduce`.
const SIDE: usize = 64;

/// Bytes of what a line is multiplied with.
pub(crate) const FACTOR_BYTES: usize = 12;

/// A matrix whose lines are divided by their norms.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Lined {
    pub rows: u64,
    pub columns: u64,
    pub first_square: u64,
    pub first_factor: u64,
    pub matrix: u32,
    pub first_band: u32,
    pub tiles: u32,
    pub by_columns: u8,
    pub groups: u8,
    pub pad: [u8; 2],
}

const _: () = assert!(size_of::<Lined>() == 48 && std::mem::offset_of!(Lined, by_columns) == 44);

/// Whether a rule divides lines by their norms, and whether these are columns.
pub(crate) fn along_columns(rule: &Rule) -> Option<bool> {
    match rule {
        Rule::Lmo(lmo) if lmo.order == Order::EstimateFirst => match lmo.norm {
            Norm::Rows => Some(false),
            Norm::Columns => Some(true),
            _ => None,
        },
        _ => None,
    }
}

/// Lines of a matrix, and elements of each.
fn extents(view: &MatrixView, by_columns: bool) -> (usize, usize) {
    if by_columns { (view.columns, view.rows) } else { (view.rows, view.columns) }
}

/// Bands of all matrices of a plan. The kernels count the tiles of each that they have seen.
pub(crate) fn bands(plan: &Plan) -> usize {
    let of = |p: &crate::plan::PlannedParameter| {
        let by_columns = along_columns(plan.group_of(p).algorithm().rule())?;
        Some(p.matrices.iter().map(|view| extents(view, by_columns).0.div_ceil(SIDE)).sum::<usize>())
    };
    plan.parameters.iter().filter_map(of).sum()
}

/// Everything the kernels are told of lines.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Lines {
    pub lined: Vec<Lined>,
    /// The tiles of all matrices, group by group, a band's one after the other.
    pub tasks: Vec<Task>,
    /// Each group's part of them.
    pub groups: Vec<Range>,
    /// Sums of squares, and factors, in the work space.
    pub squares: usize,
    pub factors: usize,
}

impl Lines {
    pub fn new(plan: &Plan, buffers: &[Buffers], matrices: &Matrices) -> Self {
        let mut this = Self::default();
        let mut bands = 0;
        let mut order: Vec<usize> = (0..plan.parameters.len()).collect();
        order.sort_by_key(|&i| plan.parameters[i].group);
        let mut groups = vec![];
        for i in order {
            let planned = &plan.parameters[i];
            let Some(by_columns) = along_columns(plan.group_of(planned).algorithm().rule()) else { continue };
            for (k, view) in planned.matrices.iter().enumerate() {
                let (lines, elements) = extents(view, by_columns);
                let (of_matrix, tiles) = (lines.div_ceil(SIDE), elements.div_ceil(SIDE));
                let index = this.lined.len() as u32;
                this.lined.push(Lined {
                    rows: view.rows as u64,
                    columns: view.columns as u64,
                    first_square: this.squares as u64,
                    first_factor: this.factors as u64,
                    matrix: matrices.parameters[i].first + k as u32,
                    first_band: bands as u32,
                    tiles: tiles as u32,
                    by_columns: by_columns.into(),
                    groups: has_groups(view, &buffers[i]).into(),
                    pad: [0; 2],
                });
                let blocks = of_matrix * tiles;
                this.tasks.extend((0..blocks as u32).map(|block| Task { matrix: index, block }));
                groups.extend(std::iter::repeat_n(planned.group as u32, blocks));
                this.squares += blocks * SIDE;
                this.factors += lines;
                bands += of_matrix;
            }
        }
        this.groups = ranges(groups.into_iter(), plan.groups.len());
        this
    }
}
