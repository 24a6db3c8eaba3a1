//! The GPU backend on cudarc. So far it finds and probes the driver, and describes parameters and groups to the elementwise
//! kernels, which tests run on the software GPU; no optimizer steps on them yet.

mod driver;
#[cfg_attr(not(test), allow(dead_code, reason = "used by its tests until optimizers step on cards"))]
mod elementwise;
mod emulated;
#[cfg_attr(not(test), allow(dead_code, reason = "used by its tests until optimizers step on cards"))]
mod table;

pub(crate) use driver::open;
