//! Copies and memsets on streams: races with kernels and with each other, in both orders, each with the ordering that
//! mends it.

use orthant_gpu::memory::*;

const SIZE: usize = 200_000;

/// What one launch or transfer does. Offsets from the start of the first of two arrays; the second begins at `Y`.
#[derive(Clone, Copy, Debug)]
enum Act {
    Load(u64, Width),
    Store(u64, Width),
    Add(u64),
    Volatile(u64),
    /// Host to device, memset, device to host: offset, length.
    In(u64, usize),
    Set(u64, usize),
    Out(u64, usize),
    /// Device to device: to, from, length.
    Copy(u64, u64, usize),
}
use Act::*;

const Y: u64 = 1 << 40;

struct Card {
    memory: DeviceMemory,
    arrays: [u64; 2],
}

#[derive(Debug)]
enum Refused {
    Fault(Box<Fault>),
    Transfer(TransferError),
}

impl Refused {
    fn fault(self) -> Box<Fault> {
        match self {
            Refused::Fault(fault) | Refused::Transfer(TransferError::Race(fault)) => fault,
            other => panic!("{other:?}"),
        }
    }
}

fn pattern(seed: u32) -> Vec<u8> {
    (0..SIZE as u32).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 24) as u8).collect()
}

impl Card {
    fn new() -> Self {
        let memory = DeviceMemory::new(MemoryConfig::default());
        let arrays = [(); 2].map(|()| memory.allocate(SIZE as u64).unwrap());
        memory.write(arrays[0], &pattern(1)).unwrap();
        memory.write(arrays[1], &pattern(2)).unwrap();
        Self { memory, arrays }
    }

    fn at(&self, offset: u64) -> u64 {
        if offset >= Y { self.arrays[1] + offset - Y } else { self.arrays[0] + offset }
    }

    fn bytes(&self) -> [Vec<u8>; 2] {
        self.arrays.map(|array| {
            let mut bytes = vec![0; SIZE];
            self.memory.read(array, &mut bytes).unwrap();
            bytes
        })
    }

    /// One thread of block 2.
    fn kernel(&self, launch: &Launch, act: Act) -> Result<(), Box<Fault>> {
        let (mut clock, mut cache) = (BlockClock::new(launch, 2), Cache::default());
        let mut bytes = LaneBytes([0xee; 512]);
        let (offset, width) = match act {
            Load(at, width) | Store(at, width) => (at, width),
            Add(at) | Volatile(at) => (at, Width::B4),
            _ => unreachable!(),
        };
        let addresses = [self.at(offset); 32];
        let access = Access::weak(&addresses, 1 << 5, width, 77);
        match act {
            Load(..) => self.memory.load(&mut cache, &mut clock, 0, &access, &mut bytes),
            Store(..) => self.memory.store(&mut cache, &mut clock, 0, &access, &bytes),
            Volatile(_) => {
                let access = access.ordered(Order::Volatile, Scope::Sys);
                self.memory.store(&mut cache, &mut clock, 0, &access, &bytes)
            }
            _ => {
                let access = access.ordered(Order::Relaxed, Scope::Gpu);
                let update = &mut |_, old: u128| Some(old.wrapping_add(1));
                self.memory.atomic(&mut cache, &mut clock, 0, &access, &mut bytes, update)
            }
        }
    }

    fn transfer(&self, launch: &Launch, act: Act) -> Result<(), TransferError> {
        match act {
            In(to, len) => self.memory.write_as(launch, self.at(to), &vec![0xdd; len]),
            Set(to, len) => self.memory.fill_as(launch, self.at(to), &[1, 2, 3, 4], len),
            Out(from, len) => self.memory.read_as(launch, self.at(from), &mut vec![0; len]),
            Copy(to, from, len) => self.memory.copy_as(launch, self.at(to), self.at(from), len),
            _ => unreachable!(),
        }
    }

    fn run(&self, act: Act, after: After<'_>) -> Result<u64, Refused> {
        if matches!(act, Load(..) | Store(..) | Add(_) | Volatile(_)) {
            let launch = self.memory.begin_launch(4, 32, after);
            return self.kernel(&launch, act).map(|()| launch.id()).map_err(Refused::Fault);
        }
        let launch = self.memory.begin_transfer(after);
        self.transfer(&launch, act).map(|()| launch.id()).map_err(Refused::Transfer)
    }

