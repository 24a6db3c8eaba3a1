//! Atomics of vectors and of 128 bits.

use crate::machine::{Machine, schedules};
use half::{bf16, f16};
use orthant_gpu::exec::{Card, FaultKind};
use orthant_gpu::gpu::{Arg, Error, Gpu, Options};

fn text(target: &str, body: &str) -> String {
    format!(
        ".version 8.4\n.target {target}\n.address_size 64\n.shared .align 16 .b8 there[16];\n\
         .visible .entry k(.param .u64 out) {{\n\
         .reg .pred %p<4>;\n.reg .b16 %h<20>;\n.reg .b32 %r<20>;\n.reg .f32 %f<20>;\n.reg .b64 %rd<9>;\n.reg .b128 %q<5>;\n\
         ld.param.u64 %rd0, [out];\nmov.u32 %r0, %tid.x;\n{body}\nret;\n}}\n"
    )
}

fn load(target: &str, body: &str, options: Options) -> Result<Machine, Error> {
    let mut gpu = Gpu::new(Card::sm_90a(), options);
    let module = gpu.load_module(&text(target, body))?;
    Ok(Machine { gpu, module })
}

/// What `grid` blocks of 32 threads make of memory.
fn after(body: &str, grid: u32, bytes: &[u8]) -> Vec<u8> {
    let mut results = schedules().map(|options| {
        let m = load("sm_90", body, options).unwrap_or_else(|e| panic!("{body}: {e}"));
        let out = m.put(bytes);
        m.ok("k", grid, 32, 0, &[Arg::U64(out)]);
        m.get::<u8>(out, bytes.len())
    });
    let first = results.next().unwrap();
    assert!(results.all(|other| other == first));
    first
}

#[test]
fn sums_of_floats() {
    let body = "mov.f32 %f0, 0f3F800000;\nmov.f32 %f1, 0f40000000;\nmov.f32 %f2, 0fBF800000;\nmov.f32 %f3, 0f00000001;\n\
        red.relaxed.gpu.global.add.v4.f32 [%rd0], {%f0, %f1, %f2, %f3};\n\
        mov.b64 %rd1, 0;\nred.global.add.L2::cache_hint.v2.f32 [%rd0+16], {%f1, %f0}, %rd1;";
    let bytes = after(body, 3, &[0; 24]);
    let floats: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    // The last element is subnormal: in global memory it is flushed.
    assert_eq!(floats, [96.0, 192.0, -96.0, 0.0, 192.0, 96.0]);
}

#[test]
fn sums_and_extremes_of_halves() {
    let half = |v: f32| f16::from_f32(v).to_bits();
    let brain = |v: f32| bf16::from_f32(v).to_bits();
    // Element i is (lane + i) % 32 - 3.
    let numbers = |ty: &str| -> String {
        (0..8)
            .map(|i| {
                format!(
                    "add.u32 %r1, %r0, {i};\nand.b32 %r1, %r1, 31;\nsub.s32 %r1, %r1, 3;\ncvt.rn.f32.s32 %f0, %r1;\n\
                     cvt.rn.{ty}.f32 %h{i}, %f0;\n"
                )
            })
            .collect()
    };
    let list =
        |count: usize, name: &str| (0..count).map(|i| format!("%{name}{i}")).collect::<Vec<_>>().join(", ");
    for (ty, of) in [("f16", &half as &dyn Fn(f32) -> u16), ("bf16", &brain)] {
        for (op, want) in [("min", -3.0), ("max", 28.0)] {
            for count in [2, 4, 8] {
                let body = format!(
                    "{}red.global.{op}.noftz.v{count}.{ty} [%rd0], {{{}}};",
                    numbers(ty),
                    list(count, "h")
                );
                let got = after(&body, 2, &[0; 16]);
                for (at, bytes) in got.chunks(2).enumerate() {
                    let want = if at < count { of(want) } else { 0 };
                    assert_eq!(u16::from_le_bytes([bytes[0], bytes[1]]), want, "{ty} {op} {count} {at}");
                }
            }
        }
        let pack = "mov.b32 %r1, {%h0, %h1};\nmov.b32 %r2, {%h2, %h3};\nmov.b32 %r3, {%h4, %h5};\nmov.b32 %r4, {%h6, %h7};";
        let one = |i: u32| format!("cvt.rn.{ty}.f32 %h{i}, 0f3F800000;\n");
        let ones: String = (0..8).map(one).collect();
        let body = format!("{ones}{pack}\nred.global.add.noftz.v4.{ty}x2 [%rd0], {{%r1, %r2, %r3, %r4}};");
        let got = after(&body, 1, &[0; 16]);
        assert!(got.chunks(2).all(|b| u16::from_le_bytes([b[0], b[1]]) == of(32.0)), "{ty}: {got:?}");
        let body = format!("{}{pack}\nred.global.max.noftz.v2.{ty}x2 [%rd0], {{%r1, %r2}};", numbers(ty));
        let got = after(&body, 1, &[0; 8]);
        assert!(got.chunks(2).all(|b| u16::from_le_bytes([b[0], b[1]]) == of(28.0)), "{ty}: {got:?}");
    }
    // A NaN gives way to a number, -0 is less than 0.
    let body = "mov.b16 %h0, 0x7e00;\nmov.b16 %h1, 0x8000;\nred.global.min.noftz.v2.f16 [%rd0], {%h0, %h1};";
    assert_eq!(after(body, 1, &[0, 0x3c, 0, 0]), [0, 0x3c, 0, 0x80]);
}

