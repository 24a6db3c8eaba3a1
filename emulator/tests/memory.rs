//! Device, shared and local memory: every check as a pair of the faulty access and its mended twin, limits, host access,
//! counters, threads. The race checker as a whole is compared with an oracle in `memory_oracle.rs`.

use orthant_gpu::memory::*;

/// Name, addresses, lanes, width, and the two counts expected.
type Row = (&'static str, [u64; 32], u32, Width, u32, u32);
type Checked = Result<(), Box<Fault>>;
const ALL: u32 = u32::MAX;

/// A device with some blocks of one launch, and short names for what they do.
struct Gpu {
    memory: DeviceMemory,
    cache: Cache,
    blocks: Vec<BlockClock>,
    source: u32,
}

impl Gpu {
    fn new(blocks: u64, threads: u32) -> Self {
        let memory = DeviceMemory::new(MemoryConfig {
            limit: 64 << 30,
            checks: Checks::ALL,
            ..MemoryConfig::default()
        });
        let launch = memory.begin_launch(blocks, threads, After::Everything);
        let blocks = (0..blocks).map(|block| BlockClock::new(&launch, block)).collect();
        Self { memory, cache: Cache::default(), blocks, source: 0 }
    }

    /// An initialised array.
    fn array(&self, bytes: usize) -> u64 {
        let base = self.memory.allocate(bytes as u64).unwrap();
        self.memory.fill(base, &[0], bytes).unwrap();
        base
    }

    fn load(&mut self, block: usize, warp: usize, access: Access<'_>) -> Result<LaneBytes, Box<Fault>> {
        self.source += 1;
        let access = Access { source: self.source, ..access };
        let mut out = LaneBytes::default();
        self.memory.load(&mut self.cache, &mut self.blocks[block], warp, &access, &mut out).map(|()| out)
    }

    fn store(&mut self, block: usize, warp: usize, access: Access<'_>) -> Checked {
        self.source += 1;
        let access = Access { source: self.source, ..access };
        self.memory.store(&mut self.cache, &mut self.blocks[block], warp, &access, &LaneBytes::default())
    }

    fn add(&mut self, block: usize, warp: usize, access: Access<'_>) -> Checked {
        self.source += 1;
        let access = Access { source: self.source, ..access };
        let (cache, clock) = (&mut self.cache, &mut self.blocks[block]);
        self.memory
            .atomic(cache, clock, warp, &access, &mut LaneBytes::default(), &mut |_, old| Some(old + 1))
    }

    /// One thread's 4-byte accesses.
    fn read(&mut self, (block, thread): (usize, usize), address: u64, order: Order, scope: Scope) -> Checked {
        let addresses = [address; 32];
        let access = Access::weak(&addresses, 1 << (thread % 32), Width::B4, 0).ordered(order, scope);
        self.load(block, thread / 32, access).map(drop)
    }

    fn write(
        &mut self,
        (block, thread): (usize, usize),
        address: u64,
        order: Order,
        scope: Scope,
    ) -> Checked {
        let addresses = [address; 32];
        self.store(
            block,
            thread / 32,
            Access::weak(&addresses, 1 << (thread % 32), Width::B4, 0).ordered(order, scope),
        )
    }

    fn atomic(
        &mut self,
        (block, thread): (usize, usize),
        address: u64,
        order: Order,
        scope: Scope,
    ) -> Checked {
        let addresses = [address; 32];
        self.add(
            block,
            thread / 32,
            Access::weak(&addresses, 1 << (thread % 32), Width::B4, 0).ordered(order, scope),
        )
    }

    fn fence(&mut self, (block, thread): (usize, usize), scope: Scope) {
        self.blocks[block].fence(thread / 32, 1 << (thread % 32), scope);
    }

    fn barrier(&mut self, block: usize, warps: usize) {
        self.blocks[block].barrier(&(0..warps).map(|warp| (warp, ALL)).collect::<Vec<_>>());
    }
}

fn row(base: u64, stride: u64) -> [u64; 32] {
    std::array::from_fn(|lane| base + stride * lane as u64)
}

fn kind<T>(result: Result<T, Box<Fault>>) -> FaultKind {
    match result {
        Ok(_) => panic!("no fault was reported"),
        Err(fault) => fault.kind,
    }
}

fn races<T>(result: Result<T, Box<Fault>>) -> bool {
    matches!(result, Err(fault) if matches!(fault.kind, FaultKind::Race(_)))
}

fn stale<T>(result: Result<T, Box<Fault>>) -> bool {
    matches!(result, Err(fault) if matches!(fault.kind, FaultKind::UnorderedRead(_)))
}

const WEAK: (Order, Scope) = (Order::Weak, Scope::Sys);

#[test]
fn bounds() {
    let mut gpu = Gpu::new(1, 32);
    let x = gpu.array(4 * 100);
    // Off-by-one tail: 101 elements of 100.
    let tail = row(x + 4 * 69, 4);
    gpu.load(0, 0, Access::weak(&row(x + 4 * 68, 4), ALL, Width::B4, 0)).unwrap();
    gpu.load(0, 0, Access::weak(&tail, ALL >> 1, Width::B4, 0)).unwrap();
    let fault = gpu.load(0, 0, Access::weak(&tail, ALL, Width::B4, 0)).unwrap_err();
    assert_eq!((fault.party.lane, fault.address, fault.width), (31, x + 400, 4));
    let FaultKind::OutOfBounds(Some(near)) = fault.kind else { panic!("{fault}") };
    assert_eq!((near.base, near.size, near.live, near.distance), (x, 400, true, Some(0)));
    // The requested size counts, to the byte: 16 bytes at the last 8 of an array of 24.
    let y = gpu.array(24);
    gpu.load(0, 0, Access::weak(&[y + 16; 32], 1, Width::B8, 0)).unwrap();
    let FaultKind::OutOfBounds(Some(near)) =
        kind(gpu.load(0, 0, Access::weak(&[y + 16; 32], 1, Width::B16, 0)))
    else {
        panic!()
    };
    assert_eq!((near.base, near.distance), (y, Some(0)));
    // Guard gap, null, the far ends of the address space.
    let FaultKind::OutOfBounds(Some(near)) =
        kind(gpu.load(0, 0, Access::weak(&[y - 4; 32], 1, Width::B4, 0)))
    else {
        panic!()
    };
    assert_eq!((near.base, near.distance), (y, Some(-4)));
    for address in [0, 4, u64::MAX - 3, 1 << 63, x + (1 << 20)] {
        assert!(matches!(
            kind(gpu.store(0, 0, Access::weak(&[address; 32], 1, Width::B4, 0))),
            FaultKind::OutOfBounds(_)
        ));
    }
    // An index that overflowed int32 lands 8 GiB below.
    let index = 0x8000_0000u32 as i32 as i64;
    let wrapped = x.wrapping_add_signed(4 * index);
    assert!(matches!(
        kind(gpu.load(0, 0, Access::weak(&[wrapped; 32], 1, Width::B4, 0))),
        FaultKind::OutOfBounds(_)
    ));
    // Inactive lanes may hold anything.
    let mut addresses = row(x, 4);
    addresses[7] = 3;
    gpu.load(0, 0, Access::weak(&addresses, !(1 << 7), Width::B4, 0)).unwrap();
    gpu.load(0, 0, Access::weak(&[3; 32], 0, Width::B4, 0)).unwrap();
    // Nothing allocated at all.
    let mut empty = Gpu::new(1, 32);
    assert_eq!(
        kind(empty.load(0, 0, Access::weak(&[64; 32], 1, Width::B4, 0))),
        FaultKind::OutOfBounds(None)
    );
}

#[test]
fn lanes_in_several_allocations_and_pages() {
    let mut gpu = Gpu::new(1, 32);
    let arrays = [gpu.array(4096), gpu.array(1 << 20), gpu.array(64)];
    let addresses = std::array::from_fn(|lane| arrays[lane % 3] + 4 * (lane / 3) as u64);
    gpu.add(0, 0, Access::weak(&addresses, ALL, Width::B4, 0)).unwrap();
    for (lane, address) in addresses.into_iter().enumerate() {
        let mut bytes = [0; 4];
        gpu.memory.read(address, &mut bytes).unwrap();
        assert_eq!(u32::from_le_bytes(bytes), 1, "lane {lane}");
    }
    // A warp's row across a page boundary.
    let across = row(arrays[1] + (64 << 10) - 64, 4);
    gpu.store(0, 0, Access::weak(&across, ALL, Width::B4, 0)).unwrap();
    gpu.load(0, 0, Access::weak(&across, ALL, Width::B4, 0)).unwrap();
    // Nothing is stored by any lane if one faults.
    let mut broken = addresses;
    broken[31] = arrays[2] + 64;
    assert!(gpu.add(0, 0, Access::weak(&broken, ALL, Width::B4, 0)).is_err());
    let mut bytes = [0; 4];
    gpu.memory.read(arrays[0], &mut bytes).unwrap();
    assert_eq!(bytes[0], 1);
}

#[test]
fn use_after_free() {
    let mut gpu = Gpu::new(1, 32);
    let (x, y) = (gpu.array(1024), gpu.array(1024));
    gpu.load(0, 0, Access::weak(&row(x, 4), ALL, Width::B4, 0)).unwrap();
    gpu.memory.free(x).unwrap();
    // The cache still holds it.
    let fault = gpu.load(0, 0, Access::weak(&row(x + 64, 4), ALL, Width::B4, 0)).unwrap_err();
    let FaultKind::UseAfterFree(near) = fault.kind else { panic!("{fault}") };
    assert_eq!((near.base, near.size, near.live, near.distance, near.serial), (x, 1024, false, None, 0));
    // Past the end of a freed one is out of bounds, and says of what.
    let FaultKind::OutOfBounds(Some(near)) =
        kind(gpu.load(0, 0, Access::weak(&[x + 1024; 32], 1, Width::B4, 0)))
    else {
        panic!()
    };
    assert_eq!((near.base, near.live), (x, false));
    gpu.load(0, 0, Access::weak(&row(y, 4), ALL, Width::B4, 0)).unwrap();
    // Freed addresses do not come back.
    for _ in 0..1000 {
        let z = gpu.memory.allocate(1024).unwrap();
        assert!(z > y);
        gpu.memory.free(z).unwrap();
    }
    assert!(matches!(
        kind(gpu.store(0, 0, Access::weak(&[x; 32], 1, Width::B4, 0))),
        FaultKind::UseAfterFree(_)
    ));
    assert_eq!(gpu.memory.free(x), Err(AllocateError::AlreadyFreed));
    assert_eq!(gpu.memory.free(y + 512), Err(AllocateError::NotAllocated));
    assert_eq!(gpu.memory.write(x, &[1]), Err(HostError::UseAfterFree(gpu.memory.nearest(x, 1).unwrap())));
}

#[test]
fn alignment() {
    let mut gpu = Gpu::new(1, 32);
    let x = gpu.array(4096);
    for width in [Width::B2, Width::B4, Width::B8, Width::B16] {
        let bytes = width.bytes() as u64;
        let stride = 2 * bytes;
        gpu.load(0, 0, Access::weak(&row(x + bytes, stride), ALL, width, 0)).unwrap();
        let mut addresses = row(x, stride);
        addresses[5] += bytes / 2;
        let fault = gpu.load(0, 0, Access::weak(&addresses, ALL, width, 0)).unwrap_err();
        assert_eq!((fault.kind, fault.party.lane), (FaultKind::Misaligned, 5));
        let packed = row(x + bytes / 2, bytes);
        assert_eq!(kind(gpu.store(0, 0, Access::weak(&packed, ALL, width, 0))), FaultKind::Misaligned);
    }
    gpu.load(0, 0, Access::weak(&row(x + 3, 1), ALL, Width::B1, 0)).unwrap();
    // A float4 view of an array at an odd float.
    assert_eq!(
        kind(gpu.load(0, 0, Access::weak(&row(x + 4, 16), ALL, Width::B16, 0))),
        FaultKind::Misaligned
    );
    // Allocations are aligned to 512, every other one to no more.
    let aligned = (0..8).map(|_| gpu.memory.allocate(1).unwrap()).map(|base| (base % 512, base % 1024));
    let aligned = aligned.collect::<Vec<_>>();
    assert!(
        aligned.iter().all(|(small, _)| *small == 0)
            && aligned.iter().filter(|(_, big)| *big == 512).count() == 4
    );
}

#[test]
fn uninitialised_reads_are_exact_to_the_byte() {
    let mut gpu = Gpu::new(1, 32);
    let x = gpu.memory.allocate(256).unwrap();
    let one = |address| [address; 32];
    assert_eq!(
        kind(gpu.load(0, 0, Access::weak(&one(x), 1, Width::B4, 0))),
        FaultKind::Uninitialised(0b1111)
    );
    gpu.store(0, 0, Access::weak(&one(x), 1, Width::B2, 0)).unwrap();
    assert_eq!(
        kind(gpu.load(0, 0, Access::weak(&one(x), 1, Width::B4, 0))),
        FaultKind::Uninitialised(0b1100)
    );
    gpu.load(0, 0, Access::weak(&one(x), 1, Width::B2, 0)).unwrap();
    gpu.store(0, 0, Access::weak(&one(x + 3), 1, Width::B1, 0)).unwrap();
    assert_eq!(
        kind(gpu.load(0, 0, Access::weak(&one(x), 1, Width::B4, 0))),
        FaultKind::Uninitialised(0b0100)
    );
    gpu.memory.write(x + 2, &[7]).unwrap();
    gpu.load(0, 0, Access::weak(&one(x), 1, Width::B4, 0)).unwrap();
    // The first lane that misses something is named; an atomic reads too.
    gpu.memory.fill(x, &[0], 128 - 16).unwrap();
    let fault = gpu.load(0, 0, Access::weak(&row(x, 4), ALL, Width::B4, 0)).unwrap_err();
    assert_eq!((fault.kind, fault.party.lane), (FaultKind::Uninitialised(0b1111), 28));
    assert!(matches!(
        kind(gpu.add(0, 0, Access::weak(&one(x + 128), 1, Width::B8, 0))),
        FaultKind::Uninitialised(0xff)
    ));
    // A 16-byte vector of which the host wrote 12 bytes.
    gpu.memory.write(x + 160, &[0; 12]).unwrap();
    let vector = gpu.load(0, 0, Access::weak(&one(x + 160), 1, Width::B16, 0));
    assert_eq!(kind(vector), FaultKind::Uninitialised(0xf000));
    // Host reads complain only if asked, copies carry the holes along.
    let y = gpu.memory.allocate(256).unwrap();
    gpu.memory.copy(y, x, 256).unwrap();
    let mut out = [0; 256];
    gpu.memory.read(y, &mut out).unwrap();
    assert_eq!(gpu.memory.read_initialised(y, &mut out[..112]), Ok(()));
    assert_eq!(gpu.memory.read_initialised(y, &mut out), Err(HostError::Uninitialised(y + 112)));
    assert_eq!(
        kind(gpu.load(0, 0, Access::weak(&one(y + 160), 1, Width::B16, 0))),
        FaultKind::Uninitialised(0xf000)
    );
    // With the check off nothing is said.
    let memory =
        DeviceMemory::new(MemoryConfig { limit: 1 << 20, checks: Checks::NONE, ..MemoryConfig::default() });
    let z = memory.allocate(64).unwrap();
    assert_eq!(memory.read_initialised(z, &mut out[..64]), Ok(()));
}

#[test]
fn races_in_a_warp() {
    let mut gpu = Gpu::new(1, 64);
    let x = gpu.array(4096);
    let (order, scope) = WEAK;
    // A neighbour's element, without and with __syncwarp.
    gpu.store(0, 0, Access::weak(&row(x, 4), ALL, Width::B4, 0)).unwrap();
    let fault = gpu.load(0, 0, Access::weak(&row(x + 4, 4), ALL, Width::B4, 0)).unwrap_err();
    let FaultKind::Race(other) = fault.kind else { panic!("{fault}") };
    assert_eq!((fault.party.lane, other.lane, other.source, other.action), (0, 1, 1, Action::Store));
    gpu.blocks[0].sync_warp(0, ALL);
    gpu.load(0, 0, Access::weak(&row(x + 4, 4), ALL >> 1, Width::B4, 0)).unwrap();
    // Writing what a neighbour has read.
    assert!(races(gpu.store(0, 0, Access::weak(&row(x, 4), ALL, Width::B4, 0))));
    gpu.blocks[0].sync_warp(0, ALL);
    gpu.store(0, 0, Access::weak(&row(x, 4), ALL, Width::B4, 0)).unwrap();
    // A thread's own accesses are in order.
    gpu.load(0, 0, Access::weak(&row(x, 4), ALL, Width::B4, 0)).unwrap();
    gpu.store(0, 0, Access::weak(&row(x, 4), ALL, Width::B4, 0)).unwrap();
    // Two lanes store to one address in one instruction; one lane does, or all do atomically.
    assert!(races(gpu.store(0, 0, Access::weak(&[x + 1024; 32], ALL, Width::B4, 0))));
    gpu.write((0, 3), x + 1028, order, scope).unwrap();
    gpu.add(0, 0, Access::weak(&[x + 1032; 32], ALL, Width::B4, 0)).unwrap();
    let mut sum = [0; 4];
    gpu.memory.read(x + 1032, &mut sum).unwrap();
    assert_eq!(u32::from_le_bytes(sum), 32);
    // A partial __syncwarp orders its lanes only.
    gpu.write((0, 0), x + 2048, order, scope).unwrap();
    gpu.blocks[0].sync_warp(0, 0b11);
    gpu.read((0, 1), x + 2048, order, scope).unwrap();
    assert!(races(gpu.read((0, 2), x + 2048, order, scope)));
    // Ended lanes count as having arrived.
    gpu.write((0, 31), x + 2052, order, scope).unwrap();
    gpu.blocks[0].exit(0, 1 << 31);
    gpu.blocks[0].sync_warp(0, ALL >> 1);
    gpu.read((0, 0), x + 2052, order, scope).unwrap();
}

#[test]
fn races_are_exact_to_the_byte() {
    for width in [Width::B1, Width::B2, Width::B4] {
        let bytes = width.bytes() as u64;
        let mut gpu = Gpu::new(2, 64);
        let x = gpu.array(4096);
        // Neighbouring elements by different warps and blocks are no race, at any phase in the sector.
        gpu.store(0, 0, Access::weak(&row(x, 2 * bytes), ALL, width, 0)).unwrap();
        gpu.store(0, 1, Access::weak(&row(x + bytes, 2 * bytes), ALL, width, 0)).unwrap();
        gpu.store(1, 0, Access::weak(&row(x + 64 * bytes, 3 * bytes), ALL, width, 0)).unwrap();
        gpu.store(1, 1, Access::weak(&row(x + 65 * bytes, 3 * bytes), ALL, width, 0)).unwrap();
        // One byte too far is.
        assert!(races(gpu.store(1, 1, Access::weak(&[x + 63 * bytes; 32], 1, width, 0))));
        assert!(races(gpu.store(1, 1, Access::weak(&[x + 67 * bytes; 32], 1, width, 0))));
        gpu.store(1, 1, Access::weak(&[x + 66 * bytes; 32], 1, width, 0)).unwrap();
    }
    // A wide store over one foreign byte.
    let mut gpu = Gpu::new(1, 64);
    let x = gpu.array(4096);
    gpu.store(0, 0, Access::weak(&[x + 15; 32], 1, Width::B1, 0)).unwrap();
    gpu.store(0, 1, Access::weak(&[x + 16; 32], 1, Width::B16, 0)).unwrap();
    assert!(races(gpu.store(0, 1, Access::weak(&[x; 32], 1, Width::B16, 0))));
}

#[test]
fn barriers() {
    let (order, scope) = WEAK;
    let mut gpu = Gpu::new(2, 128);
    let x = gpu.array(4096);
    // A dropped __syncthreads.
    gpu.write((0, 0), x, order, scope).unwrap();
    assert!(races(gpu.read((0, 40), x, order, scope)));
    gpu.barrier(0, 4);
    gpu.read((0, 40), x, order, scope).unwrap();
    gpu.read((0, 100), x, order, scope).unwrap();
    // Whichever reader it was, an unordered write is reported.
    assert!(races(gpu.write((0, 40), x, order, scope)));
    assert!(races(gpu.write((0, 100), x, order, scope)));
    assert!(races(gpu.write((0, 0), x, order, scope)));
    gpu.barrier(0, 4);
    gpu.write((0, 0), x, order, scope).unwrap();
    // Another block's barrier orders nothing here; nor does one after the write alone.
    gpu.barrier(1, 4);
    assert!(stale(gpu.read((1, 0), x, order, scope)));
    // Named barriers: only the warps that take part.
    gpu.write((0, 0), x + 64, order, scope).unwrap();
    gpu.blocks[0].barrier(&[(0, ALL), (1, ALL)]);
    gpu.read((0, 40), x + 64, order, scope).unwrap();
    assert!(races(gpu.read((0, 70), x + 64, order, scope)));
    // Cumulative: warp 1 passes on to warp 2 what it has from warp 0.
    gpu.write((0, 0), x + 128, order, scope).unwrap();
    gpu.blocks[0].barrier(&[(0, ALL), (1, ALL)]);
    gpu.blocks[0].barrier(&[(1, ALL), (2, ALL)]);
    gpu.read((0, 70), x + 128, order, scope).unwrap();
    assert!(races(gpu.read((0, 100), x + 128, order, scope)));
    // Producer and consumer: bar.arrive and bar.sync.
    let mut join = Join::default();
    gpu.write((0, 0), x + 192, order, scope).unwrap();
    gpu.blocks[0].arrive(&mut join, 0, ALL);
    gpu.write((0, 0), x + 196, order, scope).unwrap();
    gpu.blocks[0].arrive(&mut join, 1, ALL);
    gpu.blocks[0].depart(&join, 1, ALL);
    gpu.read((0, 40), x + 192, order, scope).unwrap();
    assert!(races(gpu.read((0, 40), x + 196, order, scope)));
    assert!(races(gpu.write((0, 0), x + 192, order, scope)), "who only arrives learns nothing");
    // A launch of fewer threads than a warp: its lanes are the whole warp.
    let mut small = Gpu::new(1, 40);
    let y = small.array(64);
    small.write((0, 39), y, order, scope).unwrap();
    small.blocks[0].barrier(&[(0, ALL), (1, 0xff)]);
    small.read((0, 0), y, order, scope).unwrap();
}

#[test]
fn message_passing() {
    use Order::{Acquire, Relaxed, Release, Volatile, Weak};
    use Scope::{Cta, Gpu as Device, Sys};
    // Writer's order, reader's order, scopes, whether the reader may then read the data.
    let table = [
        (Release, Device, Acquire, Device, true),
        (Release, Sys, Acquire, Device, true),
        (Relaxed, Device, Acquire, Device, false),
        (Release, Device, Relaxed, Device, false),
        (Relaxed, Device, Relaxed, Device, false),
        (Volatile, Device, Volatile, Device, false),
        (Release, Cta, Acquire, Device, false),
        (Release, Device, Acquire, Cta, false),
    ];
    for (store, store_scope, load, load_scope, ordered) in table {
        let mut gpu = Gpu::new(2, 32);
        let x = gpu.array(128);
        gpu.write((0, 0), x, Weak, Sys).unwrap();
        gpu.write((0, 0), x + 64, store, store_scope).unwrap();
        // Scopes too narrow make the flag itself a race: read it from where both are wide enough.
        let flag = gpu.read((1, 0), x + 64, load, load_scope);
        assert_eq!(flag.is_ok(), store_scope != Cta && load_scope != Cta, "{store:?} {load:?}");
        let data = gpu.read((1, 0), x, Weak, Sys);
        assert_eq!(data.is_ok(), ordered, "{store:?} {store_scope:?} {load:?} {load_scope:?}");
        assert!(ordered || stale(data));
    }
    // A plain flag: reading it is already unordered.
    let mut gpu = Gpu::new(2, 32);
    let x = gpu.array(128);
    gpu.write((0, 0), x + 64, Weak, Sys).unwrap();
    assert!(stale(gpu.read((1, 0), x + 64, Acquire, Device)));
    assert!(stale(gpu.read((1, 0), x + 64, Volatile, Device)));
    // In one block block scope will do.
    let mut gpu = Gpu::new(1, 64);
    let x = gpu.array(128);
    gpu.write((0, 0), x, Weak, Sys).unwrap();
    gpu.write((0, 0), x + 64, Release, Cta).unwrap();
    gpu.read((0, 32), x + 64, Acquire, Cta).unwrap();
    gpu.read((0, 32), x, Weak, Sys).unwrap();
    // Only the thread that acquired knows; a __syncwarp tells its neighbours.
    assert!(races(gpu.read((0, 33), x, Weak, Sys)));
    gpu.blocks[0].sync_warp(1, ALL);
    gpu.read((0, 33), x, Weak, Sys).unwrap();
    // What the writer does after its release is not published.
    gpu.write((0, 0), x + 4, Weak, Sys).unwrap();
    gpu.read((0, 32), x + 64, Acquire, Cta).unwrap();
    assert!(races(gpu.read((0, 32), x + 4, Weak, Sys)));
}

#[test]
fn fences() {
    use Order::{Acquire, Relaxed, Volatile, Weak};
    use Scope::{Cta, Gpu as Device, Sys};
    for order in [Relaxed, Volatile] {
        // Writer's fence, reader's fence.
        for (before, after, ordered) in [
            (Some(Device), Some(Device), true),
            (Some(Sys), Some(Device), true),
            (None, Some(Device), false),
            (Some(Device), None, false),
            (Some(Cta), Some(Device), false),
            (Some(Device), Some(Cta), false),
        ] {
            let mut gpu = Gpu::new(2, 32);
            let x = gpu.array(128);
            gpu.write((0, 0), x, Weak, Sys).unwrap();
            before.into_iter().for_each(|scope| gpu.fence((0, 0), scope));
            gpu.write((0, 0), x + 64, order, Device).unwrap();
            gpu.read((1, 0), x + 64, order, Device).unwrap();
            after.into_iter().for_each(|scope| gpu.fence((1, 0), scope));
            let data = gpu.read((1, 0), x, Weak, Sys);
            assert!(if ordered { data.is_ok() } else { stale(data) }, "{order:?} {before:?} {after:?}");
        }
    }
    // A fence before the data protects nothing; a fence pairs with an acquire.
    let mut gpu = Gpu::new(2, 32);
    let x = gpu.array(128);
    gpu.write((0, 0), x, Weak, Sys).unwrap();
    gpu.fence((0, 0), Device);
    gpu.write((0, 0), x + 4, Weak, Sys).unwrap();
    gpu.atomic((0, 0), x + 64, Relaxed, Device).unwrap();
    gpu.read((1, 0), x + 64, Acquire, Device).unwrap();
    gpu.read((1, 0), x, Weak, Sys).unwrap();
    assert!(stale(gpu.read((1, 0), x + 4, Weak, Sys)));
    // A weak store to the flag breaks the chain.
    let mut gpu = Gpu::new(3, 32);
    let x = gpu.array(128);
    gpu.write((0, 0), x, Weak, Sys).unwrap();
    gpu.fence((0, 0), Device);
    gpu.write((0, 0), x + 64, Relaxed, Device).unwrap();
    gpu.write((0, 0), x + 64, Weak, Device).unwrap();
    assert!(stale(gpu.read((1, 0), x + 64, Acquire, Device)));
}

/// The last block reduces what all have written: __syncthreads, thread 0's fence and ticket.
fn last_block(fenced: bool, synced: bool, acquired: bool) -> Checked {
    let mut gpu = Gpu::new(3, 64);
    let (x, ticket) = (gpu.array(4096), gpu.array(4));
    for block in 0..3 {
        for warp in 0..2 {
            let slots = row(x + (block * 64 + warp * 32) as u64 * 4, 4);
            gpu.store(block, warp, Access::weak(&slots, ALL, Width::B4, 0)).unwrap();
        }
        if synced {
            gpu.barrier(block, 2);
        }
        if fenced {
            gpu.fence((block, 0), Scope::Gpu);
        }
        gpu.atomic((block, 0), ticket, Order::Relaxed, Scope::Gpu).unwrap();
    }
    if acquired {
        gpu.fence((2, 0), Scope::Gpu);
    }
    gpu.barrier(2, 2);
    for warp in 0..2 {
        gpu.load(2, warp, Access::weak(&row(x + warp as u64 * 128, 4), ALL, Width::B4, 0))?;
        gpu.load(2, warp, Access::weak(&row(x + 256 + warp as u64 * 128, 4), ALL, Width::B4, 0))?;
    }
    Ok(())
}

#[test]
fn last_block_pattern() {
    last_block(true, true, true).unwrap();
    assert!(stale(last_block(false, true, true)), "no fence before the ticket");
    assert!(stale(last_block(true, false, true)), "other threads' writes are not behind thread 0's fence");
    assert!(stale(last_block(true, true, false)), "no fence after the ticket");
    // Every thread fences, but before the barrier: thread 0's ticket does not carry the others' writes.
    let mut gpu = Gpu::new(2, 64);
    let (x, ticket) = (gpu.array(4096), gpu.array(4));
    gpu.write((0, 40), x, Order::Weak, Scope::Sys).unwrap();
    (0..2).for_each(|warp| gpu.blocks[0].fence(warp, ALL, Scope::Gpu));
    gpu.barrier(0, 2);
    gpu.atomic((0, 0), ticket, Order::Relaxed, Scope::Gpu).unwrap();
    gpu.atomic((1, 0), ticket, Order::AcqRel, Scope::Gpu).unwrap();
    assert!(stale(gpu.read((1, 0), x, Order::Weak, Scope::Sys)));
}

#[test]
fn chains() {
    use Order::{AcqRel, Acquire, Relaxed, Release, Weak};
    let (gpu_scope, sys) = (Scope::Gpu, Scope::Sys);
    // Three blocks: 0 -> 1 -> 2 by two flags, cumulative; the middle one through its barrier.
    for (middle, ordered) in [(Release, true), (Relaxed, false)] {
        let mut gpu = Gpu::new(3, 64);
        let x = gpu.array(256);
        gpu.write((0, 0), x, Weak, sys).unwrap();
        gpu.write((0, 0), x + 64, Release, gpu_scope).unwrap();
        gpu.read((1, 0), x + 64, Acquire, gpu_scope).unwrap();
        gpu.barrier(1, 2);
        gpu.write((1, 40), x + 128, middle, gpu_scope).unwrap();
        gpu.read((2, 5), x + 128, Acquire, gpu_scope).unwrap();
        gpu.barrier(2, 2);
        assert_eq!(gpu.read((2, 60), x, Weak, sys).is_ok(), ordered);
    }
    // A release sequence goes through others' read-modify-writes, not through their stores.
    for (rmw, ordered) in [(true, true), (false, false)] {
        let mut gpu = Gpu::new(3, 32);
        let x = gpu.array(128);
        gpu.write((0, 0), x, Weak, sys).unwrap();
        gpu.write((0, 0), x + 64, Release, gpu_scope).unwrap();
        if rmw {
            gpu.atomic((1, 0), x + 64, Relaxed, gpu_scope)
        } else {
            gpu.write((1, 0), x + 64, Relaxed, gpu_scope)
        }
        .unwrap();
        gpu.read((2, 0), x + 64, Acquire, gpu_scope).unwrap();
        assert_eq!(gpu.read((2, 0), x, Weak, sys).is_ok(), ordered);
    }
    // A lock: acquire by compare-and-swap, release by exchange; a failed compare publishes nothing.
    let mut gpu = Gpu::new(3, 32);
    let x = gpu.array(128);
    for block in 0..3 {
        gpu.atomic((block, 0), x + 64, Acquire, gpu_scope).unwrap();
        gpu.read((block, 0), x, Weak, sys).unwrap();
        gpu.write((block, 0), x, Weak, sys).unwrap();
        gpu.atomic((block, 0), x + 64, Release, gpu_scope).unwrap();
    }
    let mut gpu = Gpu::new(2, 32);
    let x = gpu.array(128);
    gpu.write((0, 0), x, Weak, sys).unwrap();
    let addresses = [x + 64; 32];
    let access = Access::weak(&addresses, 1, Width::B4, 0).ordered(AcqRel, gpu_scope);
    let (cache, clock) = (&mut gpu.cache, &mut gpu.blocks[0]);
    gpu.memory.atomic(cache, clock, 0, &access, &mut LaneBytes::default(), &mut |_, _| None).unwrap();
    gpu.read((1, 0), x + 64, Acquire, gpu_scope).unwrap();
    assert!(stale(gpu.read((1, 0), x, Weak, sys)));
}

#[test]
fn strong_and_weak_accesses() {
    use Order::{Relaxed, Weak};
    let mut gpu = Gpu::new(2, 32);
    let x = gpu.array(256);
    // Atomics do not race with each other, nor with volatile reads; with plain accesses they do.
    for block in 0..2 {
        gpu.atomic((block, 0), x, Relaxed, Scope::Gpu).unwrap();
    }
    gpu.read((1, 0), x, Order::Volatile, Scope::Cta).unwrap();
    assert!(stale(gpu.read((1, 1), x, Weak, Scope::Sys)));
    assert!(races(gpu.write((1, 1), x, Weak, Scope::Sys)));
    gpu.read((0, 0), x + 4, Weak, Scope::Sys).unwrap();
    assert!(races(gpu.atomic((1, 0), x + 4, Relaxed, Scope::Gpu)));
    // Block scope across blocks is no protection.
    gpu.atomic((0, 0), x + 8, Relaxed, Scope::Cta).unwrap();
    gpu.atomic((0, 1), x + 8, Relaxed, Scope::Cta).unwrap();
    assert!(races(gpu.atomic((1, 0), x + 8, Relaxed, Scope::Gpu)));
    // Every one of many unordered atomics counts against a later plain read.
    let mut gpu = Gpu::new(64, 32);
    let x = gpu.array(4);
    for block in 0..64 {
        gpu.atomic((block, block % 32), x, Relaxed, Scope::Gpu).unwrap();
    }
    assert!((0..63).all(|block| stale(gpu.read((block, block % 32), x, Weak, Scope::Sys))));
    // The last one's thread has observed them all.
    assert!(stale(gpu.read((63, 30), x, Weak, Scope::Sys)));
    gpu.read((63, 31), x, Weak, Scope::Sys).unwrap();
}

/// What one step of a table does to its word.
#[derive(Clone, Copy, Debug)]
enum Do {
    Add(Order, Scope),
    /// A compare that fails.
    Fail,
    Put(Order, Scope),
    Get(Order, Scope),
    Fence,
    /// `__syncthreads` in the block.
    Meet,
    /// The same, of another word.
    AddOther,
    GetOther,
}

impl Gpu {
    fn step(&mut self, at: (usize, usize), word: u64, what: Do) -> Checked {
        match what {
            Do::Add(order, scope) => self.atomic(at, word, order, scope),
            Do::Put(order, scope) => self.write(at, word, order, scope),
            Do::Get(order, scope) => self.read(at, word, order, scope),
            Do::AddOther => self.atomic(at, word + 4, Order::Relaxed, Scope::Gpu),
            Do::GetOther => self.read(at, word + 4, Order::Weak, Scope::Gpu),
            Do::Fail => {
                let addresses = [word; 32];
                let access = Access::weak(&addresses, 1 << (at.1 % 32), Width::B4, 0);
                let access = access.ordered(Order::Relaxed, Scope::Gpu);
                let (cache, clock) = (&mut self.cache, &mut self.blocks[at.0]);
                let mut old = LaneBytes::default();
                self.memory.atomic(cache, clock, at.1 / 32, &access, &mut old, &mut |_, _| None)
            }
            Do::Fence => {
                self.fence(at, Scope::Gpu);
                Ok(())
            }
            Do::Meet => {
                self.barrier(at.0, 2);
                Ok(())
            }
        }
    }
}

/// What a strong read observed is ordered before what follows the read: table rows of steps, the last of which is a race
/// or is not.
#[test]
fn observed_writes_are_ordered() {
    use Do::{Add, AddOther, Fail, Fence, Get, GetOther, Meet, Put};
    const ADD: Do = Add(Order::Relaxed, Scope::Gpu);
    const SET: Do = Put(Order::Weak, Scope::Sys);
    const SEE: Do = Get(Order::Weak, Scope::Sys);
    const STORE: Do = Put(Order::Relaxed, Scope::Gpu);
    const POLL: Do = Get(Order::Relaxed, Scope::Gpu);
    const NEAR: Do = Add(Order::Relaxed, Scope::Cta);
    const WAIT: Do = Get(Order::Volatile, Scope::Sys);
    let (a, b, c) = ((0, 0), (1, 0), (2, 0));
    type Steps<'a> = &'a [((usize, usize), Do)];
    let rows: &[(&str, Steps<'_>, bool)] = &[
        ("last arriver resets", &[(a, ADD), (b, ADD), (c, ADD), (c, SET)], true),
        ("last arriver reads", &[(a, ADD), (b, ADD), (c, ADD), (c, SEE)], true),
        ("first arriver resets", &[(a, ADD), (b, ADD), (a, SET)], false),
        ("first arriver reads", &[(a, ADD), (b, ADD), (a, SEE)], false),
        ("no atomic of its own", &[(a, ADD), (b, SET)], false),
        ("another thread of the last block", &[(a, ADD), (b, ADD), ((1, 40), SET)], false),
        ("the same after __syncthreads", &[(a, ADD), (b, ADD), (b, Meet), ((1, 40), SET)], true),
        ("one that came before __syncthreads", &[(b, ADD), (a, ADD), (b, Meet), ((1, 40), SET)], false),
        (
            "by release and acquire",
            &[(a, ADD), (b, ADD), (b, Fence), (b, AddOther), (c, AddOther), (c, Fence), (c, SET)],
            true,
        ),
        (
            "the same without a fence",
            &[(a, ADD), (b, ADD), (b, AddOther), (c, AddOther), (c, Fence), (c, SET)],
            false,
        ),
        (
            "observed after the release",
            &[(a, ADD), (b, Fence), (b, AddOther), (b, ADD), (c, AddOther), (c, Fence), (c, SET)],
            false,
        ),
        ("what came before the observed", &[(a, AddOther), (a, ADD), (b, ADD), (b, GetOther)], false),
        ("polled flag is reset", &[(a, STORE), (b, POLL), (b, SET)], true),
        ("polled atomic is reset", &[(a, ADD), (b, WAIT), (b, SET)], true),
        ("polled too early", &[(b, POLL), (a, STORE), (b, SET)], false),
        ("polled before the next one", &[(a, ADD), (b, POLL), (a, ADD), (b, SET)], false),
        ("polled plainly", &[(a, STORE), (b, ADD), (b, SEE), (b, SET)], true),
        ("another's poll", &[(a, STORE), (c, POLL), (b, POLL), (b, SET)], false),
        ("another's poll, and a plain read", &[(a, STORE), (c, POLL), (b, POLL), (b, SEE)], true),
        ("overwritten unseen", &[(a, STORE), (b, STORE), (c, POLL), (c, SET)], false),
        ("overwritten unseen by the same", &[(a, STORE), (a, STORE), (c, POLL), (c, SET)], false),
        ("overwritten seen", &[(a, STORE), (c, POLL), (a, STORE), (c, POLL), (c, SET)], true),
        ("overwritten by an atomic", &[(a, STORE), (b, ADD), (c, POLL), (c, SET)], true),
        ("a failed compare observes", &[(a, ADD), (b, Fail), (b, SET)], true),
        ("a failed compare cannot be observed", &[(a, Fail), (b, ADD), (b, SET)], false),
        ("a failed compare is only a read", &[(b, STORE), (a, Fail), (b, SEE)], true),
        ("narrow in its block", &[(a, NEAR), ((0, 40), NEAR), ((0, 40), SET)], true),
        ("narrow from the block, wide, another block", &[(a, NEAR), (a, ADD), (b, POLL)], false),
        ("narrow poll of another block", &[(a, ADD), (b, Get(Order::Relaxed, Scope::Cta))], false),
        ("narrow after an observation", &[(a, ADD), (b, ADD), (b, NEAR)], true),
    ];
    for &(name, steps, ordered) in rows {
        let mut gpu = Gpu::new(3, 64);
        let x = gpu.array(64);
        for (index, &(at, what)) in steps.iter().enumerate() {
            let result = gpu.step(at, x, what);
            if index + 1 < steps.len() {
                result.unwrap_or_else(|fault| panic!("{name}: {fault}"));
            } else {
                assert_eq!(result.is_ok(), ordered, "{name}: {result:?}");
            }
        }
    }
    // Other bytes observe nothing: an atomic of 4 bytes in a store of 8.
    for (width, ordered) in [(Width::B8, true), (Width::B4, false)] {
        let mut gpu = Gpu::new(2, 32);
        let at = [gpu.array(64); 32];
        let access = |width| Access::weak(&at, 1, width, 0);
        gpu.store(0, 0, access(Width::B8).ordered(Order::Relaxed, Scope::Gpu)).unwrap();
        gpu.add(1, 0, access(width).ordered(Order::Relaxed, Scope::Gpu)).unwrap();
        assert_eq!(gpu.store(1, 0, access(Width::B2)).is_ok(), ordered);
    }
    // Any number of blocks, a poll between; then the next launch, ordered or not.
    let mut gpu = Gpu::new(300, 32);
    let x = gpu.array(4);
    for block in 0..300 {
        gpu.step((block, block % 32), x, ADD).unwrap();
        gpu.step((7, 3), x, WAIT).unwrap();
    }
    for (after, ordered) in [(After::Launches { before: 0, and: &[] }, false), (After::Everything, true)] {
        let launch = gpu.memory.begin_launch(1, 32, after);
        gpu.blocks.push(BlockClock::new(&launch, 0));
        let block = gpu.blocks.len() - 1;
        assert_eq!(gpu.step((block, 0), x, SEE).is_ok(), ordered);
    }
    assert!(stale(gpu.step((299, 12), x, SEE)));
    gpu.step((299, 11), x, SEE).unwrap();
    gpu.step((7, 3), x, SEE).unwrap();
    // Block 7's polls were no writes, but they were reads.
    assert!(races(gpu.step((299, 11), x, SET)));
}

/// Thousands of rounds of a flag that is stored, observed and reset, and of one that is only stored and observed.
#[test]
fn observations_do_not_grow() {
    let mut gpu = Gpu::new(2, 32);
    let x = gpu.array(64);
    let start = std::time::Instant::now();
    for _ in 0..5000 {
        for word in [x, x + 32] {
            gpu.write((0, 0), word, Order::Relaxed, Scope::Gpu).unwrap();
            gpu.read((1, 0), word, Order::Relaxed, Scope::Gpu).unwrap();
        }
        gpu.write((1, 0), x, Order::Weak, Scope::Sys).unwrap();
        // And back, so that the next round's store is ordered after the reset.
        for (at, order) in [((1, 0), Order::Release), ((0, 0), Order::Acquire)] {
            gpu.atomic(at, x + 16, order, Scope::Gpu).unwrap();
        }
    }
    // Too many to remember that each was observed: reported, though it need not be.
    assert!(races(gpu.write((1, 0), x + 32, Order::Weak, Scope::Sys)));
    gpu.atomic((0, 0), x + 16, Order::Release, Scope::Gpu).unwrap();
    gpu.atomic((1, 0), x + 16, Order::Acquire, Scope::Gpu).unwrap();
    gpu.write((1, 0), x + 32, Order::Weak, Scope::Sys).unwrap();
    assert!(start.elapsed().as_secs() < 10, "{:?}", start.elapsed());
}

#[test]
fn scopes_that_differ() {
    use Order::{Acquire, Relaxed, Release};
    // An atomic ordered after another block's does not stand for it: a third one of block scope is exempt from racing
    // with its own block's, not with the other's.
    for (third, faulty) in [(Scope::Cta, true), (Scope::Gpu, false)] {
        let mut gpu = Gpu::new(2, 64);
        let x = gpu.array(128);
        gpu.atomic((0, 0), x, Relaxed, Scope::Gpu).unwrap();
        gpu.atomic((0, 0), x + 64, Release, Scope::Gpu).unwrap();
        gpu.read((1, 0), x + 64, Acquire, Scope::Gpu).unwrap();
        gpu.blocks[1].sync_warp(0, ALL);
        gpu.atomic((1, 0), x, Relaxed, Scope::Gpu).unwrap();
        assert_eq!(races(gpu.atomic((1, 40), x, Relaxed, third)), faulty);
    }
}

#[test]
fn every_reader_counts() {
    // Read by every thread of 40 blocks: the read set has spilled. A write ordered after all but one is reported.
    for missing in [None, Some(0), Some(17), Some(38)] {
        let mut gpu = Gpu::new(40, 32);
        let (x, flag) = (gpu.array(4), gpu.array(4));
        for block in 0..39 {
            gpu.load(block, 0, Access::weak(&[x; 32], ALL, Width::B4, 0)).unwrap();
            gpu.blocks[block].sync_warp(0, ALL);
            if missing != Some(block) {
                gpu.atomic((block, 0), flag, Order::Release, Scope::Gpu).unwrap();
            }
        }
        gpu.read((39, 0), flag, Order::Acquire, Scope::Gpu).unwrap();
        let write = gpu.write((39, 0), x, Order::Weak, Scope::Sys);
        match missing {
            None => write.unwrap(),
            Some(block) => {
                let FaultKind::Race(other) = kind(write) else { panic!() };
                assert_eq!((other.block, other.action), (block as u64, Action::Load));
            }
        }
    }
    // Many patterns in one sector by one warp: rewritten as lists, still exact.
    let mut gpu = Gpu::new(1, 64);
    let x = gpu.array(32);
    let mut state = 1u64;
    let mut read = [0u32; 32];
    for _ in 0..400 {
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            state >> 40
        };
        let mask = next() as u32 & next() as u32 & next() as u32 & 0x00ff_0ff0;
        let addresses = std::array::from_fn(|_| x + next() % 29);
        gpu.load(0, 0, Access::weak(&addresses, mask, Width::B1, 0)).unwrap();
        (0..32)
            .filter(|lane| mask >> lane & 1 != 0)
            .for_each(|lane| read[(addresses[lane] - x) as usize] |= 1 << lane);
    }
    for (byte, readers) in read.into_iter().enumerate() {
        for lane in 0..32u32 {
            let others = readers & !(1 << lane) != 0;
            let mut probe = || gpu.store(0, 0, Access::weak(&[x + byte as u64; 32], 1 << lane, Width::B1, 0));
            // A store that succeeds takes the readers' place: only faulty ones are tried twice.
            if others {
                assert!(races(probe()), "byte {byte} lane {lane}");
            }
        }
        if readers == 0 {
            gpu.store(0, 1, Access::weak(&[x + byte as u64; 32], 1, Width::B1, 0)).unwrap();
        }
    }
}

#[test]
fn launches() {
    let (order, scope) = WEAK;
    let mut gpu = Gpu::new(1, 32);
    let x = gpu.array(64);
    gpu.write((0, 0), x, order, scope).unwrap();
    // The next launch on the stream is ordered after all of it; one on another stream is not.
    let next = gpu.memory.begin_launch(1, 32, After::Everything);
    let other = gpu.memory.begin_launch(1, 32, After::Launches { before: 0, and: &[] });
    let joined =
        gpu.memory.begin_launch(1, 32, After::Launches { before: 0, and: &[next.id()..next.id() + 1, 0..1] });
    gpu.blocks.extend([&next, &other, &joined].map(|launch| BlockClock::new(launch, 0)));
    gpu.read((1, 7), x, order, scope).unwrap();
    let FaultKind::UnorderedRead(party) = kind(gpu.read((2, 7), x, order, scope)) else { panic!() };
    assert_eq!((party.launch, party.block, party.lane), (0, 0, 0));
    gpu.read((3, 7), x, order, scope).unwrap();
    gpu.write((3, 7), x, order, scope).unwrap();
    // The host takes over between launches.
    gpu.memory.write(x, &[0; 4]).unwrap();
    gpu.read((2, 7), x, order, scope).unwrap();
}

#[test]
fn earlier_launches_are_not_forgotten() {
    // Launches 0 and 1 follow each other and touch different bytes of a sector; launch 2 is unordered with 0 or with
    // neither, and must find what launch 0 did.
    use Order::{Relaxed, Weak};
    let second_launch = [0..0, 1..2];
    let after_first = |before: u64| After::Launches { before, and: &second_launch };
    type Act = fn(&mut Gpu, usize, u64, Order, Scope) -> Checked;
    let read: Act = |gpu, block, address, order, scope| gpu.read((block, 0), address, order, scope);
    let write: Act = |gpu, block, address, order, scope| gpu.write((block, 0), address, order, scope);
    let add: Act = |gpu, block, address, order, scope| gpu.atomic((block, 0), address, order, scope);
    let table: [(&str, Act, Act, Order, Act); 5] = [
        ("read, read, write", read, read, Weak, write),
        ("write, write, read", write, write, Weak, read),
        ("write, read, write", write, read, Weak, write),
        ("atomic, atomic, read", add, add, Relaxed, read),
        ("strong read, atomic, write", read, add, Relaxed, write),
    ];
    for (name, first, second, order, third) in table {
        for ordered in [false, true] {
            let mut gpu = Gpu::new(1, 32);
            let x = gpu.array(32);
            first(&mut gpu, 0, x, order, Scope::Gpu).unwrap();
            let next = gpu.memory.begin_launch(1, 32, After::Everything);
            let last = gpu.memory.begin_launch(1, 32, after_first(u64::from(ordered)));
            gpu.blocks.extend([&next, &last].map(|launch| BlockClock::new(launch, 0)));
            second(&mut gpu, 1, x + 4, order, Scope::Gpu).unwrap();
            let result = third(&mut gpu, 2, x, Weak, Scope::Sys);
            assert_eq!(result.is_err(), !ordered, "{name}");
        }
    }
}

#[test]
fn counters_do_not_grow_from_launch_to_launch() {
    // 200 launches of 2000 blocks that increment and read one counter: the shadow keeps one launch's accesses, and
    // what is ordered before is not walked for every reader.
    let memory = DeviceMemory::new(MemoryConfig::default());
    let x = memory.allocate(4).unwrap();
    memory.fill(x, &[0], 4).unwrap();
    let (mut cache, mut bytes) = (Cache::default(), LaneBytes::default());
    let start = std::time::Instant::now();
    let mut known = Vec::new();
    for round in 0..100u64 {
        // Every other launch is on another stream that the first one's launches wait for, one by one.
        let launches = [
            memory.begin_launch(2000, 32, After::Launches { before: 0, and: &known }),
            memory.begin_launch(
                2000,
                32,
                After::Launches { before: 2 * round, and: &[0..0, 2 * round..2 * round + 1] },
            ),
        ];
        known.clear();
        known.push(0..2 * round + 2);
        for (index, launch) in launches.iter().enumerate() {
            for block in 0..2000 {
                let mut clock = BlockClock::new(launch, block);
                let at = [x; 32];
                let access = Access::weak(&at, 1, Width::B4, 0);
                if index == 0 {
                    let access = access.ordered(Order::Relaxed, Scope::Gpu);
                    memory.atomic(&mut cache, &mut clock, 0, &access, &mut bytes, &mut |_, old| Some(old + 1))
                } else {
                    memory.load(&mut cache, &mut clock, 0, &access, &mut bytes)
                }
                .unwrap();
            }
        }
    }
    assert_eq!(bytes.get_u32(Width::B4, 0)[0], 200_000);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
}

#[test]
fn noncoherent_loads() {
    let mut gpu = Gpu::new(1, 32);
    let x = gpu.array(256);
    let load = |gpu: &mut Gpu, block, address| {
        gpu.load(
            block,
            0,
            Access::weak(&row(address, 4), ALL, Width::B4, 0).ordered(Order::NonCoherent, Scope::Sys),
        )
    };
    load(&mut gpu, 0, x).unwrap();
    gpu.store(0, 0, Access::weak(&row(x, 4), ALL, Width::B4, 0)).unwrap();
    assert!(matches!(kind(load(&mut gpu, 0, x)), FaultKind::NonCoherentRead(_)));
    load(&mut gpu, 0, x + 128).unwrap();
    let next = gpu.memory.begin_launch(1, 32, After::Everything);
    gpu.blocks.push(BlockClock::new(&next, 0));
    load(&mut gpu, 1, x).unwrap();
}

#[test]
fn shared_memory() {
    let memory = DeviceMemory::new(MemoryConfig::default());
    let launch = memory.begin_launch(1, 64, After::Everything);
    let mut clock = BlockClock::new(&launch, 0);
    let mut shared = SharedMemory::new(1000, Checks::ALL);
    let mut bytes = LaneBytes::default();
    bytes.put_u32(Width::B4, 0, &std::array::from_fn(|lane| lane as u32 * 3));
    let at = row(0, 4);
    let access = Access::weak(&at, ALL, Width::B4, 5);
    assert!(matches!(
        kind(shared.load(&mut clock, 0, &access, &mut bytes.clone())),
        FaultKind::Uninitialised(0xf)
    ));
    shared.reset();
    shared.store(&mut clock, 0, &access, &bytes).unwrap();
    let fault = shared.load(&mut clock, 1, &access, &mut LaneBytes::default()).unwrap_err();
    assert_eq!(fault.space, Space::Shared);
    let FaultKind::Race(other) = fault.kind else { panic!("{fault}") };
    assert_eq!((other.warp, other.source, fault.party.thread()), (0, 5, 32));
    clock.barrier(&[(0, ALL), (1, ALL)]);
    let mut out = LaneBytes::default();
    shared.load(&mut clock, 1, &access, &mut out).unwrap();
    assert_eq!(out.get_u32(Width::B4, 0)[9], 27);
    // Bounds: exact size, distance; alignment.
    let near = |distance| {
        FaultKind::OutOfBounds(Some(Nearest { base: 0, size: 1000, serial: 0, live: true, distance }))
    };
    let mut load = |address: u64, width| {
        kind(shared.load(
            &mut clock,
            1,
            &Access::weak(&[address; 32], 1, width, 0),
            &mut LaneBytes::default(),
        ))
    };
    assert_eq!(load(1000, Width::B1), near(Some(0)));
    assert_eq!(load(1040, Width::B8), near(Some(40)));
    assert_eq!(load(992, Width::B16), near(Some(0)));
    assert_eq!(load(u64::MAX, Width::B1), near(Some(i64::MAX)));
    assert_eq!(load(6, Width::B4), FaultKind::Misaligned);
    assert_eq!(load(996, Width::B4), FaultKind::Uninitialised(0xf));
    // The next block finds it empty.
    shared.reset();
    assert!(shared.load(&mut clock, 1, &access, &mut out).is_err());
    assert!(SharedMemory::new(0, Checks::ALL).load(&mut clock, 0, &access, &mut out).is_err());
    // An atomic histogram; its plain read-out needs a barrier.
    let mut shared = SharedMemory::new(64, Checks { uninitialised: false, races: true });
    let bins = std::array::from_fn(|lane| (lane as u64 % 7) * 4);
    let access = Access::weak(&bins, ALL, Width::B4, 0).ordered(Order::Relaxed, Scope::Cta);
    for warp in 0..2 {
        shared.atomic(&mut clock, warp, &access, &mut out, &mut |_, old| Some(old + 1)).unwrap();
    }
    let access = Access::weak(&bins, 0x7f, Width::B4, 0);
    assert!(races(shared.load(&mut clock, 0, &access, &mut out)));
    // Lane 27 of warp 1 was the last at bin 6: its atomic has observed all others.
    let bin = [24; 32];
    let last = |lane: u32| Access::weak(&bin, 1 << lane, Width::B4, 0);
    assert!(races(shared.load(&mut clock, 1, &last(20), &mut out)));
    assert!(races(shared.store(&mut clock, 0, &last(27), &out)));
    shared.load(&mut clock, 1, &last(27), &mut out).unwrap();
    let kept = out.clone();
    shared.store(&mut clock, 1, &last(27), &kept).unwrap();
    clock.barrier(&[(0, ALL), (1, ALL)]);
    shared.load(&mut clock, 0, &access, &mut out).unwrap();
    assert_eq!(out.get_u32(Width::B4, 0)[..7], [10, 10, 10, 10, 8, 8, 8]);
    let mut peeked = [0; 4];
    assert!(shared.peek(0, &mut peeked) && peeked[0] == 10 && !shared.peek(61, &mut peeked));
}

#[test]
fn local_memory() {
    let memory = DeviceMemory::new(MemoryConfig::default());
    let mut clock = BlockClock::new(&memory.begin_launch(1, 32, After::Everything), 0);
    let mut local = LocalMemory::new(40, Checks::ALL);
    let mut bytes = LaneBytes::default();
    bytes.put_u64(Width::B8, 0, &std::array::from_fn(|lane| lane as u64));
    let at = |address| [address; 32];
    local.store(&mut clock, 0, &Access::weak(&at(32), ALL, Width::B8, 0), &bytes).unwrap();
    let mut out = LaneBytes::default();
    local.load(&mut clock, 0, &Access::weak(&at(32), ALL, Width::B8, 0), &mut out).unwrap();
    assert_eq!(out.get_u64(Width::B8, 0)[31], 31);
    let unread = kind(local.load(&mut clock, 0, &Access::weak(&at(24), ALL, Width::B8, 0), &mut out));
    assert_eq!(unread, FaultKind::Uninitialised(0xff));
    let outside = local.load(&mut clock, 0, &Access::weak(&at(40), ALL, Width::B8, 0), &mut out).unwrap_err();
    assert!(outside.space == Space::Local && matches!(outside.kind, FaultKind::OutOfBounds(_)));
}

#[test]
fn limits_and_leaks() {
    let memory =
        DeviceMemory::new(MemoryConfig { limit: 80 << 30, checks: Checks::ALL, ..MemoryConfig::default() });
    // 20 GiB that nobody touches cost next to nothing.
    let start = std::time::Instant::now();
    let big = memory.allocate(20 << 30).unwrap();
    memory.write(big + (20 << 30) - 4, &[1, 2, 3, 4]).unwrap();
    let mut out = [9; 8];
    memory.read(big + (20 << 30) - 8, &mut out).unwrap();
    assert_eq!(out, [0, 0, 0, 0, 1, 2, 3, 4]);
    assert!(start.elapsed().as_secs() < 5);
    assert_eq!(memory.info(), MemoryInfo { free: 60 << 30, total: 80 << 30 });
    assert_eq!(
        memory.allocate(61 << 30),
        Err(AllocateError::OutOfMemory { requested: 61 << 30, free: 60 << 30 })
    );
    assert_eq!(
        memory.allocate(u64::MAX),
        Err(AllocateError::OutOfMemory { requested: u64::MAX, free: 60 << 30 })
    );
    assert_eq!(memory.allocate(0), Err(AllocateError::ZeroSize));
    let small = memory.allocate(100).unwrap();
    assert_eq!(memory.info().free, (60 << 30) - 512);
    assert_eq!(
        memory.leaks().iter().map(|leak| (leak.base, leak.size)).collect::<Vec<_>>(),
        [(big, 20 << 30), (small, 100)]
    );
    assert_eq!(memory.find(small + 99).map(|found| found.base), Some(small));
    assert_eq!(memory.find(small + 100), None);
    memory.free(big).unwrap();
    memory.free(small).unwrap();
    assert_eq!((memory.info().free, memory.leaks().len()), (80 << 30, 0));
}

#[test]
fn host_access() {
    let memory = DeviceMemory::new(MemoryConfig::default());
    let (x, y) = (memory.allocate(300_000).unwrap(), memory.allocate(300_000).unwrap());
    let bytes = (0..300_000u32).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>();
    memory.write(x, &bytes).unwrap();
    memory.copy(y + 1001, x + 13, 280_000).unwrap();
    let mut out = vec![0; 280_000];
    memory.read_initialised(y + 1001, &mut out).unwrap();
    assert!(out == bytes[13..280_013]);
    assert_eq!(memory.check_initialised(y + 1000, 2), Err(HostError::Uninitialised(y + 1000)));
    memory.fill(y + 65_533, &[1, 2, 3, 4], 11).unwrap();
    memory.read(y + 65_533, &mut out[..11]).unwrap();
    assert_eq!(out[..11], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]);
    memory.flip_bit(y + 65_533, 7).unwrap();
    memory.read(y + 65_533, &mut out[..1]).unwrap();
    assert_eq!(out[0], 129);
    for result in [
        memory.write(x + 299_999, &[0; 2]),
        memory.read(x - 1, &mut [0; 2]),
        memory.fill(x, &[0], 300_001),
        memory.copy(x, y + 1, 300_000),
        memory.copy(u64::MAX, x, 2),
        memory.flip_bit(7, 0),
    ] {
        assert!(matches!(result, Err(HostError::OutOfBounds(_))));
    }
    assert_eq!(
        (memory.write(0, &[]), memory.fill(5, &[], 0), memory.copy(1, 2, 0)),
        (Ok(()), Ok(()), Ok(()))
    );
}