    /// A kernel, before everything else, that touches every page: the shadow has sectors from then on.
    fn touch_all(&self) {
        for page in (0..SIZE as u64).step_by(64 << 10).flat_map(|page| [page, Y + page]) {
            self.run(Load(page, Width::B4), After::Everything).unwrap();
        }
    }
}

/// Both orders, with and without the ordering that mends it, on memory that a kernel has touched before and that none
/// has.
fn pair(name: &str, one: Act, two: Act, racy: bool) {
    for (first, second) in [(one, two), (two, one)] {
        for (ordered, touched) in [(false, false), (false, true), (true, false), (true, true)] {
            let what = format!("{name}: {first:?} then {second:?}, ordered {ordered}, touched {touched}");
            let card = Card::new();
            if touched {
                card.touch_all();
            }
            let launch = card.run(first, After::Everything).unwrap();
            let before = card.bytes();
            let known = [0..0, launch..launch + 1];
            let known = if ordered { &known } else { &known[..1] };
            let result = card.run(second, After::Launches { before: launch, and: known });
            assert_eq!(result.is_err(), racy && !ordered, "{what}");
            if let Err(refused) = result {
                let transfer = matches!(refused, Refused::Transfer(_));
                let fault = refused.fault();
                let (FaultKind::Race(other) | FaultKind::UnorderedRead(other)) = fault.kind else {
                    panic!("{what}: {fault}")
                };
                assert!(card.bytes() == before, "{what}: bytes have moved");
                assert_eq!((other.launch, fault.party.launch), (launch, launch + 1), "{what}");
                if transfer {
                    assert_eq!((fault.party.source, fault.party.block), (NO_SOURCE, 0), "{what}");
                }
                let by_kernel = (other.block, other.lane, other.source) == (2, 5, 77);
                let by_transfer = (other.block, other.lane, other.source) == (0, 0, NO_SOURCE);
                assert!(by_kernel || by_transfer, "{what}: {fault}");
            }
        }
    }
}

#[test]
fn pairs() {
    use Width::{B1, B4, B16};
    let table = [
        ("upload, load", In(0, SIZE), Load(100_000, B4), true),
        ("upload, store", In(0, SIZE), Store(4, B4), true),
        ("upload, atomic", In(0, 4), Add(0), true),
        ("upload, volatile store", In(0, 4), Volatile(0), true),
        ("download, load", Out(0, SIZE), Load(100_000, B4), false),
        ("download, store", Out(0, SIZE), Store(199_996, B4), true),
        ("download, atomic", Out(0, SIZE), Add(65_536), true),
        ("download, volatile store", Out(0, SIZE), Volatile(65_532), true),
        ("memset, load", Set(64, 64), Load(96, B16), true),
        ("memset, store", Set(64, 64), Store(112, B16), true),
        ("copy's source, load", Copy(Y, 0, SIZE), Load(100, B4), false),
        ("copy's source, store", Copy(Y, 0, SIZE), Store(100, B4), true),
        ("copy's target, load", Copy(Y, 0, SIZE), Load(Y + 100, B4), true),
        ("copy's target, store", Copy(Y, 0, SIZE), Store(Y + 100, B4), true),
        ("uploads", In(0, SIZE), In(SIZE as u64 - 1, 1), true),
        ("upload, download", In(0, SIZE), Out(0, SIZE), true),
        ("upload, memset", In(0, SIZE), Set(70_000, 3), true),
        ("downloads", Out(0, SIZE), Out(0, SIZE), false),
        ("copies from one source", Copy(Y, 0, 50_000), Copy(Y + 50_000, 0, 50_000), false),
        ("copies to one target", Copy(Y, 0, 50_000), Copy(Y + 49_999, 50_000, 50_000), true),
        ("copy from the other's target", Copy(Y, 0, 50_000), Copy(90_000, Y + 49_999, 10), true),
        ("copy, upload to its source", Copy(Y, 0, SIZE), In(100_000, 1), true),
        ("copy, download from its source", Copy(Y, 0, SIZE), Out(0, SIZE), false),
        // To the byte.
        ("last byte in front", In(10, 7), Load(9, B1), false),
        ("first byte", In(10, 7), Load(10, B1), true),
        ("last byte", In(10, 7), Load(16, B1), true),
        ("first byte behind", In(10, 7), Load(17, B1), false),
        ("over a sector's end", In(30, 4), Store(33, B1), true),
        ("behind it", In(30, 4), Store(34, B1), false),
        ("over a page's end", In(65_535, 2), Store(65_536, B1), true),
        ("in front of it", In(65_535, 2), Store(65_534, B1), false),
        ("copies side by side", Copy(Y, 0, 33), Copy(Y + 33, 0, 33), false),
        ("memsets side by side", Set(1, 65_536), Set(65_537, 9), false),
        ("memsets that share a byte", Set(1, 65_536), Set(65_536, 9), true),
    ];
    for (name, one, two, racy) in table {
        pair(name, one, two, racy);
    }
}

