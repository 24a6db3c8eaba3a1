//! Other buffers, or other algorithms, for the steps to come.

use super::super::elementwise::{Buffer, Buffers};
use super::super::layout::Tables;
use super::super::memory::DeviceBuffer;
use super::{Captured, Engine};
use crate::error::Result;
use crate::plan::Plan;
use crate::schedule::Schedule;

impl Engine {
    /// Describes other buffers and algorithms to the kernels, in one copy before the next step.
    pub fn rebind(
        &mut self,
        plan: &Plan,
        bindings: impl Fn(usize) -> (Buffer, Option<Buffer>, Option<Buffer>),
        other_algorithms: bool,
    ) -> Result<()> {
        self.check()?;
        let base = self.state.address();
        let buffers: Vec<Buffers> =
            (0..plan.parameters.len()).map(|i| self.layout.buffers(base, i, bindings(i))).collect();
        // Shapes stay what they are: only algorithms make other products.
        let schedule = if other_algorithms {
            Schedule::new(plan, self.max_workspace)?
        } else {
            self.layout.schedule.clone()
        };
        let layout = self.layout.rescheduled(schedule);
        let strips = if layout.strips.bytes > self.strips.bytes() {
            let larger = self.note(DeviceBuffer::new(&self.context, layout.strips.bytes))?;
            let cleared = larger.write(&self.stream, 0, &vec![0; layout.strips.arena]);
            self.note(cleared)?;
            Some(larger)
        } else {
            None
        };
        let at = strips.as_ref().unwrap_or(&self.strips).address();
        let tables = Tables::new(plan, &layout, &buffers, at, self.seed, self.tables.measured.is_some());
        if strips.is_none() && tables.shape() == self.tables.shape() {
            // Work that was given before may still read the old ones.
            (self.tables, self.layout) = (tables, layout);
            self.tables_changed = true;
            return Ok(());
        }
        // Other strides, alignments or iterations: other numbers of rows, chunks and tiles, so other launches.
        self.wait()?;
        let memory = DeviceBuffer::new(&self.context, tables.bytes.len());
        let memory = self.note(memory)?;
        let work = layout.work_bytes(&tables);
        let work = if work > self.work.bytes() {
            let larger = DeviceBuffer::new(&self.context, work);
            let larger = self.note(larger)?;
            // Counts and decisions go with it.
            let kept = layout.kept_bytes();
            let mut bytes = vec![0; kept];
            // The rest is as after registration.
            bytes.resize(larger.bytes(), 0);
            let moved = self
                .work
                .read(&self.stream, 0, &mut bytes[..kept])
                .and_then(|()| larger.write(&self.stream, 0, &bytes));
            self.note(moved)?;
            Some(larger)
        } else {
            None
        };
        let copied = memory.write(&self.stream, 0, &tables.bytes).and_then(|()| self.stream.synchronize());
        self.note(copied)?;
        (self.tables, self.layout) = (tables, layout);
        self.tables_changed = false;
        let old = [
            Some(std::mem::replace(&mut self.tables_memory, memory)),
            work.map(|work| std::mem::replace(&mut self.work, work)),
            strips.map(|strips| std::mem::replace(&mut self.strips, strips)),
        ];
        if self.captured != Captured::No {
            self.retired.extend(old.into_iter().flatten());
        }
        self.forget_graphs();
        Ok(())
    }

    /// Steps are other launches from now on.
    pub(super) fn forget_graphs(&mut self) {
        self.graphs.iter_mut().for_each(|graph| drop(graph.take()));
        if self.captured == Captured::Fits {
            self.captured = Captured::OutOfDate;
        }
    }
}
