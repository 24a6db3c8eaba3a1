//! Kernels executed: results against plain Rust, planted bugs against reports, counters, schedules.

#[path = "exec/bugs.rs"]
mod bugs;
#[path = "exec/features.rs"]
mod features;
#[path = "exec/fixtures.rs"]
mod fixtures;
#[path = "exec/machine.rs"]
mod machine;
#[path = "exec/maths.rs"]
mod maths;
#[path = "exec/numbers.rs"]
mod numbers;
#[path = "exec/pipelines.rs"]
mod pipelines;
#[path = "exec/printing.rs"]
mod printing;
#[path = "exec/products.rs"]
mod products;
#[path = "exec/strangers.rs"]
mod strangers;
#[path = "exec/tensor.rs"]
mod tensor;
#[path = "exec/wide_atomics.rs"]
mod wide_atomics;