#[test]
fn the_first_bytes_are_named() {
    for touched in [false, true] {
        let card = Card::new();
        if touched {
            card.touch_all();
        }
        let kernel = card.run(Store(131_072, Width::B16), After::Everything).unwrap();
        let after = After::Launches { before: kernel, and: &[] };
        let fault = card.run(In(1, SIZE - 1), after).unwrap_err().fault();
        assert_eq!((fault.address, fault.width), (card.at(131_072), 16));
        assert_eq!(
            fault.to_string(),
            format!(
                "race: 16-byte global store by transfer {} at {:#x}, unordered with a store by block 2 thread 5 of \
                 launch {kernel} at source 77",
                kernel + 1,
                card.at(131_072)
            )
        );
        // In a copy the side that races is told by the action.
        let fault = card.run(Copy(Y, 131_080, 20), after).unwrap_err().fault();
        assert_eq!((fault.party.action, fault.address, fault.width), (Action::Load, card.at(131_080), 8));
        let fault = card.run(Copy(131_080, Y, 20), after).unwrap_err().fault();
        assert_eq!((fault.party.action, fault.address, fault.width), (Action::Store, card.at(131_080), 8));
        // The kernel's report names the transfer.
        let upload = card.run(In(0, 9), After::Everything).unwrap();
        let after = After::Launches { before: upload, and: &[] };
        let text = card.run(Load(4, Width::B4), after).unwrap_err().fault().to_string();
        let end = format!("not ordered after the store by transfer {upload}");
        assert!(
            text.starts_with("unordered read of another launch's write: 4-byte") && text.ends_with(&end),
            "{text}"
        );
    }
}

#[test]
fn ranges_are_checked() {
    let card = Card::new();
    let (memory, [x, y]) = (&card.memory, card.arrays);
    let launch = memory.begin_transfer(After::Everything);
    let outside = |result| matches!(result, Err(TransferError::Host(HostError::OutOfBounds(Some(_)))));
    assert!(outside(memory.write_as(&launch, x + 1, &[0; SIZE])));
    assert!(outside(memory.read_as(&launch, x - 1, &mut [0; 2])));
    assert!(outside(memory.fill_as(&launch, x + 1, &[0], SIZE)));
    assert!(outside(memory.copy_as(&launch, x + 1, y, SIZE)));
    assert!(outside(memory.copy_as(&launch, x, y + 1, SIZE)));
    assert!(card.bytes() == [pattern(1), pattern(2)]);
    assert_eq!(memory.write_as(&launch, 0, &[]), Ok(()));
    assert_eq!(memory.copy_as(&launch, 0, 1, 0), Ok(()));
    memory.free(y).unwrap();
    let freed =
        |result| matches!(result, Err(TransferError::Host(HostError::UseAfterFree(near))) if near.base == y);
    assert!(freed(memory.write_as(&launch, y + 5, &[1])));
    assert!(freed(memory.read_as(&launch, y, &mut [1])));
    assert!(freed(memory.fill_as(&launch, y, &[1, 2], 100)));
    assert!(freed(memory.copy_as(&launch, x, y, 10)));
    assert!(freed(memory.copy_as(&launch, y, x, 10)));
}