#[test]
fn old_values_come_back() {
    // One thread at a time adds (1, 2, 3, 4); what it saw before is the sum so far.
    let body = "mov.f32 %f0, 0f3F800000;\nmov.f32 %f1, 0f40000000;\nmov.f32 %f2, 0f40400000;\nmov.f32 %f3, 0f40800000;\n\
        atom.global.add.v4.f32 {%f4, %f5, _, %f7}, [%rd0], {%f0, %f1, %f2, %f3};\n\
        add.f32 %f8, %f4, %f4;\nsetp.neu.f32 %p0, %f8, %f5;\n@%p0 trap;\n\
        add.f32 %f8, %f5, %f5;\nsetp.neu.f32 %p0, %f8, %f7;\n@%p0 trap;";
    let bytes = after(body, 2, &[0; 16]);
    let floats: Vec<f32> = bytes.chunks(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
    assert_eq!(floats, [64.0, 128.0, 192.0, 256.0]);
}

#[test]
fn of_128_bits() {
    // Every thread adds one to both halves, by compare and swap.
    let body = "AGAIN: ld.relaxed.gpu.global.b128 %q0, [%rd0];\nmov.b128 {%rd1, %rd2}, %q0;\n\
        add.u64 %rd3, %rd1, 1;\nadd.u64 %rd4, %rd2, 1;\nmov.b128 %q1, {%rd3, %rd4};\n\
        atom.acq_rel.gpu.global.cas.b128 %q2, [%rd0], %q0, %q1;\nmov.b128 {%rd5, %rd6}, %q2;\n\
        setp.ne.u64 %p0, %rd1, %rd5;\n@%p0 bra AGAIN;\nsetp.ne.u64 %p0, %rd2, %rd6;\n@%p0 trap;";
    let start: Vec<u8> = [5u64, u64::MAX - 10].iter().flat_map(|v| v.to_le_bytes()).collect();
    let want: Vec<u8> = [5u64 + 64, 53].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(after(body, 2, &start), want);
    // Exchanged in shared memory: each but the first sees what another left.
    let body = "cvt.u64.u32 %rd1, %r0;\nmov.b128 %q0, {%rd1, %rd1};\nmov.b128 %q2, {%rd1, 7};\n\
        setp.eq.u32 %p0, %r0, 0;\n@%p0 st.shared.b128 [there], %q2;\nbar.sync 0;\n\
        atom.shared.exch.b128 %q1, [there], %q0;\nmov.b128 {%rd2, %rd3}, %q1;\n\
        add.u64 %rd2, %rd2, %rd3;\nred.global.add.u64 [%rd0], %rd2;\nbar.sync 0;\n\
        @!%p0 bra END;\nld.shared.b128 %q3, [there];\nmov.b128 {%rd2, %rd3}, %q3;\nadd.u64 %rd2, %rd2, %rd3;\n\
        red.global.add.u64 [%rd0], %rd2;\nEND:";
    assert_eq!(after(body, 1, &[0; 8]), (7 + 2 * 496u64).to_le_bytes());
}

#[test]
fn what_there_is_not() {
    let refused = |target: &str, body: &str| match load(target, body, Options::default()) {
        Err(Error::Load(e)) => e.to_string(),
        Err(e) => panic!("{body}: {e}"),
        Ok(_) => panic!("{body}: loaded"),
    };
    let two = "red.global.add.v2.f32 [%rd0], {%f0, %f1};";
    assert!(refused("sm_80", two).contains("it needs .target sm_90 or higher, this is sm_80"));
    assert!(refused("sm_80", "atom.global.exch.b128 %q0, [%rd0], %q1;").contains("sm_90"));
    for (body, why) in [
        ("red.shared.add.v2.f32 [there], {%f0, %f1};", "global memory"),
        ("red.global.add.v8.f32 [%rd0], {%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7};", "8 elements"),
        ("red.global.add.v2.u32 [%rd0], {%r0, %r1};", "vectors of u32"),
        ("red.global.min.v2.f32 [%rd0], {%f0, %f1};", "vectors of f32"),
        ("red.global.add.v4.f32 [%rd0], {%f0, %f1};", "2 elements"),
        ("atom.global.add.b128 %q0, [%rd0], %q1;", "add of b128"),
        ("atom.global.add.v2.f32 %f0, [%rd0], {%f0, %f1};", "must be a vector"),
    ] {
        let text = refused("sm_90", body);
        assert!(text.contains(why) && text.starts_with("14:1: in k"), "{body}: {text}");
    }
    let m = load(
        "sm_90",
        "mov.u64 %rd1, there;\ncvta.shared.u64 %rd1, %rd1;\nred.add.v2.f32 [%rd1], {%f0, %f1};",
        Options::default(),
    );
    let m = m.unwrap();
    assert_eq!(m.fault("k", 1, 1, 0, &[Arg::U64(0)]).kind, FaultKind::WrongSpace);
    let m =
        load("sm_90", "red.global.add.v4.f32 [%rd0+4], {%f0, %f1, %f2, %f3};", Options::default()).unwrap();
    let out = m.put(&[0u32; 8]);
    assert_eq!(m.fault("k", 1, 1, 0, &[Arg::U64(out)]).kind, FaultKind::Misaligned);
}
