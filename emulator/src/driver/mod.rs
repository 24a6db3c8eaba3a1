//! The CUDA driver API in front of the software GPU.
//!
//! `api/` holds the exported functions, a family a file; each is a thin shell around `State`, which one lock guards.
//! Work is put into a graph of operations (`order`) and run by whoever calls next (`run`): at once without a seed,
//! late and in any legal order with one. Host functions are called by a thread of their own, which also keeps work
//! going when nobody calls.
//!
//! What is not supported exists and says so: every symbol of the driver that is not built answers
//! `CUDA_ERROR_NOT_SUPPORTED` and names itself.

mod abi;
mod api;
mod attributes;
mod capture;
mod codes;
mod config;
mod fault;
mod graph;
mod handles;
mod journal;
mod objects;
mod order;
#[allow(unsafe_code, reason = "the C side of the API: every pointer that callers pass")]
mod raw;
mod run;
mod state;
mod symbols;
mod work;

pub use config::{NAMES as SETTINGS, PREFIX as SETTINGS_PREFIX};

use config::Settings;
use order::Record;
use state::{Pinned, State};
use std::cell::{Cell, RefCell};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, LazyLock, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;
use work::{End, Side, Work};

/// The exported symbols that came to be after a version of the driver, such as `12.4`.
pub fn symbols_after(version: &str) -> Result<Vec<String>, String> {
    let version =
        config::version(version).ok_or_else(|| format!("`{version}` is no version such as 12.4"))?;
    let all = symbols::SYMBOLS.iter().chain(symbols::PER_THREAD);
    Ok(all.filter(|symbol| symbol.since > version).map(|symbol| symbol.exported.to_string()).collect())
}

/// A result code that is not success, with what there is to say about it.
#[derive(Debug, Clone)]
pub(crate) struct Refusal {
    pub code: u32,
    pub text: String,
}

impl Refusal {
    pub fn new(code: u32, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into() }
    }
}

impl From<u32> for Refusal {
    fn from(code: u32) -> Refusal {
        Refusal { code, text: String::new() }
    }
}

pub(crate) type Answer<T = ()> = Result<T, Refusal>;

/// What must be there for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    Nothing,
    /// `cuInit`
    Init,
    /// A current context that no error has ended.
    Context,
}

/// The driver of this process.
struct Driver {
    state: Mutex<State>,
    /// Told when operations end and when host functions wait to be called.
    changed: Condvar,
    /// The process that it belongs to: a forked child has none of its threads.
    process: u32,
    /// Why the environment was refused.
    refused: Option<String>,
}

static DRIVER: LazyLock<Driver> = LazyLock::new(|| {
    let (settings, refused) = match Settings::of_environment() {
        Ok(settings) => (settings, None),
        Err(error) => (Settings::default(), Some(error)),
    };
    // Whether there is a report to write is seen then: settings may change.
    raw::at_exit(write_report);
    Driver {
        state: Mutex::new(State::new(settings)),
        changed: Condvar::new(),
        process: std::process::id(),
        refused,
    }
});

