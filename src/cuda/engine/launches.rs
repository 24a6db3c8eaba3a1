//! What a step launches.

use super::super::api::{Answer, Argument, CUstream};
use super::super::graph::Side;
use super::super::layout::Measured;
use super::Engine;

/// Warps of a block of `gather` and of `radii`, a matrix each: as in `kernels/flat.cuh`.
const WARPS: u32 = 8;

/// Which part of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// What comes before the decision, up to the scalars that it is made from.
    Scan,
    /// The decision, and what comes behind it.
    Rest,
    Group(usize),
}

impl Part {
    /// The group that it is the part of, if not of all.
    pub fn group(self) -> Option<usize> {
        match self {
            Self::Group(group) => Some(group),
            _ => None,
        }
    }

    /// Whether a whole step is done with it.
    pub fn concludes(self) -> bool {
        matches!(self, Self::All | Self::Rest)
    }

    /// Which halves of the kernel `decide`.
    fn halves(self) -> u32 {
        match self {
            Self::Scan => 1,
            Self::Rest => 2,
            _ => 3,
        }
    }
}

impl Engine {
    /// The launches of a step, in order.
    pub(super) fn enqueue(&self, part: Part, stream: CUstream, side: Option<&Side>) -> Answer<()> {
        let Ok(kernels) = self.context.kernels() else { return Ok(()) };
        let t = &self.tables;
        let only = part.group().map_or(u32::MAX, |group| group as u32);
        let (segments, parameters) = (self.table(t.segments), self.table(t.parameters));
        let (matrices, of_parameters) = (self.table(t.matrices), self.table(t.parameter_matrices));
        let (control, status) = (self.work_at(self.layout.control), self.work_at(self.layout.status));
        let (steps, scalars) = (self.state.address(), self.work_at(t.scalars_at));
        let (found, gathered, squares) =
            (self.work_at(t.found_at), self.work_at(t.gathered_at), self.work_at(t.squares_at));
        let decided = self.decides && matches!(part, Part::All | Part::Rest);
        if self.decides && matches!(part, Part::All | Part::Scan) {
            let tasks = self.table(t.tasks);
            let blocks = t.task_count.div_ceil(4).min(kernels.scan.resident);
            let arguments = &mut [
                matrices.into(),
                tasks.into(),
                t.task_count.into(),
                control.into(),
                steps.into(),
                found.into(),
            ];
            kernels.scan.launch(stream, blocks, arguments)?;
            let arguments = &mut [matrices.into(), t.matrix_count.into(), found.into(), gathered.into()];
            kernels.gather.launch(
                stream,
                t.matrix_count.div_ceil(WARPS).min(kernels.gather.resident),
                arguments,
            )?;
        }
        if decided || part == Part::Scan {
            let arguments = &mut [
                matrices.into(),
                t.matrix_count.into(),
                gathered.into(),
                of_parameters.into(),
                t.parameter_count.into(),
                control.into(),
                status.into(),
                part.halves().into(),
            ];
            kernels.decide.launch(stream, 1, arguments)?;
        }
        if part == Part::Scan {
            return Ok(());
        }
        let arguments = &mut [
            segments.into(),
            parameters.into(),
            t.parameter_count.into(),
            control.into(),
            steps.into(),
            scalars.into(),
            status.into(),
            u32::from(decided).into(),
            only.into(),
        ];
        kernels.prepare.launch(stream, t.parameter_count.div_ceil(kernels.prepare.threads), arguments)?;
        // What became of the step is known here, and its copy to the host need not come between this step and the next.
        let report = |stream| self.journal.copy_from(status, self.layout.status_bytes, stream);
        let measured = t.measured.filter(|_| part.concludes());
        let orthogonalises = t.cohorts_of(part).next().is_some();
        // What it moved by, and what was orthogonalised by the safe iteration, is known at its end.
        let side = side.filter(|_| measured.is_none() && !orthogonalises);
        match side {
            Some(side) if part.concludes() => side.branch(stream, report)?,
            _ => {}
        }
        let (list, tasks) = t.normalised_of(part);
        if list.count > 0 {
            let arguments = &mut [
                matrices.into(),
                (self.table(t.norm_tasks) + 8 * u64::from(tasks.first)).into(),
                tasks.count.into(),
                scalars.into(),
                (squares + 8 * u64::from(tasks.first)).into(),
            ];
            kernels.norms.launch(stream, tasks.count.div_ceil(4).min(kernels.norms.resident), arguments)?;
            let arguments = &mut [
                matrices.into(),
                (self.table(t.norm_ranges) + 8 * u64::from(list.first)).into(),
                list.count.into(),
                squares.into(),
                (self.table(t.norm_which) + 4 * u64::from(list.first)).into(),
                scalars.into(),
            ];
            let blocks = list.count.div_ceil(WARPS).min(kernels.radii.resident);
            kernels.radii.launch(stream, blocks, arguments)?;
        }
        let chunks = t.chunks_of(part);
        let arguments = &mut [
            segments.into(),
            scalars.into(),
            self.table(t.owners).into(),
            chunks.first.into(),
            (chunks.first + chunks.count).into(),
        ];
        // More blocks than are resident begin in order, so that what runs at one time lies closer together in memory: on an
        // H200 1 to 2 % of the copy rate with large tensors. With many small ones each block has descriptions to read.
        let waves = if t.chunk_count / t.segment_count.max(1) >= 16 { 4 } else { 1 };
        let blocks = chunks.count.div_ceil(4).min(kernels.elementwise.resident * waves);
        match measured {
            None => kernels.elementwise.launch(stream, blocks, arguments)?,
            Some(measured) => {
                let [segments, scalars, owners, first, end] = *arguments;
                let moved = self.work_at(measured.moved_at);
                let all = &mut [segments, scalars, owners, first, end, moved.into()];
                let kernel = kernels.elementwise_measured;
                kernel.launch(stream, chunks.count.div_ceil(4).min(kernel.resident * waves), all)?;
            }
        }
        self.divide_lines(part, stream)?;
        self.orthogonalise(part, stream)?;
        if let Some(measured) = measured {
            let arguments = &mut [
                self.table(measured.chunks).into(),
                self.table(measured.elements).into(),
                t.group_count().into(),
                self.work_at(measured.moved_at).into(),
                status.into(),
                measured.plain.into(),
                measured.count.into(),
            ];
            kernels.measure.launch(stream, 1, arguments)?;
        }
        match side {
            _ if !part.concludes() => Ok(()),
            Some(side) => side.join(stream),
            None => report(stream),
        }
    }

