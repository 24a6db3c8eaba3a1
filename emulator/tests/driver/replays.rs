//! What was captured is replayed as it would have run.

use crate::captures::{GLOBAL, begin, end, instantiate, record, wait_for};
use crate::harness::*;
use cudarc::driver::sys::{self, CUresult, CUstream};
use std::ptr::null_mut;

/// xorshift64*
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % n
    }
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Add(usize, u32),
    Scale(usize, u32),
    Memset(usize, u32),
    Copy(usize, usize),
    /// Pinned word to buffer.
    In(usize),
    /// Buffer to pinned word.
    Out(usize),
    /// The stream waits for another one.
    After(usize),
}

const BUFFERS: usize = 3;
const WORDS: u32 = 40;

/// Steps with their streams. Before each, its stream waits for all others that touched one of its buffers: so the order
/// of the list is the only one that counts.
fn program(random: &mut Random, streams: usize) -> Vec<(usize, Step)> {
    let mut last: [Option<usize>; BUFFERS] = [None; BUFFERS];
    let mut steps = Vec::new();
    for _ in 0..12 {
        let stream = random.below(streams as u64) as usize;
        let (a, b) = (random.below(3) as usize, random.below(3) as usize);
        let k = random.below(9) as u32 + 2;
        let step = match random.below(6) {
            0 => Step::Add(a, k),
            1 => Step::Scale(a, k),
            2 => Step::Memset(a, k),
            3 if a != b => Step::Copy(a, b),
            4 => Step::In(a),
            5 => Step::Out(a),
            _ => continue,
        };
        let touched = if let Step::Copy(..) = step { vec![a, b] } else { vec![a] };
        for &buffer in &touched {
            if let Some(other) = last[buffer].filter(|&other| other != stream) {
                steps.push((stream, Step::After(other)));
            }
        }
        touched.into_iter().for_each(|buffer| last[buffer] = Some(stream));
        steps.push((stream, step));
    }
    steps
}

struct Machine {
    add: sys::CUfunction,
    scale: sys::CUfunction,
    buffers: [u64; BUFFERS],
    /// One to read and one to write for each buffer.
    pinned: *mut u32,
    streams: Vec<CUstream>,
}

impl Machine {
    fn new(streams: usize) -> Machine {
        let module = module(KERNELS);
        let mut pinned = null_mut();
        ok(unsafe { sys::cuMemAllocHost_v2(&mut pinned, 8 * BUFFERS) });
        let machine = Machine {
            add: function(module, "add"),
            scale: function(module, "scale"),
            buffers: [(); BUFFERS].map(|()| alloc(4 * WORDS as usize)),
            pinned: pinned.cast(),
            streams: (0..streams).map(|_| stream()).collect(),
        };
        machine.reset();
        machine
    }

    fn reset(&self) {
        for (index, &buffer) in self.buffers.iter().enumerate() {
            put(buffer, &[index as u32 + 1; WORDS as usize]);
            unsafe { self.pinned.add(index).write(100 + index as u32) };
            unsafe { self.pinned.add(BUFFERS + index).write(0) };
        }
    }

    fn submit(&self, steps: &[(usize, Step)]) {
        let x = self.buffers;
        for &(at, step) in steps {
            let stream = self.streams[at];
            ok(match step {
                Step::Add(a, k) => launch(self.add, 2, 32, stream, &[&x[a], &WORDS, &k]),
                Step::Scale(a, k) => launch(self.scale, 2, 32, stream, &[&x[a], &WORDS, &k]),
                Step::Memset(a, k) => unsafe { sys::cuMemsetD32Async(x[a], k, WORDS as usize, stream) },
                Step::Copy(a, b) => unsafe {
                    sys::cuMemcpyDtoDAsync_v2(x[a], x[b], 4 * WORDS as usize, stream)
                },
                Step::In(a) => unsafe {
                    sys::cuMemcpyHtoDAsync_v2(x[a], self.pinned.add(a).cast(), 4, stream)
                },
                Step::Out(a) => unsafe {
                    sys::cuMemcpyDtoHAsync_v2(self.pinned.add(BUFFERS + a).cast(), x[a], 4, stream)
                },
                Step::After(other) => {
                    let event = event();
                    record(event, self.streams[other]);
                    wait_for(stream, event)
                }
            });
        }
    }

