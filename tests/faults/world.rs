//! What scenarios work on: a context, streams, tensors, optimizers, a file; and a look at all of it.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use cudarc::driver::sys;
use orthant::algorithm::Slot;
use orthant::config::Config;
use orthant::cuda::{Context, DeviceBuffer, Event, Stream};
use orthant::{Device, DeviceTensor, Dtype, EmulatedCard, Error, Optimizer, Parameter, Tensor};

use crate::noise::Noise;

pub const DEVICE: Device = Device::Emulated(EmulatedCard::Sm80);
const SLOTS: [Slot; 6] =
    [Slot::Momentum, Slot::Variance, Slot::VarianceMax, Slot::Point, Slot::Master, Slot::Low];

/// Why a scenario could not go on.
#[derive(Debug)]
pub enum Stop {
    /// A call of this optimizer.
    Optimizer(usize, Error),
    /// Something else of the library.
    Other(Error),
    /// A call of the driver that the scenario made itself.
    Caller(#[allow(dead_code, reason = "printed")] u32),
}

pub type Done = Result<(), Stop>;

/// Tensors of an optimizer.
pub struct Set {
    pub shapes: Vec<Vec<usize>>,
    pub dtype: Dtype,
    pub grad_dtype: Dtype,
    pub place: Place,
}

pub enum Place {
    Host { data: Vec<Tensor>, grads: Vec<Tensor> },
    Card { data: Vec<DeviceBuffer>, grads: Vec<DeviceBuffer>, at: usize },
}

/// Fields are dropped in this order, which is the one that is hardest on what is still under way.
#[derive(Default)]
pub struct World {
    pub streams: Vec<Option<Arc<Stream>>>,
    pub events: Vec<Event>,
    pub graph: Option<Replay>,
    pub optimizers: Vec<Option<Optimizer>>,
    pub sets: Vec<Set>,
    /// Reports of steps on the card: applied, skipped.
    pub reports: [usize; 2],
    pub context: Option<Context>,
}

static FOLDER: LazyLock<tempfile::TempDir> = LazyLock::new(|| tempfile::tempdir().expect("a folder"));

pub fn file() -> PathBuf {
    FOLDER.path().join("state.safetensors")
}

impl World {
    pub fn new(context: Option<Context>) -> World {
        _ = fs::remove_file(file());
        World { context, ..World::default() }
    }

    pub fn context(&self) -> &Context {
        self.context.as_ref().expect("opened before")
    }

    pub fn stream(&self, i: usize) -> Arc<Stream> {
        self.streams[i].clone().expect("made before")
    }

    pub fn add_stream(&mut self) -> Done {
        let stream = Stream::new(self.context()).map_err(Stop::Other)?;
        self.streams.push(Some(Arc::new(stream)));
        Ok(())
    }

    pub fn add_event(&mut self) -> Done {
        let event = Event::new(self.context(), false).map_err(Stop::Other)?;
        self.events.push(event);
        Ok(())
    }

    pub fn add_host_set(&mut self, dtype: Dtype, grad_dtype: Dtype, shapes: &[&[usize]]) {
        let mut noise = Noise(self.sets.len() as u64 + 1);
        let mut tensors = |dtype| -> Vec<Tensor> {
            let one = |shape: &&[usize]| {
                Tensor::from_storage(noise.storage(dtype, shape.iter().product()), shape).expect("it fits")
            };
            shapes.iter().map(one).collect()
        };
        let place = Place::Host { data: tensors(dtype), grads: tensors(grad_dtype) };
        let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
        self.sets.push(Set { shapes, dtype, grad_dtype, place });
    }

    /// Tensors on the card; gradients have room to begin some bytes later.
    pub fn add_card_set(&mut self, dtype: Dtype, grad_dtype: Dtype, shapes: &[&[usize]]) -> Done {
        let mut noise = Noise(self.sets.len() as u64 + 1);
        let stream = self.stream(0);
        let context = self.context().clone();
        let mut buffers = |dtype: Dtype, room: usize| -> orthant::Result<Vec<DeviceBuffer>> {
            let one = |shape: &&[usize]| {
                let values = noise.storage(dtype, shape.iter().product::<usize>() + room / dtype.size());
                let buffer = DeviceBuffer::new(&context, values.as_le_bytes().len())?;
                buffer.write(&stream, 0, values.as_le_bytes())?;
                Ok(buffer)
            };
            shapes.iter().map(one).collect()
        };
        let data = buffers(dtype, 0).map_err(Stop::Other)?;
        let grads = buffers(grad_dtype, 16).map_err(Stop::Other)?;
        stream.synchronize().map_err(Stop::Other)?;
        let shapes = shapes.iter().map(|shape| shape.to_vec()).collect();
        self.sets.push(Set { shapes, dtype, grad_dtype, place: Place::Card { data, grads, at: 0 } });
        Ok(())
    }