#[test]
fn reports_read_well() {
    let mut gpu = Gpu::new(2, 64);
    let x = gpu.array(64);
    gpu.write((0, 33), x, Order::Weak, Scope::Sys).unwrap();
    let text = gpu.read((1, 2), x, Order::Weak, Scope::Sys).unwrap_err().to_string();
    assert_eq!(
        text,
        format!(
            "unordered read of another block's write: 4-byte global load by block 1 thread 2 of launch 0 at source 2 at \
             {x:#x}, no release/acquire chain from the store by block 0 thread 33 of launch 0 at source 1"
        )
    );
    let text = gpu.read((1, 2), x + 68, Order::Weak, Scope::Sys).unwrap_err().to_string();
    assert!(text.ends_with(&format!("4 bytes past the end of allocation 0 of 64 bytes at {x:#x}")), "{text}");
}

#[test]
fn many_threads() {
    // Four threads run blocks at once: disjoint stores never fault, atomics lose nothing, checks on and off.
    for checks in [Checks::ALL, Checks::NONE] {
        let memory = DeviceMemory::new(MemoryConfig { limit: 1 << 30, checks, ..MemoryConfig::default() });
        let (x, sums) = (memory.allocate(4 * 32 * 4096).unwrap(), memory.allocate(64).unwrap());
        memory.fill(sums, &[0], 64).unwrap();
        let launch = memory.begin_launch(4096, 32, After::Everything);
        let next = std::sync::atomic::AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let (mut cache, mut bytes) = (Cache::default(), LaneBytes::default());
                    loop {
                        let block = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                        if block >= 4096 {
                            return;
                        }
                        let mut clock = BlockClock::new(&launch, block);
                        bytes.put_u32(Width::B4, 0, &[block as u32; 32]);
                        // Blocks are interleaved element by element.
                        let at = row(x + 4 * block, 4 * 4096);
                        memory
                            .store(&mut cache, &mut clock, 0, &Access::weak(&at, ALL, Width::B4, 0), &bytes)
                            .unwrap();
                        let at = [sums + 8 * (block % 8); 32];
                        let add = Access::weak(&at, ALL, Width::B8, 1).ordered(Order::Relaxed, Scope::Gpu);
                        let update = &mut |lane, old| Some(old + lane as u128);
                        memory.atomic(&mut cache, &mut clock, 0, &add, &mut bytes, update).unwrap();
                    }
                });
            }
        });
        let mut bytes = [0; 64];
        memory.read(sums, &mut bytes).unwrap();
        assert!(bytes.as_chunks().0.iter().all(|sum| u64::from_le_bytes(*sum) == 496 * 512));
        let mut bytes = vec![0; 4 * 32 * 4096];
        memory.read(x, &mut bytes).unwrap();
        let values = bytes.as_chunks().0.iter().map(|value| u32::from_le_bytes(*value));
        assert!(values.enumerate().all(|(i, value)| value as usize == i % 4096));
    }
}

