//! Steps on a card, held to the CPU reference bit for bit.
//!
//! The card is the software GPU, or what `ORTHANT_TEST_DEVICE` names (`cuda`): the same tests for both. A process can have one
//! driver only, so all tests of this file share it.

mod accumulate;
mod card;
mod checkpoints;
mod device_tensors;
mod fixture;
mod graphs;
mod halves;
mod lifecycle;
mod lines;
mod noise;
mod parity;
mod refusal;
mod spectral;
mod update_rms;
mod wild;

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
