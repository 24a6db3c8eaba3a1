//! A step on a card.
//!
//! Everything that a step needs lies in four allocations made at registration: state, work space, tables, strips. What it does is
//! captured once as a graph, which contains nothing that changes: hyperparameters are in the control block, step counts and
//! decisions belong to the device, pointers are in the tables. So a step is at most two calls of the driver: a copy of the
//! control block if it changed, and the launch of the graph.

use std::sync::OnceLock;

use super::api::{self, Answer, CUstream};
use super::context::Context;
use super::control::{Journal, Outcome, Ring};
use super::elementwise::{Buffer, Buffers};
use super::graph::Graph;
use super::layout::{Layout, Tables};
use super::memory::DeviceBuffer;
use super::order::Streams;
use super::stream::Stream;
use super::table::{FOUND, SQUARES};
use crate::algorithm::{Rule, Slot};
use crate::error::{Error, Result};
use crate::group::{Group, Hyperparameters};
use crate::optimizer::StepOptions;
use crate::plan::Plan;
use crate::tensor::Dtype;

mod launches;
mod lines;
mod rebind;
mod transfer;

pub(crate) use launches::Part;

const LOST: &str = "What is on the card may be half of a step; the last checkpoint is intact";

/// The parameters, gradients and state of an optimizer on a card.
#[derive(Debug)]
pub(crate) struct Engine {
    context: Context,
    /// Of everything that no caller names a stream for.
    stream: Stream,
    /// That steps were given to.
    streams: Streams,
    state: DeviceBuffer,
    work: DeviceBuffer,
    tables_memory: DeviceBuffer,
    /// What products work in.
    strips: DeviceBuffer,
    layout: Layout,
    tables: Tables,
    /// Whether the card has not been sent `tables` yet.
    tables_changed: bool,
    ring: Ring,
    journal: Journal,
    /// Of the whole step and its two halves, then of each group.
    graphs: Vec<Option<Graph>>,
    decides: bool,
    captured: Captured,
    /// What callers' graphs that are out of date still point at.
    retired: Vec<DeviceBuffer>,
    seed: u64,
    max_workspace: Option<usize>,
    /// The first error after which the card or the state on it is of no use.
    lost: OnceLock<Error>,
}

/// Whether a step was captured into a caller's graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Captured {
    No,
    Fits,
    /// Launches are others since.
    OutOfDate,
}

impl Engine {
    /// Whether a stream is being captured.
    pub fn is_capturing(&self, stream: &Stream) -> Result<bool> {
        self.note(hot(&self.context, stream, "looking at a stream", || api::is_capturing(stream.raw())))
    }

    /// Which capture a stream is in.
    pub fn capture_of(&self, stream: &Stream) -> Result<Option<u64>> {
        self.note(hot(&self.context, stream, "looking at a stream", || api::capture_id(stream.raw())))
    }

    /// Allocates everything, or nothing. Full-precision copies and sums are as [`fill`](Self::fill) makes them.
    pub fn new(
        context: &Context,
        plan: &Plan,
        options: &StepOptions,
        bindings: impl Fn(usize) -> (Buffer, Option<Buffer>, Option<Buffer>),
        seed: u64,
    ) -> Result<Self> {
        let measured = options.diagnostics;
        let layout = Layout::new(plan, options)?;
        let (stream, streams) = (Stream::new(context)?, Streams::new(context)?);
        let buffers_at = |base: u64| -> Vec<Buffers> {
            (0..plan.parameters.len()).map(|i| layout.buffers(base, i, bindings(i))).collect()
        };
        // Sizes do not depend on where state lies: it begins at 256-byte boundaries.
        let sizes = Tables::new(plan, &layout, &buffers_at(0), 0, seed, measured);
        let wanted = layout.bytes(&sizes);
        let state = allocate(context, plan, &layout, wanted, 0)?;
        let work = allocate(context, plan, &layout, wanted, 1)?;
        let tables_memory = allocate(context, plan, &layout, wanted, 2)?;
        let strips = allocate(context, plan, &layout, wanted, 3)?;
        let tables =
            Tables::new(plan, &layout, &buffers_at(state.address()), strips.address(), seed, measured);
        let ring = Ring::new(context, plan.groups.len())?;
        let journal = Journal::new(context, measured.then_some(plan.groups.len()))?;
        let graphs = std::iter::repeat_with(|| None).take(3 + plan.groups.len()).collect();
        let decides = options.decides();
        context.kernels()?;
        let lost = OnceLock::new();
        let mut engine = Self {
            context: context.clone(),
            stream,
            streams,
            state,
            work,
            tables_memory,
            strips,
            layout,
            tables,
            tables_changed: false,
            ring,
            journal,
            graphs,
            decides,
            captured: Captured::No,
            retired: vec![],
            seed,
            max_workspace: options.max_workspace,
            lost,
        };
        engine.begin()?;
        Ok(engine)
    }

