//! Values and state between the card and the host. All of it waits.

use super::super::api;
use super::super::elementwise::Buffer;
use super::Engine;
use crate::algorithm::Slot;
use crate::error::Result;
use crate::plan::Plan;
use crate::reference::State;
use crate::tensor::Storage;

impl Engine {
    /// A buffer's elements, row-major. Waits for all steps given.
    pub fn read(&self, buffer: Buffer, shape: &[usize]) -> Result<Storage> {
        self.wait()?;
        let mut storage = Storage::zeros(buffer.dtype, crate::tensor::numel(shape));
        let stream = self.stream.raw();
        let rows = rows(buffer, shape);
        let bytes = storage.as_le_bytes_mut();
        let copied = self.context.run("copying from the card", || {
            rows.iter()
                .try_for_each(|(address, range)| api::copy_out(&mut bytes[range.clone()], *address, stream))
        });
        self.note(copied)?;
        Ok(storage)
    }

    /// Overwrites a buffer's elements, given row-major, in the order of the own stream.
    pub fn write(&self, buffer: Buffer, shape: &[usize], bytes: &[u8]) -> Result<()> {
        self.check()?;
        let stream = self.stream.raw();
        let copied = self.context.run("copying to the card", || {
            rows(buffer, shape)
                .iter()
                .try_for_each(|(address, range)| api::copy_in(*address, &bytes[range.clone()], stream))
        });
        self.note(copied)
    }

    /// A state buffer of a parameter.
    pub fn slot(&self, parameter: usize, slot: Slot) -> Option<Buffer> {
        let (_, offset, dtype) = self.layout.slots[parameter].iter().find(|(s, ..)| *s == slot)?;
        Some(Buffer::new(self.state.address() + *offset as u64, *dtype))
    }

    /// Step counts of all parameters. Waits for all steps given.
    pub fn step_counts(&self) -> Result<Vec<u64>> {
        self.wait()?;
        let mut bytes = vec![0; 8 * self.layout.slots.len()];
        let read = self.state.read(&self.stream, 0, &mut bytes);
        self.note(read)?;
        Ok(bytes
            .chunks_exact(8)
            .map(|word| u64::from_le_bytes(word.try_into().unwrap_or_default()))
            .collect())
    }

    /// All state, as the CPU has it. Waits for all steps given.
    pub fn snapshot(&self, plan: &Plan) -> Result<Vec<State>> {
        self.wait()?;
        let mut bytes = vec![0; self.state.bytes()];
        let read = self.state.read(&self.stream, 0, &mut bytes);
        self.note(read)?;
        self.layout.decode(plan, &bytes)
    }

    /// Replaces all state: one copy, so that all of it is replaced or nothing.
    pub fn restore(&self, states: &[State]) -> Result<()> {
        self.wait()?;
        let bytes = self.layout.encode(states);
        let written = self.state.write(&self.stream, 0, &bytes);
        self.note(written)?;
        // What was given may be there or not when to wait for it fails.
        self.stream.synchronize().map_err(|error| self.abandon(error))
    }
}

/// The runs of a buffer: address, and range of bytes in the row-major copy.
fn rows(buffer: Buffer, shape: &[usize]) -> Vec<(u64, std::ops::Range<usize>)> {
    let size = buffer.dtype.size();
    match (buffer.row_stride, shape) {
        (Some(_), &[rows, columns]) => (0..rows)
            .map(|row| {
                let start = row * columns * size;
                (buffer.place(row * columns, columns), start..start + columns * size)
            })
            .collect(),
        _ => vec![(buffer.address, 0..crate::tensor::numel(shape) * size)],
    }
}
