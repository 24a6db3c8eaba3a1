//! The geometry of products: how operands lie, which tiles there are, what they cost.

use super::program::{Kind, Product};

/// Rows and columns of a tile of a result: as in `kernels/product.cuh`.
pub const TILE: usize = 128;
/// Rows and columns that a warp has of it, columns of a strip, terms of a stage.
pub const PIECE: usize = 64;
/// The longest side that kernels take: tiles have 16 bits for a row or column.
pub const LONGEST: usize = 1 << 22;
/// The most elements that they take, padding included: they count 16 bytes of an operand in 32 bits.
pub const LARGEST: usize = 1 << 35;

/// Whether kernels have numbers for the tiles and the bytes of such a matrix; else why not.
pub(crate) fn check(rows: usize, columns: usize) -> Result<(), String> {
    let padded = rows.next_multiple_of(PIECE).saturating_mul(columns.next_multiple_of(PIECE));
    if rows.max(columns) > LONGEST {
        return Err(format!("{rows} x {columns} has a side of more than {LONGEST}"));
    }
    if padded > LARGEST {
        return Err(format!("{rows} x {columns}, padded to {PIECE}, has more than {LARGEST} elements"));
    }
    Ok(())
}

/// Which way the operands of a product lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `A B^T`: the sum runs over the columns of both.
    ByRows,
    /// `A B`.
    Mixed,
    /// `A^T B`: over the rows of both.
    ByColumns,
}

/// Sizes of a product of matrices as they lie in memory, never transposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extents {
    /// Rows of the result.
    pub m: usize,
    /// Columns of the result.
    pub n: usize,
    /// Terms of each sum.
    pub k: usize,
    /// Which way the operands lie.
    pub form: Form,
    /// Whether tiles above the diagonal are mirrored rather than computed.
    pub symmetric: bool,
    /// Whether the operands stand in the other order: `X Q` for a tall `X`.
    pub swapped: bool,
}

impl Product {
    /// For a matrix of this shape.
    pub fn extents(&self, rows: usize, columns: usize) -> Extents {
        let (short, long) = (rows.min(columns), rows.max(columns));
        let tall = rows > columns;
        let symmetric = |k, form| Extents { m: short, n: short, k, form, symmetric: true, swapped: false };
        match self.kind {
            Kind::Gram => symmetric(long, if tall { Form::ByColumns } else { Form::ByRows }),
            Kind::Square => symmetric(short, Form::ByRows),
            Kind::Long => {
                let form = if tall { Form::ByRows } else { Form::Mixed };
                Extents { m: rows, n: columns, k: short, form, symmetric: false, swapped: tall }
            }
        }
    }
}

impl Extents {
    /// Rows and columns of tiles.
    fn grid(&self) -> (usize, usize) {
        (self.m.div_ceil(TILE), self.n.div_ceil(TILE))
    }

    /// The tiles that are computed, by row and column; their order is their numbering.
    pub fn tiles(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (down, across) = self.grid();
        let symmetric = self.symmetric;
        (0..down).flat_map(move |row| {
            (0..if symmetric { row + 1 } else { across }).map(move |column| (row, column))
        })
    }

    /// How many there are.
    pub fn tile_count(&self) -> usize {
        let (down, across) = self.grid();
        if self.symmetric { down * (down + 1) / 2 } else { down * across }
    }

    /// `n^2 k` for a symmetric product, `2 m n k` for another.
    pub fn ideal_flops(&self) -> u64 {
        let [m, n, k] = [self.m, self.n, self.k].map(|x| x as u64);
        m * n * k * if self.symmetric { 1 } else { 2 }
    }

    /// Of blocks of 16 x 8 with 16 terms at a time.
    pub fn executed_flops(&self) -> u64 {
        let [m, n, k] = [self.m.div_ceil(16), self.n.div_ceil(8), self.k.div_ceil(16)].map(|x| x as u64);
        // Beside row block i there are columns up to the diagonal, block by block.
        let blocks = if self.symmetric { (0..m).map(|i| (2 * i + 2).min(n)).sum() } else { m * n };
        blocks * k * 2 * 16 * 8 * 16
    }
}
