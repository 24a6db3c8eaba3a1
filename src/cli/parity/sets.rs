//! The tensors of a case, in host memory and on the card, and the optimizers over them.

use orthant::algorithm::Slot;
use orthant::config::Config;
use orthant::{Device, Dtype, Optimizer, Parameter, Storage, Tensor};

use super::cases::Case;
use crate::cli::noise::Noise;

const SLOTS: [Slot; 6] =
    [Slot::Momentum, Slot::Variance, Slot::VarianceMax, Slot::Point, Slot::Master, Slot::Low];

/// What can be seen of an optimizer between steps, all as f64.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub visible: Vec<Vec<f64>>,
    pub slots: Vec<Vec<(Slot, Vec<f64>)>>,
    pub steps: Vec<u64>,
    /// Bytes between and behind tensors that were written.
    pub damaged: usize,
}

impl Snapshot {
    fn of(optimizer: &Optimizer, visible: Vec<Vec<f64>>, damaged: usize) -> orthant::Result<Self> {
        let (mut slots, mut steps) = (vec![], vec![]);
        for planned in &optimizer.plan().parameters {
            let name = &planned.spec.name;
            let mut there = vec![];
            for slot in SLOTS {
                if planned.slots.iter().any(|(s, _)| *s == slot) {
                    there.extend(optimizer.state(name, slot)?.map(|values| (slot, values)));
                }
            }
            slots.push(there);
            steps.push(optimizer.step_count(name)?.unwrap_or_default());
        }
        Ok(Self { visible, slots, steps, damaged })
    }

    pub fn slot(&self, parameter: usize, wanted: Slot) -> Option<&[f64]> {
        let found = self.slots[parameter].iter().find(|(slot, _)| *slot == wanted);
        found.map(|(_, values)| values.as_slice())
    }

    /// Elements whose bits differ.
    pub fn differing(&self, other: &Self) -> u64 {
        let count = |a: &[f64], b: &[f64]| {
            let unequal = a.iter().zip(b).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            (unequal + a.len().abs_diff(b.len())) as u64
        };
        let mut sum = self.damaged.abs_diff(other.damaged) as u64;
        for i in 0..self.visible.len() {
            sum += count(&self.visible[i], &other.visible[i]);
            sum += u64::from(self.steps[i] != other.steps[i]);
            for ((_, a), (_, b)) in self.slots[i].iter().zip(&other.slots[i]) {
                sum += count(a, b);
            }
        }
        sum
    }
}

/// Tensors in host memory, and what steps on them: the CPU's f32.
pub struct Host {
    pub optimizer: Optimizer,
    data: Vec<Tensor>,
    pub grads: Vec<Tensor>,
    pub previous: Vec<Tensor>,
    pub micro: Vec<Tensor>,
}

impl Host {
    pub fn new(case: &Case, config: &Config, noise: &mut Noise) -> orthant::Result<Self> {
        let mut tensors = |dtype: Dtype| -> orthant::Result<Vec<Tensor>> {
            let one = |shape: &Vec<usize>| {
                Tensor::from_storage(noise.storage(dtype, shape.iter().product()), shape)
            };
            case.shapes.1.iter().map(one).collect()
        };
        let (data, grads) = (tensors(case.param)?, tensors(case.grad)?);
        let needs_previous = config.groups.iter().any(|group| group.algorithm().needs_previous_gradient());
        let previous = if needs_previous { tensors(case.grad)? } else { vec![] };
        let micro = case.micro.map_or(Ok(vec![]), tensors)?;
        let parameters = data.iter().enumerate().map(|(i, data)| {
            let mut parameter = Parameter::new(format!("p{i}"), data.clone()).grad(grads[i].clone());
            if let Some(previous) = previous.get(i) {
                parameter = parameter.prev_grad(previous.clone());
            }
            if let Some(micro) = micro.get(i) {
                parameter = parameter.micro_grad(micro.clone());
            }
            parameter
        });
        let builder = Optimizer::builder(Device::Cpu).groups(config.groups.clone());
        let optimizer = builder.options(config.options).register(parameters)?;
        Ok(Self { optimizer, data, grads, previous, micro })
    }

