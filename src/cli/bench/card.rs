//! Rows on a card: counted on the software GPU, timed on a real one.

use std::time::Instant;

use orthant::cuda::{self, Context, DeviceBuffer, Event, Stream};
use orthant::{DeviceTensor, Dtype, Optimizer, Parameter, Storage};
use serde_json::Value;

use super::subjects::Subject;
use super::{Numbers, median};
use crate::cli::noise::Noise;

/// Elements of which random numbers are made; larger buffers repeat them.
const PATTERN: usize = 1 << 20;
/// More than any second-level cache.
pub const CACHE: u64 = 60_000_000;
const SAMPLES: usize = 7;
const STEPS: usize = 20;
/// Optimizers that take turns where one is too small to leave the cache.
const MOST_SETS: usize = if cfg!(test) { 2 } else { 64 };

/// Tensors in device memory, and what steps on them.
struct Set {
    // First, so that it is dropped first: it waits for its steps.
    optimizer: Optimizer,
    _buffers: Vec<DeviceBuffer>,
    subject: Subject,
}

impl Set {
    fn new(
        subject: &Subject,
        lengths: &[usize],
        context: &Context,
        stream: &Stream,
    ) -> orthant::Result<Self> {
        let mut buffers = vec![];
        let mut tensors = |dtype: Dtype, seed: u64, spoilt: bool| -> orthant::Result<Vec<DeviceTensor>> {
            let mut at = 0;
            let mut starts = vec![];
            for n in lengths {
                starts.push(at);
                at += (n * dtype.size()).next_multiple_of(256);
            }
            let buffer = DeviceBuffer::new(context, at)?;
            fill(&buffer, dtype, seed, stream)?;
            if spoilt {
                let infinity = match dtype {
                    Dtype::F32 => f32::INFINITY.to_le_bytes().to_vec(),
                    _ => half::bf16::INFINITY.to_le_bytes().to_vec(),
                };
                buffer.write(stream, 0, &infinity)?;
            }
            let tensor = |(start, n): (&usize, &usize)| {
                // SAFETY: the memory is this card's, and is dropped after the optimizer.
                #[allow(unsafe_code, reason = "the memory outlives the optimizer")]
                unsafe {
                    DeviceTensor::new(buffer.address() + *start as u64, dtype, &[*n])
                }
            };
            let tensors = starts.iter().zip(lengths).map(tensor).collect::<orthant::Result<_>>();
            buffers.push(buffer);
            tensors
        };
        let data = tensors(subject.param, 1, false)?;
        let grads = tensors(subject.grad, 2, subject.is_refused())?;
        let previous = match subject.group().algorithm().needs_previous_gradient() {
            true => Some(tensors(subject.grad, 3, false)?),
            false => None,
        };
        let micro = subject.micro.map(|dtype| tensors(dtype, 4, false)).transpose()?;
        stream.synchronize()?;
        let parameters = data.iter().enumerate().map(|(i, data)| {
            let mut parameter = Parameter::new(format!("p{i}"), data.clone()).grad(grads[i].clone());
            if let Some(previous) = &previous {
                parameter = parameter.prev_grad(previous[i].clone());
            }
            if let Some(micro) = &micro {
                parameter = parameter.micro_grad(micro[i].clone());
            }
            parameter
        });
        let builder = Optimizer::builder(context.device()).context(context.clone());
        let mut optimizer = builder.group(subject.group()).options(subject.options()).register(parameters)?;
        optimizer.warm_up()?;
        Ok(Self { optimizer, _buffers: buffers, subject: *subject })
    }

    /// What is measured, given to the stream.
    fn work(&mut self, stream: &Stream) -> orthant::Result<()> {
        match self.subject.micro {
            Some(_) => self.optimizer.accumulate_on(stream, 0.25, false),
            None => self.optimizer.step_on(stream),
        }
    }

    /// Bytes of device memory that a step has to do with.
    fn footprint(&self) -> u64 {
        let tensors: usize = self._buffers.iter().map(DeviceBuffer::bytes).sum();
        (tensors + self.optimizer.device_bytes()[0]) as u64
    }
}