#[test]
fn sector_counts() {
    let scattered = std::array::from_fn(|lane| 64 * (lane as u64 * 7 % 32));
    let table: [Row; 10] = [
        ("coalesced 4", row(0x1000, 4), ALL, Width::B4, 4, 128),
        ("coalesced 16", row(0x1000, 16), ALL, Width::B16, 16, 512),
        ("coalesced 2", row(0x1000, 2), ALL, Width::B2, 2, 64),
        ("shifted by one element", row(0x1004, 4), ALL, Width::B4, 5, 128),
        ("broadcast", [0x1000; 32], ALL, Width::B4, 1, 128),
        ("stride 8", row(0x1000, 8), ALL, Width::B4, 8, 128),
        ("stride 128", row(0x1000, 128), ALL, Width::B4, 32, 128),
        ("scattered", scattered, ALL, Width::B4, 32, 128),
        ("half a warp", row(0x1000, 4), 0xffff, Width::B4, 2, 64),
        ("nobody", row(0x1000, 4), 0, Width::B4, 0, 0),
    ];
    for (name, addresses, mask, width, count, bytes) in table {
        assert_eq!(sectors(&addresses, mask, width), Traffic { sectors: count, bytes }, "{name}");
    }
    let there_and_back = std::array::from_fn(|lane| 32 * (lane as u64 % 2));
    assert_eq!(sectors(&there_and_back, ALL, Width::B4).sectors, 2);
}

