//! One product of Newton-Schulz iterations alone, on a batch of equal matrices: what measurements of single kernels launch.
//!
//! The same tables, tiles and kernel as in a step, which sees a phase of one product.

use std::sync::Arc;

use super::api::{self, Argument};
use super::context::Context;
use super::memory::DeviceBuffer;
use super::orthogonal::make_job;
use super::stream::Stream;
use super::table::{PROGRESS_BYTES, SCALARS_BYTES, Tile};
use crate::algorithm::NsDtype;
use crate::error::{Error, Result};
use crate::plan::MatrixView;
use crate::schedule::{Extents, Item, PIECE, Place, Product, Program, check};

/// A product of a batch of equal matrices in device memory. Operands and results are 16-bit matrices.
#[derive(Debug)]
pub struct ProductBatch {
    context: Context,
    half: bool,
    rows: usize,
    columns: usize,
    extents: Extents,
    /// Places of every matrix of the batch.
    places: Vec<Vec<(Place, usize)>>,
    matrices: DeviceBuffer,
    /// Read by launches through addresses.
    _tables: DeviceBuffer,
    /// Where jobs, matrices' descriptions, the list of tiles and what has to be zero begin in the tables.
    at: [u64; 3],
    tiles: u32,
}

const BOUNDARY: usize = 256;

impl ProductBatch {
    /// Allocates operands and result, filled with zeros in the order of `stream`, for `batch` matrices of this shape.
    /// `dtype` is `F16` or `Bf16`.
    ///
    /// # Errors
    /// A product that updates a parameter, other types, empty matrices or too large ones; what the driver says.
    pub fn new(
        stream: &Stream,
        product: &Product,
        dtype: NsDtype,
        (rows, columns): (usize, usize),
        batch: usize,
    ) -> Result<Self> {
        let refuse =
            |reason: String| Err(Error::Tensor(format!("a product of {rows} x {columns}: {reason}")));
        let half = match dtype {
            NsDtype::F16 => true,
            NsDtype::Bf16 => false,
            _ => return refuse("tensor cores take f16 and bf16".into()),
        };
        if product.result.is_none() {
            return refuse("the product that updates a parameter has no result of its own".into());
        }
        let extents = product.extents(rows, columns);
        if rows == 0 || columns == 0 || batch == 0 {
            return refuse(format!("{batch} matrices of {rows} x {columns} are none"));
        }
        if let Err(reason) = check(rows, columns) {
            return refuse(reason);
        }
        let product = Product { guard: None, ..product.clone() };
        let used: Vec<Place> = [Some(product.a), Some(product.b), product.result]
            .into_iter()
            .chain(product.added.map(|term| term.map(|(_, place)| place)))
            .flatten()
            .collect();
        let most =
            |index: fn(&Place) -> Option<usize>| used.iter().filter_map(index).max().map_or(0, |i| i + 1);
        let longs = most(|place| if let Place::Long(i) = place { Some(*i) } else { None });
        let squares = most(|place| if let Place::Square(i) = place { Some(*i) } else { None });
        let program = Arc::new(Program { products: vec![product.clone()], longs, squares });
        let none = Program { products: vec![], longs: 0, squares: 0 };
        let view = MatrixView { offset: 0, rows, columns };
        let item = |offset: usize| Item {
            parameter: 0,
            matrix: 0,
            view,
            program: program.clone(),
            offset,
            first_square: 0,
            first_trace: 0,
        };
        let each = item(0).bytes(&none);
        let context = stream.context();
        // A launch may be captured, and loading may not.
        context.kernels()?;
        let matrices = DeviceBuffer::new(context, each.saturating_mul(batch))?;
        let items: Vec<Item> = (0..batch).map(|i| item(i * each)).collect();
        let jobs: Vec<_> = (0u32..)
            .zip(&items)
            .map(|(i, item)| make_job(&product, item, (matrices.address(), &none), 0, i, 0.0, 0))
            .collect();
        let tiles: Vec<Tile> = (0..batch as u32)
            .flat_map(|job| extents.tiles().map(move |(row, column)| (job, row, column)))
            .map(|(job, row, column)| Tile { job, row: row as u16, column: column as u16 })
            .collect();
        let mut bytes = vec![];
        let mut append = |table: &[u8]| {
            bytes.resize(bytes.len().next_multiple_of(BOUNDARY), 0);
            bytes.extend_from_slice(table);
            (bytes.len() - table.len()) as u64
        };
        let at = [
            append(bytemuck::cast_slice(&jobs)),
            append(bytemuck::cast_slice(&tiles)),
            append(&vec![0; SCALARS_BYTES + PROGRESS_BYTES * batch]),
        ];
        let tables = DeviceBuffer::new(context, bytes.len())?;
        context.run("making a product", || api::zero(matrices.address(), matrices.bytes(), stream.raw()))?;
        tables.write(stream, 0, &bytes)?;
        let at = at.map(|offset| tables.address() + offset);
        let places = items
            .iter()
            .map(|item| used.iter().map(|&place| (place, item.at(place, &none))).collect())
            .collect();
        let context = context.clone();
        Ok(Self {
            context,
            half,
            rows,
            columns,
            extents,
            places,
            matrices,
            _tables: tables,
            at,
            tiles: tiles.len() as u32,
        })
    }

