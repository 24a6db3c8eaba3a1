//! What happened: calls, launches with their counters, bytes moved, faults. Written out as JSON.

use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::codes;
use super::state::{Block, State};
use super::work::{Copy, End};
use crate::exec::{Counters, Fault};

/// Launches of one kernel.
#[derive(Debug, Clone, Default, Serialize)]
struct Kernel {
    launches: u64,
    /// Of those, the ones that a fault ended; they are not counted below.
    faults: u64,
    #[serde(flatten)]
    counters: Counters,
}

/// Bytes moved by copies and memsets.
#[derive(Debug, Clone, Default, Serialize)]
struct Copies {
    host_to_device: u64,
    device_to_host: u64,
    device_to_device: u64,
    memset: u64,
}

/// A check that fired, or another error that ended a context.
#[derive(Debug, Clone, Serialize)]
struct Entry {
    code: u32,
    name: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<Box<Fault>>,
    /// Calls made until then.
    call: u64,
}

/// A fault that was ordered and has happened, and was not forgotten since.
#[derive(Debug, Clone, Copy, Serialize)]
struct Ordered {
    name: &'static str,
    code: u32,
    /// Which call it was, counted from 1.
    call: u64,
}

/// Counts since the driver was loaded or reset.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub calls: u64,
    by_name: BTreeMap<&'static str, u64>,
    kernels: BTreeMap<Arc<str>, Kernel>,
    copies: Copies,
    faults: Vec<Entry>,
    ordered: Vec<Ordered>,
    /// Memory that only the end of its context freed.
    leaks: Vec<Leak>,
    /// What the last refused call was told.
    pub last_error: String,
}

/// Faults and leaks that are kept; more are one program's same mistake.
const KEPT: usize = 100;

impl Journal {
    pub fn call(&mut self, name: &'static str) {
        self.calls += 1;
        *self.by_name.entry(name).or_default() += 1;
    }

    pub fn launched(&mut self, kernel: &Arc<str>, counters: &Counters) {
        let kernel = self.kernels.entry(kernel.clone()).or_default();
        kernel.launches += 1;
        kernel.counters.add(counters);
    }

    pub fn failed_launch(&mut self, kernel: &Arc<str>) {
        let kernel = self.kernels.entry(kernel.clone()).or_default();
        kernel.launches += 1;
        kernel.faults += 1;
    }

    pub fn copied(&mut self, copy: &Copy) {
        let bytes = copy.size.iter().map(|&n| n as u64).product::<u64>();
        let device = |end: &End| matches!(end, End::Device(..));
        match (device(&copy.from.end), device(&copy.to.end)) {
            (true, true) => self.copies.device_to_device += bytes,
            (true, false) => self.copies.device_to_host += bytes,
            (false, true) => self.copies.host_to_device += bytes,
            (false, false) => {}
        }
    }

    pub fn filled(&mut self, bytes: u64) {
        self.copies.memset += bytes;
    }

    /// The call under way is made to fail.
    pub fn ordered(&mut self, name: &'static str, code: u32) {
        if self.ordered.len() < KEPT {
            self.ordered.push(Ordered { name, code, call: self.calls });
        }
    }

    pub fn forget_ordered(&mut self) {
        self.ordered.clear();
    }

    /// The end of a context frees this block.
    pub fn leaked(&mut self, address: u64, block: &Block) {
        if self.leaks.len() < KEPT {
            self.leaks.push(Leak { address, bytes: block.size, call: block.call, ended: true });
        }
    }

    pub fn fault(&mut self, code: u32, text: &str, fault: Option<Box<Fault>>) {
        if self.faults.len() < KEPT {
            let name = codes::find(code).map_or("?", |code| code.name);
            self.faults.push(Entry { code, name, text: text.into(), fault, call: self.calls });
        }
    }
}

/// A block of device memory that was not freed, or only with its context.
#[derive(Debug, Clone, Copy, Serialize)]
struct Leak {
    address: u64,
    bytes: u64,
    /// The call that allocated it, counted from 1.
    call: u64,
    /// Whether its context has ended, and the memory with it.
    ended: bool,
}

/// The report.
#[derive(Serialize)]
struct Report<'a> {
    /// Numbers are an emulator's and never times.
    emulated: bool,
    version: &'static str,
    /// The file that the driver was loaded from.
    library: Option<String>,
    device: &'a crate::exec::Card,
    devices: usize,
    driver: u32,
    seed: u64,
    calls: u64,
    calls_by_name: &'a BTreeMap<&'static str, u64>,
    kernels: BTreeMap<&'a str, KernelReport<'a>>,
    copied_bytes: &'a Copies,
    faults: &'a [Entry],
    /// Faults to order that have happened.
    ordered: &'a [Ordered],
    last_error: &'a str,
    living: BTreeMap<&'static str, usize>,
    leaks: Vec<Leak>,
    memory_used: u64,
}

#[derive(Serialize)]
struct KernelReport<'a> {
    #[serde(flatten)]
    kernel: &'a Kernel,
    sector_efficiency: f64,
}

impl State {
    /// The report as JSON.
    pub fn report(&self) -> String {
        let journal = &self.journal;
        let kernels = journal.kernels.iter().map(|(name, kernel)| {
            let (loads, stores) = (&kernel.counters.global_loads, &kernel.counters.global_stores);
            let sectors = loads.sectors + stores.sectors;
            let bytes = (loads.bytes + stores.bytes) as f64;
            let sector_efficiency = if sectors == 0 { 1.0 } else { bytes / (sectors * 32) as f64 };
            (&**name, KernelReport { kernel, sector_efficiency })
        });
        let blocks = self.blocks.iter().filter(|(_, block)| !block.leaving);
        let alive = blocks.map(|(&address, block)| Leak {
            address,
            bytes: block.size,
            call: block.call,
            ended: false,
        });
        let leaks = journal.leaks.iter().copied().chain(alive).collect();
        let report = Report {
            emulated: true,
            version: env!("CARGO_PKG_VERSION"),
            library: super::raw::own_path(),
            device: &self.settings.card,
            devices: self.settings.devices,
            driver: self.settings.driver,
            seed: self.settings.options.seed,
            calls: journal.calls,
            calls_by_name: &journal.by_name,
            kernels: kernels.collect(),
            copied_bytes: &journal.copies,
            faults: &journal.faults,
            ordered: &journal.ordered,
            last_error: &journal.last_error,
            living: self.living(),
            leaks,
            memory_used: self.devices.iter().map(|d| d.memory.info()).map(|i| i.total - i.free).sum(),
        };
        serde_json::to_string(&report).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
    }
}
