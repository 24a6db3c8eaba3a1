//! The driver API as a client sees it: through `liborthant_gpu.so`, preloaded, and cudarc's bindings.

mod captures;
mod contents;
mod copies;
mod corners;
mod devices;
mod faults;
mod graphs;
mod harness;
mod init;
mod launches;
mod memory;
mod modules;
mod occupancy;
mod replays;
mod sticky;
mod streams;
mod threads;
mod tools;
