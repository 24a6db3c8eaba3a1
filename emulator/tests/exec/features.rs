//! Small kernels, one for each feature: what the fixtures do not reach.

use crate::machine::{Machine, fixture, noise, schedules};
use orthant_gpu::exec::{Card, FaultKind};
use orthant_gpu::gpu::{Arg, Error, Gpu, Options};

/// A kernel `k(out, in, n)` with registers to spare; `%rd0` is `out`, `%rd1` is `in`, `%r0` is `n`, `%r1` is `%tid.x`,
/// `%rd2` is `out + 4 * %tid.x`.
pub fn kernel(outside: &str, body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n{outside}\n\
         .visible .entry k(.param .u64 out, .param .u64 in, .param .u32 n) {{\n\
         .reg .pred %p<9>;\n.reg .b16 %h<9>;\n.reg .b32 %r<40>;\n.reg .f32 %f<9>;\n.reg .b64 %rd<20>;\n\
         ld.param.u64 %rd0, [out];\nld.param.u64 %rd1, [in];\nld.param.u32 %r0, [n];\n\
         mov.u32 %r1, %tid.x;\nmul.wide.u32 %rd2, %r1, 4;\nadd.s64 %rd2, %rd0, %rd2;\n{body}\n}}\n"
    )
}

/// Runs `k` on `threads` threads of one block: what it leaves in `out`, a word for each thread.
fn words(outside: &str, body: &str, threads: u32, input: &[u32]) -> Vec<u32> {
    let m = Machine::plain(&kernel(outside, body));
    let (out, at) =
        (m.put(&vec![0u32; threads as usize]), m.put(if input.is_empty() { &[0] } else { input }));
    m.ok("k", 1, threads, 64, &[Arg::U64(out), Arg::U64(at), Arg::U32(threads)]);
    m.get(out, threads as usize)
}

fn refused(ptx: &str) -> String {
    let mut gpu = Gpu::new(Card::sm_80(), Options::default());
    match gpu.load_module(ptx) {
        Err(e @ Error::Load(_)) => e.to_string(),
        Err(e) => panic!("{e}"),
        Ok(_) => panic!("loaded"),
    }
}

#[test]
fn lanes_wait_for_lanes_of_their_warp() {
    // Odd lanes spin at the lower address until even lanes, further down, have set their flag.
    let body = "and.b32 %r2, %r1, 1;\nsetp.eq.u32 %p1, %r2, 0;\n@%p1 bra SET;\n\
        SPIN: ld.relaxed.gpu.global.u32 %r3, [%rd2+-4];\nsetp.eq.u32 %p2, %r3, 0;\n@%p2 bra SPIN;\n\
        add.u32 %r3, %r3, 1;\nst.relaxed.gpu.global.u32 [%rd2], %r3;\nret;\n\
        SET: add.u32 %r4, %r1, 100;\nst.relaxed.gpu.global.u32 [%rd2], %r4;\nret;";
    let want: Vec<u32> = (0..32).map(|t| 100 + t).collect();
    assert_eq!(words("", body, 32, &[]), want);
}

#[test]
fn jumps_through_a_table() {
    let body = "rem.u32 %r2, %r1, 3;\nT: .branchtargets A, B, C;\nbrx.idx %r2, T;\n\
        A: mov.u32 %r3, 10;\nbra.uni END;\nB: mov.u32 %r3, 20;\nbra.uni END;\nC: mov.u32 %r3, 30;\n\
        END: st.global.u32 [%rd2], %r3;\nret;";
    assert!(words("", body, 40, &[]).iter().enumerate().all(|(t, &v)| v == [10, 20, 30][t % 3]));
    let m = Machine::plain(&kernel("", &body.replace("rem.u32 %r2, %r1, 3", "mov.u32 %r2, %r1")));
    let (out, at) = (m.put(&[0u32; 4]), m.put(&[0u32]));
    let fault = m.fault("k", 1, 4, 0, &[Arg::U64(out), Arg::U64(at), Arg::U32(4)]);
    assert_eq!((fault.kind, fault.thread.thread), (FaultKind::BadBranch, [3, 0, 0]));
}

