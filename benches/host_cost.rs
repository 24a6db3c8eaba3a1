//! What a step costs the host: one call with tensors on a card and a new learning rate, for 1, 164 and 10,000 tensors, so that
//! the control block is written every time. Beside it registration, which builds the tables.
//!
//! `ORTHANT_TEST_DEVICE` names the device [default: emulated]. The software GPU executes a step within the call that gives
//! it, so its step times are its own and say nothing of the host's cost. Of a registration it executes copies and one small
//! kernel; most of it is tables.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, SamplingMode};
use orthant::cuda::{Context, DeviceBuffer, Stream};
use orthant::{Algorithm, Device, DeviceTensor, Dtype, Group, NonFinite, Optimizer, Parameter};

const TENSORS: [usize; 3] = [1, 164, 10_000];
/// Elements of a tensor: little work for the card, which must not be what is measured.
const ELEMENTS: usize = 16;
/// Steps between waits, which are not timed: fewer than changes of the learning rate may be under way.
const AHEAD: u64 = 4;

struct Tensors {
    _memory: [DeviceBuffer; 2],
    data: Vec<DeviceTensor>,
    grads: Vec<DeviceTensor>,
}

impl Tensors {
    fn new(context: &Context, stream: &Stream, count: usize) -> orthant::Result<Self> {
        let bytes = count * ELEMENTS * 4;
        let memory = [DeviceBuffer::new(context, bytes)?, DeviceBuffer::new(context, bytes)?];
        for buffer in &memory {
            buffer.write(stream, 0, &vec![0; bytes])?;
        }
        stream.synchronize()?;
        let of = |buffer: &DeviceBuffer| -> orthant::Result<Vec<DeviceTensor>> {
            let tensor = |i: usize| {
                let address = buffer.address() + (i * ELEMENTS * 4) as u64;
                // SAFETY: the memory is the card's, and lives as long as every optimizer below.
                #[allow(unsafe_code, reason = "the memory outlives the optimizers")]
                unsafe {
                    DeviceTensor::new(address, Dtype::F32, &[ELEMENTS])
                }
            };
            (0..count).map(tensor).collect()
        };
        Ok(Self { data: of(&memory[0])?, grads: of(&memory[1])?, _memory: memory })
    }

    fn register(&self, context: &Context, stream: &Arc<Stream>) -> orthant::Result<Optimizer> {
        let pairs = self.data.iter().zip(&self.grads).enumerate();
        let parameters =
            pairs.map(|(i, (data, grad))| Parameter::new(format!("p{i}"), data.clone()).grad(grad.clone()));
        Optimizer::builder(context.device())
            .group(Group::new("all", Algorithm::lion()).lr(1e-3).params(["*"]))
            .nonfinite(NonFinite::Propagate)
            .stream(Arc::clone(stream))
            .register(parameters)
    }
}

/// The time of the calls alone.
fn steps(optimizer: &mut Optimizer, stream: &Stream, count: u64) -> orthant::Result<Duration> {
    let mut sum = Duration::ZERO;
    for step in 0..count {
        let began = Instant::now();
        optimizer.set_lr("all", 1e-3 + step as f64 * 1e-9)?;
        optimizer.step()?;
        sum += began.elapsed();
        if step % AHEAD == AHEAD - 1 {
            stream.synchronize()?;
        }
    }
    stream.synchronize()?;
    optimizer.status()?;
    Ok(sum)
}

fn run(criterion: &mut Criterion, device: Device) -> orthant::Result<()> {
    let context = Context::open(device)?;
    // As in a training loop, where the framework has made it so.
    context.make_current()?;
    let stream = Arc::new(Stream::new(&context)?);
    if orthant::cuda::counters().is_some() {
        println!("device {device}, the software GPU: step times include its execution of the kernels");
    }
    for count in TENSORS {
        let tensors = Tensors::new(&context, &stream, count)?;
        // Criterion takes no errors: what can fail has been tried before.
        let mut optimizer = tensors.register(&context, &stream)?;
        optimizer.warm_up()?;
        steps(&mut optimizer, &stream, AHEAD)?;
        let mut group = criterion.benchmark_group("host_cost");
        group.sample_size(10).sampling_mode(SamplingMode::Flat);
        group.warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
        group.bench_function(format!("step/{count}"), |b| {
            b.iter_custom(|n| steps(&mut optimizer, &stream, n).expect("it was tried"));
        });
        group.bench_function(format!("register/{count}"), |b| {
            b.iter_with_large_drop(|| tensors.register(&context, &stream).expect("it was tried"));
        });
        group.finish();
        optimizer.synchronize()?;
    }
    Ok(())
}

fn main() -> std::process::ExitCode {
    // `cargo test --benches` runs every bench once as a check.
    if std::env::args().any(|a| a == "--test") {
        return std::process::ExitCode::SUCCESS;
    }
    let device = std::env::var("ORTHANT_TEST_DEVICE").unwrap_or_else(|_| "emulated".into());
    let mut criterion = Criterion::default().configure_from_args();
    match device.parse().and_then(|device| run(&mut criterion, device)) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("host_cost: {e}");
            std::process::ExitCode::FAILURE
        }
    }
}
