//! What kernels read beside tensors, as they lie in device memory: `kernels/table.cuh` has the other side.

use bytemuck::{Pod, Zeroable};

/// Types of buffers.
pub(crate) const F32: u8 = 0;
pub(crate) const BF16: u8 = 1;
pub(crate) const F16: u8 = 2;
pub(crate) const ABSENT: u8 = 3;
pub(crate) const LOW: u8 = 4;

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
    pub const NORMALISED: u32 = 256;
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
    pub plain: u8,
    pub pad: [u8; 3],
    pub first_chunk: u32,
    pub chunks: u32,
    pub more: [u32; 3],
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
    pub limit: f64,
}

/// A matrix as norms and scans see it.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Matrix {
    pub gradient: u64,
    pub previous: u64,
    pub momentum: u64,
    pub held: u64,
    pub numel: u64,
    pub columns: u64,
    pub gradient_stride: u64,
    pub previous_stride: u64,
    pub offset: u64,
    pub eps: f64,
    pub parameter: u32,
    pub group: u32,
    pub first_segment: u32,
    pub segments: u32,
    pub first_task: u32,
    pub tasks: u32,
    pub type_gradient: u8,
    pub type_previous: u8,
    pub type_momentum: u8,
    pub type_held: u8,
    pub aligned: u8,
    pub eps_added: u8,
    pub pad: [u8; 18],
}

/// A block of a matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Task {
    pub matrix: u32,
    pub block: u32,
}

/// The head of the control block.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Control {
    pub max_grad_norm: f64,
    pub loss_scale: f64,
    pub clips: u32,
    pub scans: u32,
    pub pad: u64,
}

/// What became of a step.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Entry {
    pub step: u64,
    pub applied: u64,
    pub skipped: u64,
    pub norm: f64,
    pub clip: f64,
    pub index: u64,
    pub value: f64,
    pub limit: f64,
    pub parameter: u32,
    pub verdict: u32,
    pub bad: f32,
    pub pad: u32,
    pub seal: u64,
    /// Orthogonalisations that the safe iteration did.
    pub fallbacks: u64,
}

/// Entries of the ring, and where it begins in what the device keeps from step to step.
pub(crate) const ENTRIES: u64 = 64;
pub(crate) const RING: usize = 64;
pub(crate) const STATUS_BYTES: usize = RING + ENTRIES as usize * size_of::<Entry>();
/// Verdicts beside 0, applied.
pub(crate) const NON_FINITE: u32 = 1;
pub(crate) const OVERFLOW: u32 = 2;
pub(crate) const ELSEWHERE: u32 = 3;
/// Where the scalars lie there that a step is decided from: f64 to be added up over ranks, and two of which the larger counts.
pub(crate) const SQUARES: usize = 40;
pub(crate) const FOUND: usize = 48;

/// A gradient and what is added to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Pair {
    pub sum: u64,
    pub addend: u64,
    pub numel: u64,
    pub type_sum: u8,
    pub type_addend: u8,
    pub shift: u8,
    pub aligned: u8,
    pub first_chunk: u32,
}

/// A matrix that is orthogonalised.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Orthogonal {
    pub strips: u64,
    pub margin: f64,
    pub matrix: u32,
    pub rows: u32,
    pub columns: u32,
    pub first_square: u32,
    pub tiles: u32,
    pub first_job: u32,
    pub jobs: u32,
    pub half: u8,
    pub lmo_first: u8,
    pub groups: u8,
    pub pad: u8,
}

/// Which way operands lie.
pub(crate) mod form {
    pub const BY_ROWS: u8 = 0;
    pub const MIXED: u8 = 1;
    pub const BY_COLUMNS: u8 = 2;
}

/// A product. Addresses are 0 for what is not there.
#[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable)]
#[repr(C, align(16))]
pub(crate) struct Job {
    pub a: u64,
    pub b: u64,
    pub c: u64,
    pub c2: u64,
    pub d: u64,
    pub m: u32,
    pub n: u32,
    pub k: u32,
    pub orthogonal: u32,
    pub alpha: f32,
    pub beta: f32,
    pub beta2: f32,
    pub gamma: f32,
    pub polynomial: [f32; 3],
    pub limit: f32,
    pub first_tile: u32,
    pub tiles: u32,
    pub first_partial: u32,
    pub form: u8,
    pub symmetric: u8,
    pub guards: u8,
    pub pad: u8,
    pub first_moved: u32,
    pub first_segment: u32,
}

/// A tile of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C)]
pub(crate) struct Tile {
    pub job: u32,
    pub row: u16,
    pub column: u16,
}

/// Bytes of what the kernels keep for each matrix that is orthogonalised, and of the traces of a tile.
pub(crate) const PROGRESS_BYTES: usize = 32;
pub(crate) const TRACES_BYTES: usize = 32;

/// Bytes of what the kernels write for each segment, task and matrix.
pub(crate) const SCALARS_BYTES: usize = 64;
pub(crate) const FOUND_BYTES: usize = 24;
pub(crate) const GATHERED_BYTES: usize = 32;

const _: () = assert!(size_of::<Segment>() == 128 && std::mem::offset_of!(Segment, key) == 88);
const _: () = assert!(std::mem::offset_of!(Segment, type_visible) == 96);
const _: () = assert!(std::mem::offset_of!(Segment, first_chunk) == 108);
const _: () = assert!(size_of::<Group>() == 64 && std::mem::offset_of!(Group, rule) == 48);
const _: () = assert!(size_of::<Matrix>() == 128 && std::mem::offset_of!(Matrix, type_gradient) == 104);
const _: () = assert!(size_of::<Control>() == 32 && size_of::<Pair>() == 32);
const _: () = assert!(size_of::<Entry>() == 96 && std::mem::offset_of!(Entry, seal) == 80);
const _: () = assert!(size_of::<Orthogonal>() == 48 && std::mem::offset_of!(Orthogonal, half) == 44);
const _: () = assert!(size_of::<Job>() == 112 && std::mem::offset_of!(Job, form) == 100);
const _: () = assert!(size_of::<Tile>() == 8);
