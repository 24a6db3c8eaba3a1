//! What the software GPU counts, in a process of its own: floating-point operations as planned, and no bank conflicts.

use std::sync::LazyLock;

use orthant::algorithm::{NewtonSchulz, NsDtype, NsMethod};
use orthant::cuda::Context;
use orthant::schedule::Program;
use orthant::{Device, EmulatedCard};
use serde_json::Value;

use crate::common::Random;
use crate::zoo::{config, directions};

#[path = "common/mod.rs"]
mod common;
#[path = "tensor_cores/zoo.rs"]
#[allow(dead_code, reason = "a part of it")]
mod zoo;

fn context() -> orthant::Result<Context> {
    static CONTEXT: LazyLock<orthant::Result<Context>> = LazyLock::new(|| Context::open(DEVICE));
    CONTEXT.clone()
}

const DEVICE: Device = Device::Emulated(EmulatedCard::Sm80);

#[test]
fn products_cost_what_the_planner_says() {
    for (method, dtype, kernel, name) in [
        (NsMethod::Standard, NsDtype::Bf16, "product_bf16", "ns_method = \"standard\"\nns_dtype = \"bf16\""),
        (NsMethod::Gram, NsDtype::F16, "product_f16", "ns_method = \"gram\"\nns_dtype = \"f16\""),
    ] {
        for (rows, columns) in [(256, 512), (512, 128), (100, 333), (70, 70)] {
            let matrix = Random(9).gaussian(rows, columns);
            let before = counts(kernel);
            directions(DEVICE, &config(name), &[matrix]);
            let after = counts(kernel);
            let of = |key: &str| {
                after.pointer(key).and_then(Value::as_u64).unwrap_or(0)
                    - before.pointer(key).and_then(Value::as_u64).unwrap_or(0)
            };
            let spec = NewtonSchulz { method, dtype: Some(dtype), ..NewtonSchulz::default() };
            let planned = Program::new(&spec, rows, columns).executed_flops(rows, columns);
            println!(
                "{kernel} {rows} x {columns}: {} {}, {} conflicts in {}",
                of("/tensor_flops"),
                planned,
                of("/shared/bank_conflicts"),
                of("/shared_accesses")
            );
            assert_eq!(of("/tensor_flops"), planned, "{name}, {rows} x {columns}");
            assert_eq!(of("/shared/bank_conflicts"), 0, "{name}, {rows} x {columns}");
        }
    }
}

fn counts(kernel: &str) -> Value {
    let all: Value =
        orthant::cuda::counters().map_or(Value::Null, |text| serde_json::from_str(&text).expect("JSON"));
    all.pointer(&format!("/kernels/{kernel}")).cloned().unwrap_or_default()
}
