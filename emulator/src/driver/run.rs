//! Running work: which operation next, and what it does.

use std::sync::Arc;
use std::time::Instant;

use super::abi::stream_flag::NON_BLOCKING;
use super::order::{Known, Pending, Record};
use super::raw::{self, Callback, Calls};
use super::state::{Block, State};
use super::work::{Copy, End, Fill, Launch, Work};
use super::{Answer, Refusal, codes};
use crate::exec::text::place;
use crate::exec::{Fault, FaultKind};
use crate::gpu::{Options, Start};
use crate::memory::{After, TransferError};

/// Operations that may wait before some are run whatever the seed says.
const MANY: usize = 256;

/// Why an operation failed.
pub(crate) struct Failure {
    pub code: u32,
    pub text: String,
    pub fault: Option<Box<Fault>>,
}

impl State {
    /// Puts work behind what the stream has.
    pub fn enqueue(&mut self, stream: u64, work: Work) -> Answer<Arc<Record>> {
        let waits_for = self.predecessors(stream)?;
        let record = self.add(self.streams.get(stream).map_or(0, |s| s.context), work, waits_for)?;
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.tail = Some(record.clone());
        }
        self.drift();
        Ok(record)
    }

    /// What new work of a stream waits for: the stream's last, and across the legacy stream's implicit order.
    pub fn predecessors(&self, handle: u64) -> Answer<Vec<Arc<Record>>> {
        let stream = self.streams.get(handle).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let legacy = self.context(stream.context)?.legacy;
        let mut waits_for: Vec<Arc<Record>> = stream.tail.iter().cloned().collect();
        if stream.flags & NON_BLOCKING == 0 {
            let implied = self.streams.iter().filter(|&(other, s)| {
                let ordered = handle == legacy || other == legacy;
                other != handle && ordered && s.context == stream.context && s.flags & NON_BLOCKING == 0
            });
            waits_for.extend(implied.filter_map(|(_, s)| s.tail.clone()));
        }
        Ok(waits_for)
    }

    /// What a destroyed stream has goes on without it. Whoever waits for the context waits for it, and so does the legacy
    /// stream's next if the stream was a blocking one; nobody else.
    pub fn inherit(&mut self, context: u64, flags: u32, tail: Arc<Record>) -> Answer {
        let [blocking, other] = self.context(context)?.heirs;
        let heir = if flags & NON_BLOCKING == 0 { blocking } else { other };
        let before = self.streams.get(heir).and_then(|heir| heir.tail.clone());
        let record = self.add(context, Work::Nothing, before.into_iter().chain([tail]).collect())?;
        if let Some(heir) = self.streams.get_mut(heir) {
            heir.tail = Some(record);
        }
        self.drift();
        Ok(())
    }

    /// Adds an operation that waits for others.
    pub fn add(&mut self, context: u64, work: Work, waits_for: Vec<Arc<Record>>) -> Answer<Arc<Record>> {
        let device = self.context(context)?.device;
        let record = Arc::new(Record::default());
        self.operations += 1;
        self.pending.push(Pending {
            number: self.operations,
            context,
            device,
            work,
            known: self.known.clone(),
            waits_for,
            record: record.clone(),
            running: false,
        });
        Ok(record)
    }

    /// After new work: without a seed all runs at once, with one as much as chance says.
    pub fn drift(&mut self) {
        if self.settings.options.seed == 0 {
            while self.step() {}
            return;
        }
        // Whether a host function has returned is nothing that the order may depend on.
        if self.held && (self.calling > 0 || self.pending.len() <= MANY) {
            return;
        }
        while (self.pending.len() > MANY || self.random.below(3) == 0) && self.step() {}
    }

    /// Runs one operation that may run, if there is one. Host functions are handed to the thread that calls them.
    pub fn step(&mut self) -> bool {
        let seeded = self.settings.options.seed != 0;
        if seeded && self.host_function_runs() {
            // Whatever the function does comes before the rest: so the order depends on the seed alone.
            return false;
        }
        let position = if seeded {
            let ready: Vec<usize> = (0..self.pending.len()).filter(|&at| self.pending[at].ready()).collect();
            if ready.is_empty() { None } else { Some(ready[self.random.below(ready.len())]) }
        } else {
            self.pending.iter().position(Pending::ready)
        };
        let Some(position) = position else { return false };
        for record in std::mem::take(&mut self.pending[position].waits_for) {
            if let Some(done) = record.done() {
                self.pending[position].known.join(&done.known);
            }
        }
        let status =
            self.healthy(self.pending[position].context).err().map_or(codes::SUCCESS, |first| first.code);
        let dead = status != codes::SUCCESS;
        if let Work::Call(callback) = self.pending[position].work
            && !(dead && callback.calls == Calls::Function)
        {
            self.pending[position].running = true;
            self.hand_over(self.pending[position].number, callback, status);
            return true;
        }
        let mut operation = self.pending.remove(position);
        let outcome = match operation.work {
            // Memory is given back whatever became of the context.
            Work::Free(base) if dead => self.free_now(base),
            _ if dead => Ok(()),
            _ => self.run(&mut operation),
        };
        operation.record.finish(operation.known);
        if let Err(failure) = outcome {
            self.poison(operation.context, failure);
        }
        true
    }

    /// Has a host function called.
    pub fn hand_over(&mut self, number: u64, callback: Callback, status: u32) {
        self.calls.push((number, callback, status));
        self.calling += 1;
        self.held = self.settings.options.seed != 0;
        self.handed = Instant::now();
    }

    /// Whether a host function is being called that may soon return. One that takes longer may wait for other work.
    pub fn host_function_runs(&self) -> bool {
        self.calling > 0 && self.handed.elapsed().as_millis() < u128::from(self.settings.idle)
    }

    /// A host function has returned.
    pub fn called(&mut self, number: u64) {
        self.calling -= 1;
        if let Some(position) = self.pending.iter().position(|operation| operation.number == number) {
            let operation = self.pending.remove(position);
            operation.record.finish(operation.known);
        }
        if self.settings.options.seed == 0 {
            while self.step() {}
        }
    }

    /// From now on the context answers with this error.
    pub fn poison(&mut self, context: u64, failure: Failure) {
        if !self.settings.quiet {
            eprintln!("orthant-emulator: {}", failure.text);
        }
        let Failure { code, text, fault } = failure;
        self.drop_captures(|capture| capture.context == context);
        self.journal.fault(code, &text, fault);
        if let Some(context) = self.contexts.get_mut(context)
            && context.sticky.is_none()
        {
            context.sticky = Some(Refusal { code, text });
        }
    }

    fn run(&mut self, operation: &mut Pending) -> Result<(), Failure> {
        match &operation.work {
            Work::Launch(launch) => {
                let stack = self.stack_bytes(operation.context);
                self.launch(launch, operation.device, stack, &mut operation.known)
            }
            Work::Copy(copy) => self.copy(copy, &mut operation.known),
            Work::Fill(fill) => self.fill(fill, &mut operation.known),
            Work::Free(base) => self.free_in_order(*base, &mut operation.known),
            Work::Call(_) | Work::Nothing => Ok(()),
        }
    }

    fn launch(
        &mut self,
        work: &Launch,
        index: usize,
        stack_bytes: usize,
        known: &mut Known,
    ) -> Result<(), Failure> {
        let device = &mut self.devices[index];
        let Some(kernel) = work.code.image.kernels.get(&*work.kernel) else { return Ok(()) };
        let mut options = Options { stack_bytes, ..self.settings.options };
        if options.seed != 0 {
            // Every launch has an order of its own.
            options.seed = crate::exec::Random::new(options.seed, device.labels.len() as u64).next() | 1;
        }
        let failed = |text: String| Failure { code: codes::OUT_OF_MEMORY, text, fault: None };
        // Cooperative groups keep a size and a barrier there, 4 bytes each.
        let meeting = match work.cooperative {
            true => device.memory.allocate(8).map_err(|e| failed(format!("{}: {e}", work.kernel)))?,
            false => 0,
        };
        if meeting != 0 {
            _ = device.memory.write(meeting, &8u64.to_le_bytes());
        }
        let blocks = work.grid.iter().map(|&n| u64::from(n)).product();
        let threads = work.block.iter().product();
        let (before, and) = known.on(index);
        let launch = device.memory.begin_launch(blocks, threads, After::Launches { before, and });
        device.labels.push(work.kernel.clone());
        known.add(index, launch.id());
        let start = Start {
            card: &device.card,
            memory: &device.memory,
            image: &work.code.image,
            options: &options,
            launch,
            grid: work.grid,
            block: work.block,
            dynamic_shared: work.dynamic_shared,
            grid_workspace: meeting,
        };
        let outcome = start.run(kernel, work.params.clone());
        if meeting != 0 {
            _ = device.memory.free(meeting);
        }
        match outcome {
            Ok(counters) => {
                self.journal.launched(&work.kernel, &counters);
                Ok(())
            }
            Err(fault) => {
                self.journal.failed_launch(&work.kernel);
                let mut text = fault.to_string();
                if let Some(other) = fault.other.as_ref().filter(|other| other.thread.is_none()) {
                    text += &self.labelled(index, other.launch);
                }
                Err(Failure { code: code_of(fault.kind), text, fault: Some(fault) })
            }
        }
    }

    /// Begins a copy or memset on a device: a party of the race checks like a launch.
    fn begin_transfer(&mut self, index: usize, label: &Arc<str>, known: &mut Known) -> crate::memory::Launch {
        let device = &mut self.devices[index];
        let (before, and) = known.on(index);
        let launch = device.memory.begin_transfer(After::Launches { before, and });
        device.labels.push(label.clone());
        known.add(index, launch.id());
        launch
    }

    fn copy(&mut self, copy: &Copy, known: &mut Known) -> Result<(), Failure> {
        let label = Work::Copy(Box::new(copy.clone())).label();
        self.journal.copied(copy);
        // A transfer for each end: both are ordered like the copy.
        let mut launches = Vec::new();
        let before = known.clone();
        for end in [&copy.from.end, &copy.to.end] {
            if let End::Device(device, _) = end
                && launches.iter().all(|(other, _)| other != device)
            {
                launches.push((*device, self.begin_transfer(*device, &label, &mut before.clone())));
            }
        }
        for (device, launch) in &launches {
            known.add(*device, launch.id());
        }
        let launch = |device: usize| launches.iter().find(|(other, _)| *other == device).map(|(_, l)| l);
        for (to, from, len) in copy.rows() {
            match (&copy.from.end, &copy.to.end) {
                (&End::Device(a, source), &End::Device(b, target)) if a == b => {
                    let Some(launch) = launch(a) else { continue };
                    let memory = &self.devices[a].memory;
                    memory
                        .copy_as(launch, target + to as u64, source + from as u64, len)
                        .map_err(|error| self.transfer_failure(a, &label, error))?;
                }
                (source, target) => {
                    let (bytes, holes) = match source {
                        &End::Device(device, source) => {
                            let mut bytes = vec![0; len];
                            let Some(launch) = launch(device) else { continue };
                            let memory = &self.devices[device].memory;
                            let holes = memory
                                .read_with_holes_as(launch, source + from as u64, &mut bytes)
                                .map_err(|error| self.transfer_failure(device, &label, error))?;
                            (bytes, holes)
                        }
                        End::Host(address) => (raw::read_host(address + from, len), Vec::new()),
                        End::Staged(bytes) => {
                            (bytes.get(from..from + len).unwrap_or_default().to_vec(), Vec::new())
                        }
                    };
                    match target {
                        &End::Device(device, target) => {
                            let Some(launch) = launch(device) else { continue };
                            let memory = &self.devices[device].memory;
                            memory
                                .write_with_holes_as(launch, target + to as u64, &bytes, &holes)
                                .map_err(|error| self.transfer_failure(device, &label, error))?;
                        }
                        End::Host(address) => raw::write_host(address + to, &bytes),
                        End::Staged(_) => {}
                    }
                }
            }
        }
        Ok(())
    }

    fn fill(&mut self, fill: &Fill, known: &mut Known) -> Result<(), Failure> {
        let label: Arc<str> = "memset".into();
        let launch = self.begin_transfer(fill.device, &label, known);
        let pattern = &fill.pattern[..fill.element];
        let row = fill.width * fill.element;
        if row == 0 || fill.rows == 0 {
            return Ok(());
        }
        self.journal.filled((row * fill.rows) as u64);
        let dense = fill.rows <= 1 || fill.pitch == row;
        let rows = if dense {
            vec![(0, row * fill.rows)]
        } else {
            (0..fill.rows).map(|r| (r * fill.pitch, row)).collect()
        };
        for (offset, len) in rows {
            let memory = &self.devices[fill.device].memory;
            memory
                .fill_as(&launch, fill.address + offset as u64, pattern, len)
                .map_err(|error| self.transfer_failure(fill.device, &label, error))?;
        }
        Ok(())
    }

    fn transfer_failure(&self, device: usize, label: &str, error: TransferError) -> Failure {
        let mut text = format!("{label}: {error}");
        // A card copies whatever it finds; what it would not notice is a failed launch here.
        let code = match &error {
            TransferError::Host(_) => codes::ILLEGAL_ADDRESS,
            TransferError::Race(fault) => {
                if let Some(other) = fault.kind.other() {
                    text += &self.labelled(device, other.launch);
                    if let Some(place) = place(other.source) {
                        text += &format!(" at {place}");
                    }
                }
                codes::LAUNCH_FAILED
            }
        };
        Failure { code, text, fault: None }
    }

    /// What work of a device was, for reports.
    fn labelled(&self, device: usize, launch: u64) -> String {
        let label = self.devices[device].labels.get(launch as usize);
        label.map_or(String::new(), |label| format!("; work {launch} of the device was `{label}`"))
    }

    /// Frees a block in its stream's order. Whoever still works on it, ordered by nothing, is reported; it goes all the same.
    fn free_in_order(&mut self, base: u64, known: &mut Known) -> Result<(), Failure> {
        let Some(Block { device, size, .. }) = self.blocks.get(&base).copied() else { return Ok(()) };
        let label: Arc<str> = "free".into();
        let launch = self.begin_transfer(device, &label, known);
        let claimed = self.devices[device].memory.claim_as(&launch, base, size as usize);
        self.free_now(base)?;
        claimed.map_err(|error| self.transfer_failure(device, &label, error))
    }

    /// Frees a block whose turn has come.
    pub fn free_now(&mut self, base: u64) -> Result<(), Failure> {
        let Some(block) = self.blocks.remove(&base) else { return Ok(()) };
        if let Some(pool) = block.pool.and_then(|pool| self.pools.get_mut(pool)) {
            pool.used = pool.used.saturating_sub(block.size);
        }
        let freed = self.devices[block.device].memory.free(base);
        freed.map_err(|e| Failure { code: codes::UNKNOWN, text: format!("free: {e}"), fault: None })
    }
}

/// The code that a card answers after such a fault. What a card would not notice is a failed launch.
fn code_of(kind: FaultKind) -> u32 {
    match kind {
        FaultKind::OutOfBounds | FaultKind::UseAfterFree | FaultKind::ReadOnly => codes::ILLEGAL_ADDRESS,
        FaultKind::Misaligned => codes::MISALIGNED_ADDRESS,
        FaultKind::WrongSpace => codes::INVALID_ADDRESS_SPACE,
        FaultKind::Deadlock | FaultKind::Timeout => codes::LAUNCH_TIMEOUT,
        FaultKind::StackOverflow => codes::HARDWARE_STACK_ERROR,
        FaultKind::BadCall | FaultKind::BadBranch => codes::INVALID_PC,
        FaultKind::Assertion => codes::ASSERT,
        _ => codes::LAUNCH_FAILED,
    }
}