    /// Gradients of step `number` of a set; `poisoned` with a NaN.
    pub fn renew(&mut self, set: usize, number: u64, poisoned: bool) -> Done {
        let stream = self.streams.first().and_then(Clone::clone);
        let this = &self.sets[set];
        for (i, shape) in this.shapes.iter().enumerate() {
            let mut noise = Noise(1000 * number + 10 * set as u64 + i as u64);
            let mut values = noise.storage(this.grad_dtype, shape.iter().product());
            if let (orthant::Storage::F32(values), true, 0) = (&mut values, poisoned, i) {
                values[1] = f32::NAN;
            }
            match &this.place {
                Place::Host { grads, .. } => grads[i].assign(&values).expect("it fits"),
                Place::Card { grads, at, .. } => {
                    let stream = stream.as_ref().expect("made before");
                    grads[i].write(stream, *at, values.as_le_bytes()).map_err(Stop::Other)?;
                }
            }
        }
        Ok(())
    }

    /// Registers the parameters of the next set that has no optimizer.
    pub fn register(&mut self, config: &str) -> Done {
        let config = Config::parse(config).unwrap_or_else(|e| panic!("{e}"));
        let set = &self.sets[self.optimizers.len()];
        let mut builder = Optimizer::builder(DEVICE).groups(config.groups).options(config.options);
        builder = builder.context(self.context().clone());
        if matches!(set.place, Place::Card { .. }) {
            builder = builder.stream(self.stream(0));
        }
        let optimizer = builder.register(set.parameters()).map_err(Stop::Other)?;
        self.optimizers.push(Some(optimizer));
        Ok(())
    }

    /// A call of an optimizer.
    pub fn with<T>(
        &mut self,
        which: usize,
        call: impl FnOnce(&mut Optimizer) -> orthant::Result<T>,
    ) -> Result<T, Stop> {
        let optimizer = self.optimizers[which].as_mut().expect("registered before");
        call(optimizer).map_err(|error| Stop::Optimizer(which, error))
    }

    pub fn step_on(&mut self, which: usize, stream: usize) -> Done {
        let stream = self.stream(stream);
        self.with(which, |o| o.step_on(&stream))
    }

    pub fn status(&mut self, which: usize) -> Done {
        let reports = self.with(which, |o| o.status())?;
        for report in reports {
            self.reports[usize::from(!report.applied)] += 1;
        }
        Ok(())
    }

    /// Everything that a step may change, as bytes, and the file.
    pub fn observe(&self) -> orthant::Result<Vec<(String, Vec<u8>)>> {
        let mut seen = vec![];
        for i in 0..self.optimizers.len() {
            seen.extend(self.observe_one(i)?);
        }
        seen.push(("reports".into(), format!("{:?}", self.reports).into_bytes()));
        seen.push(("file".into(), fs::read(file()).unwrap_or_default()));
        let others = fs::read_dir(FOLDER.path()).expect("readable").count();
        assert!(others <= usize::from(file().exists()), "files were left behind");
        Ok(seen)
    }

    /// The same of one optimizer.
    pub fn observe_one(&self, which: usize) -> orthant::Result<Vec<(String, Vec<u8>)>> {
        let Some(optimizer) = &self.optimizers[which] else { return Ok(vec![]) };
        let set = &self.sets[which];
        optimizer.synchronize()?;
        let mut seen = vec![];
        for i in 0..set.shapes.len() {
            let name = format!("p{i}");
            let bytes = match &set.place {
                Place::Host { data, .. } => data[i].to_storage().as_le_bytes().to_vec(),
                Place::Card { data, .. } => {
                    let mut bytes = vec![0; data[i].bytes()];
                    let stream = self.streams.iter().flatten().next();
                    match stream {
                        Some(stream) => data[i].read(stream, 0, &mut bytes)?,
                        None => data[i].read(&Stream::new(self.context())?, 0, &mut bytes)?,
                    }
                    bytes
                }
            };
            seen.push((format!("{which} {name}"), bytes));
            for slot in SLOTS {
                let values = optimizer.state(&name, slot)?.unwrap_or_default();
                let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes()).collect();
                seen.push((format!("{which} {name} {}", slot.name()), bytes));
            }
            let steps = optimizer.step_count(&name)?.unwrap_or_default();
            seen.push((format!("{which} {name} steps"), steps.to_le_bytes().to_vec()));
        }
        Ok(seen)
    }
}

