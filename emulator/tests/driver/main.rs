//! The driver API as a client sees it: through `liborthant_gpu.so`, preloaded, and cudarc's bindings.

mod devices;
mod faults;
mod harness;
mod init;
mod streams;
mod tools;
