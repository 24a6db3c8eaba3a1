//! What only a real card can show: sizes, speed of its memory aside, that an emulator has no time for. Run with
//! `ORTHANT_TEST_DEVICE=cuda ... --ignored --test-threads=1`.
#![allow(unsafe_code, reason = "device memory is described by its address")]

use std::process::Command;
use std::sync::Arc;

use orthant::algorithm::Slot;
use orthant::config::Config;
use orthant::cuda::{Context, DeviceBuffer, Event, Stream};
use orthant::{Device, DeviceTensor, Dtype, Error, Optimizer, Parameter, Storage, Tensor};

use crate::device;
use crate::noise::Noise;
use crate::parity::{RULES, Set, config, config_with};

const REASON: &str = "ORTHANT_TEST_DEVICE must name a card";

fn on_a_card() -> bool {
    matches!(device(), Device::Cuda(_))
}

fn tensor(buffer: &DeviceBuffer, dtype: Dtype, numel: usize) -> DeviceTensor {
    // SAFETY: the buffers live as long as the optimizers in these tests.
    unsafe { DeviceTensor::new(buffer.address(), dtype, &[numel]) }.expect("legal")
}

/// Elements beyond 2^31 are updated like the first: what repeats in the input repeats in the result.
#[test]
#[ignore = "needs a card"]
fn more_than_two_to_the_31_elements() {
    assert!(on_a_card(), "{REASON}");
    const PERIOD: usize = 1 << 22;
    const N: usize = (1 << 31) + 257;
    let context = Context::open(device()).expect("a card");
    let stream = Arc::new(Stream::new(&context).expect("a stream"));
    let config = Config::parse(&config_with(
        "max_grad_norm = 1e9",
        "algorithm = \"lion\"\nlr = 0.01\nweight_decay = 0.1",
        "state_dtype = \"bf16\"",
    ))
    .expect("legal");
    let mut noise = Noise(31);
    let (data, grad) = (noise.storage(Dtype::Bf16, PERIOD), noise.storage(Dtype::Bf16, PERIOD));
    let fill = |buffer: &DeviceBuffer, from: &Storage| {
        for at in (0..2 * N).step_by(2 * PERIOD) {
            let n = (2 * PERIOD).min(2 * N - at);
            buffer.write(&stream, at, &from.as_le_bytes()[..n]).expect("a copy");
        }
    };
    let (x, g) = (DeviceBuffer::new(&context, 2 * N), DeviceBuffer::new(&context, 2 * N));
    let (x, g) = (x.expect("memory"), g.expect("memory"));
    fill(&x, &data);
    fill(&g, &grad);
    let mut optimizer = Optimizer::builder(device())
        .groups(config.groups.clone())
        .options(config.options)
        .stream(Arc::clone(&stream))
        .register([Parameter::new("large", tensor(&x, Dtype::Bf16, N)).grad(tensor(&g, Dtype::Bf16, N))])
        .expect("memory");
    let small = Tensor::from_storage(data.clone(), &[PERIOD]).expect("it fits");
    let mut reference = Optimizer::builder(Device::Cpu)
        .groups(config.groups.clone())
        .options(config.options)
        .register([Parameter::new("large", small.clone())
            .grad(Tensor::from_storage(grad.clone(), &[PERIOD]).expect("it fits"))])
        .expect("legal");
    for _ in 0..2 {
        optimizer.step().expect("given");
        reference.step().expect("finite");
    }
    optimizer.synchronize().expect("done");
    assert!(optimizer.status().expect("finite").iter().all(|report| report.applied));
    let expected = small.to_storage();
    let mut bytes = vec![0; 2 * PERIOD];
    for at in (0..2 * N).step_by(2 * PERIOD) {
        let n = (2 * PERIOD).min(2 * N - at);
        x.read(&stream, at, &mut bytes[..n]).expect("a copy");
        assert!(expected.as_le_bytes()[..n] == bytes[..n], "elements {} to {}", at / 2, (at + n) / 2);
    }
}

