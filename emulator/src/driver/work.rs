//! What streams and graphs hold: kernels, copies, memsets, frees, host functions.

use std::sync::Arc;

use super::raw::{self, Callback};
use crate::exec::image::Image;

/// A module's code, kept alive by whoever may still run it.
pub(crate) struct Code {
    pub image: Image,
    pub device: usize,
}

/// A launch, all of it decided.
#[derive(Clone)]
pub(crate) struct Launch {
    pub code: Arc<Code>,
    pub kernel: Arc<str>,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    pub params: Vec<u8>,
    /// All its blocks run together and may meet.
    pub cooperative: bool,
}

/// One end of a copy.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// Device memory: device and address.
    Device(usize, u64),
    /// Host memory, read or written when the copy runs.
    Host(usize),
    /// Host memory as it was when the copy was asked for.
    Staged(Arc<Vec<u8>>),
}

/// One end, with the bytes from row to row and from slice to slice.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Side {
    pub end: End,
    pub pitch: usize,
    pub slice: usize,
}

impl Side {
    fn offset(&self, row: usize, slice: usize) -> usize {
        row * self.pitch + slice * self.slice
    }

    /// Bytes from the first to the last that the copy touches.
    pub fn extent(&self, [width, height, depth]: [usize; 3]) -> Option<usize> {
        if [width, height, depth].contains(&0) {
            return Some(0);
        }
        let rows = (height - 1).checked_mul(self.pitch)?;
        (depth - 1).checked_mul(self.slice)?.checked_add(rows)?.checked_add(width)
    }
}

/// A copy of up to three dimensions: bytes of a row, rows, slices.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Copy {
    pub to: Side,
    pub from: Side,
    pub size: [usize; 3],
}

impl Copy {
    /// `len` bytes in a row.
    pub fn linear(to: End, from: End, len: usize) -> Copy {
        let side = |end| Side { end, pitch: len, slice: len };
        Copy { to: side(to), from: side(from), size: [len, 1, 1] }
    }

    /// The stretches it consists of: offset in the target, in the source, length.
    pub fn rows(&self) -> Vec<(usize, usize, usize)> {
        let [width, height, depth] = self.size;
        if [width, height, depth].contains(&0) {
            return Vec::new();
        }
        let dense = |side: &Side| {
            (height == 1 || side.pitch == width) && (depth == 1 || side.slice == width * height)
        };
        if dense(&self.to) && dense(&self.from) {
            return vec![(0, 0, width * height * depth)];
        }
        let row = |z| move |y| (self.to.offset(y, z), self.from.offset(y, z), width);
        (0..depth).flat_map(|z| (0..height).map(row(z))).collect()
    }

    /// Reads pageable host memory now: such a copy may return only when its source is no longer needed.
    pub fn stage(&mut self) {
        if let End::Host(address) = self.from.end {
            let bytes = raw::read_host(address, self.from.extent(self.size).unwrap_or(0));
            self.from.end = End::Staged(Arc::new(bytes));
        }
    }
}

/// A memset: a pattern of 1, 2 or 4 bytes over rows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fill {
    pub device: usize,
    pub address: u64,
    pub pitch: usize,
    pub pattern: [u8; 4],
    /// Bytes of the pattern.
    pub element: usize,
    /// Elements of a row.
    pub width: usize,
    pub rows: usize,
}

impl Fill {
    pub fn bytes(&self) -> Option<usize> {
        let row = self.width.checked_mul(self.element)?;
        match self.rows {
            0 => Some(0),
            _ if row == 0 => Some(0),
            rows => (rows - 1).checked_mul(self.pitch)?.checked_add(row),
        }
    }
}

/// One operation.
#[derive(Clone)]
pub(crate) enum Work {
    Launch(Box<Launch>),
    Copy(Box<Copy>),
    Fill(Fill),
    /// `cuMemFreeAsync`
    Free(u64),
    Call(Callback),
    /// Events, and joins of graphs.
    Nothing,
}

impl Work {
    /// For reports.
    pub fn label(&self) -> Arc<str> {
        match self {
            Work::Launch(launch) => launch.kernel.clone(),
            Work::Copy(copy) => {
                let name = |end: &End| if matches!(end, End::Device(..)) { "device" } else { "host" };
                format!("copy from {} to {}", name(&copy.from.end), name(&copy.to.end)).into()
            }
            Work::Fill(_) => "memset".into(),
            Work::Free(_) => "free".into(),
            Work::Call(_) => "host function".into(),
            Work::Nothing => "event".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_fall_into_rows() {
        let side = |pitch, slice| Side { end: End::Host(0), pitch, slice };
        let copy = |to, from, size| Copy { to, from, size };
        assert_eq!(copy(side(4, 8), side(4, 8), [4, 2, 3]).rows(), [(0, 0, 24)]);
        let rows = copy(side(4, 8), side(10, 30), [4, 2, 2]).rows();
        assert_eq!(rows, [(0, 0, 4), (4, 10, 4), (8, 30, 4), (12, 40, 4)]);
        assert_eq!(copy(side(4, 8), side(10, 30), [4, 0, 2]).rows(), []);
        assert_eq!(side(10, 30).extent([4, 2, 2]), Some(44));
        assert_eq!(side(usize::MAX, 0).extent([4, 3, 1]), None);
    }
}