/// Random numbers once, then copies of them on the card.
fn fill(buffer: &DeviceBuffer, dtype: Dtype, seed: u64, stream: &Stream) -> orthant::Result<()> {
    let pattern: Storage = Noise(seed).storage(dtype, PATTERN.min(buffer.bytes() / dtype.size()));
    let bytes = pattern.as_le_bytes();
    buffer.write(stream, 0, bytes)?;
    let mut there = bytes.len();
    while there > 0 && there < buffer.bytes() {
        let more = there.min(buffer.bytes() - there);
        buffer.copy(stream, there, buffer, 0, more)?;
        there += more;
    }
    Ok(())
}

/// A row's numbers on this card.
pub fn measure(subject: &Subject, lengths: &[usize], context: &Context) -> orthant::Result<Numbers> {
    context.make_current()?;
    let stream = Stream::new(context)?;
    let set = Set::new(subject, lengths, context, &stream)?;
    match cuda::counters() {
        Some(_) => counted(set, lengths, &stream),
        None => timed(set, lengths, context, &stream),
    }
}

/// What the software GPU counted for all kernels of its report.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub launches: u64,
    pub bytes: u64,
    pub sectors: u64,
    pub lanes: u64,
    pub tensor_flops: u64,
    pub bank_conflicts: u64,
}

impl Counts {
    pub fn now() -> Self {
        let report = cuda::counters().unwrap_or_default();
        let report: Value = serde_json::from_str(&report).unwrap_or_default();
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let mut sum = Self::default();
        for kernel in report["kernels"].as_object().into_iter().flat_map(|kernels| kernels.values()) {
            sum.launches += number(&kernel["launches"]);
            for traffic in [&kernel["global_loads"], &kernel["global_stores"]] {
                sum.bytes += number(&traffic["bytes"]);
                sum.sectors += number(&traffic["sectors"]);
            }
            let classes = kernel["instructions"].as_object();
            sum.lanes +=
                classes.into_iter().flat_map(|c| c.values()).map(|c| number(&c["lane"])).sum::<u64>();
            sum.tensor_flops += number(&kernel["tensor_flops"]);
            sum.bank_conflicts += number(&kernel["shared"]["bank_conflicts"]);
        }
        sum
    }

    pub fn since(self, before: &Self) -> Self {
        Self {
            launches: self.launches - before.launches,
            bytes: self.bytes - before.bytes,
            sectors: self.sectors - before.sectors,
            lanes: self.lanes - before.lanes,
            tensor_flops: self.tensor_flops - before.tensor_flops,
            bank_conflicts: self.bank_conflicts - before.bank_conflicts,
        }
    }

    /// For so many elements.
    pub fn numbers(&self, elements: usize) -> Numbers {
        let (elements, moved) = (elements.max(1) as f64, 32 * self.sectors);
        Numbers {
            // Lanes that read the same description ask for its bytes once each; what moves is the sectors.
            bytes_per_element: moved as f64 / elements,
            launches: Some(self.launches),
            sector_efficiency: (moved > 0).then(|| (self.bytes as f64 / moved as f64).min(1.0)),
            instructions_per_element: Some(self.lanes as f64 / elements),
            ..Numbers::default()
        }
    }
}

/// The second step's counts: the first may start from nothing.
fn counted(mut set: Set, lengths: &[usize], stream: &Stream) -> orthant::Result<Numbers> {
    set.work(stream)?;
    stream.synchronize()?;
    let before = Counts::now();
    set.work(stream)?;
    stream.synchronize()?;
    Ok(Counts::now().since(&before).numbers(lengths.iter().sum()))
}

