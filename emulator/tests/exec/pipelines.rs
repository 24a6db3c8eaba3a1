//! Planted bugs of asynchronous copies and whole-warp instructions: reported whatever the schedule and whenever the data
//! lands, with their twins silent.

use crate::bugs::{Case, Suite, case, launch};
use crate::features::kernel;
use crate::machine::{Machine, schedules};
use orthant_gpu::exec::{Counters, FaultKind, Landing};
use orthant_gpu::gpu::{Arg, Error, Options};
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
        either("read_after_anothers_wait"),
        case("started_before_reads_end", Race, 1, 64, [256, 64], 0),
        either("source_given_up_early"),
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

/// What a kernel with a mistake finds depends on when the data lands: in shared memory, and at the source.
#[test]
fn data_lands_when_it_is_told_to() {
    let run = |landing, kernel: &str, seed| {
        let m =
            Machine::new(SUITE.ptx, Options { checks: Checks::NONE, landing, seed, ..Options::default() });
        let (x, y) = (m.put(&[1f32; 256]), m.put(&[0f32; 64]));
        m.ok(kernel, 1, 64, 0, &[Arg::U64(x), Arg::U64(y), Arg::U32(0)]);
        m.get::<f32>(y, 64)
    };
    // Not waited for: the data, or what a block's shared memory begins with.
    assert_eq!(run(Landing::Early, "missing_wait_bug", 0), [1.0; 64]);
    assert_eq!(run(Landing::Late, "missing_wait_bug", 0), [0.0; 64]);
    // Overwritten before the wait: the old value or the new one.
    assert_eq!(run(Landing::Early, "source_overwritten_bug", 0), [1.0; 64]);
    assert_eq!(run(Landing::Late, "source_overwritten_bug", 0), [2.0; 64]);
    let seeds: Vec<_> = (0..32).map(|seed| run(Landing::Random, "missing_wait_bug", seed)).collect();
    let landed = seeds.iter().flatten().filter(|&&v| v == 1.0).count();
    assert!((1..32 * 64).contains(&landed), "{landed}");
    for (seed, values) in seeds.iter().enumerate() {
        assert_eq!(*values, run(Landing::Random, "missing_wait_bug", seed as u64));
    }
}

/// A copy of `width` bytes of which `sizes` says how many each lane reads: what lies in shared memory afterwards, and the
/// counts.
fn copied(width: usize, form: &str, last: &str, sizes: &[u32; 32]) -> (Vec<u8>, Counters) {
    let words = width / 4;
    let mut body = format!(
        "mul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd3, %rd1, %rd3;\nld.global.u32 %r4, [%rd3];\n\
         setp.eq.u32 %p1, %r4, 0;\nmul.wide.u32 %rd3, %r1, {width};\nadd.s64 %rd3, %rd1, %rd3;\n\
         mul.lo.u32 %r2, %r1, {width};\nmov.u32 %r3, buffer;\nadd.u32 %r3, %r3, %r2;\n\
         cp.async.{form} [%r3], [%rd3+128], {width}{last};\ncp.async.wait_all;\n\
         mul.wide.u32 %rd4, %r1, {width};\nadd.s64 %rd4, %rd0, %rd4;\n"
    );
    for word in 0..words {
        let at = 4 * word;
        body += &format!("ld.shared.u32 %r5, [%r3+{at}];\nst.global.u32 [%rd4+{at}], %r5;\n");
    }
    body += "ret;";
    let m = Machine::plain(&kernel(".shared .align 16 .b8 buffer[512];", &body));
    let mut input: Vec<u8> = sizes.iter().flat_map(|size| size.to_le_bytes()).collect();
    input.extend((0..32 * width).map(|at| (at % 251) as u8 + 1));
    let (out, at) = (m.put(&vec![0u8; 32 * width]), m.put(&input));
    let counters = m.ok("k", 1, 32, 0, &[Arg::U64(out), Arg::U64(at), Arg::U32(0)]);
    (m.get(out, 32 * width), counters)
}