thread_local! {
    /// The stack of current contexts. Never dropped: what a thread or the process does at its end still has it, and
    /// destructors of other variables come in any order.
    static CURRENT: ManuallyDrop<RefCell<Vec<u64>>> = const { ManuallyDrop::new(RefCell::new(Vec::new())) };
    /// Whether this thread is in a host function, which must not call the driver.
    static CALLING: Cell<bool> = const { Cell::new(false) };
    static CAPTURE_MODE: Cell<u32> = const { Cell::new(abi::capture_mode::GLOBAL) };
    static THREAD: u64 = {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// This thread's stack of current contexts.
pub(crate) fn current<T>(act: impl FnOnce(&mut Vec<u64>) -> T) -> T {
    CURRENT.with(|stack| act(&mut stack.borrow_mut()))
}

fn lock() -> MutexGuard<'static, State> {
    DRIVER.state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A call under way.
pub(crate) struct Call {
    guard: Option<MutexGuard<'static, State>>,
    /// The current context, or 0.
    pub context: u64,
    /// Who calls.
    pub thread: u64,
}

impl std::ops::Deref for Call {
    type Target = State;

    fn deref(&self) -> &State {
        self.guard.as_deref().expect("a call holds the lock")
    }
}

impl std::ops::DerefMut for Call {
    fn deref_mut(&mut self) -> &mut State {
        self.guard.as_deref_mut().expect("a call holds the lock")
    }
}

impl Call {
    /// Runs work until this operation is done. What it was ordered after is then ordered before whatever the host asks
    /// for next.
    pub fn wait(&mut self, record: &Record) -> Answer {
        // The host function first, also if the operation is done: or what comes next would depend on how long it takes.
        while self.held && self.host_function_runs() {
            self.doze();
        }
        self.held = false;
        loop {
            if let Some(done) = record.done() {
                let known = done.known.clone();
                self.known.join(&known);
                self.held &= self.calling > 0;
                return Ok(());
            }
            if !self.step() {
                if self.calling == 0 {
                    return Err(Refusal::new(codes::UNKNOWN, "nothing can run: a fault of the emulator"));
                }
                self.doze();
            }
            DRIVER.changed.notify_all();
        }
    }

    /// Lets the others have the lock until something changes.
    fn doze(&mut self) {
        let guard = self.guard.take().expect("a call holds the lock");
        let waited = DRIVER.changed.wait_timeout(guard, Duration::from_millis(20));
        self.guard = Some(waited.unwrap_or_else(PoisonError::into_inner).0);
    }

    /// Calls back into the program, which may ask the driver meanwhile.
    pub fn unlocked<T>(&mut self, function: impl FnOnce() -> T) -> T {
        self.guard = None;
        let value = function();
        self.guard = Some(lock());
        value
    }

    /// Waits for all work of a context.
    pub fn wait_for_context(&mut self, context: u64) -> Answer {
        while let Some(record) = self.pending.iter().find(|p| p.context == context).map(|p| p.record.clone())
        {
            self.wait(&record)?;
        }
        let tails: Vec<_> = self
            .streams
            .iter()
            .filter(|(_, s)| s.context == context)
            .filter_map(|(_, s)| s.tail.clone())
            .collect();
        tails.iter().try_for_each(|tail| self.wait(tail))
    }

    /// Waits for the copies to and from some pinned memory, whichever context they belong to.
    pub fn wait_for_pinned(&mut self, which: impl Fn(usize, &Pinned) -> bool) {
        let touches = |state: &State, side: &Side, size| match side.end {
            End::Host(address) => {
                let found = state.pinned_at(address, side.extent(size).unwrap_or(usize::MAX));
                found.is_some_and(|(at, pinned)| which(at, &pinned))
            }
            _ => false,
        };
        loop {
            let under_way = self.pending.iter().find(|operation| match &operation.work {
                Work::Copy(copy) => {
                    touches(self, &copy.to, copy.size) || touches(self, &copy.from, copy.size)
                }
                _ => false,
            });
            let Some(record) = under_way.map(|operation| operation.record.clone()) else { return };
            if self.wait(&record).is_err() {
                return;
            }
        }
    }

    /// Ends a context when its work is done, and the copies from its pinned memory.
    pub fn end_context(&mut self, context: u64) {
        _ = self.wait_for_context(context);
        self.wait_for_pinned(|_, pinned| pinned.context == context);
        self.destroy_context(context);
    }

    /// Waits for all that a stream has.
    pub fn wait_for_stream(&mut self, stream: u64) -> Answer {
        let waits = self.predecessors(stream)?;
        waits.iter().try_for_each(|record| self.wait(record))
    }

    /// Whether an operation is done. Asking lets some work run, so that asking in a loop ends.
    pub fn ask(&mut self, record: &Record) -> bool {
        if !self.held || !self.host_function_runs() {
            self.held = false;
            if record.done().is_none() && self.random.below(2) == 0 {
                self.step();
            }
        }
        match record.done() {
            Some(done) => {
                let known = done.known.clone();
                self.known.join(&known);
                true
            }
            None => false,
        }
    }

    /// Answers with the error that has ended the context, if one has: also one that the work just waited for brought.
    pub fn finish(&self, context: u64) -> Answer {
        self.healthy(context).map(drop)
    }

    /// The stream that a handle means in the current context.
    pub fn stream(&mut self, handle: u64) -> Answer<u64> {
        let (context, thread) = (self.context, self.thread);
        let stream = self.stream_of(context, handle, thread)?;
        let owner = self.streams.get(stream).map_or(0, |s| s.context);
        self.healthy(owner)?;
        Ok(stream)
    }

    /// Refuses what a capture forbids.
    pub fn capture_allows(&mut self) -> Answer {
        let (thread, mode) = (self.thread, CAPTURE_MODE.get());
        self.not_while_capturing(thread, mode)
    }
}

/// Every exported function: counts the call, fails it if a fault was ordered, looks whether what it needs is there, and
/// turns whatever happens into a code.
pub(crate) fn entry(name: &'static str, needs: Needs, body: impl FnOnce(&mut Call) -> Answer) -> u32 {
    if CALLING.get() {
        return codes::NOT_PERMITTED;
    }
    if DRIVER.process != std::process::id() {
        return codes::NOT_INITIALIZED;
    }
    let context = current(|stack| stack.last().copied().unwrap_or(0));
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut call = Call { guard: Some(lock()), context, thread: THREAD.with(|thread| *thread) };
        let answer = begin(&mut call, name, needs).and_then(|()| body(&mut call));
        let (code, text) = match answer {
            Ok(()) => (codes::SUCCESS, String::new()),
            Err(Refusal { code, text }) => (code, text),
        };
        if code != codes::SUCCESS {
            call.journal.last_error = format!("{name}: {text}");
        }
        if call.settings.trace {
            eprintln!("orthant-emulator: {name} -> {code} {text}");
        }
        if !call.pending.is_empty() || !call.calls.is_empty() {
            attend();
        }
        code
    }));
    outcome.unwrap_or(codes::UNKNOWN)
}