    /// Sizes of the product.
    pub fn extents(&self) -> Extents {
        self.extents
    }

    /// Operands and results of all matrices, in an order of the kernels' own.
    pub fn memory(&self) -> &DeviceBuffer {
        &self.matrices
    }

    /// Gives the product to the stream: one launch, which has to be done before this is dropped.
    ///
    /// # Errors
    /// A stream of another context; what the driver says.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        stream.check_in(&self.context)?;
        let kernel = &self.context.kernels()?.product[usize::from(self.half)];
        let [jobs, tiles, zeros] = self.at;
        let progress = zeros + SCALARS_BYTES as u64;
        let mut arguments = [
            Argument::from(jobs),
            // No matrix is described; of scalars nothing but zeros is read: nobody skips it.
            0u64.into(),
            0u64.into(),
            0u64.into(),
            zeros.into(),
            progress.into(),
            // It guards nothing, reports nothing and measures nothing.
            0u64.into(),
            0u64.into(),
            0u64.into(),
            0u64.into(),
            tiles.into(),
            0u32.into(),
            0u32.into(),
        ];
        self.context.run("launching a product", || kernel.launch(stream.raw(), self.tiles, &mut arguments))
    }

    /// Rows and columns of a place.
    fn shape(&self, place: Place) -> (usize, usize) {
        let short = self.rows.min(self.columns);
        if let Place::Square(_) = place { (short, short) } else { (self.rows, self.columns) }
    }

    /// First byte and bytes of a matrix's place.
    fn range(&self, matrix: usize, place: Place) -> Result<(usize, usize)> {
        let found = self.places.get(matrix).and_then(|places| places.iter().find(|(p, _)| *p == place));
        let (_, at) =
            found.ok_or_else(|| Error::Tensor(format!("matrix {matrix} of a product has no {place:?}")))?;
        let (rows, columns) = self.shape(place);
        Ok((*at, 2 * padded(rows) * padded(columns)))
    }

    /// Rounds a row-major matrix to 16 bits and writes it to a place, in the order of `stream`.
    ///
    /// # Errors
    /// A place that the product does not use, another number of elements; what the driver says.
    pub fn write(&self, stream: &Stream, matrix: usize, place: Place, values: &[f32]) -> Result<()> {
        let (at, bytes) = self.range(matrix, place)?;
        let (rows, columns) = self.shape(place);
        if values.len() != rows * columns {
            return Err(Error::Tensor(format!("{} elements for {rows} x {columns}", values.len())));
        }
        let mut strips = vec![0u8; bytes];
        for (i, &value) in values.iter().enumerate() {
            let bits = if self.half {
                half::f16::from_f32(value).to_bits()
            } else {
                half::bf16::from_f32(value).to_bits()
            };
            let to = element_at(padded(rows), i / columns, i % columns);
            strips[to..to + 2].copy_from_slice(&bits.to_le_bytes());
        }
        self.matrices.write(stream, at, &strips)
    }

    /// A place's matrix, row-major, after all work before in the stream.
    ///
    /// # Errors
    /// A place that the product does not use; what the driver says.
    pub fn read(&self, stream: &Stream, matrix: usize, place: Place) -> Result<Vec<f32>> {
        let (at, bytes) = self.range(matrix, place)?;
        let (rows, columns) = self.shape(place);
        let mut strips = vec![0u8; bytes];
        self.matrices.read(stream, at, &mut strips)?;
        let value = |i: usize| {
            let from = element_at(padded(rows), i / columns, i % columns);
            let bits = u16::from_le_bytes([strips[from], strips[from + 1]]);
            if self.half { half::f16::from_bits(bits).to_f32() } else { half::bf16::from_bits(bits).to_f32() }
        };
        Ok((0..rows * columns).map(value).collect())
    }
}

fn padded(extent: usize) -> usize {
    extent.next_multiple_of(PIECE)
}

/// The first byte of an element: `square_at` and `chunk_at` of `kernels/strips.cuh`.
fn element_at(padded_rows: usize, row: usize, column: usize) -> usize {
    let strip = column / PIECE * padded_rows;
    let (chunk, rest) = (column % PIECE / 8, column % 8);
    (strip + row) * 2 * PIECE + (chunk ^ (row % 8)) * 16 + 2 * rest
}