#[test]
fn generic_addresses_reach_every_space() {
    // Lane % 4 chooses global, shared, local or parameter memory for one and the same generic load.
    let outside = ".global .u32 cell = 111;\n.shared .align 4 .u32 there;";
    let body = ".local .align 4 .u32 mine;\n\
        mov.u64 %rd3, cell;\ncvta.global.u64 %rd3, %rd3;\n\
        mov.u64 %rd4, there;\nst.shared.u32 [there], 222;\ncvta.shared.u64 %rd4, %rd4;\n\
        bar.sync 0;\n\
        mov.u64 %rd5, mine;\nst.local.u32 [mine], %r1;\ncvta.local.u64 %rd5, %rd5;\n\
        mov.b64 %rd6, n;\ncvta.param.u64 %rd6, %rd6;\n\
        and.b32 %r2, %r1, 3;\nsetp.eq.u32 %p1, %r2, 1;\nsetp.eq.u32 %p2, %r2, 2;\nsetp.eq.u32 %p3, %r2, 3;\n\
        selp.b64 %rd3, %rd4, %rd3, %p1;\nselp.b64 %rd3, %rd5, %rd3, %p2;\nselp.b64 %rd3, %rd6, %rd3, %p3;\n\
        ld.u32 %r3, [%rd3];\nisspacep.shared %p4, %rd3;\nisspacep.local %p5, %rd3;\n\
        selp.u32 %r4, 1000, 0, %p4;\nselp.u32 %r5, 2000, 0, %p5;\nadd.u32 %r3, %r3, %r4;\nadd.u32 %r3, %r3, %r5;\n\
        st.global.u32 [%rd2], %r3;\nret;";
    // All threads store the same to shared memory: that is a race, so one warp's one lane does it.
    let body = body
        .replace("st.shared.u32 [there], 222;", "setp.eq.u32 %p6, %r1, 0;\n@%p6 st.shared.u32 [there], 222;");
    let got = words(outside, &body, 64, &[]);
    for (t, &v) in got.iter().enumerate() {
        assert_eq!(v, [111, 1222, t as u32 + 2000, 64][t % 4], "{t}");
    }
}

#[test]
fn narrow_loads_are_extended() {
    let body = "ld.global.v4.s8 {%h0, %h1, %h2, %h3}, [%rd1];\ncvt.s32.s16 %r2, %h0;\n\
        ld.global.s8 %r3, [%rd1+1];\nld.global.u8 %r4, [%rd1+1];\nld.global.s16 %rd3, [%rd1+2];\n\
        cvt.u32.u64 %r5, %rd3;\nshr.u64 %rd3, %rd3, 32;\ncvt.u32.u64 %r6, %rd3;\n\
        xor.b32 %r2, %r2, %r3;\nmad.lo.u32 %r2, %r4, 3, %r2;\nadd.u32 %r2, %r2, %r5;\nadd.u32 %r2, %r2, %r6;\n\
        st.global.u32 [%rd2], %r2;\nret;";
    let bytes = [0x81u8, 0xf3, 0x34, 0x92];
    let (a, b, c) = (-127i32, i32::from(0xf3u8 as i8), i32::from(i16::from_le_bytes([0x34, 0x92])));
    let want = ((a ^ b) as u32).wrapping_add(0xf3 * 3).wrapping_add(c as u32).wrapping_add(u32::MAX);
    assert_eq!(words("", body, 1, &[u32::from_le_bytes(bytes)]), [want]);
}

#[test]
fn barriers_reduce_and_count() {
    // Thread t holds if t % 3 == 0; 96 threads. The second half waits at barrier 3 for the first, which only arrives.
    let body = "rem.u32 %r2, %r1, 3;\nsetp.eq.u32 %p1, %r2, 0;\nsetp.lt.u32 %p2, %r1, 96;\n\
        bar.red.popc.u32 %r3, 0, %p1;\nbar.red.and.pred %p3, 0, %p2;\nbar.red.or.pred %p4, 1, 96, !%p2;\n\
        selp.u32 %r4, 1000, 0, %p3;\nselp.u32 %r5, 5000, 0, %p4;\nadd.u32 %r3, %r3, %r4;\nadd.u32 %r3, %r3, %r5;\n\
        setp.lt.u32 %p5, %r1, 32;\n@%p5 bra FIRST;\nsetp.lt.u32 %p6, %r1, 64;\n@%p6 bra END;\n\
        barrier.sync.aligned 3, 64;\nld.global.u32 %r6, [%rd2+-256];\nadd.u32 %r3, %r3, %r6;\nbra.uni END;\n\
        FIRST: mov.u32 %r7, 7;\nst.global.u32 [%rd2], %r7;\nbarrier.arrive.aligned 3, 64;\nret;\n\
        END: st.global.u32 [%rd2], %r3;\nret;";
    for options in schedules() {
        let m = Machine::new(&kernel("", body), options);
        let (out, at) = (m.put(&[0u32; 96]), m.put(&[0u32]));
        let counters = m.ok("k", 1, 96, 0, &[Arg::U64(out), Arg::U64(at), Arg::U32(0)]);
        let got: Vec<u32> = m.get(out, 96);
        assert!((0..96).all(|t| got[t] == [7, 1032, 1039][t / 32]), "{got:?}");
        assert_eq!(counters.barriers, 3 * 3 + 2);
    }
}

