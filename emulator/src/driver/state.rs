//! Everything the driver knows, behind one lock: cards, contexts and what they own.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::sync::Arc;
use std::time::Instant;

use super::capture::Capture;
use super::config::Settings;
use super::graph::{Exec, Graph, NodeHandle};
use super::handles::Table;
use super::journal::Journal;
use super::objects::UserObject;
use super::order::{Known, Pending, Record};
use super::raw;
use super::work::{Code, End, Side};
use super::{Answer, Refusal, abi, codes};
use crate::exec::Card;
use crate::memory::{AllocateError, DeviceMemory, MemoryConfig};

/// A card.
pub(crate) struct Device {
    pub card: Card,
    pub memory: DeviceMemory,
    /// What each launch and transfer was, by its number.
    pub labels: Vec<Arc<str>>,
    /// The primary context while it is active, how often it is retained, and the flags for the next.
    pub primary: Option<u64>,
    pub retained: u32,
    pub flags: u32,
    pub pool: u64,
    pub default_pool: u64,
    /// The code with which the card was lost.
    pub lost: Option<u32>,
}

/// A context.
#[derive(Debug)]
pub(crate) struct Context {
    pub device: usize,
    pub primary: bool,
    pub flags: u32,
    /// The first error after which nothing works, and what the report said.
    pub sticky: Option<Refusal>,
    /// The stream that handle 0 means.
    pub legacy: u64,
    /// Streams that have the work of destroyed ones: blocking ones, and the others.
    pub heirs: [u64; 2],
    /// The streams that handle 2 means, by thread.
    pub of_threads: BTreeMap<u64, u64>,
    pub limits: BTreeMap<u32, usize>,
    /// Bytes of stack that a thread has where calls may nest without end, once the limit was set.
    pub stack_bytes: Option<usize>,
    pub cache_config: u32,
    pub shared_config: u32,
}

/// A stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub context: u64,
    pub flags: u32,
    pub priority: i32,
    /// Made by a context, not by a caller.
    pub built_in: bool,
    /// Its last operation.
    pub tail: Option<Arc<Record>>,
    /// The capture it takes part in, and the nodes its next one comes after.
    pub capture: Option<(u64, Vec<usize>)>,
}

/// An event.
#[derive(Debug)]
pub(crate) struct Event {
    pub context: u64,
    pub flags: u32,
    pub record: Option<Arc<Record>>,
    /// Recorded in a capture: which, and the nodes before it.
    pub captured: Option<(u64, Vec<usize>)>,
}

/// A module or library.
pub(crate) struct Module {
    pub context: u64,
    pub code: Arc<Code>,
    /// Handles of kernels by name, those that were asked for.
    pub functions: BTreeMap<String, u64>,
    pub library: bool,
}

/// A kernel of a module.
pub(crate) struct Function {
    pub context: u64,
    pub module: u64,
    pub code: Arc<Code>,
    pub kernel: Arc<str>,
    /// Dynamic shared memory that a launch may ask for, once it was set.
    pub max_dynamic: Option<u32>,
    pub carveout: i32,
}

/// A block of device memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    pub context: u64,
    pub device: usize,
    pub size: u64,
    /// From a pool (`cuMemAllocAsync`).
    pub pool: Option<u64>,
    /// Freed by an operation that has not run.
    pub leaving: bool,
    /// When it was allocated, in calls.
    pub call: u64,
}

/// Pinned host memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pinned {
    pub context: u64,
    pub bytes: usize,
    pub flags: u32,
    /// The caller's own memory (`cuMemHostRegister`).
    pub registered: bool,
}

/// A memory pool.
#[derive(Debug)]
pub(crate) struct Pool {
    pub device: usize,
    pub built_in: bool,
    pub attributes: BTreeMap<u32, u64>,
    pub used: u64,
    pub used_high: u64,
}