/// 1,000 steps give the same bits again while other work keeps the card busy.
#[test]
#[ignore = "needs a card"]
fn a_thousand_steps_beside_a_busy_stream_give_the_same_bits() {
    assert!(on_a_card(), "{REASON}");
    let context = Context::open(device()).expect("a card");
    let stream = Arc::new(Stream::new(&context).expect("a stream"));
    let busy = Stream::new(&context).expect("a stream");
    const N: usize = 300_007;
    for rule in [RULES[3], RULES[5], RULES[9], RULES[12], RULES[13], RULES[14]] {
        let config = Config::parse(&config_with("max_grad_norm = 0.5\nnonfinite = \"skip\"", rule, ""))
            .expect("legal");
        let run = |disturbed: bool| {
            let mut noise = Noise(7);
            let (data, grad) = (noise.storage(Dtype::Bf16, N), noise.storage(Dtype::Bf16, N));
            let buffers = [&data, &grad].map(|storage| {
                let buffer = DeviceBuffer::new(&context, 2 * N).expect("memory");
                buffer.write(&stream, 0, storage.as_le_bytes()).expect("a copy");
                buffer
            });
            let parameter = Parameter::new("w", tensor(&buffers[0], Dtype::Bf16, N));
            let mut optimizer = Optimizer::builder(device())
                .groups(config.groups.clone())
                .options(config.options)
                .stream(Arc::clone(&stream))
                .register([parameter.grad(tensor(&buffers[1], Dtype::Bf16, N))])
                .expect("memory");
            let load = DeviceBuffer::new(&context, 64 << 20).expect("memory");
            let from = vec![1u8; 64 << 20];
            for step in 0..1000 {
                if disturbed && step % 50 == 0 {
                    load.write(&busy, 0, &from).expect("a copy");
                }
                optimizer.step().expect("given");
            }
            let mut x = vec![0; 2 * N];
            buffers[0].read(&stream, 0, &mut x).expect("a copy");
            busy.synchronize().expect("done");
            (
                x,
                optimizer.state("w", Slot::Momentum).expect("readable"),
                optimizer.step_count("w").expect("readable"),
            )
        };
        let quiet = run(false);
        assert!(quiet == run(true), "{rule}");
        assert_eq!(quiet.2, Some(1000));
    }
}

/// 10^9 elements have the CPU's bits. What is compared is the parameters after the second step, which depend on every bit of
/// state that the first one left.
#[test]
#[ignore = "needs a card"]
fn a_thousand_million_elements_have_the_bits_of_the_cpu() {
    assert!(on_a_card(), "{REASON}");
    const BLOCK: usize = 1 << 20;
    let rules =
        [(RULES[3], Dtype::Bf16), (RULES[12], Dtype::Bf16), (RULES[2], Dtype::F32), (RULES[13], Dtype::F16)];
    for (rule, dtype) in rules {
        let config = Config::parse(&config_with("max_grad_norm = 1.0", rule, "")).expect("legal");
        let mut noise = Noise(9);
        let blocks = [noise.storage(dtype, BLOCK), noise.storage(dtype, BLOCK)];
        // Every tensor begins elsewhere in the blocks, and has a length of its own.
        let tensor = |which: usize, i: usize, numel: usize| {
            let bytes = blocks[which].as_le_bytes();
            let (start, len) = (i * 4096 % bytes.len(), numel * dtype.size());
            let repeated: Vec<u8> =
                bytes[start..].iter().chain(bytes.iter().cycle()).take(len).copied().collect();
            Tensor::from_storage(Storage::from_le_bytes(dtype, &repeated).expect("whole"), &[numel])
                .expect("it fits")
        };
        let build = |device: Device| {
            let data: Vec<Tensor> = (0..16).map(|i| tensor(0, i, 15_625_000 + 1001 * i)).collect();
            let parameters = data.iter().enumerate();
            let parameters = parameters
                .map(|(i, x)| Parameter::new(format!("p{i}"), x.clone()).grad(tensor(1, i, x.numel())));
            let builder = Optimizer::builder(device).groups(config.groups.clone()).options(config.options);
            (builder.register(parameters).expect("memory"), data)
        };
        let ((mut reference, cpu), (mut optimizer, card)) = (build(Device::Cpu), build(device()));
        for _ in 0..2 {
            reference.step().expect("finite");
            optimizer.step().expect("finite");
        }
        for (x, y) in cpu.iter().zip(&card) {
            assert!(x.to_storage().as_le_bytes() == y.to_storage().as_le_bytes(), "{rule}");
        }
    }
}

