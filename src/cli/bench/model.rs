//! Parameters in device memory with their gradients, all in bf16, and what steps on them.

use orthant::cuda::{Context, DeviceBuffer, Stream};
use orthant::schedule::Schedule;
use orthant::{
    DeviceTensor, Dtype, Group, NonFinite, Optimizer, Parameter, ParameterSpec, Plan, StepOptions,
};

use crate::cli::noise::Noise;

/// Names and shapes of tensors.
pub type Tensors = [(String, Vec<usize>)];

/// Nothing but the step itself: gradients are not looked at beforehand.
pub fn options() -> StepOptions {
    StepOptions { nonfinite: NonFinite::Propagate, ..StepOptions::default() }
}

/// What is known without a device.
pub struct Planned {
    pub plan: Plan,
    /// Floating-point operations of all products: needed, and executed.
    pub flops: (u64, u64),
    pub launches: u64,
    pub elements: usize,
}

impl Planned {
    pub fn new(groups: Vec<Group>, tensors: &Tensors) -> orthant::Result<Self> {
        let spec = |(name, shape): &(String, Vec<usize>)| ParameterSpec {
            name: name.clone(),
            shape: shape.clone(),
            dtype: Dtype::Bf16,
            grad_dtype: Some(Dtype::Bf16),
        };
        let plan = Plan::new(groups, tensors.iter().map(spec).collect(), None)?;
        let flops = Schedule::new(&plan, None)?.flops();
        let launches = orthant::cuda::launches(&plan, &options())?.into();
        let elements = plan.parameters.iter().map(|p| p.numel()).sum();
        Ok(Self { plan, flops, launches, elements })
    }
}

pub struct Model {
    // First, so that it is dropped first: it waits for its steps.
    pub optimizer: Optimizer,
    buffers: [DeviceBuffer; 2],
}

impl Model {
    /// Normally distributed parameters and gradients.
    pub fn new(
        groups: Vec<Group>,
        tensors: &Tensors,
        context: &Context,
        stream: &Stream,
    ) -> orthant::Result<Self> {
        let mut starts = vec![];
        let mut bytes = 0;
        for (_, shape) in tensors {
            starts.push(bytes);
            bytes += (2 * shape.iter().product::<usize>()).next_multiple_of(256);
        }
        let buffers = [DeviceBuffer::new(context, bytes)?, DeviceBuffer::new(context, bytes)?];
        for (seed, buffer) in (1..).zip(&buffers) {
            fill(buffer, Dtype::Bf16, 1.0, seed, stream)?;
        }
        stream.synchronize()?;
        let tensor = |buffer: &DeviceBuffer, i: usize| {
            // SAFETY: the memory is this card's, and is dropped after the optimizer.
            #[allow(unsafe_code, reason = "the memory outlives the optimizer")]
            unsafe {
                DeviceTensor::new(buffer.address() + starts[i] as u64, Dtype::Bf16, &tensors[i].1)
            }
        };
        let parameter = |i: usize| {
            let data = tensor(&buffers[0], i)?;
            Ok(Parameter::new(&tensors[i].0, data).grad(tensor(&buffers[1], i)?))
        };
        let parameters = (0..tensors.len()).map(parameter).collect::<orthant::Result<Vec<_>>>()?;
        let builder = Optimizer::builder(context.device()).context(context.clone());
        let mut optimizer = builder.groups(groups).options(options()).register(parameters)?;
        optimizer.warm_up()?;
        Ok(Self { optimizer, buffers })
    }

    /// Bytes of device memory that a step has to do with.
    pub fn footprint(&self) -> u64 {
        let tensors: usize = self.buffers.iter().map(DeviceBuffer::bytes).sum();
        (tensors + self.optimizer.device_bytes().iter().sum::<usize>()) as u64
    }
}

/// Normally distributed 16-bit numbers times `scale`; large buffers repeat them, at a distance that no row's length divides.
pub fn fill(
    buffer: &DeviceBuffer,
    dtype: Dtype,
    scale: f64,
    seed: u64,
    stream: &Stream,
) -> orthant::Result<()> {
    const PATTERN: usize = 1_000_003;
    let count = PATTERN.min(buffer.bytes() / 2);
    let bits = Noise(seed).gaussian(count).into_iter().map(|v| match dtype {
        Dtype::F16 => half::f16::from_f64(v * scale).to_bits(),
        _ => half::bf16::from_f64(v * scale).to_bits(),
    });
    let bytes: Vec<u8> = bits.flat_map(u16::to_le_bytes).collect();
    buffer.write(stream, 0, &bytes)?;
    let mut there = bytes.len();
    while there > 0 && there < buffer.bytes() {
        let more = there.min(buffer.bytes() - there);
        buffer.copy(stream, there, buffer, 0, more)?;
        there += more;
    }
    // The source may go now.
    stream.synchronize()
}
