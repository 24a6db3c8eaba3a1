//! What lives how long and where: contexts and streams of others, memory that is none, registration that fails, everything
//! that is given back.
#![allow(unsafe_code, reason = "contexts, streams and addresses as a caller of the driver has them")]

use std::collections::BTreeMap;
use std::process::Command;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys;
use orthant::config::Config;
use orthant::cuda::{Context, DeviceBuffer, Stream};
use orthant::{Device, DeviceTensor, Dtype, Error, Optimizer, Parameter, Storage};

use crate::device;
use crate::fixture::{Card, Layout, OnCard, Pair, assert_same, steps_by};
use crate::noise::Noise;
use crate::parity::{RULES, Set, config, config_with};

const CHILD: &str = "ORTHANT_TEST_CHILD";

/// Runs `body` in a process of its own, where nothing else uses the driver and it has these settings. Not on a card where
/// they are the emulator's.
fn alone(name: &str, settings: &[(&str, &str)], body: impl FnOnce()) {
    if std::env::var(CHILD).is_ok_and(|child| child == name) {
        return body();
    }
    if !settings.is_empty() && !emulated() {
        return;
    }
    let mut child = Command::new(std::env::current_exe().expect("this program"));
    child.args(["--exact", &format!("lifecycle::{name}"), "--nocapture"]).env(CHILD, name);
    let output = child.envs(settings.iter().copied()).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}\n{errors}");
}

fn emulated() -> bool {
    matches!(device(), Device::Emulated(_))
}

/// The emulator's report.
fn report() -> serde_json::Value {
    let emulator = orthant_gpu::preload::Emulator::preload(None).expect("loaded already");
    serde_json::from_str(&emulator.report()).expect("JSON")
}

fn ok(result: sys::CUresult) {
    assert_eq!(result, sys::CUresult::CUDA_SUCCESS);
}

fn ordinal() -> i32 {
    if let Device::Cuda(ordinal) = device() { ordinal as i32 } else { 0 }
}

/// A context that is not ours, destroyed when dropped. It is not the thread's current one.
struct Foreign(sys::CUcontext);

impl Foreign {
    fn new() -> Foreign {
        // Whoever probes the driver first initialises it.
        orthant::Driver::open(device()).expect("a driver");
        let (mut raw, mut popped) = (null_mut(), null_mut());
        // SAFETY: here and below: live handles, and places for results.
        unsafe {
            ok(sys::cuCtxCreate_v2(&mut raw, 0, ordinal()));
            ok(sys::cuCtxPopCurrent_v2(&mut popped));
        }
        Foreign(raw)
    }

    fn context(&self) -> Context {
        unsafe { Context::from_raw(device(), self.0.cast()) }.expect("a context")
    }

    fn current<T>(&self, calls: impl FnOnce() -> T) -> T {
        let mut popped = null_mut();
        unsafe { ok(sys::cuCtxPushCurrent_v2(self.0)) };
        let result = calls();
        unsafe { ok(sys::cuCtxPopCurrent_v2(&mut popped)) };
        assert_eq!(popped, self.0, "somebody left another context current");
        result
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        unsafe { ok(sys::cuCtxDestroy_v2(self.0)) };
    }
}

fn shapes() -> Vec<Vec<usize>> {
    vec![vec![33], vec![5, 7], vec![4100]]
}

/// Steps on a card's own context and stream, held to the CPU.
fn steps(card: &Card, rule: &str) {
    let parsed =
        Config::parse(&config_with("max_grad_norm = 0.5", rule, "name = \"g\"")).expect("a configuration");
    let mut noise = Noise(4);
    let cpu = Set::new(&mut noise, Dtype::F32, Dtype::F32, &shapes());
    let set = OnCard::new(card, &cpu, Layout::default());
    let mut reference = cpu.optimizer(&parsed, Device::Cpu);
    let mut optimizer = set.optimizer(card, &parsed);
    for step in 1..=3 {
        for optimizer in [&mut reference, &mut optimizer] {
            optimizer.set_lr("g", 0.1 / f64::from(step)).expect("legal");
        }
        reference.step().expect("a step");
        steps_by(&mut optimizer).unwrap_or_else(|e| panic!("{e}"));
        assert_same(&format!("{rule}, step {step}"), (&cpu, &reference), (&set, &optimizer));
    }
}