/// The driver.
pub(crate) struct State {
    pub settings: Settings,
    pub initialised: bool,
    pub devices: Vec<Device>,
    pub contexts: Table<Context>,
    pub streams: Table<Stream>,
    pub events: Table<Event>,
    pub modules: Table<Module>,
    pub functions: Table<Function>,
    pub graphs: Table<Graph>,
    pub execs: Table<Exec>,
    pub nodes: Table<NodeHandle>,
    pub objects: Table<UserObject>,
    pub captures: BTreeMap<u64, Capture>,
    pub pools: Table<Pool>,
    pub blocks: BTreeMap<u64, Block>,
    pub pinned: BTreeMap<usize, Pinned>,
    pub pending: Vec<Pending>,
    /// Number of the next operation.
    pub operations: u64,
    /// Host functions that wait to be called or are being called.
    pub calls: Vec<(u64, raw::Callback, u32)>,
    pub calling: usize,
    /// With a seed: a host function was handed over, and nobody has waited or asked since it returned.
    pub held: bool,
    /// When the last one was handed over.
    pub handed: Instant,
    /// Which settings these are the state of: a host function may return to a later one.
    pub generation: u64,
    /// What the host has waited for.
    pub known: Known,
    pub random: crate::exec::Random,
    pub journal: Journal,
    /// Kernels' names as C strings, for whoever asks.
    pub names: BTreeMap<String, CString>,
}

/// Addresses of a device's memory. Four devices end below where the host has its heaps and stacks (0x55.. and 0x7f..), so
/// that an address tells whose it is.
const DEVICE_SPACE: u64 = 1 << 43;
const FIRST_ADDRESS: u64 = 0x10_0000_0000;

impl State {
    pub fn new(settings: Settings) -> State {
        let random = crate::exec::Random::new(settings.options.seed, 0x6472_6976_6572);
        State {
            settings,
            initialised: false,
            devices: Vec::new(),
            contexts: Table::default(),
            streams: Table::default(),
            events: Table::default(),
            modules: Table::default(),
            functions: Table::default(),
            graphs: Table::default(),
            execs: Table::default(),
            nodes: Table::default(),
            objects: Table::default(),
            captures: BTreeMap::new(),
            pools: Table::default(),
            blocks: BTreeMap::new(),
            pinned: BTreeMap::new(),
            pending: Vec::new(),
            operations: 0,
            calls: Vec::new(),
            calling: 0,
            held: false,
            handed: Instant::now(),
            generation: 0,
            known: Known::default(),
            random,
            journal: Journal::default(),
            names: BTreeMap::new(),
        }
    }

    /// `cuInit`: the cards come to be.
    pub fn initialise(&mut self) -> Answer {
        if self.initialised {
            return Ok(());
        }
        if self.settings.devices == 0 {
            return Err(codes::NO_DEVICE.into());
        }
        for index in 0..self.settings.devices {
            let card = self.settings.card.clone();
            let config = MemoryConfig {
                limit: card.memory_bytes,
                checks: self.settings.options.checks,
                first_address: FIRST_ADDRESS + index as u64 * DEVICE_SPACE,
            };
            let pool = self.pools.insert(Pool::new(index, true));
            self.devices.push(Device {
                card,
                memory: DeviceMemory::new(config),
                labels: Vec::new(),
                primary: None,
                retained: 0,
                flags: 0,
                pool,
                default_pool: pool,
                lost: None,
            });
        }
        self.initialised = true;
        Ok(())
    }

    pub fn device(&mut self, ordinal: i32) -> Answer<&mut Device> {
        let device = usize::try_from(ordinal).ok().and_then(|index| self.devices.get_mut(index));
        device.ok_or_else(|| codes::INVALID_DEVICE.into())
    }

    /// The device whose memory an address may be in.
    pub fn device_of(&self, address: u64) -> Option<usize> {
        let index = usize::try_from(address.checked_sub(FIRST_ADDRESS)? / DEVICE_SPACE).ok()?;
        (index < self.devices.len()).then_some(index)
    }

    /// Allocates device memory; none if the device has no more.
    pub fn allocate(&self, device: usize, bytes: u64) -> Result<u64, AllocateError> {
        let memory = &self.devices[device].memory;
        let base = memory.allocate(bytes)?;
        // Addresses are never used twice, so a long run could get to the next device's.
        let fits = base.checked_add(bytes).is_some_and(|end| self.device_of(end) == Some(device));
        if !fits {
            _ = memory.free(base);
            return Err(AllocateError::OutOfMemory { requested: bytes, free: 0 });
        }
        Ok(base)
    }

