//! A software GPU that executes the PTX which NVRTC produces.
//!
//! It is a checker before it is a simulator: it reports what a card would let pass, with thread and source line.
//! [`ptx`] reads the text, [`isa`] computes on registers, [`memory`] holds bytes and watches who touches them, [`exec`]
//! runs warps and blocks, and [`gpu`] is how to use all that from Rust.

#![deny(unsafe_code)]

#[cfg(feature = "driver")]
pub mod driver;
pub mod exec;
pub mod gpu;
pub mod isa;
pub mod memory;
pub mod ptx;