    /// The first stream goes before and after all others.
    fn fork(&self) {
        let event = event();
        record(event, self.streams[0]);
        self.streams[1..].iter().for_each(|&stream| ok(wait_for(stream, event)));
    }

    fn join(&self) {
        for &stream in &self.streams[1..] {
            let event = event();
            record(event, stream);
            ok(wait_for(self.streams[0], event));
        }
    }

    fn results(&self) -> Vec<u32> {
        ok(unsafe { sys::cuCtxSynchronize() });
        let pinned = (0..BUFFERS).map(|index| unsafe { self.pinned.add(BUFFERS + index).read() });
        self.buffers.iter().flat_map(|&buffer| get::<u32>(buffer, WORDS as usize)).chain(pinned).collect()
    }
}

#[test]
fn a_replay_does_what_the_streams_would_have_done() {
    let mut random = Random(0x5eed);
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..12 {
        for streams in 1..=3 {
            let steps = program(&mut random, streams);
            let session = session(&[("SEED", &seed.to_string())]);
            let machine = Machine::new(streams);
            for _ in 0..2 {
                machine.fork();
                machine.submit(&steps);
                machine.join();
            }
            let eager = machine.results();
            machine.reset();
            begin(machine.streams[0], GLOBAL);
            machine.fork();
            machine.submit(&steps);
            machine.join();
            let graph = end(machine.streams[0]);
            let nothing_ran = machine.results();
            assert_eq!(nothing_ran[..2], [1, 1]);
            let exec = instantiate(graph);
            // Two replays in a row come one after the other.
            ok(unsafe { sys::cuGraphLaunch(exec, machine.streams[0]) });
            ok(unsafe { sys::cuGraphLaunch(exec, machine.streams[0]) });
            assert_eq!(machine.results(), eager, "seed {seed}: {steps:?}: {:?}", session.faults());
            steps.iter().for_each(|(_, step)| _ = kinds.insert(format!("{step:?}")[..2].to_string()));
        }
    }
    assert_eq!(kinds.len(), 7, "{kinds:?}");
}

#[test]
fn host_memory_is_read_at_replay_arguments_at_capture() {
    for seed in 0..12 {
        let _session = session(&[("SEED", &seed.to_string())]);
        let machine = Machine::new(1);
        let (a, [x, y, z]) = (machine.streams[0], machine.buffers);
        let mut pageable = 1u32;
        let mut k = 5u32;
        begin(a, GLOBAL);
        machine.submit(&[(0, Step::In(0))]);
        ok(unsafe { sys::cuMemcpyHtoDAsync_v2(y, (&raw const pageable).cast(), 4, a) });
        ok(launch(machine.add, 1, 32, a, &[&z, &1u32, &k]));
        let exec = instantiate(end(a));
        k += 1;
        unsafe { machine.pinned.write(7) };
        pageable += 10;
        put(z, &[1000u32]);
        ok(unsafe { sys::cuGraphLaunch(exec, a) });
        ok(unsafe { sys::cuStreamSynchronize(a) });
        assert_eq!([x, y, z].map(|x| get::<u32>(x, 1)[0]), [7, 11, 1005], "seed {seed} {k}");
        // Device memory is what it is when the replay comes to it.
        put(z, &[2000u32]);
        unsafe { (&raw mut pageable).write_volatile(12) };
        ok(unsafe { sys::cuGraphLaunch(exec, a) });
        ok(unsafe { sys::cuStreamSynchronize(a) });
        assert_eq!([x, y, z].map(|x| get::<u32>(x, 1)[0]), [7, 12, 2005], "seed {seed} {pageable}");
    }
}