    /// New gradients. In a step that is to be refused, with numbers that no state takes in.
    pub fn renew(&mut self, noise: &mut Noise, bad: Option<f64>) -> orthant::Result<()> {
        let last = self.grads.len() - 1;
        for (i, tensor) in self.grads.iter().enumerate() {
            let mut storage = noise.storage(tensor.dtype(), tensor.numel());
            if let (Some(bad), true) = (bad, i == last) {
                spoil(&mut storage, bad, noise);
            }
            tensor.assign(&storage)?;
        }
        self.previous.iter().try_for_each(|t| t.assign(&noise.storage(t.dtype(), t.numel())))
    }

    pub fn renew_micro(&mut self, noise: &mut Noise) -> orthant::Result<()> {
        self.micro.iter().try_for_each(|t| t.assign(&noise.storage(t.dtype(), t.numel())))
    }

    pub fn snapshot(&self) -> orthant::Result<Snapshot> {
        Snapshot::of(&self.optimizer, self.data.iter().map(Tensor::to_vec_f64).collect(), 0)
    }
}

fn spoil(storage: &mut Storage, bad: f64, noise: &mut Noise) {
    let len = storage.len();
    if len == 0 {
        return;
    }
    let at = noise.next() as usize % len;
    match storage {
        Storage::F64(v) => v[at] = bad,
        Storage::F32(v) => v[at] = bad as f32,
        Storage::Bf16(v) => v[at] = half::bf16::from_f64(bad),
        Storage::F16(v) => v[at] = half::f16::from_f64(bad),
    }
}

#[cfg(feature = "cuda")]
pub use card::Card;

#[cfg(feature = "cuda")]
mod card {
    use orthant::cuda::{Context, DeviceBuffer, Stream};
    use orthant::{DeviceTensor, StepReport};

    use super::*;
    use crate::cli::parity::cases::Layout;

    /// What lies where no element does.
    const CANARY: u8 = 0xa5;

    /// Tensors in one block of device memory.
    struct Region {
        memory: DeviceBuffer,
        dtype: Dtype,
        /// Of each tensor, the first byte of each row and a row's bytes.
        rows: Vec<(Vec<usize>, usize)>,
        tensors: Vec<DeviceTensor>,
    }

    impl Region {
        /// `role` shifts the tensors of buffers against each other.
        fn new(context: &Context, case: &Case, dtype: Dtype, role: usize) -> orthant::Result<Self> {
            let size = dtype.size();
            let mut at = if case.layout == Layout::Aligned { 0 } else { (2 * role + 1) * size };
            let (mut rows, mut strides) = (vec![], vec![]);
            for shape in &case.shapes.1 {
                let numel: usize = shape.iter().product();
                if case.layout == Layout::Aligned {
                    at = at.next_multiple_of(256);
                }
                let (count, columns, stride) = match (case.layout, shape.as_slice()) {
                    (Layout::Gaps, &[rows, columns]) if numel > 0 => (rows, columns, columns + 2 * role + 1),
                    _ => (1, numel, numel),
                };
                rows.push(((0..count).map(|row| at + row * stride * size).collect(), columns * size));
                strides.push((count > 1).then_some(stride));
                at += count * stride * size;
            }
            let memory = DeviceBuffer::new(context, at + 64)?;
            let tensor = |i: usize| {
                let rows: &(Vec<usize>, usize) = &rows[i];
                let (address, shape) = (memory.address() + rows.0[0] as u64, &case.shapes.1[i]);
                // SAFETY: the memory is this card's and is dropped after the optimizer.
                #[allow(unsafe_code, reason = "the memory outlives the optimizer")]
                unsafe {
                    match strides[i] {
                        Some(stride) => DeviceTensor::strided(address, dtype, shape, &[stride, 1]),
                        None => DeviceTensor::new(address, dtype, shape),
                    }
                }
            };
            let tensors = (0..case.shapes.1.len()).map(tensor).collect::<orthant::Result<_>>()?;
            Ok(Self { memory, dtype, rows, tensors })
        }

