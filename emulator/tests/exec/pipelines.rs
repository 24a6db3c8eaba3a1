//! Planted bugs of asynchronous copies and whole-warp instructions: reported whatever the schedule and whenever the data
//! lands, with their twins silent.

use crate::bugs::{Case, Suite, case, launch};
use crate::machine::{Machine, schedules};
use orthant_gpu::exec::{FaultKind, Landing};
use orthant_gpu::gpu::{Error, Options};
use orthant_gpu::memory::Checks;

use FaultKind::*;

pub const LANDINGS: [Landing; 3] = [Landing::Early, Landing::Late, Landing::Random];

/// One that is reported as a race by the one and as a copy in flight by the other.
const fn either(name: &'static str) -> Case {
    Case { or: Some(Race), ..case(name, InFlight, 1, 64, [256, 64], 0) }
}

const SUITE: Suite = Suite {
    file: "pipelines.cu",
    source: include_str!("pipelines.cu"),
    ptx: include_str!("pipelines.sm_80.ptx"),
    cases: &[
        case("missing_wait", InFlight, 1, 64, [256, 64], 0),
        case("wait_off_by_one", InFlight, 1, 64, [256, 64], 0),
        case("missing_barrier", Race, 1, 64, [256, 64], 0),
        either("barrier_before_wait"),
        case("missing_syncwarp", Race, 1, 32, [128, 32], 0),
        case("overwritten_stage", Race, 1, 64, [256, 64], 0),
        either("ring_off_by_one"),
        case("missing_commit", InFlight, 1, 64, [256, 64], 0),
        case("one_thread_waits", InFlight, 1, 64, [256, 64], 0),
        case("source_overwritten", InFlight, 1, 64, [256, 64], 0),
        either("source_of_others"),
        Case { or: Some(UnorderedRead), ..case("source_of_another_block", Race, 2, 32, [256, 32], 0) },
        case("misaligned_source", Misaligned, 1, 64, [260, 64], 0),
        case("misaligned_target", Misaligned, 1, 64, [256, 64], 0),
        case("misaligned_rows", Misaligned, 1, 32, [130, 32], 0),
        case("rows_before_data", Uninitialised, 1, 32, [128, 32], 0),
        case("rows_outside", OutOfBounds, 1, 32, [128, 32], 0),
        case("tail_size", OutOfBounds, 1, 32, [77, 32], 77),
        case("too_many_bytes", CopySize, 1, 32, [128, 32], 512),
        case("twice_into_one_place", InFlight, 1, 64, [256, 64], 0),
        case("store_into_flight", InFlight, 1, 64, [256, 64], 0),
        case("exits_in_flight", NeverWaited, 1, 64, [256, 64], 0),
        either("epilogue_over_stages"),
        case("other_warps_rows", Race, 1, 64, [256, 64], 0),
        case("divergent_product", MissingLanes, 1, 32, [32, 32], 0),
        case("divergent_rows", MissingLanes, 1, 32, [128, 32], 0),
        case("partial_warp", MissingLanes, 1, 48, [48, 48], 0),
        case("lanes_have_exited", MissingLanes, 1, 32, [1, 32], 0),
    ],
};

#[test]
fn reported_with_their_twins_silent() {
    let mut wrong = Vec::new();
    for options in schedules() {
        for landing in LANDINGS {
            wrong.extend(SUITE.wrong(Options { landing, ..options }));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn with_checks_off_what_only_data_could_tell_passes() {
    for landing in LANDINGS {
        let m = Machine::new(SUITE.ptx, Options { checks: Checks::NONE, landing, ..Options::default() });
        for case in SUITE.cases {
            let result = launch(&m, case, "bug");
            let costly = [Race, InFlight, NeverWaited, Uninitialised];
            assert_eq!(result.is_err(), !costly.contains(&case.kind), "{}: {result:?}", case.name);
        }
    }
}

/// Both sides are named.
#[test]
fn reports_in_words() {
    let m = Machine::plain(SUITE.ptx);
    let report = |name: &str| {
        let case = SUITE.cases.iter().find(|case| case.name == name).unwrap();
        match launch(&m, case, "bug") {
            Err(Error::Fault(fault)) => fault.to_string(),
            other => panic!("{name}: {other:?}"),
        }
    };
    for (name, parts) in [
        (
            "missing_wait",
            &[
                "InFlight in kernel missing_wait_bug, block (0,0,0) thread (0,0,0): pipelines.cu:",
                "4-byte shared load at 0x0",
                "has not been waited for",
                "the other: asynchronous copy by block (0,0,0) thread (0,0,0), pipelines.cu:",
                "`cp.async.cg.shared.global` at PTX line",
            ][..],
        ),
        ("exits_in_flight", &["thread (0,0,0)", "`cp.async.cg.shared.global`", "never waited"]),
        ("too_many_bytes", &["CopySize", "512 bytes are to be read for a copy of 16"]),
        ("partial_warp", &["thread (32,0,0)", "lanes 0xffff0000 do not exist"]),
        ("lanes_have_exited", &["`movmatrix.sync.aligned.m8n8.trans.b16`", "lanes 0xc0000000 have exited"]),
        ("misaligned_source", &["16-byte asynchronous copy from global 0x"]),
        ("misaligned_rows", &["16-byte shared load at 0x8"]),
    ] {
        let text = report(name).replace("/pipelines.cu", "pipelines.cu");
        for part in parts {
            assert!(text.contains(part), "{name}: {part}: {text}");
        }
    }
}