#[test]
fn bytes_move() {
    for checks in [Checks::ALL, Checks::NONE] {
        let memory = DeviceMemory::new(MemoryConfig { checks, ..MemoryConfig::default() });
        let (x, y) = (memory.allocate(SIZE as u64).unwrap(), memory.allocate(SIZE as u64).unwrap());
        let next = || memory.begin_transfer(After::Everything);
        memory.write_as(&next(), x + 7, &pattern(3)[7..150_000]).unwrap();
        memory.copy_as(&next(), y + 11, x, 160_000).unwrap();
        let mut out = vec![1; SIZE];
        memory.read_as(&next(), y, &mut out).unwrap();
        assert!(out[18..150_011] == pattern(3)[7..150_000]);
        assert!(out[..18].iter().chain(&out[150_011..]).all(|&byte| byte == 0));
        // What was not written in the source is not in the target.
        if checks.uninitialised {
            assert_eq!(memory.check_initialised(y + 18, 149_993), Ok(()));
            assert_eq!(memory.check_initialised(y + 17, 9), Err(HostError::Uninitialised(y + 17)));
            assert_eq!(memory.check_initialised(y + 150_000, 12), Err(HostError::Uninitialised(y + 150_011)));
        }
        memory.fill_as(&next(), y + 65_530, &[1, 2, 3, 4], 19).unwrap();
        memory.read_as(&next(), y + 65_530, &mut out[..20]).unwrap();
        assert_eq!(out[..19], [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3]);
        // Without the check nothing races.
        let unordered = memory.begin_transfer(After::Launches { before: 0, and: &[] });
        assert_eq!(memory.write_as(&unordered, y, &[1]).is_err(), checks.races);
    }
}

#[test]
fn rows_of_one_transfer_are_in_order() {
    // More rows than a page keeps stretches for, some of them twice; then every byte still knows who touched it.
    let card = Card::new();
    let memory = &card.memory;
    let rows = memory.begin_transfer(After::Everything);
    for row in (0..60).chain(20..30) {
        memory.write_as(&rows, card.at(row * 1000), &[9; 500]).unwrap();
        memory.copy_as(&rows, card.at(Y + row * 1000), card.at(row * 1000), 500).unwrap();
    }
    for row in 0..60 {
        for (offset, act, racy) in [
            (0, Load(row * 1000 + 496, Width::B4), true),
            (1, Load(row * 1000 + 500, Width::B4), false),
            (2, Store(row * 1000 + 996, Width::B4), false),
            (3, In(Y + row * 1000 + 499, 1), true),
        ] {
            let after = After::Launches { before: rows.id(), and: &[] };
            assert_eq!(card.run(act, after).is_err(), racy, "row {row}, {offset}");
        }
    }
}

#[test]
fn many_streams_read() {
    // 40 unordered downloads: a write that follows all but one of them is reported, whichever it is.
    for touched in [false, true] {
        for missing in [None, Some(0), Some(20), Some(39)] {
            let card = Card::new();
            if touched {
                card.touch_all();
            }
            let first = card.run(Out(Y, 1), After::Everything).unwrap() + 1;
            let apart = After::Launches { before: first, and: &[] };
            for stream in 0..40u64 {
                // Different stretches, all of which hold byte 100.
                card.run(Out(stream, 200 - stream as usize), apart).unwrap();
            }
            let known =
                missing.map_or([first..first + 40, 0..0], |m| [first..first + m, first + m + 1..first + 40]);
            let after = After::Launches { before: first, and: &known };
            match (card.run(In(100, 1), after), missing) {
                (Ok(_), None) => {}
                (Err(refused), Some(missing)) => {
                    let FaultKind::Race(other) = refused.fault().kind else { panic!() };
                    assert_eq!(other.launch, first + missing);
                }
                (result, _) => panic!("{result:?} without {missing:?}"),
            }
        }
    }
}

#[test]
fn streams_read_before_a_kernel_comes() {
    // The same with few enough that they are kept as stretches, until a kernel touches other bytes of the sector.
    for missing in 0..6 {
        let card = Card::new();
        for stream in 0..6 {
            card.run(Out(90 + stream, 30), After::Launches { before: 0, and: &[] }).unwrap();
        }
        card.run(Load(120, Width::B8), After::Launches { before: 0, and: &[] }).unwrap();
        let known = [0..missing, missing + 1..6];
        let refused = card.run(In(100, 1), After::Launches { before: 0, and: &known }).unwrap_err();
        let FaultKind::Race(other) = refused.fault().kind else { panic!() };
        assert_eq!(other.launch, missing);
        card.run(In(100, 1), After::Launches { before: 6, and: &[] }).unwrap();
    }
}

