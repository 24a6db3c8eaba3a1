//! The driver API as a client sees it: through `liborthant_gpu.so`, preloaded, and cudarc's bindings.

mod contents;
mod copies;
mod devices;
mod faults;
mod harness;
mod init;
mod launches;
mod memory;
mod modules;
mod occupancy;
mod sticky;
mod streams;
mod threads;
mod tools;
