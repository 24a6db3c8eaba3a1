//! Where everything lies in the allocations of an engine: state, work space, tables, and the strips that products work in. Exact
//! before anything is allocated.

use bytemuck::Pod;

use super::control::{control_bytes, moved_bytes};
use super::elementwise::{Buffer, Buffers, Table};
use super::engine::Part;
use super::lines::{self, FACTOR_BYTES, Lines};
use super::orthogonal::{Launches, Orthogonals, Strips};
use super::scan::{Matrices, Normalised};
use super::table::{FOUND_BYTES, GATHERED_BYTES, Range, SCALARS_BYTES, STATUS_BYTES};
use crate::algorithm::Slot;
use crate::error::{Error, Result};
use crate::optimizer::StepOptions;
use crate::plan::Plan;
use crate::reference::State;
use crate::schedule::{Schedule, spectral};
use crate::tensor::{Dtype, Storage};

/// Buffers begin at multiples of this, which every access that the kernels make likes.
const BOUNDARY: usize = 256;

/// State and the fixed part of the work space.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    /// Of each parameter: slot, offset in the state, type. The step counts come first, 8 bytes a parameter.
    pub slots: Vec<Vec<(Slot, usize, Dtype)>>,
    pub state_bytes: usize,
    /// Offsets in the work space.
    pub control: usize,
    pub status: usize,
    /// Bytes of it, with what groups moved by where steps measure that.
    pub status_bytes: usize,
    /// Tiles that are there of each band of lines: zero between steps, wherever tables grow to.
    pub bands: usize,
    fixed: usize,
    /// What is orthogonalised, and the allocation for it.
    pub schedule: Schedule,
    pub strips: Strips,
}

impl Layout {
    /// # Errors
    /// A matrix that needs more work space than the options allow.
    pub fn new(plan: &Plan, options: &StepOptions) -> Result<Self> {
        let mut at = up(8 * plan.parameters.len());
        let slots = plan
            .parameters
            .iter()
            .map(|planned| {
                let place = |&(slot, dtype): &(Slot, Dtype)| {
                    let offset = at;
                    at = at.saturating_add(up(dtype.size().saturating_mul(planned.numel())));
                    (slot, offset, dtype)
                };
                planned.slots.iter().map(place).collect()
            })
            .collect();
        let status = up(control_bytes(plan.groups.len()));
        let schedule = Schedule::new(plan, options.max_workspace)?;
        let strips = Strips::new(&schedule);
        let measured = options.diagnostics;
        let status_bytes = STATUS_BYTES + if measured { moved_bytes(plan.groups.len()) } else { 0 };
        let bands = status + up(status_bytes);
        let fixed = bands + up(4 * lines::bands(plan));
        Ok(Self { slots, state_bytes: at, control: 0, status, status_bytes, bands, fixed, schedule, strips })
    }

    /// The same with other orthogonalisations.
    pub fn rescheduled(&self, schedule: Schedule) -> Self {
        let strips = Strips::new(&schedule);
        Self { schedule, strips, ..self.clone() }
    }

    /// Bytes of all allocations with these tables: state, work space, tables, strips.
    pub fn bytes(&self, tables: &Tables) -> [usize; 4] {
        [self.state_bytes, self.work_bytes(tables), tables.bytes.len(), self.strips.bytes]
    }

    /// Bytes of the work space with these tables.
    pub fn work_bytes(&self, tables: &Tables) -> usize {
        tables.end_of_work(self.fixed)
    }

    /// Bytes of it that outlive a step.
    pub fn kept_bytes(&self) -> usize {
        self.fixed
    }

    /// The buffers of a parameter, with its state in memory that begins at `base`.
    pub fn buffers(
        &self,
        base: u64,
        parameter: usize,
        (data, gradient, previous): (Buffer, Option<Buffer>, Option<Buffer>),
    ) -> Buffers {
        let state = self.slots[parameter].iter();
        let state =
            state.map(|&(slot, offset, dtype)| (slot, Buffer::new(base + offset as u64, dtype))).collect();
        Buffers { parameter: data, gradient, previous, state }
    }

    /// The bytes of all state.
    pub fn encode(&self, states: &[State]) -> Vec<u8> {
        let mut bytes = vec![0; self.state_bytes];
        for (i, (state, slots)) in states.iter().zip(&self.slots).enumerate() {
            bytes[8 * i..8 * i + 8].copy_from_slice(&state.step.to_le_bytes());
            for (&(_, offset, _), (_, storage)) in slots.iter().zip(&state.slots) {
                let from = storage.as_le_bytes();
                bytes[offset..offset + from.len()].copy_from_slice(from);
            }
        }
        bytes
    }