#[test]
fn contexts_and_streams_of_others() {
    let (foreign, other) = (Foreign::new(), Foreign::new());
    let context = foreign.context();
    steps(&Card::of(context.clone()), RULES[12]);
    // Another context is current, and stays so.
    other.current(|| steps(&Card::of(context.clone()), RULES[14]));
    let mut raw = null_mut();
    foreign.current(|| unsafe { ok(sys::cuStreamCreate(&mut raw, 1)) });
    let stream = Arc::new(unsafe { Stream::from_raw(&context, raw.cast()) }.expect("a stream"));
    other.current(|| steps(&Card { context: context.clone(), stream: stream.clone() }, RULES[3]));
    drop(stream);
    foreign.current(|| unsafe { ok(sys::cuStreamDestroy_v2(raw)) });
    drop(context);
}

/// Handle 0 is the default stream of the current context: ours has to be current whenever it is used.
#[test]
fn default_streams_belong_to_the_optimizers_context() {
    let (foreign, other) = (Foreign::new(), Foreign::new());
    let context = foreign.context();
    for handle in [0, 1] {
        let stream = Arc::new(unsafe { Stream::from_raw(&context, handle as *mut _) }.expect("a stream"));
        let card = Card { context: context.clone(), stream };
        other.current(|| steps(&card, RULES[3]));
        steps(&card, RULES[12]);
    }
}

#[track_caller]
fn says<T: std::fmt::Debug>(result: Result<T, Error>, words: &[&str]) {
    let text = result.expect_err("it is refused").to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn streams_of_another_context_are_refused() {
    let foreign = Foreign::new();
    let (card, other) = (Card::new(), Card::of(foreign.context()));
    let raw = other.stream.as_raw();
    says(unsafe { Stream::from_raw(&card.context, raw) }.map(drop), &["stream", "another context"]);
    let parsed = Config::parse(&config(RULES[3], "name = \"g\"")).expect("a configuration");
    let set =
        OnCard::new(&card, &Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, &shapes()), Layout::default());
    let mut optimizer = set.optimizer(&card, &parsed);
    says(optimizer.step_on(&other.stream), &["another context"]);
    says(optimizer.step_group_on("g", &other.stream, None, None), &["another context"]);
    says(optimizer.write_control(&other.stream), &["another context"]);
    let builder = Optimizer::builder(device()).groups(parsed.groups.clone()).stream(other.stream.clone());
    says(
        builder.context(card.context.clone()).register(set.parameters(&parsed)).map(drop),
        &["another context"],
    );
    steps_by(&mut optimizer).expect("a step");
}

/// In whatever order things go, all are given back, and nothing that steps use goes before them.
#[test]
fn things_go_in_any_order() {
    let parsed = Config::parse(&config_with("max_grad_norm = 1.0", RULES[12], "")).expect("a configuration");
    let host = Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, &shapes());
    for order in 0..24 {
        let Card { context, stream } = Card::of(Context::open(device()).expect("a context"));
        let card = Card { context: context.clone(), stream: stream.clone() };
        let set = OnCard::new(&card, &host, Layout::default());
        drop(card);
        let builder = Optimizer::builder(device()).groups(parsed.groups.clone()).options(parsed.options);
        let mut optimizer =
            builder.stream(stream.clone()).register(set.parameters(&parsed)).expect("registered");
        for _ in 0..3 {
            optimizer.step().expect("given");
        }
        let (mut optimizer, mut set) = (Some(optimizer), Some(set));
        let (mut stream, mut context) = (Some(stream), Some(context));
        let mut left = vec![0, 1, 2, 3];
        let mut digits = order;
        for radix in (1..=4).rev() {
            match left.remove(digits % radix) {
                0 => drop(optimizer.take()),
                1 => drop(stream.take()),
                2 => drop(context.take()),
                _ => {
                    // Memory is the caller's: it waits for the steps on it.
                    if let Some(optimizer) = &optimizer {
                        optimizer.synchronize().expect("done");
                    }
                    drop(set.take());
                }
            }
            digits /= radix;
        }
    }
}

/// A stream that a step was given to lives until the step is done.
#[test]
fn a_stream_that_is_dropped_behind_a_step() {
    let mut pair =
        Pair::new(&config_with("nonfinite = \"error\"", RULES[3], ""), Dtype::F32, Dtype::F32, &shapes());
    for step in 1..=20 {
        let stream = Stream::new(&pair.card.context).expect("a stream");
        pair.optimizer.step_on(&stream).expect("given");
        drop(stream);
        pair.reference.step().expect("a step");
        // It waits for the step, wherever it runs.
        pair.optimizer.synchronize().expect("done");
        pair.same(&format!("step {step}"));
    }
}