/// A thousand optimizers come and go, and the card's memory is as free as before.
#[test]
#[ignore = "needs a card"]
fn nothing_is_left_behind() {
    assert!(on_a_card(), "{REASON}");
    let context = Context::open(device()).expect("a card");
    let config = Config::parse(&config("algorithm = \"adamw\"\nlr = 0.01", "")).expect("legal");
    let set = Set::new(&mut Noise(2), Dtype::Bf16, Dtype::Bf16, &[vec![300_000], vec![7]]);
    let mut free = vec![];
    for round in 0..1000 {
        set.optimizer(&config, device()).step().expect("finite");
        if round % 250 == 10 {
            free.push(context.memory().expect("an answer").0);
        }
    }
    assert!(free.windows(2).all(|w| w[1] >= w[0]), "{free:?}");
}

/// When the card is full, registration says so and leaves nothing behind.
#[test]
#[ignore = "needs a card"]
fn out_of_memory() {
    assert!(on_a_card(), "{REASON}");
    let context = Context::open(device()).expect("a card");
    let stream = Arc::new(Stream::new(&context).expect("a stream"));
    let config = Config::parse(&config("algorithm = \"adamw\"\nlr = 0.01", "")).expect("legal");
    const N: usize = 1 << 28;
    let (x, g) = (DeviceBuffer::new(&context, 2 * N), DeviceBuffer::new(&context, 2 * N));
    let (x, g) = (x.expect("memory"), g.expect("memory"));
    x.write(&stream, 0, &[0; 2]).expect("a copy");
    let (free, _) = context.memory().expect("an answer");
    let ballast = DeviceBuffer::new(&context, free as usize - (1 << 30)).expect("memory");
    let register = || {
        Optimizer::builder(device())
            .groups(config.groups.clone())
            .options(config.options)
            .stream(Arc::clone(&stream))
            .register([Parameter::new("w", tensor(&x, Dtype::Bf16, N)).grad(tensor(&g, Dtype::Bf16, N))])
    };
    let (before, _) = context.memory().expect("an answer");
    match register() {
        Err(Error::OutOfMemory { bytes, free, what, .. }) => {
            assert!(bytes > 2 << 30 && free < 2 << 30 && what.contains("`w`"), "{what}: {bytes}, {free}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(context.memory().expect("an answer").0, before);
    drop(ballast);
    drop(register().expect("memory"));
}

/// Somebody else's kernel reads where nothing is: the optimizer says so, and says the same ever after.
#[test]
#[ignore = "needs a card"]
fn a_kernel_of_somebody_else_goes_wrong() {
    assert!(on_a_card(), "{REASON}");
    const CHILD: &str = "ORTHANT_TEST_CHILD";
    if std::env::var_os(CHILD).is_none() {
        // The context is lost for the process: a child's.
        let program = std::env::current_exe().expect("this program");
        let name = "card::a_kernel_of_somebody_else_goes_wrong";
        let child = Command::new(program)
            .args(["--ignored", "--exact", name])
            .env(CHILD, "1")
            .output()
            .expect("a child");
        let said = String::from_utf8_lossy(&child.stdout);
        assert!(child.status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let context = Context::open(device()).expect("a card");
    let stream = Arc::new(Stream::new(&context).expect("a stream"));
    let config = Config::parse(&config("algorithm = \"lion\"\nlr = 0.01", "")).expect("legal");
    let (x, g) = (
        DeviceBuffer::new(&context, 4096).expect("memory"),
        DeviceBuffer::new(&context, 4096).expect("memory"),
    );
    x.write(&stream, 0, &[0; 4096]).expect("a copy");
    g.write(&stream, 0, &[0; 4096]).expect("a copy");
    let gradient = tensor(&g, Dtype::F32, 1024);
    let mut optimizer = Optimizer::builder(device())
        .groups(config.groups.clone())
        .options(config.options)
        .stream(Arc::clone(&stream))
        .register([Parameter::new("w", tensor(&x, Dtype::F32, 1024)).grad(gradient)])
        .expect("memory");
    let done = Event::new(&context, false).expect("an event");
    optimizer.step().expect("given");
    done.record(&stream).expect("recorded");
    done.synchronize().expect("done");
    crate::wild::store(&context, &stream);
    let first = loop {
        match optimizer.synchronize() {
            Ok(()) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    let Error::DeviceLost { ref name, code, .. } = first else { panic!("{first}") };
    assert_eq!(code, 700, "{name}");
    assert!(first.to_string().contains("may stem from earlier work"), "{first}");
    for _ in 0..3 {
        assert_eq!(optimizer.step().expect_err("lost"), first);
    }
    assert_eq!(optimizer.status().expect_err("lost"), first);
    drop(optimizer);
}