    /// Zeros in state and work space, and the tables in their place.
    fn begin(&mut self) -> Result<()> {
        let stream = self.stream.raw();
        self.context.run("registering", || {
            api::zero(self.state.address(), self.state.bytes(), stream)?;
            api::zero(self.work.address(), self.work.bytes(), stream)?;
            if self.strips.bytes() > 0 {
                api::zero(self.strips.address(), self.strips.bytes(), stream)?;
            }
            api::copy_in(self.tables_memory.address(), &self.tables.bytes, stream)?;
            api::synchronize_stream(stream)
        })
    }

    /// State as it is before the first step: full-precision copies from the parameters, AdaGrad's sums from their options.
    pub fn fill(&mut self, plan: &Plan, stream: CUstream) -> Result<()> {
        let kernels = self.context.kernels()?;
        let (segments, owners) = (self.table(self.tables.segments), self.table(self.tables.owners));
        let count = self.tables.chunk_count;
        let control = self.work_at(self.layout.control);
        let ring = &mut self.ring;
        self.context.run("registering", || {
            // Replays of a caller's graph may come before anything that would send it.
            ring.write(control, None, stream)?;
            let blocks = count.min(kernels.adopt.resident);
            kernels.adopt.launch(stream, blocks, &mut [segments.into(), owners.into(), count.into()])?;
            for (i, planned) in plan.parameters.iter().enumerate() {
                let Rule::AdaGrad(rule) = plan.group_of(planned).algorithm.rule() else { continue };
                for &(slot, offset, dtype) in &self.layout.slots[i] {
                    if slot != Slot::Variance || rule.initial_accumulator_value == 0.0 {
                        continue;
                    }
                    let (at, value) = (self.state.address() + offset as u64, rule.initial_accumulator_value);
                    match dtype {
                        Dtype::Bf16 => {
                            let value = <half::bf16 as crate::tensor::Element>::from_f64(value);
                            api::fill_16(at, value.to_bits(), planned.numel(), stream)?;
                        }
                        _ => api::fill_32(at, (value as f32).to_bits(), planned.numel(), stream)?,
                    }
                }
            }
            api::synchronize_stream(stream)
        })
    }

    fn table(&self, offset: usize) -> u64 {
        self.tables_memory.address() + offset as u64
    }

    fn work_at(&self, offset: usize) -> u64 {
        self.work.address() + offset as u64
    }

    pub fn context(&self) -> &Context {
        &self.context
    }

    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Bytes of device memory: state, work space, tables.
    pub fn bytes(&self) -> [usize; 3] {
        [self.state.bytes(), self.work.bytes() + self.strips.bytes(), self.tables_memory.bytes()]
    }

    /// The first error after which the card or the state on it is of no use.
    pub fn check(&self) -> Result<()> {
        self.lost.get().cloned().map_or(Ok(()), Err)
    }

    /// What the driver answered, and, if the context is gone for it, so is this engine.
    pub fn note<T>(&self, answer: Result<T>) -> Result<T> {
        if let Err(error @ Error::DeviceLost { .. }) = &answer {
            return Err(self.lost.get_or_init(|| error.clone()).clone());
        }
        answer
    }

    /// An error that left the card ahead of the host: nothing more is done with it.
    pub fn abandon(&self, error: Error) -> Error {
        let error = match error {
            Error::Driver { device, during, call, name, code, meaning } => {
                Error::DeviceLost { device, during, call, name, code, meaning, consequence: LOST }
            }
            other => other,
        };
        self.lost.get_or_init(|| error).clone()
    }