#[test]
fn optimizers_leave_nothing_behind() {
    // On a card other tests allocate meanwhile; card.rs looks at its memory, alone.
    if !emulated() {
        return;
    }
    alone("optimizers_leave_nothing_behind", &[], || {
        let card = Card::new();
        let host = Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, &shapes());
        let parsed =
            Config::parse(&config_with("max_grad_norm = 1.0", RULES[12], "")).expect("a configuration");
        let set = OnCard::new(&card, &host, Layout::default());
        let other = Stream::new(&card.context).expect("a stream");
        let once = |number: usize| {
            let mut optimizer = set.optimizer(&card, &parsed);
            optimizer.step().expect("given");
            optimizer.step_on(&other).expect_or_done(&card);
            if number.is_multiple_of(2) {
                optimizer.set_max_grad_norm(None).expect("legal");
                optimizer.step().expect("given");
            }
            drop(optimizer);
            // Tensors in host memory, copies of them, and a context of its own.
            let mut optimizer = host.optimizer(&parsed, device());
            optimizer.step().expect("a step");
            drop(optimizer);
            // A registration that fails.
            let mut parameters = set.parameters(&parsed);
            parameters.push(parameters[0].clone());
            let builder =
                Optimizer::builder(device()).groups(parsed.groups.clone()).stream(card.stream.clone());
            builder.register(parameters).expect_err("one name twice");
        };
        let living = || -> (u64, BTreeMap<String, u64>) {
            let free = card.context.memory().expect("an answer").0;
            (free, serde_json::from_value(report()["living"].clone()).expect("numbers"))
        };
        once(0);
        once(1);
        let before = living();
        for number in 0..20 {
            once(number);
        }
        assert_eq!(before, living());
    });
}

trait OrDone {
    fn expect_or_done(self, card: &Card);
}

impl OrDone for orthant::Result<()> {
    /// The step is given, and done before the stream of the next one goes on.
    fn expect_or_done(self, card: &Card) {
        self.expect("given");
        card.context.synchronize().expect("done");
    }
}

fn tensor(address: u64, shape: &[usize]) -> DeviceTensor {
    // SAFETY: the addresses are to be refused.
    unsafe { DeviceTensor::new(address, Dtype::F32, shape) }.expect("described")
}

fn register(card: &Card, parameters: Vec<Parameter>) -> orthant::Result<Optimizer> {
    let parsed = Config::parse(&config(RULES[12], "")).expect("a configuration");
    let builder = Optimizer::builder(device()).groups(parsed.groups).options(parsed.options);
    builder.stream(card.stream.clone()).register(parameters)
}

#[test]
fn addresses_that_are_no_memory_of_the_card() {
    let card = Card::new();
    let buffer = DeviceBuffer::new(&card.context, 256).expect("memory");
    let good = tensor(buffer.address(), &[8]);
    let host = vec![0.0f32; 64];
    let freed = DeviceBuffer::new(&card.context, 1 << 20).expect("memory");
    let gone = freed.address() + 512;
    drop(freed);
    for (address, what) in [(host.as_ptr() as u64, "host"), (gone, "freed"), (64, "nothing")] {
        let parameter = || Parameter::new("w", good.clone());
        let words = ["parameter `w`", "no device memory", &format!("{address:#x}")];
        says(register(&card, vec![Parameter::new("w", tensor(address, &[8]))]).map(drop), &words);
        let words = ["parameter `w`", "its gradient", "no device memory"];
        says(register(&card, vec![parameter().grad(tensor(address, &[8]))]).map(drop), &words);
        let mut optimizer = register(&card, vec![parameter()]).expect("registered");
        says(optimizer.rebind_gradients([("w", Some(tensor(address, &[8])))]), &words);
        assert_eq!(optimizer.step(), Err(Error::NoGradients), "{what}");
    }
    // It begins in memory and ends far behind it.
    says(
        register(&card, vec![Parameter::new("w", tensor(buffer.address(), &[1 << 34]))]).map(drop),
        &["`w`"],
    );
    let null = unsafe { DeviceTensor::new(0, Dtype::F32, &[8]) };
    says(null, &["address 0"]);
    says(unsafe { DeviceTensor::new(buffer.address() + 2, Dtype::F32, &[8]) }, &["no multiple", "4 bytes"]);
    says(unsafe { DeviceTensor::new(buffer.address(), Dtype::F64, &[8]) }, &["f64"]);
    let strides = |shape: &[usize], strides: &[usize]| unsafe {
        DeviceTensor::strided(buffer.address(), Dtype::F32, shape, strides)
    };
    says(strides(&[2, 2], &[1, 2]), &["neither row-major"]);
    says(strides(&[2, 2], &[1, 1]), &["neither row-major"]);
    says(strides(&[2, 2, 2], &[8, 2, 1]), &["neither row-major"]);
    says(strides(&[2, 2], &[2]), &["1 strides"]);
    says(strides(&[1 << 31, 2], &[1 << 31, 1]), &["address space"]);
    says(strides(&[1 << 40, 1 << 40], &[1, 1]), &["address space"]);
}