    /// The launches of all cohorts: norms, strips, phase by phase the products, and what the guard sent to the safe iteration.
    fn orthogonalise(&self, part: Part, stream: CUstream) -> Answer<()> {
        let Ok(kernels) = self.context.kernels() else { return Ok(()) };
        let (t, places) = (&self.tables, &self.layout.strips);
        let at = |offset: usize| self.strips.address() + offset as u64;
        let (orthogonals, matrices, segments) =
            (self.table(t.orthogonals), self.table(t.matrices), self.table(t.segments));
        let (scalars, progress) = (self.work_at(t.scalars_at), at(places.progress));
        let status = if part.concludes() { self.work_at(self.layout.status) } else { 0 };
        for cohort in t.cohorts_of(part) {
            let looks = self.table(t.looks) + 8 * u64::from(cohort.looks.first);
            let arguments = &mut [
                orthogonals.into(),
                looks.into(),
                matrices.into(),
                segments.into(),
                scalars.into(),
                at(places.squares).into(),
                progress.into(),
            ];
            kernels.look.launch(stream, cohort.looks.count, arguments)?;
            kernels.pack.launch(stream, cohort.looks.count, &mut arguments[..5])?;
            let moved = t.measured.filter(|_| part.concludes());
            let behind = |m: Measured, count: u32| self.work_at(m.moved_at) + 8 * u64::from(count);
            let [moved, duals] = moved.map_or([0, 0], |m| [behind(m, m.plain), behind(m, m.count)]);
            let lists: [Argument; 10] = [
                self.table(t.jobs).into(),
                orthogonals.into(),
                matrices.into(),
                segments.into(),
                scalars.into(),
                progress.into(),
                at(places.traces).into(),
                status.into(),
                moved.into(),
                duals.into(),
            ];
            let product = &kernels.product[usize::from(cohort.half)];
            for phase in &cohort.phases {
                let tiles = self.table(t.tiles) + 8 * u64::from(phase.first);
                let mut arguments = lists.to_vec();
                arguments.extend([Argument::from(tiles), 0u32.into(), 0u32.into()]);
                product.launch(stream, phase.count, &mut arguments)?;
            }
            // Without tiles: whatever the guard has sent to the safe iteration.
            let mut arguments = lists.to_vec();
            let matrices = cohort.matrices;
            arguments.extend([Argument::from(0u64), matrices.first.into(), matrices.count.into()]);
            product.launch(stream, cohort.widest.min(product.resident), &mut arguments)?;
        }
        Ok(())
    }
}