#[test]
fn flags_inline_labels_and_named_barriers() {
    for options in schedules() {
        let m = Machine::new(&fixture("sync.sm_80.ptx"), options);
        let (flag, out) = (m.put(&[1u32, 1, 0]), m.put(&[0u32; 64]));
        // Every thread reads and writes `out[0]`, and all write `generation`, strongly: the read is a race.
        let fault = m.fault("inline_labels", 1, 64, 0, &[Arg::U64(flag), Arg::U64(out)]);
        assert_eq!(fault.kind, FaultKind::Race);
        assert!([56, 54].contains(&fault.place.line), "{fault}");
    }
}

#[test]
fn elections_reductions_matches() {
    let body = "mov.u32 %r9, 0xffffffff;\nelect.sync %r2|%p1, %r9;\nselp.u32 %r3, 1, 0, %p1;\n\
        redux.sync.add.s32 %r4, %r1, %r9;\nredux.sync.min.s32 %r5, %r1, %r9;\nredux.sync.xor.b32 %r6, %r1, %r9;\n\
        shr.u32 %r7, %r1, 3;\nmatch.any.sync.b32 %r8, %r7, %r9;\nredux.sync.add.u32 %r10, 1, %r8;\n\
        match.all.sync.b32 %r11|%p2, %r9, %r9;\nselp.u32 %r12, 1, 0, %p2;\nvote.sync.uni.pred %p3, %p1, %r9;\n\
        selp.u32 %r13, 1, 0, %p3;\nshl.b32 %r3, %r3, 16;\nadd.u32 %r4, %r4, %r3;\nmad.lo.u32 %r4, %r10, 1000, %r4;\n\
        mad.lo.u32 %r4, %r12, 100000, %r4;\nmad.lo.u32 %r4, %r13, 1000000, %r4;\nadd.u32 %r4, %r4, %r2;\n\
        add.u32 %r4, %r4, %r5;\nadd.u32 %r4, %r4, %r6;\nst.global.u32 [%rd2], %r4;\nret;";
    let got = words(
        "",
        &body.replace("elect.sync %r2|%p1, %r9;", "mov.u32 %r2, 0;\nsetp.eq.u32 %p1, %r1, 0;"),
        32,
        &[],
    );
    assert_eq!(words("", body, 32, &[]), got);
    for (t, &v) in got.iter().enumerate() {
        assert_eq!(v, 496 + (u32::from(t == 0) << 16) + 8000 + 100_000, "{t}");
    }
}

#[test]
fn grids_and_blocks_of_three_axes() {
    let body = "mov.u32 %r2, %tid.y;\nmov.u32 %r3, %tid.z;\nmov.u32 %r4, %ctaid.x;\nmov.u32 %r5, %ctaid.y;\n\
        mov.u32 %r6, %ctaid.z;\nmov.u32 %r7, %ntid.x;\nmov.u32 %r8, %ntid.y;\nmov.u32 %r9, %ntid.z;\n\
        mov.u32 %r10, %nctaid.x;\nmov.u32 %r11, %nctaid.y;\n\
        mad.lo.u32 %r12, %r3, %r8, %r2;\nmad.lo.u32 %r12, %r12, %r7, %r1;\n\
        mad.lo.u32 %r13, %r6, %r11, %r5;\nmad.lo.u32 %r13, %r13, %r10, %r4;\n\
        mul.lo.u32 %r14, %r7, %r8;\nmul.lo.u32 %r14, %r14, %r9;\nmad.lo.u32 %r15, %r13, %r14, %r12;\n\
        mul.wide.u32 %rd3, %r15, 4;\nadd.s64 %rd3, %rd0, %rd3;\n\
        mov.u32 %r16, %laneid;\nmov.u32 %r17, %warpid;\nmad.lo.u32 %r16, %r17, 32, %r16;\n\
        mad.lo.u32 %r16, %ctaid.z, 1000, %r16;\nst.global.u32 [%rd3], %r16;\nret;";
    let m = Machine::plain(&kernel("", body));
    let (grid, block) = ([3, 2, 4], [5, 3, 4]);
    let out = m.put(&vec![0u32; 24 * 60]);
    let args = [Arg::U64(out), Arg::U64(out), Arg::U32(0)];
    m.gpu.launch(m.module, "k", grid, block, 0, &args).unwrap();
    let got: Vec<u32> = m.get(out, 24 * 60);
    assert!((0..24 * 60).all(|i| got[i] == (i % 60) as u32 + 1000 * (i as u32 / 60 / 6)));
}

