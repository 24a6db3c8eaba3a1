//! Tests of `src/reference`, in the same layout.

#[path = "../common/mod.rs"]
mod common;

mod compact;
mod naive;
mod newton_schulz;
mod reduce;
mod threads;
