//! The driver API as a client sees it: through `liborthant_gpu.so`, preloaded, and cudarc's bindings.
//!
//! SAFETY of all `unsafe` here: calls of the driver's C API with live places for results and live arguments, but where a
//! test passes what the API refuses (null, handles that are no more): the driver looks before it touches. Pinned memory is
//! read and written between its allocation and its end; what a callback is given lives until its stream has been waited for.

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