    /// All state from its bytes.
    pub fn decode(&self, plan: &Plan, bytes: &[u8]) -> Result<Vec<State>> {
        let short = || Error::Tensor("state on the card is shorter than its plan".into());
        let one = |(i, slots): (usize, &Vec<(Slot, usize, Dtype)>)| {
            let step = bytes.get(8 * i..8 * i + 8).and_then(|b| b.try_into().ok()).ok_or_else(short)?;
            let slots = slots
                .iter()
                .map(|&(slot, offset, dtype)| {
                    let len = plan.parameters[i].numel() * dtype.size();
                    let bytes = bytes.get(offset..offset + len).ok_or_else(short)?;
                    Ok((slot, Storage::from_le_bytes(dtype, bytes)?))
                })
                .collect::<Result<_>>()?;
            Ok(State { step: u64::from_le_bytes(step), slots })
        };
        self.slots.iter().enumerate().map(one).collect()
    }
}

fn up(bytes: usize) -> usize {
    bytes.saturating_add(BOUNDARY - 1) / BOUNDARY * BOUNDARY
}

/// The tables as they lie in device memory, with where each begins and how long it is.
#[derive(Debug)]
pub(crate) struct Tables {
    pub bytes: Vec<u8>,
    pub segments: usize,
    pub parameters: usize,
    pub owners: usize,
    pub matrices: usize,
    pub parameter_matrices: usize,
    pub tasks: usize,
    pub norm_which: usize,
    pub norm_tasks: usize,
    pub norm_ranges: usize,
    pub orthogonals: usize,
    pub jobs: usize,
    pub tiles: usize,
    pub looks: usize,
    pub lined: usize,
    pub line_tasks: usize,
    pub segment_count: u32,
    pub parameter_count: u32,
    pub chunk_count: u32,
    pub matrix_count: u32,
    pub task_count: u32,
    /// Offsets in the work space.
    pub scalars_at: usize,
    pub found_at: usize,
    pub gathered_at: usize,
    pub squares_at: usize,
    /// Where steps measure what groups move by: their chunks and numbers of elements in the tables, and the sums of chunks in
    /// the work space.
    pub measured: Option<Measured>,
    pub line_squares_at: usize,
    pub line_factors_at: usize,
    group_chunks: Vec<Range>,
    normalised: Normalised,
    lines: Lines,
    cohorts: Vec<Launches>,
    strips: Strips,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Measured {
    pub chunks: usize,
    pub elements: usize,
    pub moved_at: usize,
    /// Sums: of chunks, then of tiles of lines;
    pub plain: u32,
    /// and of tiles of last products. Behind them come the dual norms' parts of those.
    pub count: u32,
    duals: u32,
}

impl Tables {
    /// `strips`: where the allocation that products work in begins. `measured`: whether steps measure what groups move by.
    pub fn new(
        plan: &Plan,
        layout: &Layout,
        buffers: &[Buffers],
        strips: u64,
        seed: u64,
        measured: bool,
    ) -> Self {
        let mut table = Table { measured, ..Table::default() };
        let mut matrices = Matrices::default();
        for (planned, buffers) in plan.parameters.iter().zip(buffers) {
            let group = plan.group_of(planned);
            matrices.push(planned, group, buffers, table.segments.len() as u32);
            table.push(planned, group, buffers, seed);
        }
        let is_elementwise = |group: usize| {
            let rule = plan.groups[group].algorithm().rule();
            spectral(rule).is_none() && lines::along_columns(rule).is_none()
        };
        let group_chunks = table.list_chunks(plan.groups.len(), is_elementwise);
        let orthogonals =
            Orthogonals::new(plan, &layout.schedule, &layout.strips, strips, buffers, &matrices);
        let normalised = matrices.normalised(&plan.groups);
        let lines = Lines::new(plan, buffers, &matrices);
        let mut bytes = vec![];
        let mut this = Self {
            segments: append(&mut bytes, &table.segments),
            parameters: append(&mut bytes, &table.parameters),
            owners: append(&mut bytes, &table.owners),
            matrices: append(&mut bytes, &matrices.matrices),
            parameter_matrices: append(&mut bytes, &matrices.parameters),
            tasks: append(&mut bytes, &matrices.tasks),
            norm_which: append(&mut bytes, &normalised.which),
            norm_tasks: append(&mut bytes, &normalised.tasks),
            norm_ranges: append(&mut bytes, &normalised.ranges),
            orthogonals: append(&mut bytes, &orthogonals.matrices),
            jobs: append(&mut bytes, &orthogonals.jobs),
            tiles: append(&mut bytes, &orthogonals.tiles),
            looks: append(&mut bytes, &orthogonals.looks),
            lined: append(&mut bytes, &lines.lined),
            line_tasks: append(&mut bytes, &lines.tasks),
            segment_count: table.segments.len() as u32,
            parameter_count: table.parameters.len() as u32,
            chunk_count: table.owners.len() as u32,
            matrix_count: matrices.matrices.len() as u32,
            task_count: matrices.tasks.len() as u32,
            scalars_at: layout.fixed,
            found_at: 0,
            gathered_at: 0,
            squares_at: 0,
            measured: None,
            line_squares_at: 0,
            line_factors_at: 0,
            group_chunks,
            normalised,
            lines,
            cohorts: orthogonals.cohorts,
            strips: layout.strips,
            bytes: vec![],
        };
        this.found_at = this.scalars_at + up(SCALARS_BYTES * table.segments.len());
        this.gathered_at = this.found_at + up(FOUND_BYTES * matrices.tasks.len());
        this.squares_at = this.gathered_at + up(GATHERED_BYTES * matrices.matrices.len());
        this.line_squares_at = this.squares_at + up(8 * this.normalised.tasks.len());
        this.line_factors_at = this.line_squares_at + up(8 * this.lines.squares);
        if measured {
            let mut elements = vec![0.0f64; plan.groups.len()];
            for segment in table.segments.iter().filter(|segment| segment.gradient != 0) {
                elements[segment.group as usize] += segment.numel as f64;
            }
            // Behind the chunks come tiles of lines, then of last products.
            let lines = this.lines.tasks.len() as u32;
            let plain = this.chunk_count + lines;
            let mut chunks = this.group_chunks.clone();
            for (range, tiles) in
                chunks.iter_mut().zip(&this.lines.groups).filter(|(_, tiles)| tiles.count > 0)
            {
                *range = Range { first: this.chunk_count + tiles.first, count: tiles.count };
            }
            for cohort in &this.cohorts {
                let range = &mut chunks[cohort.group];
                if range.count == 0 {
                    range.first = plain + cohort.moved.first;
                }
                range.count += cohort.moved.count;
            }
            this.measured = Some(Measured {
                chunks: append(&mut bytes, &chunks),
                elements: append(&mut bytes, &elements),
                moved_at: this.line_factors_at + up(FACTOR_BYTES * this.lines.factors),
                plain,
                count: plain + orthogonals.moved,
                duals: orthogonals.moved,
            });
        }
        this.bytes = bytes;
        this
    }