/// Memory of another context of the same card is not ours to use.
#[test]
fn memory_of_another_context() {
    let foreign = Foreign::new();
    let (card, other) = (Card::new(), Card::of(foreign.context()));
    let (mine, theirs) = (card.block(Dtype::F32, 8), other.block(Dtype::F32, 8));
    let [mine, theirs] = [mine, theirs].map(|block| block.view(0, &[8], &[]));
    let words = ["parameter `w`", "another context"];
    says(register(&card, vec![Parameter::new("w", theirs.tensor.clone())]).map(drop), &words);
    let parameter = Parameter::new("w", mine.tensor.clone()).grad(theirs.tensor.clone());
    says(register(&card, vec![parameter]).map(drop), &["its gradient", "another context"]);
}

#[test]
fn memory_of_another_card() {
    alone("memory_of_another_card", &[("ORTHANT_EMULATOR_DEVICES", "2")], || {
        let card = Card::new();
        let (mut context, mut popped, mut address) = (null_mut(), null_mut(), 0);
        // SAFETY: places for results.
        unsafe {
            ok(sys::cuDevicePrimaryCtxRetain(&mut context, 1));
            ok(sys::cuCtxPushCurrent_v2(context));
            ok(sys::cuMemAlloc_v2(&mut address, 256));
            ok(sys::cuCtxPopCurrent_v2(&mut popped));
        }
        let words = ["parameter `w`", "lies on card 1"];
        says(register(&card, vec![Parameter::new("w", tensor(address, &[8]))]).map(drop), &words);
        says(unsafe { Context::from_raw(device(), context.cast()) }.map(drop), &["belongs to card 1"]);
    });
}

#[test]
fn memory_that_is_shared() {
    let card = Card::new();
    let block = card.block(Dtype::F32, 64);
    let view = |at: usize, shape: &[usize], strides: &[usize]| block.view(at, shape, strides).tensor;
    let parameter = |name: &str, tensor: DeviceTensor| Parameter::new(name, tensor);
    let (a, b) = (view(0, &[8], &[]), view(7, &[8], &[]));
    says(
        register(&card, vec![parameter("a", a.clone()), parameter("b", b.clone())]).map(drop),
        &["`a`", "`b`"],
    );
    says(
        register(&card, vec![parameter("a", a.clone()), parameter("b", a.clone())]).map(drop),
        &["`a`", "`b`"],
    );
    says(register(&card, vec![parameter("a", a.clone()).grad(b.clone())]).map(drop), &["`a`", "gradient"]);
    says(register(&card, vec![parameter("a", a.clone()).grad(a.clone())]).map(drop), &["`a`", "gradient"]);
    // One column of one matrix is another's.
    let (left, right) = (view(0, &[4, 3], &[8, 1]), view(2, &[4, 3], &[8, 1]));
    says(
        register(&card, vec![parameter("l", left.clone()), parameter("r", right)]).map(drop),
        &["`l`", "`r`"],
    );
    // Gaps may be filled: by a parameter, by a gradient.
    let (right, gradient) = (view(3, &[4, 3], &[8, 1]), view(6, &[4, 2], &[8, 1]));
    let gaps = vec![parameter("l", left), parameter("r", right)];
    register(&card, gaps).expect("registered");
    let narrow = view(0, &[4, 2], &[8, 1]);
    register(&card, vec![parameter("n", narrow.clone()).grad(gradient)]).expect("registered");
    // The same by another binding.
    let mut optimizer = register(&card, vec![parameter("n", narrow)]).expect("registered");
    let inside = view(1, &[4, 2], &[8, 1]);
    says(optimizer.rebind_gradients([("n", Some(inside))]), &["`n`", "gradient"]);
    // In two places.
    let host = Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, &[vec![8]]);
    let mixed = vec![parameter("a", a.clone()), Parameter::new("h", host.data[0].clone())];
    says(register(&card, mixed).map(drop), &["`h`", "host memory", "on the card"]);
    let mixed = vec![parameter("a", a.clone()).grad(host.grads[0].clone())];
    says(register(&card, mixed).map(drop), &["`a`", "host memory"]);
    let mixed = vec![Parameter::new("h", host.data[0].clone()).grad(a.clone())];
    says(register(&card, mixed).map(drop), &["`h`", "on a card"]);
    let on_cpu =
        Optimizer::builder(Device::Cpu).groups(Config::parse(&config(RULES[0], "")).expect("legal").groups);
    says(on_cpu.register([parameter("a", a)]).map(drop), &["`a`", "device `cpu`"]);
}