#[test]
fn every_form_and_size() {
    let forms: &[(&str, &[usize])] = &[
        ("ca.shared.global", &[4, 8, 16]),
        ("ca.shared::cta.global.L2::64B", &[4, 8, 16]),
        ("cg.shared.global", &[16]),
        ("cg.shared::cta.global.L2::256B", &[16]),
        ("cg.shared.global.L2::cache_hint", &[16]),
    ];
    for &(form, widths) in forms {
        for &width in widths {
            let hint = if form.ends_with("hint") { ", %rd3" } else { "" };
            let all = [width as u32; 32];
            let some = std::array::from_fn(|lane| (lane % (width + 1)) as u32);
            let either = std::array::from_fn(|lane| if lane % 3 == 0 { 0 } else { width as u32 });
            for (last, sizes) in [
                (String::new(), all),
                (", %r4".into(), some),
                (", %r4".into(), all),
                (", %p1".into(), either),
            ] {
                let (got, counters) = copied(width, form, &(last.clone() + hint), &sizes);
                for (at, &byte) in got.iter().enumerate() {
                    let (lane, offset) = (at / width, at % width);
                    let want = if offset < sizes[lane] as usize { (at % 251) as u8 + 1 } else { 0 };
                    assert_eq!(byte, want, "{form} {width} {last} {at}");
                }
                // Without the load of the sizes, which is 128 bytes in 4 sectors.
                let read = |sector: usize| {
                    let lanes = sector * 32 / width..(sector + 1) * 32 / width;
                    sizes[lanes].iter().any(|&size| size > 0)
                };
                let loads = &counters.global_loads;
                assert_eq!(loads.bytes - 128, sizes.iter().map(|&size| u64::from(size)).sum::<u64>());
                assert_eq!(loads.sectors - 4, (0..width).filter(|&sector| read(sector)).count() as u64);
                assert_eq!((loads.requests, counters.shared.store_bytes), (2, 32 * width as u64));
                assert_eq!(counters.instructions["asynchronous copy"].warp, 2);
            }
        }
    }
}

/// Lanes count their own groups.
#[test]
fn groups_are_each_threads_own() {
    // Even lanes commit once more; so one pending group covers the copy of the even lanes, and not of the odd ones.
    let body = |pending: u32| {
        format!(
            "mul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd3, %rd1, %rd3;\nshl.b32 %r2, %r1, 2;\nmov.u32 %r3, buffer;\n\
             add.u32 %r3, %r3, %r2;\nand.b32 %r4, %r1, 1;\nsetp.eq.u32 %p1, %r4, 0;\n\
             cp.async.ca.shared.global [%r3], [%rd3], 4;\ncp.async.commit_group;\n\
             @%p1 cp.async.commit_group;\ncp.async.wait_group {pending};\n\
             @!%p1 bra END;\nld.shared.u32 %r5, [%r3];\nst.global.u32 [%rd2], %r5;\nEND: \
             cp.async.wait_group 0;\nld.shared.u32 %r5, [%r3];\nst.global.u32 [%rd2], %r5;\nret;"
        )
    };
    for landing in LANDINGS {
        let run = |body: String| {
            let options = Options { landing, ..Options::default() };
            let m = Machine::new(&kernel(".shared .align 16 .b8 buffer[512];", &body), options);
            let input: Vec<u32> = (100..132).collect();
            let (out, at) = (m.put(&[0u32; 32]), m.put(&input));
            m.run("k", 1, 32, 0, &[Arg::U64(out), Arg::U64(at), Arg::U32(0)])
                .map(|_| assert_eq!(m.get::<u32>(out, 32), input))
        };
        run(body(1)).unwrap();
        let fault = |body| match run(body) {
            Err(Error::Fault(fault)) => (fault.kind, fault.thread.thread[0]),
            other => panic!("{other:?}"),
        };
        assert_eq!(fault(body(2)), (InFlight, 0));
        assert_eq!(fault(body(1).replace("@!%p1 bra", "@%p1 bra")), (InFlight, 1));
    }
}