#[test]
fn replays_of_one_executable_in_two_streams_do_not_overlap() {
    for seed in 0..12 {
        let session = session(&[("SEED", &seed.to_string())]);
        let machine = Machine::new(2);
        begin(machine.streams[0], GLOBAL);
        machine.submit(&[(0, Step::Add(0, 1)), (0, Step::Scale(0, 2))]);
        let exec = instantiate(end(machine.streams[0]));
        for round in 0..4 {
            ok(unsafe { sys::cuGraphLaunch(exec, machine.streams[round % 2]) });
        }
        // 1 -> 4 -> 10 -> 22 -> 46
        assert_eq!(machine.results()[..2], [46, 46], "seed {seed}: {:?}", session.faults());
        // Another executable of the same nodes is ordered by nothing.
        let other = instantiate({
            begin(machine.streams[0], GLOBAL);
            machine.submit(&[(0, Step::Add(0, 1))]);
            end(machine.streams[0])
        });
        ok(unsafe { sys::cuGraphLaunch(exec, machine.streams[0]) });
        _ = unsafe { sys::cuGraphLaunch(other, machine.streams[1]) };
        fails(unsafe { sys::cuCtxSynchronize() }, CUresult::CUDA_ERROR_LAUNCH_FAILED);
        assert_eq!(session.faults().len(), 1);
    }
}

#[test]
fn branches_without_an_edge_that_touch_the_same_bytes_are_a_race_under_every_seed() {
    for seed in 0..12 {
        for second in [Step::Scale(0, 3), Step::Memset(0, 3), Step::In(0), Step::Copy(1, 0), Step::Out(0)] {
            for edge in [false, true] {
                let session = session(&[("SEED", &seed.to_string())]);
                let machine = Machine::new(2);
                begin(machine.streams[0], GLOBAL);
                machine.fork();
                machine.submit(&[(0, Step::Add(0, 1))]);
                if edge {
                    machine.submit(&[(1, Step::After(0))]);
                }
                machine.submit(&[(1, second)]);
                machine.join();
                let exec = instantiate(end(machine.streams[0]));
                _ = unsafe { sys::cuGraphLaunch(exec, machine.streams[0]) };
                let done = unsafe { sys::cuStreamSynchronize(machine.streams[0]) };
                assert_eq!(done == CUresult::CUDA_SUCCESS, edge, "seed {seed} {second:?}");
                assert_eq!(session.faults().len(), usize::from(!edge));
            }
        }
    }
}

#[test]
fn external_events_become_nodes() {
    for seed in 0..12 {
        let session = session(&[("SEED", &seed.to_string())]);
        let machine = Machine::new(2);
        let [a, b] = machine.streams[..] else { unreachable!() };
        let (ready, done) = (event(), event());
        begin(a, GLOBAL);
        ok(unsafe { sys::cuStreamWaitEvent(a, ready, 1) });
        machine.submit(&[(0, Step::Scale(0, 3))]);
        ok(unsafe { sys::cuEventRecordWithFlags(done, a, 1) });
        let graph = end(a);
        let mut nodes = [null_mut(); 3];
        let mut count = 3;
        ok(unsafe { sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &mut count) });
        let kinds = nodes.map(|node| {
            let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
            ok(unsafe { sys::cuGraphNodeGetType(node, &mut kind) });
            kind as u32
        });
        assert_eq!((count, kinds), (3, [6, 0, 7]));
        let exec = instantiate(graph);
        machine.submit(&[(1, Step::Add(0, 1))]);
        record(ready, b);
        ok(unsafe { sys::cuGraphLaunch(exec, a) });
        ok(wait_for(b, done));
        machine.submit(&[(1, Step::Add(0, 2))]);
        assert_eq!(machine.results()[..2], [8, 8], "seed {seed}: {:?}", session.faults());
        ok(unsafe { sys::cuEventQuery(done) });
    }
}