    /// Hyperparameters and options of later steps. They reach the card with the next step's copy.
    pub fn set_control(
        &mut self,
        groups: &[Group],
        hyper: &[Hyperparameters],
        options: &StepOptions,
    ) -> Result<()> {
        self.check()?;
        if options.decides() != self.decides {
            self.decides = options.decides();
            self.forget_graphs();
        }
        self.ring.set(groups, hyper, options)
    }

    /// The host's writes before a step, if there is something new: the control block, and tables of the same shape. Other
    /// steps come behind them, but for those of a `part` or of somebody else's graph the journal does not know when they are
    /// done.
    fn publish(&mut self, part: Option<Part>, stream: &Stream) -> Result<()> {
        let during = "writing the control block";
        // The card's count holds replays of callers' graphs too, and says nothing of our steps once there may be any.
        let completed = match self.captured {
            Captured::No => self.journal.completed(),
            _ => self.journal.waited(),
        };
        let room = hot(&self.context, stream, during, || self.ring.has_room(completed));
        if !self.note(room)? || self.streams.are_many() {
            // As many changes as there are slots are under way: the host is far ahead.
            self.wait_and_forget()?;
        }
        let to = self.work_at(self.layout.control);
        let countable = part.is_some_and(|part| part.group().is_none()) && self.captured == Captured::No;
        let step = countable.then(|| self.journal.submitted() + 1);
        let (at, tables) = (self.tables_memory.address(), self.tables_changed.then_some(&self.tables.bytes));
        let (ring, streams) = (&mut self.ring, &mut self.streams);
        let given = hot(&self.context, stream, during, || {
            if !ring.is_changed() && tables.is_none() {
                return streams.inform(stream);
            }
            streams.before_write(stream)?;
            if let Some(bytes) = tables {
                api::copy_in(at, bytes, stream.raw())?;
            }
            ring.write(to, step, stream.raw())?;
            streams.after_write(stream, step.is_none())
        });
        self.note(given)?;
        self.tables_changed = false;
        Ok(())
    }

    /// What is new, before a replay of somebody else's graph.
    pub fn write_control_for_replay(&mut self, stream: &Stream) -> Result<()> {
        self.check()?;
        if self.captured == Captured::OutOfDate {
            let reason = "write_control: a step was captured before strides, alignments, what decides a step or \
                          Newton-Schulz iterations changed: capture it again";
            return Err(Error::Step(reason.into()));
        }
        self.streams.given(stream);
        self.publish(None, stream)
    }

    /// Gives a step, or a group's part of one, to a stream. In a stream that is being captured it becomes a part of that
    /// graph, without the host's writes, which are a call of their own then. Returns whether it is.
    pub fn submit(&mut self, part: Part, stream: &Stream) -> Result<bool> {
        self.check()?;
        let during = format!("step {}", self.journal.submitted() + 1);
        let capturing = self.note(hot(&self.context, stream, &during, || api::is_capturing(stream.raw())))?;
        if capturing {
            let kernels_loaded = self.context.kernels().map(drop);
            self.note(kernels_loaded)?;
            // Replays of what the caller captures are on this stream, as far as anybody knows.
            self.streams.given(stream);
            let given = self.context.run(&during, || self.enqueue(part, stream.raw(), None));
            if given.is_err() {
                self.spoil_capture(stream);
            }
            self.note(given)?;
            self.captured = Captured::Fits;
            return Ok(true);
        }
        self.prepare_graph(part, &during)?;
        if part == Part::Scan {
            // What could fail later fails now.
            self.prepare_graph(Part::Rest, &during)?;
        }
        // Whatever becomes of the rest, what is written now may be under way.
        self.streams.given(stream);
        self.publish(Some(part), stream)?;
        let index = index_of(part);
        let Some(graph) = self.graphs[index].as_ref().map(Graph::raw) else { return Ok(false) };
        // One call: either all of the step is given, or nothing is.
        self.note(hot(&self.context, stream, &during, || api::launch_graph(graph, stream.raw())))?;
        self.streams.given(stream);
        if part.concludes() {
            self.journal.submit();
        }
        Ok(false)
    }

    /// Part of a step must not become a graph: to wait for a stream ends its capture with an error.
    pub fn spoil_capture(&self, stream: &Stream) {
        let _ = self.context.run("", || api::synchronize_stream(stream.raw()));
    }

