//! Planted bugs: each is reported with its kind and at its line, its mended twin runs silently; under every schedule.

use crate::machine::{Machine, schedules};
use orthant_gpu::exec::FaultKind;
use orthant_gpu::gpu::{Arg, Error, Options};

const PTX: &str = include_str!("bugs.sm_80.ptx");
const SOURCE: &str = include_str!("bugs.cu");

/// How a kernel is launched: `x` holds ones, `y` zeros unless it is to be uninitialised.
pub struct Case {
    pub name: &'static str,
    pub kind: FaultKind,
    /// As what else it may be reported, by who comes first.
    pub or: Option<FaultKind>,
    pub grid: u32,
    pub block: u32,
    pub shared: u32,
    /// Floats in `x` and `y`.
    pub sizes: [usize; 2],
    pub n: u32,
    /// Whether `y` is initialised.
    pub zeroed: bool,
}

pub const fn case(
    name: &'static str,
    kind: FaultKind,
    grid: u32,
    block: u32,
    sizes: [usize; 2],
    n: u32,
) -> Case {
    Case { name, kind, or: None, grid, block, shared: 0, sizes, n, zeroed: true }
}

/// Kernels in pairs, and what is to be said of them.
pub struct Suite {
    pub file: &'static str,
    pub source: &'static str,
    pub ptx: &'static str,
    pub cases: &'static [Case],
}

const SUITE: Suite = Suite { file: "bugs.cu", source: SOURCE, ptx: PTX, cases: CASES };

use FaultKind::*;

const CASES: &[Case] = &[
    case("tail", OutOfBounds, 2, 64, [100, 100], 100),
    case("misaligned", Misaligned, 1, 32, [256, 32], 0),
    case("dropped_sync", Race, 1, 64, [64, 64], 0),
    case("dropped_syncwarp", Race, 1, 32, [32, 32], 0),
    case("second_round", Race, 1, 64, [2, 64], 0),
    case("int_overflow", OutOfBounds, 1, 3, [3_000_000_001, 1], 1_500_000_000),
    case("no_acquire", UnorderedRead, 2, 1, [1, 2], 0),
    case("no_release", UnorderedRead, 2, 1, [1, 2], 0),
    case("others_fence", UnorderedRead, 3, 64, [192, 65], 0),
    case("one_cell", Race, 3, 32, [3, 3], 0),
    case("narrow_scope", Race, 2, 32, [1, 1], 0),
    case("plain_beside_atomic", Race, 1, 64, [1, 64], 0),
    case("divergent_barrier", DivergentBarrier, 1, 64, [64, 64], 0),
    case("barrier_counts", BarrierCount, 1, 96, [1, 1], 0),
    case("too_few", Deadlock, 1, 96, [1, 1], 0),
    Case { zeroed: false, ..case("uninitialised", Uninitialised, 1, 32, [32, 32], 0) },
    case("uninitialised_shared", Uninitialised, 1, 64, [64, 64], 0),
    case("uninitialised_local", Uninitialised, 1, 32, [32, 32], 7),
    Case { shared: 128, ..case("outside_shared", OutOfBounds, 1, 32, [32, 32], 0) },
    case("outside_table", OutOfBounds, 1, 8, [1, 8], 0),
    case("write_constant", ReadOnly, 1, 4, [1, 4], 0),
    case("non_coherent", NonCoherentRead, 1, 32, [32, 32], 0),
    case("missing_lanes", MissingLanes, 1, 32, [32, 32], 0),
    case("exited_lanes", MissingLanes, 1, 32, [32, 32], 0),
    case("own_lane", MissingLanes, 1, 32, [32, 32], 0),
    case("never_set", Deadlock, 1, 32, [1, 1], 0),
    case("barrier_and_spin", Deadlock, 1, 64, [1, 1], 0),
    Case { shared: 150 << 10, ..case("too_many_blocks", Deadlock, 120, 32, [1, 1], 0) },
    case("endless_recursion", StackOverflow, 1, 32, [1, 32], 0),
    case("wild_call", BadCall, 1, 1, [2, 1], 0),
    case("asserts", Assertion, 1, 32, [32, 1], 0),
    case("gives_up", Trap, 1, 1, [32, 1], 0),
];

impl Suite {
    fn line_of(&self, name: &str) -> u32 {
        self.marked("BUG", name).unwrap_or_else(|| panic!("{name} is not in the source"))
    }

    fn marked(&self, what: &str, name: &str) -> Option<u32> {
        let marker = format!("// {what} {name}");
        self.source.lines().position(|line| line.ends_with(&marker)).map(|at| at as u32 + 1)
    }