/// Medians of samples between events, steps and copies of as many bytes by turns.
fn timed(first: Set, lengths: &[usize], context: &Context, stream: &Stream) -> orthant::Result<Numbers> {
    let subject = first.subject;
    let bytes = subject.bytes(lengths)?;
    // What the step before left in the cache must not help this one.
    let wanted = (3 * CACHE).div_ceil(first.footprint().max(1)) as usize;
    let mut sets = vec![first];
    while sets.len() < wanted.min(MOST_SETS) {
        sets.push(Set::new(&subject, lengths, context, stream)?);
    }
    let half = (bytes.div_ceil(2) as usize).next_multiple_of(256);
    let copies: [DeviceBuffer; 2] =
        [DeviceBuffer::new(context, half * sets.len())?, DeviceBuffer::new(context, half * sets.len())?];
    fill(&copies[0], Dtype::F32, 5, stream)?;
    let steps = STEPS.max(sets.len());
    let (start, end) = (Event::new(context, true)?, Event::new(context, true)?);
    let sample = |work: &mut dyn FnMut(usize) -> orthant::Result<()>| -> orthant::Result<f64> {
        // Keeps the card busy while the first is given: no interval begins on an idle one.
        work(steps)?;
        start.record(stream)?;
        (0..steps).try_for_each(work)?;
        end.record(stream)?;
        end.synchronize()?;
        Ok(f64::from(start.elapsed_ms(&end)?) * 1e6 / steps as f64)
    };
    let (mut own, mut copy, mut host) = (vec![], vec![], vec![]);
    let count = sets.len();
    for turn in 0..=SAMPLES {
        let ns = sample(&mut |i| {
            let set = &mut sets[i % count];
            let began = Instant::now();
            set.work(stream)?;
            host.push(began.elapsed().as_nanos() as f64);
            Ok(())
        })?;
        own.push(ns);
        let ns =
            sample(&mut |i| copies[1].copy(stream, i % count * half, &copies[0], i % count * half, half))?;
        copy.push(ns);
        for set in sets.iter_mut().filter(|_| subject.micro.is_none()) {
            set.optimizer.status()?;
        }
        if turn == 0 {
            // Clocks rise, caches and tables warm up.
            (own, copy, host) = (vec![], vec![], vec![]);
        }
    }
    let launches = match subject.micro {
        Some(_) => 1,
        None => cuda::launches(sets[0].optimizer.plan(), &subject.options())?,
    };
    Ok(Numbers {
        bytes_per_element: bytes as f64 / lengths.iter().sum::<usize>().max(1) as f64,
        launches: Some(launches.into()),
        ns: Some(median(own)),
        copy_ns: Some(median(copy)),
        host_ns: Some(median(host)),
        beyond_cache: Some(count >= wanted),
        ..Numbers::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::subjects::{SUBJECTS, lengths};

    /// On the software GPU for the code alone: what comes out are no times.
    #[test]
    fn everything_can_be_timed_and_is_what_is_counted() {
        let _turn = crate::cli::bench::turn();
        let context = Context::open("emulated".parse().expect("a device")).expect("the software GPU");
        context.make_current().expect("current");
        let stream = Stream::new(&context).expect("a stream");
        for subject in SUBJECTS {
            let set = |lengths: &[usize]| Set::new(&subject, lengths, &context, &stream).expect("registered");
            let one = lengths(1 << 18, 1);
            let counted = counted(set(&one), &one, &stream).expect("steps");
            let planned = subject.bytes(&one).expect("legal") as f64 / one[0] as f64;
            // A hundredth for descriptions; sums and scans have one for each 4,096 elements, and results to write.
            let per_block =
                if ["nsgd", "scan", "clip", "accumulate"].contains(&subject.kernel) { 0.3 } else { 0.0 };
            let over = counted.bytes_per_element - planned;
            assert!(over >= 0.0 && over < 0.01 * planned + per_block, "{subject:?}: {planned}, {counted:?}");
            let few = lengths(3001, 2);
            let timed = timed(set(&few), &few, &context, &stream).expect("steps");
            assert_eq!(timed.launches, counted.launches, "{subject:?}");
            assert!(timed.ns > Some(0.0) && timed.copy_ns > Some(0.0) && timed.host_ns > Some(0.0));
        }
    }
}