    fn end_of_work(&self, fixed: usize) -> usize {
        debug_assert_eq!(fixed, self.scalars_at);
        match self.measured {
            Some(measured) => measured.moved_at + up(8 * (measured.count + measured.duals) as usize),
            None => self.line_factors_at + up(FACTOR_BYTES * self.lines.factors),
        }
    }

    /// Everything that launches depend on: tables of equal shape may take each other's place.
    pub fn shape(&self) -> impl PartialEq + use<'_> {
        let counts =
            [self.segment_count, self.parameter_count, self.chunk_count, self.matrix_count, self.task_count];
        (self.bytes.len(), counts, &self.group_chunks, self.squares_at, &self.cohorts, self.strips)
    }

    pub fn group_count(&self) -> u32 {
        self.group_chunks.len() as u32
    }

    /// The chunks of a part of a step.
    pub fn chunks_of(&self, part: Part) -> Range {
        match part {
            Part::Group(group) => self.group_chunks[group],
            // Those of groups with kernels of their own come behind.
            _ => Range { first: 0, count: self.group_chunks.iter().map(|range| range.count).sum() },
        }
    }

    /// The cohorts of a part of a step.
    pub fn cohorts_of(&self, part: Part) -> impl Iterator<Item = &Launches> {
        self.cohorts.iter().filter(move |cohort| part.group().is_none_or(|group| group == cohort.group))
    }

    /// The tiles of lines of a part of a step.
    pub fn line_tiles_of(&self, part: Part) -> Range {
        match part {
            Part::Group(group) => self.lines.groups[group],
            _ => Range { first: 0, count: self.lines.tasks.len() as u32 },
        }
    }

    /// The normalised matrices of a part of a step, and their blocks.
    pub fn normalised_of(&self, part: Part) -> (Range, Range) {
        let all = |count: usize| Range { first: 0, count: count as u32 };
        match part {
            Part::Group(group) => self.normalised.groups[group],
            _ => (all(self.normalised.which.len()), all(self.normalised.tasks.len())),
        }
    }
}

/// Appends a table at the next boundary and returns where it begins.
fn append<T: Pod>(bytes: &mut Vec<u8>, table: &[T]) -> usize {
    let at = up(bytes.len());
    bytes.resize(at, 0);
    bytes.extend_from_slice(bytemuck::cast_slice(table));
    at
}
