//! Orthogonalisation on tensor cores, held to the f64 reference.
//!
//! The card is the software GPU, or what `ORTHANT_TEST_DEVICE` names (`cuda`).

mod accuracy;
#[path = "../common/mod.rs"]
mod common;
mod guard;
mod relations;
mod zoo;

use std::sync::LazyLock;

use orthant::cuda::Context;
use orthant::{Device, Result};

/// Where the tests' steps run.
fn device() -> Device {
    static DEVICE: LazyLock<Device> = LazyLock::new(|| {
        let name = std::env::var("ORTHANT_TEST_DEVICE").unwrap_or_else(|_| "emulated".into());
        name.parse().unwrap_or_else(|e| panic!("ORTHANT_TEST_DEVICE: {e}"))
    });
    *DEVICE
}

/// A context that the tests share: kernels are loaded once.
fn context() -> Result<Context> {
    static CONTEXT: LazyLock<Result<Context>> = LazyLock::new(|| Context::open(device()));
    CONTEXT.clone()
}
