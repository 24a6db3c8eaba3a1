//! The host's side of `kernels/accumulate.cu`: micro-batches added up into gradients, all of them in one launch.

use super::api::CUstream;
use super::context::Context;
use super::elementwise::{Buffer, boundary, chunks_of, code};
use super::memory::DeviceBuffer;
use super::stream::Stream;
use super::table::Pair;
use crate::error::Result;

/// Gradients and what is added to them, described on the card.
#[derive(Debug)]
pub(crate) struct Accumulation {
    context: Context,
    memory: DeviceBuffer,
    owners_at: u64,
    count: u32,
}

impl Accumulation {
    /// `pairs`: gradient, addend, shape.
    pub fn new(context: &Context, stream: &Stream, pairs: &[(Buffer, Buffer, &[usize])]) -> Result<Self> {
        let (mut table, mut owners) = (vec![], vec![]);
        for &(sum, addend, shape) in pairs {
            let numel = crate::tensor::numel(shape);
            // Rows that lie apart are pairs of their own.
            let strided = sum.row_stride.is_some() || addend.row_stride.is_some();
            let (rows, columns) = match shape {
                &[rows, columns] if strided && numel > 0 => (rows, columns),
                _ => (1, numel),
            };
            for row in 0..rows {
                let place = |buffer: Buffer| {
                    (buffer.place(row * columns, columns), code(buffer.dtype), buffer.dtype.size() as u64)
                };
                let both = [place(sum), place(addend)];
                let shift = boundary(&both);
                let (pair, first_chunk) = (table.len() as u32, owners.len() as u32);
                table.push(Pair {
                    sum: both[0].0,
                    addend: both[1].0,
                    numel: columns as u64,
                    type_sum: both[0].1,
                    type_addend: both[1].1,
                    shift: shift.unwrap_or(0) as u8,
                    aligned: shift.is_some().into(),
                    first_chunk,
                });
                owners.extend(std::iter::repeat_n(pair, chunks_of(columns as u64, shift) as usize));
            }
        }
        let pairs_bytes: &[u8] = bytemuck::cast_slice(&table);
        let owner_bytes: &[u8] = bytemuck::cast_slice(&owners);
        let memory = DeviceBuffer::new(context, pairs_bytes.len() + owner_bytes.len())?;
        memory.write(stream, 0, pairs_bytes)?;
        memory.write(stream, pairs_bytes.len(), owner_bytes)?;
        stream.synchronize()?;
        let owners_at = memory.address() + pairs_bytes.len() as u64;
        Ok(Self { context: context.clone(), memory, owners_at, count: owners.len() as u32 })
    }

    /// sum = sum + scale * addend, or scale * addend if it is `fresh`.
    pub fn run(&self, stream: CUstream, scale: f32, fresh: bool) -> Result<()> {
        let kernel = self.context.kernels()?.accumulate;
        let arguments = &mut [
            self.memory.address().into(),
            self.owners_at.into(),
            self.count.into(),
            scale.into(),
            u32::from(fresh).into(),
        ];
        let blocks = self.count.div_ceil(4).min(kernel.resident);
        self.context.run("accumulating gradients", || kernel.launch(stream, blocks, arguments))
    }
}
