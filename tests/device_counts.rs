//! What a step and a registration cost on a card: calls of the driver, bytes of memory. Counted on the software GPU, in a
//! process of its own: its counters are the whole process's, so everything here takes turns.
#![cfg(feature = "cuda")]

use std::sync::{Mutex, PoisonError};

use orthant::algorithm::NsDtype;
use orthant::config::Config;
use orthant::cuda::{self, Context, DeviceBuffer, Stream};
use orthant::{Algorithm, Device, DeviceTensor, Dtype, Group, Optimizer, Parameter, StepOptions, Tensor};
use serde_json::Value;

static TURN: Mutex<()> = Mutex::new(());

fn device() -> Device {
    "emulated".parse().expect("a device")
}

/// Calls of the driver by name.
fn calls() -> serde_json::Map<String, Value> {
    let report: Value = serde_json::from_str(&cuda::counters().expect("the software GPU")).expect("JSON");
    report["calls_by_name"].as_object().expect("calls").clone()
}

/// Those made since, but for the ones that had been made before.
fn calls_since(before: &serde_json::Map<String, Value>) -> Vec<(String, u64)> {
    let count = |calls: &serde_json::Map<String, Value>, name: &str| {
        calls.get(name).and_then(Value::as_u64).unwrap_or_default()
    };
    let now = calls();
    let names = now.keys().cloned();
    names
        .map(|name| (name.clone(), count(&now, &name) - count(before, &name)))
        .filter(|(_, new)| *new > 0)
        .collect()
}

#[test]
fn a_step_is_three_calls_whatever_the_tensors() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let context = Context::open(device()).expect("the software GPU");
    context.make_current().expect("current");
    let stream = Stream::new(&context).expect("a stream");
    for count in [1, 164, 1000] {
        const ELEMENTS: usize = 32;
        let memory: [DeviceBuffer; 2] = std::array::from_fn(|_| {
            let memory = DeviceBuffer::new(&context, count * ELEMENTS * 4).expect("memory");
            memory.write(&stream, 0, &vec![1; memory.bytes()]).expect("copied");
            memory
        });
        #[allow(unsafe_code, reason = "the memory outlives the optimizer")]
        let tensor = |memory: &DeviceBuffer, i: usize| {
            let address = memory.address() + (i * ELEMENTS * 4) as u64;
            // SAFETY: the memory is this card's, and is dropped after the optimizer.
            unsafe { DeviceTensor::new(address, Dtype::F32, &[ELEMENTS]) }.expect("a tensor")
        };
        let parameters = (0..count)
            .map(|i| Parameter::new(format!("p{i}"), tensor(&memory[0], i)).grad(tensor(&memory[1], i)));
        let mut optimizer = Optimizer::builder(device())
            .context(context.clone())
            .group(Group::new("g", Algorithm::lion()).lr(0.1).params(["*"]))
            .max_grad_norm(1.0)
            .register(parameters)
            .expect("registered");
        optimizer.step_on(&stream).expect("the first step captures");
        for step in 0..20 {
            optimizer.set_lr("g", 0.01 + f64::from(step) / 1000.0).expect("legal");
            let before = calls();
            optimizer.step_on(&stream).expect("a step");
            let made = calls_since(&before);
            assert!(made.iter().map(|(_, n)| n).sum::<u64>() <= 3, "{count} tensors: {made:?}");
            assert!(made.iter().any(|(name, _)| name == "cuGraphLaunch"), "{made:?}");
        }
        optimizer.synchronize().expect("done");
        assert_eq!(optimizer.steps(), 21);
    }
}

#[test]
fn the_plan_knows_the_bytes_of_an_optimizer() {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let groups = |master: &str, frobenius: &str| {
        format!(
            "[[group]]\nparams = [\"m*\"]\nalgorithm = \"adamw\"\n{master}\n[[group]]\nparams = [\"n*\"]\n\
             algorithm = \"nsgd\"\nlr = 0.1\n{frobenius}\n[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\n"
        )
    };
    let configs = [
        groups("", ""),
        groups("master = \"f32\"", "state_dtype = \"bf16\""),
        groups("master = \"compact\"\nstate_dtype = \"bf16\"", "splits = 2"),
        format!("[step]\nmax_grad_norm = 1.0\nseed = 3\n{}", groups("", "")),
        format!("[step]\nnonfinite = \"propagate\"\n{}", groups("", "")),
        "[[group]]\nparams = [\"m*\"]\nalgorithm = \"scion\"\nlr = 0.1\nnorm = \"rows\"\n[[group]]\nparams = [\"n*\"]\n\
         algorithm = \"scion\"\nlr = 0.1\nnorm = \"columns\"\n[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\n"
            .to_owned(),
        "[step]\nmax_workspace = 2000000\ndiagnostics = true\n[[group]]\nparams = [\"m*\"]\nalgorithm = \"muon\"\n\
         ns_dtype = \"f16\"\nlr = 0.1\n[[group]]\nparams = [\"n*\"]\nalgorithm = \"scion\"\nlr = 0.1\nnorm = \"rows\"\n\
         [[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\n"
            .to_owned(),
        "[[group]]\nparams = [\"m*\", \"n*\"]\nalgorithm = \"orthogonal-sgdm\"\nlr = 0.1\n[[group]]\nparams = [\"*\"]\n\
         algorithm = \"lion\"\n"
            .to_owned(),
    ];
    let shapes: [(&str, &[usize]); 6] = [
        ("m1", &[1000, 33]),
        ("m2", &[2, 0, 5]),
        ("n1", &[6, 4096]),
        ("n2", &[4, 3, 3, 3]),
        ("x", &[16_385]),
        ("y", &[]),
    ];
    for text in configs {
        let config = Config::parse(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        for with_gradients in [true, false] {
            let parameters = shapes.map(|(name, shape)| {
                let zeros = || Tensor::zeros(Dtype::Bf16, shape).expect("zeros");
                let parameter = Parameter::new(name, zeros());
                if with_gradients { parameter.grad(zeros()) } else { parameter }
            });
            let builder = Optimizer::builder(device()).groups(config.groups.clone()).options(config.options);
            let optimizer = builder.register(parameters).unwrap_or_else(|e| panic!("{e}: {text}"));
            let planned = cuda::device_bytes(optimizer.plan(), &config.options).expect("it has kernels");
            assert_eq!(planned, optimizer.device_bytes(), "{text}");
        }
    }
}

#[test]
fn a_plan_without_kernels_is_refused() {
    let spec =
        orthant::ParameterSpec { name: "w".into(), shape: vec![4, 4], dtype: Dtype::F32, grad_dtype: None };
    let group =
        Group::new("hidden", Algorithm::orthogonal_sgdm().ns_dtype(NsDtype::F32)).lr(0.1).params(["*"]);
    let plan = orthant::Plan::new(vec![group], vec![spec], None).expect("legal");
    let refused = cuda::device_bytes(&plan, &StepOptions::default()).expect_err("no kernels").to_string();
    assert!(refused.contains("group `hidden`") && refused.contains("device `cpu`"), "{refused}");
}