    /// Where the scalars lie that a step is decided from: the sum of squares, and behind it two of which the larger counts.
    pub fn scalars(&self) -> (u64, u64) {
        let status = self.work_at(self.layout.status);
        (status + SQUARES as u64, status + FOUND as u64)
    }

    /// Captures what a step does.
    pub fn prepare_graph(&mut self, part: Part, during: &str) -> Result<()> {
        self.check()?;
        if self.graphs[index_of(part)].is_some() {
            return Ok(());
        }
        let kernels = self.context.kernels().map(drop);
        self.note(kernels)?;
        let graph =
            Graph::capture(&self.context, during, |stream, side| self.enqueue(part, stream, Some(side)));
        self.graphs[index_of(part)] = Some(self.note(graph)?);
        Ok(())
    }

    /// Other work of ours was given to a stream: what it uses has to outlive it.
    pub fn remember(&mut self, stream: &Stream) {
        self.streams.given(stream);
    }

    /// Waits until everything that was given is done.
    pub fn wait(&self) -> Result<()> {
        self.check()?;
        let waited = self.context.run("waiting for steps", || self.wait_for_all());
        self.note(waited)
    }

    /// Waits for all streams, whatever one of them says; the first error.
    fn wait_for_all(&self) -> Answer<()> {
        let mut answer = Ok(());
        for stream in self.streams.busy().chain([&self.stream]) {
            let waited = api::synchronize_stream(stream.raw());
            answer = answer.and(waited);
        }
        answer
    }

    fn wait_and_forget(&mut self) -> Result<()> {
        self.wait()?;
        self.journal.all_done();
        self.ring.all_done();
        self.streams.all_done();
        Ok(())
    }

    /// What became of steps that are done and were not asked for before, without waiting.
    pub fn outcomes(&mut self) -> Vec<Outcome> {
        self.journal.outcomes()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Work under way uses the memory that goes now. A lost card has no work any more.
        if !matches!(self.lost.get(), Some(Error::DeviceLost { code, .. }) if api::is_sticky(*code)) {
            let _ = self.context.run("", || self.wait_for_all());
        }
    }
}

/// Calls about a stream that need our context to be current, which it nearly always is: asking beforehand would be a call more.
fn hot<T>(
    context: &Context,
    stream: &Stream,
    during: &str,
    mut call: impl FnMut() -> Answer<T>,
) -> Result<T> {
    const WRONG_CONTEXT: [u32; 2] = [201, 400];
    // The handles of default streams mean those of whatever context is current.
    const PER_THREAD_DEFAULT: usize = 2;
    if stream.raw() as usize <= PER_THREAD_DEFAULT {
        return context.run(during, call);
    }
    match call() {
        Err(fault) if WRONG_CONTEXT.contains(&fault.code) => context.run(during, call),
        answer => answer.map_err(|fault| context.error(during, fault)),
    }
}

fn index_of(part: Part) -> usize {
    match part {
        Part::All => 0,
        Part::Scan => 1,
        Part::Rest => 2,
        Part::Group(group) => group + 3,
    }
}

/// One of the allocations, or an error that says what does not fit.
fn allocate(
    context: &Context,
    plan: &Plan,
    layout: &Layout,
    wanted: [usize; 4],
    which: usize,
) -> Result<DeviceBuffer> {
    let failed = match DeviceBuffer::new(context, wanted[which]) {
        Err(Error::Driver { code: api::OUT_OF_MEMORY, call: "cuMemAlloc_v2", .. }) => {
            wanted[which..].iter().sum::<usize>() as u64
        }
        answer => return answer,
    };
    let free = context.memory().map_or(0, |(free, _)| free);
    let largest = plan.parameters.iter().max_by_key(|p| p.state_bytes());
    let largest = largest.map_or(String::new(), |p| {
        format!(", the largest part of it for `{}` with {}", p.spec.name, p.state_bytes())
    });
    let what = match which {
        0 => format!(
            "state of {} parameters ({} bytes{largest}) with its work space",
            layout.slots.len(),
            wanted[0]
        ),
        _ => "the work space of steps".to_owned(),
    };
    Err(Error::OutOfMemory { device: context.device().to_string(), what, bytes: failed, free })
}