/// Each atomic by 32 lanes on one cell, in shared and in global memory: against the same thing done in order.
#[test]
fn atomics() {
    type Model = fn(u64, u64) -> u64;
    let rows: &[(&str, &str, Model)] = &[
        ("add.u32", "b32", |a, b| (a as u32).wrapping_add(b as u32).into()),
        ("add.u64", "b64", |a, b| a.wrapping_add(b)),
        ("min.s32", "b32", |a, b| (a as i32).min(b as i32) as u32 as u64),
        ("max.s32", "b32", |a, b| (a as i32).max(b as i32) as u32 as u64),
        ("min.u32", "b32", |a, b| a.min(b)),
        ("max.u64", "b64", |a, b| a.max(b)),
        ("min.s64", "b64", |a, b| (a as i64).min(b as i64) as u64),
        ("and.b32", "b32", |a, b| a & b),
        ("or.b64", "b64", |a, b| a | b),
        ("xor.b32", "b32", |a, b| a ^ b),
        ("inc.u32", "b32", |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec.u32", "b32", |a, b| if a == 0 || a > b { b } else { a - 1 }),
        ("add.f32", "b32", |a, b| (f32::from_bits(a as u32) + f32::from_bits(b as u32)).to_bits().into()),
        ("add.f64", "b64", |a, b| (f64::from_bits(a) + f64::from_bits(b)).to_bits()),
    ];
    for &(name, ty, model) in rows {
        let wide = ty == "b64";
        let reg = if wide { "%rd" } else { "%r" };
        let float = name.ends_with(".f32") || name.ends_with(".f64");
        let mut values: Vec<u64> = noise(name.len() as u64).take(33).collect();
        values.iter_mut().for_each(|v| {
            let small = (*v % 1000) as f64 / 8.0;
            *v = match (float, wide) {
                (true, true) => small.to_bits(),
                (true, false) => (small as f32).to_bits().into(),
                (_, true) => *v,
                _ => *v & 0xffff_ffff,
            }
        });
        let body = format!(
            "mul.wide.u32 %rd3, %r1, 8;\nadd.s64 %rd3, %rd1, %rd3;\nld.global.{ty} {reg}5, [%rd3+8];\n\
             setp.eq.u32 %p1, %r1, 0;\n@%p1 ld.global.{ty} {reg}6, [%rd1];\n@%p1 st.shared.{ty} [cell], {reg}6;\n\
             bar.sync 0;\natom.shared.{name} {reg}7, [cell], {reg}5;\natom.global.{name} {reg}8, [%rd0], {reg}5;\n\
             bar.sync 0;\nsetp.ne.{ty} %p2, {reg}7, {reg}8;\n@%p2 trap;\nld.shared.{ty} {reg}9, [cell];\n\
             setp.eq.u32 %p1, %r1, 0;\n@%p1 st.global.{ty} [%rd0+8], {reg}9;\nret;"
        );
        let m = Machine::plain(&kernel(".shared .align 8 .b64 cell;", &body));
        let (out, at) = (m.put(&[values[0], 0]), m.put(&values));
        m.ok("k", 1, 32, 0, &[Arg::U64(out), Arg::U64(at), Arg::U32(0)]);
        let want = values[1..].iter().fold(values[0], |a, &b| model(a, b));
        assert_eq!(m.get::<u64>(out, 2), [want, want], "{name}");
    }
}

#[test]
fn compare_and_swap_locks() {
    // Every thread takes the lock, adds one to a plain counter, and lets go.
    let body = "TRY: atom.acquire.gpu.global.cas.b32 %r2, [%rd0], 0, 1;\nsetp.ne.u32 %p1, %r2, 0;\n@%p1 bra TRY;\n\
        ld.global.u32 %r3, [%rd0+4];\nadd.u32 %r3, %r3, 1;\nst.global.u32 [%rd0+4], %r3;\n\
        atom.release.gpu.global.exch.b32 %r4, [%rd0], 0;\nret;";
    for options in schedules() {
        let m = Machine::new(&kernel("", body), options);
        let out = m.put(&[0u32; 2]);
        m.ok("k", 5, 64, 0, &[Arg::U64(out), Arg::U64(out), Arg::U32(0)]);
        assert_eq!(m.get::<u32>(out, 2), [0, 320], "{options:?}");
    }
}

#[test]
fn bank_conflicts_and_divergence_are_counted() {
    for (stride, conflicts) in [(1, 0), (2, 1), (4, 3), (8, 7), (3, 0), (32, 31)] {
        let body = format!(
            "mul.lo.u32 %r2, %r1, {};\nmov.u32 %r3, buffer;\nadd.u32 %r3, %r3, %r2;\nst.shared.u32 [%r3], %r1;\n\
             setp.lt.u32 %p1, %r1, 7;\n@%p1 bra A;\nadd.u32 %r4, %r1, 1;\nA: ret;",
            4 * stride
        );
        let m = Machine::plain(&kernel(".shared .align 4 .b8 buffer[4096];", &body));
        let out = m.put(&[0u32]);
        let counters = m.ok("k", 1, 32, 0, &[Arg::U64(out), Arg::U64(out), Arg::U32(0)]);
        assert_eq!(counters.shared.bank_conflicts, conflicts, "stride {stride}");
        assert_eq!((counters.divergences, counters.shared.store_bytes), (1, 128));
        let json = serde_json::to_value(&counters).unwrap();
        assert_eq!(json["shared"]["bank_conflicts"], conflicts);
        assert_eq!(json["instructions"]["store"]["lane"], 32);
    }
}

#[test]
fn unsupported_code_is_refused_by_name_and_place() {
    let cases = [
        ("wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {%f0}, {%r0}, {%r1}, {%f0};", "not built yet"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.tf32.tf32.f32 {%f0}, {%r0}, {%r1}, {%f0};", "only f32"),
        ("mma.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%f0}, {%r0}, {%r1}, {%f0};", "the shapes"),
        ("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0}, {%r0}, {%r1}, {%f0};", "4 registers"),
        ("ldmatrix.sync.aligned.m16n16.x1.trans.shared.b8 {%r1, %r2}, [%r0];", ".b16 is missing"),
        ("ldmatrix.sync.aligned.m8n8.x2.global.b16 {%r1, %r2}, [%rd0];", "shared memory"),
        ("cp.async.cg.shared.global [%r1], [%rd0], 8;", "with .cg 16"),
        ("cp.async.mbarrier.arrive.shared.b64 [%r1];", "not built yet"),
        ("stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r1], {%r2};", "not built yet"),
        ("frobnicate.u32 %r1, %r2;", "no such instruction"),
        ("ld.global.sideways.u32 %r1, [%rd0];", ".sideways"),
        ("ld.shared::cluster.u32 %r1, [%rd0];", "not built yet"),
        ("mov.u32 %r1, %envreg3;", "special register"),
        ("ld.global.u64 %r1, [%rd0];", "too narrow"),
        ("atom.global.add.u8 %r1, [%rd0], 1;", "add of u8"),
        ("call outside;", "defined nowhere"),
        ("fence.proxy.async;", "not built yet"),
    ];
    for (line, why) in cases {
        let outside = ".extern .func outside;";
        let text = refused(&kernel(outside, &format!("{line}\nret;")));
        let opcode = line.split(['.', ' ']).next().unwrap();
        assert!(
            text.contains(why) && text.contains(opcode) && text.starts_with("17:1: in k"),
            "{line}: {text}"
        );
    }
    let mut gpu = Gpu::new(Card::sm_80(), Options::default());
    assert!(matches!(gpu.load_module(&fixture("control.sm_90a.ptx")), Err(Error::Target(_))));
    let mut gpu = Gpu::new(Card::sm_90a(), Options::default());
    gpu.load_module(&fixture("control.sm_90a.ptx")).unwrap();
    assert!(gpu.leaks().is_empty());
}

#[test]
fn launches_are_validated() {
    let m = Machine::plain(&fixture("elementwise.sm_80.ptx"));
    let args = [Arg::U64(0), Arg::U64(0), Arg::U64(0), Arg::U64(0)];
    let launch = |grid, block, shared, args: &[Arg]| match m.gpu.launch(
        m.module,
        "vector_add",
        grid,
        block,
        shared,
        args,
    ) {
        Err(Error::Launch(e)) => e,
        other => panic!("{other:?}"),
    };
    assert!(launch([0, 1, 1], [1, 1, 1], 0, &args).contains("grid"));
    assert!(launch([1, 65536, 1], [1, 1, 1], 0, &args).contains("grid"));
    assert!(launch([1, 1, 1], [1025, 1, 1], 0, &args).contains("block"));
    assert!(launch([1, 1, 1], [32, 32, 2], 0, &args).contains("2048 threads"));
    assert!(launch([1, 1, 1], [1, 1, 1], 164 << 10, &args).contains("shared"));
    assert!(launch([1, 1, 1], [1, 1, 1], 0, &args[..3]).contains("3 arguments"));
    let narrow = [Arg::U64(0), Arg::U64(0), Arg::U64(0), Arg::U32(0)];
    assert!(launch([1, 1, 1], [1, 1, 1], 0, &narrow).contains("argument 3"));
    assert!(matches!(m.run("missing", 1, 1, 0, &[]), Err(Error::NotFound(_))));
    let h = Arg::Bytes(vec![0; 16]);
    let lion = [Arg::U64(0), Arg::U64(0), Arg::U64(0), Arg::U64(0), h];
    assert!(
        matches!(m.run("lion_bf16", 1, 512, 0, &lion), Err(Error::Launch(_))),
        "512 of at most 256 threads"
    );
}

#[test]
fn endless_loops_end() {
    let options = Options { warp_limit: 100_000, ..Options::default() };
    let m = Machine::new(&kernel("", "L: add.u32 %r2, %r2, 1;\nbra L;"), options);
    let out = m.put(&[0u32]);
    let fault = m.fault("k", 1, 32, 0, &[Arg::U64(out), Arg::U64(out), Arg::U32(0)]);
    assert_eq!((fault.kind, fault.place.function.as_str()), (FaultKind::Timeout, "k"));
}

/// Of faults in several blocks the one in the block that comes first is reported, however many threads run.
#[test]
fn the_first_fault_is_reported() {
    let body = "mov.u32 %r2, %ctaid.x;\nsetp.lt.u32 %p1, %r2, 37;\n@%p1 bra END;\ntrap;\nEND: ret;";
    for threads in [1, 2, 7] {
        let m = Machine::new(&kernel("", body), Options { threads, ..Options::default() });
        let out = m.put(&[0u32]);
        let fault = m.fault("k", 200, 32, 0, &[Arg::U64(out), Arg::U64(out), Arg::U32(0)]);
        assert_eq!((fault.kind, fault.thread.block), (FaultKind::Trap, [37, 0, 0]));
    }
}

/// A grid barrier among co-resident blocks, again and again.
#[test]
fn grid_barriers() {
    // Round k: block 0's thread adds one to each word that the next round's block reads.
    let body = "mov.u32 %r2, %ctaid.x;\nmov.u32 %r3, %nctaid.x;\nmov.u32 %r4, 0;\n\
        mul.wide.u32 %rd3, %r2, 4;\nadd.s64 %rd4, %rd1, %rd3;\n\
        add.u32 %r5, %r2, 1;\nrem.u32 %r5, %r5, %r3;\nmul.wide.u32 %rd5, %r5, 4;\nadd.s64 %rd5, %rd1, %rd5;\n\
        ROUND: ld.global.u32 %r6, [%rd5];\nadd.u32 %r7, %r6, 1;\n\
        atom.acq_rel.gpu.global.add.u32 %r8, [%rd0], 1;\nadd.u32 %r9, %r4, 1;\nmul.lo.u32 %r9, %r9, %r3;\n\
        W1: ld.acquire.gpu.global.u32 %r10, [%rd0];\nsetp.lt.u32 %p1, %r10, %r9;\n@%p1 bra W1;\n\
        st.global.u32 [%rd4], %r7;\n\
        atom.acq_rel.gpu.global.add.u32 %r8, [%rd0+4], 1;\n\
        W2: ld.acquire.gpu.global.u32 %r10, [%rd0+4];\nsetp.lt.u32 %p1, %r10, %r9;\n@%p1 bra W2;\n\
        add.u32 %r4, %r4, 1;\nsetp.lt.u32 %p2, %r4, %r0;\n@%p2 bra ROUND;\nret;";
    for options in schedules() {
        let m = Machine::new(&kernel("", body), options);
        let (out, at) = (m.put(&[0u32; 2]), m.put(&[0u32, 10, 20, 30, 40, 50]));
        m.ok("k", 6, 1, 0, &[Arg::U64(out), Arg::U64(at), Arg::U32(4)]);
        assert_eq!(m.get::<u32>(at, 6), [44, 54, 4, 14, 24, 34], "{options:?}");
    }
}

/// Cache operators and hints change nothing; prefetches need an address.
#[test]
fn hints() {
    let loads = [
        "ld.global.ca.u32 %r3",
        "ld.global.cg.u32 %r3",
        "ld.global.cs.u32 %r3",
        "ld.global.lu.u32 %r3",
        "ld.global.cv.u32 %r3",
        "ld.global.nc.u32 %r3",
        "ld.global.nc.L1::no_allocate.L2::128B.u32 %r3",
        "ld.global.L1::evict_last.u32 %r3",
        "ld.global.L2::64B.u32 %r3",
        "ldu.global.u32 %r3",
        "ld.weak.global.u32 %r3",
        "ld.relaxed.sys.global.u32 %r3",
        "ld.acquire.cta.global.u32 %r3",
        "ld.volatile.u32 %r3",
    ];
    let stores = [
        "st.global.wb.u32",
        "st.global.cg.u32",
        "st.global.cs.u32",
        "st.global.wt.u32",
        "st.weak.global.u32",
        "st.global.L1::no_allocate.u32",
        "st.relaxed.gpu.global.u32",
        "st.release.sys.u32",
        "st.volatile.u32",
    ];
    for (index, load) in loads.iter().enumerate() {
        let store = stores[index % stores.len()];
        let body = format!(
            "mul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd3, %rd1, %rd3;\nprefetch.global.L2 [%rd3];\n\
             mov.b64 %rd4, 0;\nld.global.L2::cache_hint.u32 %r4, [%rd3], %rd4;\n{load}, [%rd3];\n\
             setp.ne.u32 %p1, %r3, %r4;\n@%p1 trap;\n{store} [%rd2], %r3;\nret;"
        );
        assert_eq!(words("", &body, 3, &[5, 6, 7]), [5, 6, 7], "{load} {store}");
    }
    let m = Machine::plain(&kernel("", "add.s64 %rd3, %rd1, 4;\nprefetch.global.L2 [%rd3];\nret;"));
    let out = m.put(&[0u32]);
    let fault = m.fault("k", 1, 1, 0, &[Arg::U64(out), Arg::U64(out), Arg::U32(0)]);
    assert_eq!(fault.kind, FaultKind::OutOfBounds);
    // Launches follow each other here, so waiting for the one before is nothing.
    let mut gpu = Gpu::new(Card::sm_90a(), Options::default());
    let text =
        kernel("", "griddepcontrol.wait;\nst.global.u32 [%rd2], 9;\ngriddepcontrol.launch_dependents;\nret;");
    let module = gpu.load_module(&text.replace("sm_80", "sm_90a")).unwrap();
    let out = gpu.alloc(4).unwrap();
    gpu.launch(module, "k", [1; 3], [1; 3], 0, &[Arg::U64(out), Arg::U64(out), Arg::U32(0)]).unwrap();
    let mut bytes = [0; 4];
    gpu.copy_out(&mut bytes, out).unwrap();
    assert_eq!(bytes, [9, 0, 0, 0]);
}

/// A plain launch has no workspace for a barrier of the grid, which is how cooperative groups know it; profiler events
/// are not counted.
#[test]
fn no_grid_workspace() {
    let body = "pmevent 3;\nmov.u32 %r2, %envreg1;\nmov.u32 %r3, %envreg2;\nor.b32 %r2, %r2, %r3;\n\
        st.global.u32 [%rd2], %r2;\nret;";
    assert_eq!(words("", body, 2, &[]), [0, 0]);
}
