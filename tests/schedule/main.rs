//! Newton-Schulz iterations as products, products as tiles, tiles as launches: without any device.

mod cohorts;
#[path = "../common/mod.rs"]
mod common;
mod programs;
mod tiles;
