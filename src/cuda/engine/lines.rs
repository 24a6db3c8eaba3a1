//! What a step launches for rows and columns that are divided by their norms.

use super::super::api::{Answer, CUstream};
use super::{Engine, Part};

impl Engine {
    /// Norms of lines, then the elements: two launches for all matrices.
    pub(super) fn divide_lines(&self, part: Part, stream: CUstream) -> Answer<()> {
        let Ok(kernels) = self.context.kernels() else { return Ok(()) };
        let t = &self.tables;
        let tiles = t.line_tiles_of(part);
        let (lined, tasks) = (self.table(t.lined), self.table(t.line_tasks) + 8 * u64::from(tiles.first));
        let (matrices, segments) = (self.table(t.matrices), self.table(t.segments));
        let (scalars, factors) = (self.work_at(t.scalars_at), self.work_at(t.line_factors_at));
        // Behind the sums of chunks.
        let moved = t.measured.filter(|_| part.concludes());
        let moved = moved.map_or(0, |m| self.work_at(m.moved_at) + 8 * u64::from(t.chunk_count));
        let arguments = &mut [
            lined.into(),
            tasks.into(),
            matrices.into(),
            scalars.into(),
            self.work_at(t.line_squares_at).into(),
            self.work_at(self.layout.bands).into(),
            factors.into(),
        ];
        kernels.lengths.launch(stream, tiles.count, arguments)?;
        let arguments = &mut [
            lined.into(),
            tasks.into(),
            matrices.into(),
            segments.into(),
            scalars.into(),
            factors.into(),
            moved.into(),
        ];
        kernels.divide.launch(stream, tiles.count, arguments)
    }
}
