//! Rates of the memory checks, printed (`--nocapture`); the asserted floors are far below what is measured, so that a
//! busy machine does not fail.

use std::time::Instant;

use orthant_gpu::memory::*;

const BYTES: usize = 8 << 20;

/// Reads two arrays and writes one, warp by warp, as an elementwise kernel does. Bytes per second of one thread.
fn elementwise(checks: Checks, width: Width, launches: u32) -> f64 {
    let memory = DeviceMemory::new(MemoryConfig { checks, ..MemoryConfig::default() });
    let arrays = [(); 3].map(|()| memory.allocate(BYTES as u64).unwrap());
    arrays.iter().for_each(|&array| memory.fill(array, &[1], BYTES).unwrap());
    let per_warp = 32 * width.bytes() as u64;
    let warps = BYTES as u64 / per_warp;
    let mut cache = Cache::default();
    let mut bytes = LaneBytes::default();
    let mut best = 0f64;
    for _ in 0..launches {
        let launch = memory.begin_launch(warps / 8, 256, After::Everything);
        let start = Instant::now();
        for block in 0..warps / 8 {
            let mut clock = BlockClock::new(&launch, block);
            for warp in 0..8 {
                let offset = (block * 8 + warp) * per_warp;
                for (index, array) in arrays.iter().enumerate() {
                    let addresses =
                        std::array::from_fn(|lane| array + offset + (lane * width.bytes()) as u64);
                    let access = Access::weak(&addresses, u32::MAX, width, index as u32);
                    if index < 2 {
                        memory.load(&mut cache, &mut clock, warp as usize, &access, &mut bytes).unwrap();
                    } else {
                        memory.store(&mut cache, &mut clock, warp as usize, &access, &bytes).unwrap();
                    }
                }
            }
        }
        best = best.max(3.0 * BYTES as f64 / start.elapsed().as_secs_f64());
    }
    best
}

/// A tree reduction's traffic in shared memory, a barrier after each of its steps.
fn shared(checks: Checks) -> f64 {
    let memory = DeviceMemory::new(MemoryConfig::default());
    let launch = memory.begin_launch(64, 256, After::Everything);
    let mut shared = SharedMemory::new(4096, checks);
    let mut bytes = LaneBytes::default();
    let everyone = (0..8).map(|warp| (warp, u32::MAX)).collect::<Vec<_>>();
    let start = Instant::now();
    let mut moved = 0;
    for block in 0..64 {
        let mut clock = BlockClock::new(&launch, block);
        shared.reset();
        for step in 0..64u64 {
            for warp in 0..8 {
                let at = |shift: u64| {
                    std::array::from_fn(|lane| ((warp as u64 + shift) % 8 * 32 + lane as u64) * 4)
                };
                shared
                    .store(&mut clock, warp, &Access::weak(&at(0), u32::MAX, Width::B4, 0), &bytes)
                    .unwrap();
                if step > 0 && warp % 2 == 0 {
                    continue;
                }
            }
            clock.barrier(&everyone);
            for warp in 0..8 {
                let at = std::array::from_fn(|lane| ((warp as u64 + 1 + step) % 8 * 32 + lane as u64) * 4);
                shared
                    .load(&mut clock, warp, &Access::weak(&at, u32::MAX, Width::B4, 1), &mut bytes)
                    .unwrap();
            }
            clock.barrier(&everyone);
            moved += 16 * 128;
        }
    }
    f64::from(moved) / start.elapsed().as_secs_f64()
}

