//! Kernels executed: results against plain Rust, planted bugs against reports, counters, schedules.

#[path = "exec/bugs.rs"]
mod bugs;
#[path = "exec/features.rs"]
mod features;
#[path = "exec/fixtures.rs"]
mod fixtures;
#[path = "exec/machine.rs"]
mod machine;