#[test]
fn bank_conflicts() {
    let table: [Row; 13] = [
        ("one word a lane", row(0, 4), ALL, Width::B4, 1, 1),
        ("broadcast", [12; 32], ALL, Width::B4, 1, 1),
        ("two words, one bank", std::array::from_fn(|lane| 128 * (lane as u64 % 2)), ALL, Width::B4, 1, 2),
        ("stride 2", row(0, 8), ALL, Width::B4, 1, 2),
        ("stride 32: a column", row(0, 128), ALL, Width::B4, 1, 32),
        ("stride 33: a padded column", row(0, 132), ALL, Width::B4, 1, 1),
        ("halves share words", row(0, 2), ALL, Width::B2, 1, 1),
        ("bytes share words", row(0, 1), ALL, Width::B1, 1, 1),
        ("8 bytes by half warps", row(0, 8), ALL, Width::B8, 2, 2),
        ("8 bytes, stride 16", row(0, 16), ALL, Width::B8, 2, 4),
        ("16 bytes by quarter warps", row(0, 16), ALL, Width::B16, 4, 4),
        ("16 bytes, stride 128", row(0, 128), ALL, Width::B16, 4, 32),
        ("one quarter only", row(0, 16), 0xff00, Width::B16, 1, 1),
    ];
    for (name, addresses, mask, width, ideal, taken) in table {
        assert_eq!(bank_passes(&addresses, mask, width), Passes { ideal, taken }, "{name}");
    }
    assert_eq!(bank_passes(&row(0, 128), ALL, Width::B4).conflicts(), 31);
    assert_eq!(bank_passes(&row(0, 4), 0, Width::B4), Passes::default());
}

#[test]
fn lane_bytes() {
    let mut bytes = LaneBytes::default();
    for index in 0..4 {
        bytes.put_u32(Width::B16, index, &std::array::from_fn(|lane| (lane * 4 + index) as u32));
    }
    assert_eq!(bytes.get_u32(Width::B16, 3)[5], 23);
    assert_eq!(bytes.get_u64(Width::B16, 1)[5], 22 | 23 << 32);
    assert_eq!(bytes.lane(Width::B16, 1)[..5], [4, 0, 0, 0, 5]);
    assert_eq!(bytes.get_u32(Width::B4, 1), [0; 32]);
    assert_eq!(Width::from_bytes(8), Some(Width::B8));
    assert_eq!(Width::from_bytes(3), None);
}