#[test]
fn reads_of_untouched_memory_count() {
    let card = Card::new();
    let memory = &card.memory;
    let x = memory.allocate(SIZE as u64).unwrap();
    let apart = || memory.begin_transfer(After::Launches { before: 0, and: &[] });
    let mut out = vec![1; SIZE];
    memory.read_as(&apart(), x, &mut out).unwrap();
    assert!(out.iter().all(|&byte| byte == 0));
    let error = memory.write_as(&apart(), x + 150_000, &[1]);
    assert!(matches!(error, Err(TransferError::Race(_))), "{error:?}");
}

#[test]
fn ranges_of_launches() {
    // However the same set is told, exactly it is known.
    let ids = [1u64, 2, 3, 5, 8];
    let told: [(u64, &[std::ops::Range<u64>]); 6] = [
        (0, &[1..4, 5..6, 8..9]),
        (0, &[8..9, 5..6, 1..2, 2..3, 3..4]),
        (0, &[1..4, 2..3, 5..6, 5..6, 8..9]),
        (0, &[2..4, 1..4, 8..9, 7..7, 5..6]),
        (1, &[1..3, 2..4, 5..6, 8..9]),
        (1, &[3..4, 8..9, 5..6, 0..3]),
    ];
    for (before, and) in told {
        for id in 0..10 {
            let card = Card::new();
            for launch in 0..10u64 {
                let apart = After::Launches { before: 0, and: &[] };
                assert_eq!(card.run(In(launch * 10, 10), apart).unwrap(), launch);
            }
            let known = ids.contains(&id) || id < before || (and.contains(&(0..3)) && id < 3);
            let read = card.run(Out(id * 10 + 5, 1), After::Launches { before, and });
            assert_eq!(read.is_ok(), known, "{id} with {before} and {and:?}");
        }
    }
    // Ids that are not begun yet are nothing.
    let card = Card::new();
    card.run(In(0, 1), After::Everything).unwrap();
    let later = [0..0, 1..u64::MAX];
    assert!(card.run(Out(0, 1), After::Launches { before: 0, and: &later }).is_err());
    card.run(Out(0, 1), After::Launches { before: u64::MAX, and: &later }).unwrap();
}

#[test]
fn a_copy_over_a_flag_ends_its_releases() {
    // A message passed through a flag from kernel to kernel; a memset of the flag in between, ordered with both.
    for reset in [false, true] {
        let card = Card::new();
        let memory = &card.memory;
        let (data, flag) = (card.at(0), card.at(64));
        let writer = memory.begin_launch(1, 32, After::Everything);
        let reader = memory.begin_launch(1, 32, After::Launches { before: 0, and: &[] });
        let (mut from, mut to) = (BlockClock::new(&writer, 0), BlockClock::new(&reader, 0));
        let (mut cache, mut bytes) = (Cache::default(), LaneBytes::default());
        let (data, flags) = ([data; 32], [flag; 32]);
        let weak = Access::weak(&data, 1, Width::B4, 1);
        memory.store(&mut cache, &mut from, 0, &weak, &bytes).unwrap();
        let release = Access::weak(&flags, 1, Width::B4, 2).ordered(Order::Release, Scope::Gpu);
        memory.store(&mut cache, &mut from, 0, &release, &bytes).unwrap();
        if reset {
            let after = memory.begin_transfer(After::Everything);
            memory.fill_as(&after, flag, &[1], 4).unwrap();
        }
        let late = memory.begin_launch(1, 32, After::Launches { before: 0, and: &[0..0, 2..3] });
        if reset {
            to = BlockClock::new(&late, 0);
        }
        let acquire = Access::weak(&flags, 1, Width::B4, 3).ordered(Order::Acquire, Scope::Gpu);
        memory.load(&mut cache, &mut to, 0, &acquire, &mut bytes).unwrap();
        assert_eq!(memory.load(&mut cache, &mut to, 0, &weak, &mut bytes).is_err(), reset);
    }
}