    /// Runs all pairs: what is wrong with the reports.
    pub fn wrong(&self, options: Options) -> Vec<String> {
        let mut wrong = Vec::new();
        let m = Machine::new(self.ptx, options);
        let at = format!("seed {} threads {} {:?}", options.seed, options.threads, options.landing);
        for case in self.cases {
            match launch(&m, case, "bug") {
                Err(Error::Fault(fault)) => {
                    // Of a race, either side may come second.
                    let mut lines = vec![fault.place.line];
                    lines.extend(fault.other.as_ref().map(|other| other.place.line));
                    let line = self.line_of(case.name);
                    let marks = [Some(line), self.marked("ALSO", case.name)];
                    let found = lines.iter().any(|line| marks.contains(&Some(*line)));
                    if (fault.kind != case.kind && Some(fault.kind) != case.or) || !found {
                        wrong.push(format!("{at} {}: wanted line {line}: {fault}", case.name));
                    }
                    assert_eq!(fault.kernel, format!("{}_bug", case.name));
                    let file = fault.place.file.as_ref();
                    if fault.place.ptx_line == 0 || !file.is_some_and(|f| f.ends_with(self.file)) {
                        wrong.push(format!("{at} {}: no place: {fault}", case.name));
                    }
                }
                Err(e) => wrong.push(format!("{at} {}: {e}", case.name)),
                Ok(()) => wrong.push(format!("{at} {}: not reported", case.name)),
            }
            if let Err(e) = launch(&m, case, "ok") {
                wrong.push(format!("{at} {} mended: {e}", case.name));
            }
        }
        wrong
    }
}

pub fn launch(m: &Machine, case: &Case, twin: &str) -> Result<(), Error> {
    let x = m.empty(4 * case.sizes[0]);
    let y = m.empty(4 * case.sizes[1]);
    if case.sizes[0] < 1 << 20 {
        let ones: Vec<u8> = (0..case.sizes[0]).flat_map(|_| 1f32.to_le_bytes()).collect();
        m.gpu.copy_in(x, &ones).unwrap();
    }
    if case.zeroed {
        m.gpu.memset(y, 0, 4 * case.sizes[1]).unwrap();
    }
    let kernel = format!("{}_{twin}", case.name);
    let args = [Arg::U64(x), Arg::U64(y), Arg::U32(case.n)];
    m.run(&kernel, case.grid, case.block, case.shared, &args).map(|_| ())
}

#[test]
fn reported_with_their_twins_silent() {
    let wrong: Vec<String> = schedules().flat_map(|options| SUITE.wrong(options)).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn use_after_free() {
    let m = Machine::plain(PTX);
    let (data, y) = (m.put(&[1f32; 32]), m.put(&[0f32; 32]));
    let x = m.put(&[data]);
    let args = [Arg::U64(x), Arg::U64(y), Arg::U32(0)];
    m.ok("freed_ok", 1, 32, 0, &args);
    m.gpu.free(data).unwrap();
    let fault = m.fault("freed_bug", 1, 32, 0, &args);
    assert_eq!((fault.kind, fault.place.line), (UseAfterFree, SUITE.line_of("freed")));
    assert_eq!((fault.thread.block, fault.thread.thread), ([0; 3], [0; 3]));
    assert_eq!(m.gpu.leaks().len(), 2);
}

/// Which thread, and the report in words.
#[test]
fn positions() {
    let m = Machine::plain(PTX);
    let (x, y) = (m.put(&[1f32; 100]), m.put(&[0f32; 100]));
    let args = [Arg::U64(x), Arg::U64(y), Arg::U32(100)];
    let fault = m.fault("tail_bug", 2, 64, 0, &args);
    assert_eq!((fault.thread.block, fault.thread.thread), ([1, 0, 0], [36, 0, 0]));
    let text = fault.to_string();
    for part in
        ["OutOfBounds", "tail_bug", "block (1,0,0) thread (36,0,0)", "bugs.cu:", "PTX line", "0 bytes past"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// A deadlock says what every warp waits for.
#[test]
fn deadlocks_are_described() {
    let m = Machine::plain(PTX);
    let (x, y) = (m.put(&[1f32]), m.put(&[0f32]));
    let args = [Arg::U64(x), Arg::U64(y), Arg::U32(0)];
    let fault = m.fault("barrier_and_spin_bug", 1, 64, 0, &args);
    let text = fault.to_string();
    assert_eq!(fault.waiting.len(), 2, "{text}");
    assert!(text.contains("warp 0 lanes 0xffffffff waits at barrier 0: warps 1 have not arrived"), "{text}");
    assert!(text.contains("warp 1 lanes 0xffffffff spins on"), "{text}");
    let fault = m.fault("too_many_blocks_bug", 120, 32, 150 << 10, &args);
    assert!(fault.to_string().contains("12 more blocks wait"), "{fault}");
}

#[test]
fn with_checks_off_races_pass_and_bounds_do_not() {
    let checks = orthant_gpu::memory::Checks::NONE;
    let m = Machine::new(PTX, Options { checks, ..Options::default() });
    for case in CASES {
        let result = launch(&m, case, "bug");
        let costly = [Race, UnorderedRead, Uninitialised, NonCoherentRead];
        assert_eq!(result.is_err(), !costly.contains(&case.kind), "{}: {result:?}", case.name);
    }
}
