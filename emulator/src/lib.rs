//! A software GPU that executes the PTX which NVRTC produces.
//!
//! It is a checker before it is a simulator: it reports what a card would let pass, with thread and source line.
//! [`ptx`] reads the text, [`isa`] computes on registers, [`memory`] holds bytes and watches who touches them, [`exec`]
//! runs warps and blocks, and [`gpu`] is how to use all that from Rust. The CUDA driver API in front of it (feature
//! `driver`) is exported by `liborthant_gpu.so`; [`preload`] loads that into a process, [`install`] puts it where other
//! programs look for a driver.

#![deny(unsafe_code)]

#[cfg(feature = "driver")]
pub mod driver;
pub mod exec;
pub mod gpu;
pub mod install;
pub mod isa;
pub mod memory;
#[cfg(feature = "preload")]
pub mod preload;
pub mod ptx;
