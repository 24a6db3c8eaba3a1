//! The host's side of `kernels/orthogonal.cuh`: matrices and products of Newton-Schulz iterations become device tables.

use super::elementwise::{Buffer, Buffers};
use super::scan::Matrices;
use super::table::{Job, Orthogonal, PROGRESS_BYTES, Range, TRACES_BYTES, Task, Tile, form};
use crate::algorithm::Slot;
use crate::plan::{MatrixView, Plan};
use crate::schedule::spectral;
use crate::schedule::{Extents, Form, Item, Place, Product, Program, Schedule};

/// Where everything lies in the allocation that products work in. Its size depends on shapes alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Strips {
    /// What the kernels keep of each matrix; at the beginning.
    pub progress: usize,
    pub squares: usize,
    pub traces: usize,
    pub arena: usize,
    pub bytes: usize,
}

const BOUNDARY: usize = 256;

impl Strips {
    pub fn new(schedule: &Schedule) -> Self {
        let matrices: usize = schedule.cohorts.iter().map(|cohort| cohort.items.len()).sum();
        let up = |bytes: usize| bytes.next_multiple_of(BOUNDARY);
        let squares = up(PROGRESS_BYTES * matrices);
        let traces = squares + up(8 * schedule.space.squares);
        let arena = traces + up(TRACES_BYTES * schedule.space.traces);
        Self { progress: 0, squares, traces, arena, bytes: arena + schedule.space.bytes }
    }
}

/// Everything the kernels are told of orthogonalisations.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Orthogonals {
    pub matrices: Vec<Orthogonal>,
    pub jobs: Vec<Job>,
    /// Of all launches.
    pub tiles: Vec<Tile>,
    /// Tiles of 64 x 64 of all matrices.
    pub looks: Vec<Task>,
    pub cohorts: Vec<Launches>,
    /// Tiles of last products, which say what they move by.
    pub moved: u32,
}

/// What is launched for a cohort.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Launches {
    pub group: usize,
    pub half: bool,
    /// Its matrices, and their part of `looks`.
    pub matrices: Range,
    pub looks: Range,
    /// Each phase's part of `tiles`.
    pub phases: Vec<Range>,
    /// Tiles of the longest launch of the safe iteration.
    pub widest: u32,
    /// The tiles of its last products, among those of all.
    pub moved: Range,
}

impl Orthogonals {
    /// `base`: where the strips' allocation begins.
    pub fn new(
        plan: &Plan,
        schedule: &Schedule,
        strips: &Strips,
        base: u64,
        buffers: &[Buffers],
        matrices: &Matrices,
    ) -> Self {
        let safe = Program::safe();
        let mut this = Self::default();
        for cohort in &schedule.cohorts {
            let arena = base + (strips.arena + cohort.begins.bytes) as u64;
            let first = this.matrices.len();
            let first_moved = this.moved;
            let mut bound = None;
            let first_look = this.looks.len();
            // The jobs of each item's program.
            let mut first_jobs = vec![];
            let mut widest = 0;
            for item in &cohort.items {
                let index = this.matrices.len() as u32;
                let planned = &plan.parameters[item.parameter];
                let group = plan.group_of(planned);
                let Some((spec, lmo_first)) = spectral(group.algorithm().rule()) else { continue };
                // One for the cohort: its matrices are of one group.
                let bound = *bound.get_or_insert_with(|| 1.25 * spec.sigma_bound());
                let limit = bound * bound * item.view.rows.min(item.view.columns) as f64;
                let (moved, trace) = (this.moved, cohort.begins.traces + item.first_trace);
                let matrix = matrices.parameters[item.parameter].first + item.matrix as u32;
                let first_segment = matrices.matrices[matrix as usize].first_segment;
                let job = |product: &Product, first_tile: u32| {
                    let made =
                        make_job(product, item, (arena, &safe), trace, index, limit as f32, first_tile);
                    Job { first_moved: moved, first_segment, ..made }
                };
                first_jobs.push(this.jobs.len() as u32);
                this.jobs.extend(item.program.products.iter().map(|product| job(product, 0)));
                let first_job = this.jobs.len() as u32;
                let mut tiles = 0;
                for product in &safe.products {
                    // It is bounded by itself: nobody looks.
                    let made = Job { guards: 0, ..job(product, tiles) };
                    tiles += made.tiles;
                    widest = widest.max(made.tiles);
                    this.jobs.push(made);
                }
                // The last product of either iteration.
                this.moved += this.jobs.last().map_or(0, |job| job.tiles);
                let squares = item.squares() as u32;
                this.matrices.push(Orthogonal {
                    strips: arena + item.at(Place::Input, &safe) as u64,
                    margin: spec.coefficients.input_margin(),
                    matrix,
                    rows: item.view.rows as u32,
                    columns: item.view.columns as u32,
                    first_square: (cohort.begins.squares + item.first_square) as u32,
                    tiles: squares,
                    first_job,
                    jobs: safe.products.len() as u32,
                    half: cohort.half.into(),
                    lmo_first: lmo_first.into(),
                    groups: has_groups(&item.view, &buffers[item.parameter]).into(),
                    pad: 0,
                });
                this.looks.extend((0..squares).map(|block| Task { matrix: index, block }));
            }
            let range = |first: usize, end: usize| Range { first: first as u32, count: (end - first) as u32 };
            let mut phases = vec![];
            for launch in &cohort.launches {
                let begin = this.tiles.len();
                this.tiles.extend(launch.iter().map(|tile| Tile {
                    job: first_jobs[tile.item] + tile.product as u32,
                    row: tile.row as u16,
                    column: tile.column as u16,
                }));
                phases.push(range(begin, this.tiles.len()));
            }
            this.cohorts.push(Launches {
                group: cohort.group,
                half: cohort.half,
                matrices: range(first, this.matrices.len()),
                looks: range(first_look, this.looks.len()),
                phases,
                widest,
                moved: range(first_moved as usize, this.moved as usize),
            });
        }
        this
    }
}