    /// The block that contains an address: its start and what is known of it.
    pub fn block_at(&self, address: u64) -> Option<(u64, Block)> {
        let (&base, block) = self.blocks.range(..=address).next_back()?;
        (address - base < block.size).then_some((base, *block))
    }

    /// The same, or the variable of a module that contains it.
    pub fn memory_at(&self, address: u64) -> Option<(u64, Block)> {
        self.block_at(address).or_else(|| {
            self.modules.iter().find_map(|(_, module)| {
                let (base, size) = module
                    .code
                    .image
                    .globals
                    .values()
                    .copied()
                    .find(|&(base, size)| address.checked_sub(base).is_some_and(|at| at < size))?;
                let (context, device) = (module.context, module.code.device);
                Some((base, Block { context, device, size, pool: None, leaving: false, call: 0 }))
            })
        })
    }

    /// The pinned memory that contains all of a range.
    pub fn pinned_at(&self, address: usize, len: usize) -> Option<(usize, Pinned)> {
        let (&base, pinned) = self.pinned.range(..=address).next_back()?;
        let inside = (address - base).checked_add(len.max(1)).is_some_and(|end| end <= pinned.bytes);
        inside.then_some((base, *pinned))
    }

    /// Whether an end of a copy is host memory that is not pinned, or not all of it.
    pub fn pageable(&self, side: &Side, size: [usize; 3]) -> bool {
        match side.end {
            End::Host(address) => self.pinned_at(address, side.extent(size).unwrap_or(usize::MAX)).is_none(),
            _ => false,
        }
    }

    pub fn context(&self, handle: u64) -> Answer<&Context> {
        self.contexts.get(handle).ok_or_else(|| codes::INVALID_CONTEXT.into())
    }

    /// The context, unless an error has ended it.
    pub fn healthy(&self, handle: u64) -> Answer<&Context> {
        let context = self.context(handle)?;
        if let Some(code) = self.devices.get(context.device).and_then(|device| device.lost) {
            return Err(Refusal { code, text: "the device was lost".into() });
        }
        match &context.sticky {
            Some(first) => Err(first.clone()),
            None => Ok(context),
        }
    }

    pub fn new_context(&mut self, device: usize, primary: bool, flags: u32) -> u64 {
        let handle = self.contexts.insert(Context {
            device,
            primary,
            flags,
            sticky: None,
            legacy: 0,
            heirs: [0, 0],
            of_threads: BTreeMap::new(),
            limits: BTreeMap::from(LIMITS),
            stack_bytes: None,
            cache_config: 0,
            shared_config: 0,
        });
        let legacy = self.new_stream(handle, 0, 0, true);
        let heirs = [0, abi::stream_flag::NON_BLOCKING].map(|flags| self.new_stream(handle, flags, 0, true));
        if let Some(context) = self.contexts.get_mut(handle) {
            (context.legacy, context.heirs) = (legacy, heirs);
        }
        handle
    }

    /// Bytes of stack of a thread, where calls may nest without end.
    pub fn stack_bytes(&self, context: u64) -> usize {
        let set = self.contexts.get(context).and_then(|context| context.stack_bytes);
        set.unwrap_or(self.settings.options.stack_bytes)
    }

    pub fn new_stream(&mut self, context: u64, flags: u32, priority: i32, built_in: bool) -> u64 {
        self.streams.insert(Stream { context, flags, priority, built_in, tail: None, capture: None })
    }

    /// What a stream handle of the API means under a context.
    pub fn stream_of(&mut self, context: u64, stream: u64, thread: u64) -> Answer<u64> {
        match stream {
            0 | abi::CU_STREAM_LEGACY => Ok(self.context(context)?.legacy),
            abi::CU_STREAM_PER_THREAD => {
                if let Some(&stream) = self.context(context)?.of_threads.get(&thread) {
                    return Ok(stream);
                }
                let made = self.new_stream(context, 0, 0, true);
                if let Some(context) = self.contexts.get_mut(context) {
                    context.of_threads.insert(thread, made);
                }
                Ok(made)
            }
            _ if self.streams.get(stream).is_some() => Ok(stream),
            _ => Err(Refusal::new(codes::INVALID_HANDLE, format!("{stream:#x} is no stream"))),
        }
    }