#[test]
fn what_cards_do_not_take() {
    let host = Set::new(&mut Noise(1), Dtype::F64, Dtype::F64, &[vec![8]]);
    let parsed = Config::parse(&config(RULES[0], "")).expect("a configuration");
    says(host.try_optimizer(&parsed, device()).map(drop), &["f64"]);
    let host = Set::new(&mut Noise(1), Dtype::F32, Dtype::F64, &[vec![8]]);
    says(host.try_optimizer(&parsed, device()).map(drop), &["`p0`", "f64"]);
    let host = Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, &[vec![8, 8]]);
    let muon = Config::parse(&config("algorithm = \"muon\"\nns_dtype = \"f32\"", "name = \"hidden\""))
        .expect("parsed");
    says(host.try_optimizer(&muon, device()).map(drop), &["`hidden`", "ns_dtype = f32", "`cpu`"]);
    let mut small = Config::parse(&config("algorithm = \"muon\"", "")).expect("a configuration");
    small.options.max_workspace = Some(1000);
    says(host.try_optimizer(&small, device()).map(drop), &["`p0`", "max_workspace is 1000"]);
}

#[test]
fn memory_that_runs_out() {
    alone("memory_that_runs_out", &[("ORTHANT_EMULATOR_MEMORY", "8M")], || {
        let card = Card::new();
        let used = || report()["memory_used"].as_u64().expect("a number");
        let living = || report()["living"].clone();
        // The kernels come first.
        steps(&card, RULES[12]);
        let (before, alive) = (used(), living());
        let n = 600_000;
        let data = DeviceBuffer::new(&card.context, 4 * n).expect("memory");
        let held = used();
        let parameter = |n: usize| vec![Parameter::new("large", tensor(data.address(), &[n]))];
        match register(&card, parameter(n)) {
            // Three buffers of 2.4 MB and the step count.
            Err(Error::OutOfMemory { what, bytes, free, .. }) => {
                assert!(what.contains("`large`"), "{what}");
                assert!(what.contains(&(12 * n + 8).to_string()), "{what}");
                assert!(bytes >= 12 * n as u64 && free < bytes, "{bytes} {free}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(used(), held);
        // With tensors in host memory it is their copies that do not fit.
        let n = 1_200_000;
        let host = Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, &[vec![n]]);
        let parsed = Config::parse(&config(RULES[12], "")).expect("a configuration");
        match host.try_optimizer(&parsed, device()) {
            Err(Error::OutOfMemory { bytes, .. }) => assert!(bytes >= 4 * n as u64, "{bytes}"),
            other => panic!("{other:?}"),
        }
        assert_eq!(used(), held);
        let mut optimizer = register(&card, parameter(1000)).expect("registered");
        assert_eq!(optimizer.step(), Err(Error::NoGradients));
        drop(optimizer);
        drop(data);
        assert_eq!((used(), living()), (before, alive));
        steps(&card, RULES[12]);
    });
}

#[test]
fn bytes_on_the_card_are_those_that_are_said() {
    alone("bytes_on_the_card_are_those_that_are_said", &[("ORTHANT_EMULATOR_SEED", "0")], || {
        let card = Card::new();
        let sizes = || -> Vec<u64> {
            let leaks = report()["leaks"].clone();
            let bytes = leaks.as_array().expect("a list").iter().map(|l| l["bytes"].as_u64().expect("bytes"));
            let mut all: Vec<u64> = bytes.collect();
            all.sort_unstable();
            all
        };
        for (rule, more) in [(12, ""), (14, "master = \"compact\""), (3, "state_dtype = \"bf16\"")] {
            let parsed =
                Config::parse(&config_with("max_grad_norm = 1.0", RULES[rule], more)).expect("legal");
            let host = Set::new(&mut Noise(1), Dtype::Bf16, Dtype::F32, &shapes());
            let set = OnCard::new(&card, &host, Layout::default());
            let mut wanted = sizes();
            let mut optimizer = set.optimizer(&card, &parsed);
            wanted.extend(optimizer.device_bytes().map(|b| b as u64));
            wanted.sort_unstable();
            assert_eq!(wanted, sizes());
            steps_by(&mut optimizer).expect("a step");
            assert_eq!(wanted, sizes(), "steps allocate nothing");
        }
    });
}

/// Gradients move to other memory, another alignment, other strides, away and back, while steps are under way.
#[test]
fn gradients_that_move() {
    for (rule, step) in
        [(3, "nonfinite = \"error\""), (12, "max_grad_norm = 0.5"), (14, "nonfinite = \"skip\"")]
    {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let shapes = vec![vec![9, 33], vec![70, 65], vec![40]];
            let mut pair = Pair::new(&config_with(step, RULES[rule], ""), dtype, dtype, &shapes);
            let names = pair.set.host.names.clone();
            let places = [(0, 0), (1, 0), (0, 3), (5, 1), (0, 0), (2, 8), (1, 0)];
            let mut kept = vec![];
            for (number, (skew, gap)) in places.into_iter().enumerate() {
                let what = format!("{}, {dtype}: skew {skew}, gap {gap}", RULES[rule]);
                pair.cpu.renew(&pair.set.host, &mut pair.noise);
                let fresh = |t: &orthant::Tensor| pair.card.tensor(&t.to_storage(), t.shape(), skew, gap);
                let views: Vec<_> = pair.set.host.grads.iter().map(fresh).collect();
                let previous: Vec<_> = pair.set.host.previous.iter().map(fresh).collect();
                let bindings = names.iter().zip(&views).map(|(name, v)| (name, Some(v.tensor.clone())));
                pair.optimizer.rebind_gradients(bindings).unwrap_or_else(|e| panic!("{what}: {e}"));
                // The old ones stay: steps under way read them.
                kept.push((
                    std::mem::replace(&mut pair.set.grads, views),
                    std::mem::replace(&mut pair.set.previous, previous),
                ));
                if number % 3 == 2 {
                    let none = || [(&names[1], None::<DeviceTensor>)];
                    pair.optimizer.rebind_gradients(none()).expect("bound");
                    let none = [(&names[1], None::<orthant::Tensor>)];
                    pair.reference.rebind_gradients(none).expect("bound");
                }
                pair.reference.step().unwrap_or_else(|e| panic!("{what}: {e}"));
                pair.optimizer.step().unwrap_or_else(|e| panic!("{what}: {e}"));
                if number % 2 == 0 {
                    pair.optimizer.synchronize().unwrap_or_else(|e| panic!("{what}: {e}"));
                    pair.same(&what);
                }
                if number % 3 == 2 {
                    let back = [(&names[1], Some(pair.cpu.grads[1].clone()))];
                    pair.reference.rebind_gradients(back).expect("bound");
                }
            }
            pair.optimizer.synchronize().expect("done");
            pair.same("at the end");
            assert_eq!(pair.optimizer.status().map(|reports| reports.len()), Ok(7));
        }
    }
}

/// What is refused binds nothing, and steps go on with what was bound.
#[test]
fn bindings_are_all_or_nothing() {
    let mut pair = Pair::new(&config(RULES[3], ""), Dtype::F32, Dtype::F32, &[vec![8], vec![8]]);
    let fresh = pair.card.tensor(&Storage::zeros(Dtype::F32, 8), &[8], 3, 0);
    let wrong = pair.card.tensor(&Storage::zeros(Dtype::F32, 7), &[7], 0, 0);
    let bind = |pair: &mut Pair, second: (&str, DeviceTensor)| {
        let both = [("p0", Some(fresh.tensor.clone())), (second.0, Some(second.1))];
        pair.optimizer.rebind_gradients(both)
    };
    says(bind(&mut pair, ("p1", wrong.tensor.clone())), &["`p1`", "shape"]);
    says(bind(&mut pair, ("p7", fresh.tensor.clone())), &["`p7`", "no such parameter"]);
    says(bind(&mut pair, ("p1", tensor(64, &[8]))), &["`p1`", "no device memory"]);
    let own = pair.set.data[0].tensor.clone();
    says(bind(&mut pair, ("p1", own)), &["`p1`", "`p0`"]);
    pair.step("with the old ones");
}