/// Gathers: every lane its own sector.
fn gather(checks: Checks) -> f64 {
    let memory = DeviceMemory::new(MemoryConfig { checks, ..MemoryConfig::default() });
    let array = memory.allocate(BYTES as u64).unwrap();
    memory.fill(array, &[1], BYTES).unwrap();
    let launch = memory.begin_launch(1, 32, After::Everything);
    let mut clock = BlockClock::new(&launch, 0);
    let (mut cache, mut bytes) = (Cache::default(), LaneBytes::default());
    let start = Instant::now();
    let rounds = 100_000u64;
    for round in 0..rounds {
        let at = |lane: usize| (round * 32 + lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        let addresses = std::array::from_fn(|lane| array + at(lane) % (BYTES as u64 / 4) * 4);
        memory
            .load(&mut cache, &mut clock, 0, &Access::weak(&addresses, u32::MAX, Width::B4, 0), &mut bytes)
            .unwrap();
    }
    (rounds * 128) as f64 / start.elapsed().as_secs_f64()
}

/// Atomics: a histogram of that many bins, by blocks of one warp. Bytes per second.
fn histogram(checks: Checks, bins: u64) -> f64 {
    let memory = DeviceMemory::new(MemoryConfig { checks, ..MemoryConfig::default() });
    let array = memory.allocate(4 * bins).unwrap();
    memory.fill(array, &[0], 4 * bins as usize).unwrap();
    let (blocks, rounds) = (200, 20u64);
    let launch = memory.begin_launch(blocks, 32, After::Everything);
    let (mut cache, mut bytes) = (Cache::default(), LaneBytes::default());
    let start = Instant::now();
    for block in 0..blocks {
        let mut clock = BlockClock::new(&launch, block);
        for round in 0..rounds {
            let at = |lane: usize| {
                ((block * rounds + round) * 32 + lane as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
            };
            let addresses = std::array::from_fn(|lane| array + (at(lane) >> 40) % bins * 4);
            let access = Access::weak(&addresses, u32::MAX, Width::B4, 0).ordered(Order::Relaxed, Scope::Gpu);
            memory
                .atomic(&mut cache, &mut clock, 0, &access, &mut bytes, &mut |_, old| Some(old + 1))
                .unwrap();
        }
    }
    (blocks * rounds * 128) as f64 / start.elapsed().as_secs_f64()
}

/// Two threads with blocks that alternate, so that they meet in most pages: the locks' worst case.
fn two_threads(checks: Checks) -> f64 {
    let memory = DeviceMemory::new(MemoryConfig { checks, ..MemoryConfig::default() });
    let array = memory.allocate(BYTES as u64).unwrap();
    memory.fill(array, &[1], BYTES).unwrap();
    let launch = memory.begin_launch(BYTES as u64 / 128, 32, After::Everything);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for first in 0..2 {
            let (memory, launch) = (&memory, &launch);
            scope.spawn(move || {
                let (mut cache, mut bytes) = (Cache::default(), LaneBytes::default());
                for block in (first..BYTES as u64 / 128).step_by(2) {
                    let mut clock = BlockClock::new(launch, block);
                    let addresses = std::array::from_fn(|lane| array + block * 128 + lane as u64 * 4);
                    let access = Access::weak(&addresses, u32::MAX, Width::B4, 0);
                    memory.load(&mut cache, &mut clock, 0, &access, &mut bytes).unwrap();
                    memory.store(&mut cache, &mut clock, 0, &access, &bytes).unwrap();
                }
            });
        }
    });
    2.0 * BYTES as f64 / start.elapsed().as_secs_f64()
}

#[test]
fn rates() {
    for width in [Width::B2, Width::B4, Width::B16] {
        let (checked, unchecked) = (elementwise(Checks::ALL, width, 3), elementwise(Checks::NONE, width, 3));
        println!(
            "global {:>2}-byte lanes: {:7.0} MB/s checked, {:7.0} MB/s unchecked",
            width.bytes(),
            checked / 1e6,
            unchecked / 1e6
        );
        assert!(checked > 20e6 && unchecked > 100e6);
    }
    println!(
        "global gather of 4 bytes: {:7.0} MB/s checked, {:7.0} MB/s unchecked",
        gather(Checks::ALL) / 1e6,
        gather(Checks::NONE) / 1e6
    );
    for bins in [256, 1 << 16] {
        println!(
            "atomics, {bins:>5} bins:      {:7.1} MB/s checked, {:7.1} MB/s unchecked",
            histogram(Checks::ALL, bins) / 1e6,
            histogram(Checks::NONE, bins) / 1e6
        );
    }
    println!(
        "shared with barriers:     {:7.0} MB/s checked, {:7.0} MB/s unchecked",
        shared(Checks::ALL) / 1e6,
        shared(Checks::NONE) / 1e6
    );
    println!(
        "two threads, same pages:  {:7.0} MB/s checked, {:7.0} MB/s unchecked",
        two_threads(Checks::ALL) / 1e6,
        two_threads(Checks::NONE) / 1e6
    );
}