fn begin(call: &mut Call, name: &'static str, needs: Needs) -> Answer {
    if let Some(error) = &DRIVER.refused {
        static ONCE: std::sync::Once = std::sync::Once::new();
        ONCE.call_once(|| eprintln!("orthant-emulator: {error}"));
        return Err(Refusal::new(codes::INVALID_VALUE, error));
    }
    call.journal.call(name);
    call.flip_due();
    // The emulator's own functions are no driver's: else the one that takes faults back might fail.
    let own = name.starts_with("orthant_");
    if let Some(code) = (!own).then(|| call.settings.plan.call(name)).flatten() {
        call.journal.ordered(name, code);
        if codes::STICKY.contains(&code) && call.contexts.get(call.context).is_some() {
            let text = format!("{name} was made to fail");
            let context = call.context;
            call.poison(context, run::Failure { code, text, fault: None });
        }
        if name == "cuStreamEndCapture" {
            // However it fails, the capture has ended: else nothing could be freed any more.
            let thread = call.thread;
            call.drop_captures(|capture| capture.thread == thread);
        }
        return Err(Refusal::new(code, "made to fail"));
    }
    if needs != Needs::Nothing && !call.initialised {
        return Err(codes::NOT_INITIALIZED.into());
    }
    if needs == Needs::Context {
        if call.context == 0 {
            return Err(codes::INVALID_CONTEXT.into());
        }
        // Handles are never used twice: what is current and not there was there.
        if call.contexts.get(call.context).is_none() {
            return Err(Refusal::new(codes::CONTEXT_IS_DESTROYED, "the current context has been destroyed"));
        }
        call.healthy(call.context)?;
    }
    Ok(())
}

impl State {
    /// Flips the bits whose time has come.
    fn flip_due(&mut self) {
        let call = self.journal.calls;
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.settings.flips).into_iter().partition(|flip| flip.call <= call);
        self.settings.flips = later;
        for flip in due {
            let blocks = self.devices.first().map(|device| device.memory.leaks()).unwrap_or_default();
            let inside = |block: &&crate::memory::AllocationInfo| {
                block.serial == flip.allocation && flip.byte < block.size
            };
            if let Some(block) = blocks.iter().find(inside) {
                _ = self.devices[0].memory.flip_bit(block.base + flip.byte, flip.bit);
            }
        }
    }
}

/// Sees to it that the thread runs that calls host functions and keeps work going, and wakes it.
fn attend() {
    static STARTED: std::sync::Once = std::sync::Once::new();
    STARTED.call_once(|| {
        // Should no thread be had, host functions wait for ever, as on a machine that is out of threads.
        _ = std::thread::Builder::new().name("orthant-emulator".into()).spawn(|| {
            // Whoever waits for a host function must not wait for ever, whatever became of other work.
            loop {
                _ = catch_unwind(serve);
            }
        });
    });
    DRIVER.changed.notify_all();
}

fn serve() {
    CALLING.set(true);
    let mut state = lock();
    let mut seen = 0;
    loop {
        if !state.calls.is_empty() {
            let (number, callback, status) = state.calls.remove(0);
            let generation = state.generation;
            drop(state);
            callback.call(status);
            state = lock();
            if state.generation == generation {
                state.called(number);
            }
            DRIVER.changed.notify_all();
            continue;
        }
        let idle = Duration::from_millis(state.settings.idle.max(1));
        let (guard, waited) =
            DRIVER.changed.wait_timeout(state, idle).unwrap_or_else(PoisonError::into_inner);
        state = guard;
        if waited.timed_out() {
            // Nobody has called for a while: whoever waits for the work by other means must see it go on.
            if state.journal.calls == seen {
                while state.step() {}
            }
            seen = state.journal.calls;
        }
    }
}

/// Writes the report to where the settings say, at exit.
extern "C" fn write_report() {
    if DRIVER.process != std::process::id() {
        return;
    }
    // Work that another thread runs is given some time; it may as well be this one, at whose exit nothing can be waited for.
    let state = (0..100).find_map(|_| match DRIVER.state.try_lock() {
        Ok(state) => Some(state),
        Err(TryLockError::Poisoned(state)) => Some(state.into_inner()),
        Err(TryLockError::WouldBlock) => {
            std::thread::sleep(Duration::from_millis(20));
            None
        }
    });
    let Some(state) = state else {
        eprintln!("orthant-emulator: no report: the driver is busy");
        return;
    };
    if let Some(path) = &state.settings.report
        && let Err(error) = std::fs::write(path, state.report())
    {
        eprintln!("orthant-emulator: {}: {error}", path.display());
    }
}