        fn write(&self, stream: &Stream, from: &[Tensor]) -> orthant::Result<()> {
            let mut bytes = vec![CANARY; self.memory.bytes()];
            for ((starts, len), tensor) in self.rows.iter().zip(from) {
                let storage = tensor.to_storage();
                for (start, row) in starts.iter().zip(storage.as_le_bytes().chunks(*len.max(&1))) {
                    bytes[*start..start + len].copy_from_slice(row);
                }
            }
            self.memory.write(stream, 0, &bytes)
        }

        /// The elements of all tensors, and how many bytes beside them were written.
        fn read(&self, stream: &Stream) -> orthant::Result<(Vec<Vec<f64>>, usize)> {
            let mut bytes = vec![0; self.memory.bytes()];
            self.memory.read(stream, 0, &mut bytes)?;
            let mut values = vec![];
            for (starts, len) in &self.rows {
                let mut of_one = vec![];
                for start in starts {
                    of_one.extend_from_slice(&bytes[*start..start + len]);
                    bytes[*start..start + len].fill(CANARY);
                }
                let storage = Storage::from_le_bytes(self.dtype, &of_one)?;
                values.push((0..storage.len()).filter_map(|i| storage.get_f64(i)).collect());
            }
            Ok((values, bytes.iter().filter(|byte| **byte != CANARY).count()))
        }
    }

    /// The same tensors on a card, and what steps on them.
    pub struct Card {
        // First, so that it is dropped first: it waits for its steps.
        optimizer: Optimizer,
        stream: Stream,
        data: Region,
        grads: Region,
        previous: Option<Region>,
        micro: Option<Region>,
    }

    impl Card {
        pub fn new(case: &Case, config: &Config, context: &Context, host: &Host) -> orthant::Result<Self> {
            let stream = Stream::new(context)?;
            let region = |dtype: Dtype, role: usize, from: &[Tensor]| -> orthant::Result<Region> {
                let region = Region::new(context, case, dtype, role)?;
                region.write(&stream, from)?;
                Ok(region)
            };
            let data = region(case.param, 0, &host.data)?;
            let grads = region(case.grad, 1, &host.grads)?;
            let previous =
                (!host.previous.is_empty()).then(|| region(case.grad, 2, &host.previous)).transpose()?;
            let micro = case.micro.map(|dtype| region(dtype, 3, &host.micro)).transpose()?;
            stream.synchronize()?;
            let parameters = (0..case.shapes.1.len()).map(|i| {
                let parameter = Parameter::new(format!("p{i}"), data.tensors[i].clone());
                let mut parameter = parameter.grad(grads.tensors[i].clone());
                if let Some(previous) = &previous {
                    parameter = parameter.prev_grad(previous.tensors[i].clone());
                }
                if let Some(micro) = &micro {
                    parameter = parameter.micro_grad(micro.tensors[i].clone());
                }
                parameter
            });
            let builder = Optimizer::builder(context.device()).context(context.clone());
            let builder = builder.groups(config.groups.clone()).options(config.options);
            let optimizer = builder.register(parameters)?;
            Ok(Self { optimizer, stream, data, grads, previous, micro })
        }

        /// A step with the gradients of `host`, or with those that were accumulated here.
        pub fn step(&mut self, host: &Host) -> orthant::Result<StepReport> {
            if self.micro.is_none() {
                self.grads.write(&self.stream, &host.grads)?;
            }
            if let Some(previous) = &self.previous {
                previous.write(&self.stream, &host.previous)?;
            }
            self.optimizer.step_on(&self.stream)?;
            self.stream.synchronize()?;
            let reports = self.optimizer.status()?;
            let none = || orthant::Error::Step("the card did not report the step".into());
            reports.into_iter().next_back().ok_or_else(none)
        }

        pub fn accumulate(&mut self, host: &Host, scale: f64, first: bool) -> orthant::Result<()> {
            if let Some(micro) = &self.micro {
                micro.write(&self.stream, &host.micro)?;
            }
            self.optimizer.accumulate_on(&self.stream, scale, first)
        }

        pub fn grads(&self) -> orthant::Result<(Vec<Vec<f64>>, usize)> {
            self.grads.read(&self.stream)
        }

        pub fn snapshot(&self) -> orthant::Result<Snapshot> {
            let (visible, damaged) = self.data.read(&self.stream)?;
            Snapshot::of(&self.optimizer, visible, damaged)
        }
    }
}
