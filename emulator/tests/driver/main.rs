//! The driver API as a client sees it: through `liborthant_gpu.so`, preloaded, and cudarc's bindings.

mod harness;
mod streams;
