//! The GPU backend on cudarc. So far it finds and probes the driver; kernels are not built yet.

mod driver;
mod emulated;

pub(crate) use driver::open;