    /// Ends a context: all it owns goes with it.
    pub fn destroy_context(&mut self, handle: u64) {
        let healthy = self.healthy(handle).is_ok();
        let Some(context) = self.contexts.remove(handle) else { return };
        let dead: Vec<Pending> = {
            let (dead, alive) = std::mem::take(&mut self.pending)
                .into_iter()
                .partition(|operation| operation.context == handle && !operation.running);
            self.pending = alive;
            dead
        };
        dead.into_iter().for_each(|operation| operation.record.finish(operation.known));
        self.drop_captures(|capture| capture.context == handle);
        self.streams.retain(|_, stream| stream.context != handle);
        self.events.retain(|_, event| event.context != handle);
        let modules: Vec<u64> =
            self.modules.iter().filter(|(_, m)| m.context == handle).map(|(module, _)| module).collect();
        modules.into_iter().for_each(|module| self.unload(module));
        let graphs: Vec<u64> =
            self.graphs.iter().filter(|(_, g)| g.context == handle).map(|(graph, _)| graph).collect();
        graphs.into_iter().for_each(|graph| _ = self.destroy_graph(graph));
        let execs: Vec<u64> =
            self.execs.iter().filter(|(_, e)| e.context == handle).map(|(exec, _)| exec).collect();
        for exec in execs {
            let Some(exec) = self.execs.remove(exec) else { continue };
            self.release_all(exec.objects, exec.last.as_ref());
        }
        let blocks: Vec<u64> =
            self.blocks.iter().filter(|(_, b)| b.context == handle).map(|(&base, _)| base).collect();
        for base in blocks {
            // What an error or a loss has ended cannot be freed any more; the rest was forgotten.
            if healthy && let Some(block) = self.blocks.get(&base) {
                self.journal.leaked(base, block);
            }
            // Not each lies on the context's own device: pools of the others may be allocated from.
            _ = self.free_now(base);
        }
        let pinned: Vec<usize> =
            self.pinned.iter().filter(|(_, p)| p.context == handle).map(|(&at, _)| at).collect();
        pinned.into_iter().for_each(|address| self.unpin(address));
        let device = &mut self.devices[context.device];
        if device.primary == Some(handle) {
            device.primary = None;
        }
    }

    /// Forgets a module; its code stays for as long as something may run it.
    pub fn unload(&mut self, handle: u64) {
        let Some(module) = self.modules.remove(handle) else { return };
        self.functions.retain(|_, function| function.module != handle);
        if let Some(device) = self.devices.get(module.code.device) {
            for &base in &module.code.image.owned {
                _ = device.memory.free(base);
            }
        }
    }

    /// Gives pinned memory back.
    pub fn unpin(&mut self, address: usize) {
        if let Some(pinned) = self.pinned.remove(&address)
            && !pinned.registered
        {
            raw::free_host(address, pinned.bytes);
        }
    }

    /// What is alive that callers have made: kind and number.
    pub fn living(&self) -> BTreeMap<&'static str, usize> {
        let streams = self.streams.iter().filter(|(_, stream)| !stream.built_in).count();
        let pools = self.pools.iter().filter(|(_, pool)| !pool.built_in).count();
        BTreeMap::from([
            ("contexts", self.contexts.len()),
            ("streams", streams),
            ("events", self.events.len()),
            ("modules", self.modules.len()),
            ("graphs", self.graphs.len()),
            ("graph_execs", self.execs.len()),
            ("pools", pools),
            ("allocations", self.blocks.values().filter(|block| !block.leaving).count()),
            ("pinned", self.pinned.len()),
        ])
    }
}

impl Pool {
    pub fn new(device: usize, built_in: bool) -> Pool {
        Pool { device, built_in, attributes: BTreeMap::new(), used: 0, used_high: 0 }
    }
}

/// The limits of a new context, by their numbers.
const LIMITS: [(u32, usize); 6] = [
    (abi::limit::STACK_SIZE, 1 << 10),
    (abi::limit::PRINTF_FIFO_SIZE, 1 << 20),
    (abi::limit::MALLOC_HEAP_SIZE, 8 << 20),
    (abi::limit::DEV_RUNTIME_SYNC_DEPTH, 2),
    (abi::limit::DEV_RUNTIME_PENDING_LAUNCH_COUNT, 2048),
    (abi::limit::MAX_L2_FETCH_GRANULARITY, 64),
];
