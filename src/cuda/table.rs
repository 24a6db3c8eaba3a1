//! What kernels read beside tensors, as they lie in device memory: `kernels/table.cuh` has the other side.

use bytemuck::{Pod, Zeroable};

/// Types of buffers.
pub(crate) const F32: u8 = 0;
pub(crate) const BF16: u8 = 1;
pub(crate) const F16: u8 = 2;
pub(crate) const ABSENT: u8 = 3;

/// What a group does.
pub(crate) mod rule {
    pub const NONE: u32 = 0;
    pub const HEAVY_BALL: u32 = 1;
    pub const EMA: u32 = 2;
    pub const NESTEROV: u32 = 3;
    pub const LION: u32 = 4;
    pub const MVR: u32 = 5;
    pub const SGD: u32 = 8;
    pub const ADAMW: u32 = 9;
    pub const ADAGRAD: u32 = 10;
}

/// Flags of a group.
pub(crate) mod flag {
    pub const MAXIMIZE: u32 = 1;
    pub const STARTS_FROM_GRADIENT: u32 = 2;
    pub const CAUTIOUS: u32 = 4;
    pub const CONVEX: u32 = 8;
    pub const EXTRAPOLATED: u32 = 16;
    pub const STOCHASTIC: u32 = 32;
    pub const SGD_NESTEROV: u32 = 64;
    pub const AMSGRAD: u32 = 128;
}

/// One matrix of a parameter, or all of it. Addresses are the first element's; 0 for a buffer that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Segment {
    pub visible: u64,
    pub gradient: u64,
    pub previous: u64,
    pub full: u64,
    pub momentum: u64,
    pub variance: u64,
    pub largest: u64,
    pub numel: u64,
    pub index: u64,
    pub scale: f64,
    pub parameter: u32,
    pub group: u32,
    pub key: [u32; 2],
    pub type_visible: u8,
    pub type_gradient: u8,
    pub type_previous: u8,
    pub type_full: u8,
    pub type_momentum: u8,
    pub type_variance: u8,
    pub shift: u8,
    pub aligned: u8,
    pub pad: [u8; 24],
}

/// A stretch of a segment that one block takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Chunk {
    pub segment: u32,
    pub chunk: u32,
}

/// The segments of a parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Range {
    pub first: u32,
    pub count: u32,
}

/// The hyperparameters of a group.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Group {
    pub lr: f64,
    pub weight_decay: f64,
    pub c: [f64; 4],
    pub rule: u32,
    pub flags: u32,
    pub seed: [u32; 2],
}

/// Bytes of what `prepare` writes for each segment.
pub(crate) const SCALARS_BYTES: usize = 64;

const _: () = assert!(size_of::<Segment>() == 128 && std::mem::offset_of!(Segment, key) == 88);
const _: () = assert!(std::mem::offset_of!(Segment, type_visible) == 96);
const _: () = assert!(size_of::<Group>() == 64 && std::mem::offset_of!(Group, rule) == 48);