/// A product as the kernels read it. `arena`: where the item's cohort has its work space.
pub(super) fn make_job(
    product: &Product,
    item: &Item,
    (arena, safe): (u64, &Program),
    first_trace: usize,
    orthogonal: u32,
    limit: f32,
    first_tile: u32,
) -> Job {
    let extents = product.extents(item.view.rows, item.view.columns);
    let Extents { m, n, k, symmetric, swapped, .. } = extents;
    let at = |place: Place| arena + item.at(place, safe) as u64;
    let (a, b) = if swapped { (product.b, product.a) } else { (product.a, product.b) };
    let [first, second] = product.added;
    let added =
        |term: Option<(f64, Place)>| term.map_or((0.0, 0), |(factor, place)| (factor as f32, at(place)));
    let ((beta, c), (beta2, c2)) = (added(first), added(second));
    Job {
        a: at(a),
        b: at(b),
        c,
        c2,
        d: product.result.map_or(0, at),
        m: m as u32,
        n: n as u32,
        k: k as u32,
        orthogonal,
        alpha: product.alpha as f32,
        beta,
        beta2,
        gamma: product.gamma as f32,
        polynomial: product.guard.unwrap_or_default().map(|v| v as f32),
        limit,
        first_tile,
        tiles: extents.tile_count() as u32,
        first_partial: first_trace as u32,
        form: match extents.form {
            Form::ByRows => form::BY_ROWS,
            Form::Mixed => form::MIXED,
            Form::ByColumns => form::BY_COLUMNS,
        },
        symmetric: symmetric.into(),
        guards: product.guard.is_some().into(),
        pad: 0,
        first_moved: 0,
        first_segment: 0,
    }
}

/// Whether four elements of a row lie at a multiple of their bytes in every buffer.
pub(super) fn has_groups(view: &MatrixView, buffers: &Buffers) -> bool {
    let slots = [Slot::Momentum, Slot::Point, Slot::Master, Slot::Low];
    let state = slots.map(|slot| buffers.slot(&[slot]));
    let tensors = [Some(buffers.parameter), buffers.gradient, buffers.previous];
    let aligned = |buffer: &Buffer| {
        let bytes = 4 * buffer.dtype.size() as u64;
        buffer.place(view.offset, view.columns).is_multiple_of(bytes)
            && buffer.row_stride.is_none_or(|stride| stride.is_multiple_of(4))
    };
    view.columns.is_multiple_of(4) && tensors.iter().chain(&state).flatten().all(aligned)
}