impl Set {
    pub fn parameters(&self) -> Vec<Parameter> {
        (0..self.shapes.len())
            .map(|i| {
                let name = format!("p{i}");
                match &self.place {
                    Place::Host { data, grads } => {
                        Parameter::new(name, data[i].clone()).grad(grads[i].clone())
                    }
                    Place::Card { data, .. } => {
                        let data = tensor(data[i].address(), self.dtype, &self.shapes[i]);
                        Parameter::new(name, data).grad(self.gradient(i))
                    }
                }
            })
            .collect()
    }

    /// A gradient on the card.
    pub fn gradient(&self, i: usize) -> DeviceTensor {
        match &self.place {
            Place::Card { grads, at, .. } => {
                tensor(grads[i].address() + *at as u64, self.grad_dtype, &self.shapes[i])
            }
            Place::Host { .. } => panic!("it lies on the host"),
        }
    }

    /// All gradients, by name.
    pub fn gradients(&self) -> Vec<(String, Option<DeviceTensor>)> {
        (0..self.shapes.len()).map(|i| (format!("p{i}"), Some(self.gradient(i)))).collect()
    }
}

fn tensor(address: u64, dtype: Dtype, shape: &[usize]) -> DeviceTensor {
    // SAFETY: the buffers outlive the optimizers: `World` drops them later.
    unsafe { DeviceTensor::new(address, dtype, shape) }.expect("it fits")
}

/// The caller's own graph.
pub struct Replay(sys::CUgraphExec);

// SAFETY: a handle.
unsafe impl Send for Replay {}

fn caller(result: sys::CUresult) -> Done {
    match result as u32 {
        0 => Ok(()),
        code => Err(Stop::Caller(code)),
    }
}

impl World {
    /// Captures a step, or its two halves, into a graph of the caller's.
    pub fn capture(&mut self, halves: bool) -> Done {
        let stream = self.stream(0);
        let raw: sys::CUstream = stream.as_raw().cast();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        // SAFETY: here and below, handles are live ones.
        caller(unsafe { sys::cuStreamBeginCapture_v2(raw, mode) })?;
        let scanned = match halves {
            true => self.with(0, |o| {
                // One that was captured before the step could not be is of no use.
                o.forget_scan();
                o.scan_on(&stream).map(drop)
            }),
            false => Ok(()),
        };
        let given = scanned.and_then(|()| self.step_on(0, 0));
        let mut graph = std::ptr::null_mut();
        let ended = caller(unsafe { sys::cuStreamEndCapture(raw, &mut graph) });
        let result = match (given, ended) {
            (Ok(()), Ok(())) => {
                let mut exec = std::ptr::null_mut();
                let made = caller(unsafe { sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0) });
                made.map(|()| self.graph = Some(Replay(exec)))
            }
            (Ok(()), Err(ended)) => Err(ended),
            (Err(given), ended) => {
                // Half a step must not become a graph that somebody replays.
                let nodes = if ended.is_ok() { nodes(graph) } else { 0 };
                assert_eq!(nodes, 0, "a graph with part of a step was left: {given:?}");
                Err(given)
            }
        };
        if !graph.is_null() {
            _ = unsafe { sys::cuGraphDestroy(graph) };
        }
        result
    }

    pub fn replay(&mut self) -> Done {
        let stream = self.stream(0);
        self.with(0, |o| o.write_control(&stream))?;
        let Some(Replay(exec)) = self.graph.as_ref() else { panic!("captured before") };
        caller(unsafe { sys::cuGraphLaunch(*exec, stream.as_raw().cast()) })?;
        caller(unsafe { sys::cuStreamSynchronize(stream.as_raw().cast()) })
    }
}

fn nodes(graph: sys::CUgraph) -> usize {
    let mut count = 0;
    match unsafe { sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &mut count) } as u32 {
        0 => count,
        code => panic!("cuGraphGetNodes: {code}"),
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        // SAFETY: as above.
        _ = unsafe { sys::cuGraphExecDestroy(self.0) };
    }
}