#[test]
fn noncoherent_loads_see_transfers() {
    // A transfer beside the kernel is not the kernel's own write.
    let card = Card::new();
    let kernel = card.memory.begin_launch(1, 32, After::Everything);
    let upload = card.run(In(0, 4), After::Launches { before: kernel.id(), and: &[] }).unwrap();
    let addresses = [card.at(0); 32];
    let access = Access::weak(&addresses, 1, Width::B4, 1).ordered(Order::NonCoherent, Scope::Sys);
    let mut clock = BlockClock::new(&kernel, 0);
    let load = card.memory.load(&mut Cache::default(), &mut clock, 0, &access, &mut LaneBytes::default());
    let FaultKind::UnorderedRead(other) = load.unwrap_err().kind else { panic!() };
    assert_eq!(other.launch, upload);
}

#[test]
fn cards_have_addresses_of_their_own() {
    let at = |first_address| DeviceMemory::new(MemoryConfig { first_address, ..MemoryConfig::default() });
    let (one, two) = (at(1 << 56), at(2 << 56));
    let (x, y) = (one.allocate(100).unwrap(), two.allocate(100).unwrap());
    assert!((1 << 56..2 << 56).contains(&x) && y >= 2 << 56);
    assert!(one.find(y).is_none() && two.find(x).is_none());
    assert!(at(0).allocate(1).unwrap() > 0);
    assert!(matches!(at(u64::MAX).allocate(1), Err(AllocateError::OutOfMemory { .. })));
}

#[test]
fn transfers_on_many_threads() {
    // Opposite ways over the same pages, other bytes: no race, and nobody waits for ever.
    let card = Card::new();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let card = &card;
            scope.spawn(move || {
                let mine = thread * 16;
                let apart = After::Launches { before: 0, and: &[] };
                for round in 0..50 {
                    let launch = card.memory.begin_transfer(apart);
                    for part in 0..30 {
                        let at = part * 6400 + mine;
                        let (to, from) = if (round + thread) % 2 == 0 { (at, Y + at) } else { (Y + at, at) };
                        if round > 0 {
                            // Another launch of this thread's: its bytes, but not ordered after.
                            assert!(card.memory.copy_as(&launch, card.at(to), card.at(from), 16).is_err());
                        } else {
                            card.memory.copy_as(&launch, card.at(to), card.at(from), 16).unwrap();
                        }
                    }
                }
            });
        }
    });
}

#[test]
fn rates() {
    const BYTES: usize = 64 << 20;
    let bytes = vec![7; BYTES];
    for (checks, touched) in [(Checks::NONE, false), (Checks::ALL, false), (Checks::ALL, true)] {
        let memory = DeviceMemory::new(MemoryConfig { checks, ..MemoryConfig::default() });
        let (x, y) = (memory.allocate(BYTES as u64).unwrap(), memory.allocate(BYTES as u64).unwrap());
        if touched {
            let mut clock = BlockClock::new(&memory.begin_launch(1, 32, After::Everything), 0);
            for page in (x..x + BYTES as u64).step_by(64 << 10).chain((y..y + BYTES as u64).step_by(64 << 10))
            {
                let access = [page; 32];
                let access = Access::weak(&access, 1, Width::B4, 0);
                memory.store(&mut Cache::default(), &mut clock, 0, &access, &LaneBytes::default()).unwrap();
            }
        }
        let time = |name: &str, act: &mut dyn FnMut(&Launch) -> Result<(), TransferError>| {
            let launch = memory.begin_transfer(After::Everything);
            let start = std::time::Instant::now();
            act(&launch).unwrap();
            let elapsed = start.elapsed();
            println!("{name} of 64 MiB, races {}, touched {touched}: {elapsed:?}", checks.races);
            assert!(elapsed.as_secs() < 5);
        };
        let mut out = vec![0; BYTES];
        time("upload  ", &mut |launch| memory.write_as(launch, x, &bytes));
        time("upload 2", &mut |launch| memory.write_as(launch, x, &bytes));
        time("copy    ", &mut |launch| memory.copy_as(launch, y, x, BYTES));
        time("download", &mut |launch| memory.read_as(launch, y, &mut out));
        time("memset 4", &mut |launch| memory.fill_as(launch, x, &[1, 2, 3, 4], BYTES));
        assert!(out == bytes);
    }
}
