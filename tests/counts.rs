//! What a step moves and executes, counted on the software GPU: bytes an element, how wide accesses are, launches. One process,
//! one test at a time, since the counts are the process's.

use std::collections::BTreeMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use orthant::config::Config;
use orthant::{Device, Dtype, EmulatedCard, Optimizer, Parameter, Tensor};
use orthant_gpu::preload::Emulator;
use serde_json::Value;

static EMULATOR: LazyLock<Mutex<Emulator>> =
    LazyLock::new(|| Mutex::new(Emulator::preload(None).expect("cargo build -p orthant-emulator")));

fn emulator() -> MutexGuard<'static, Emulator> {
    EMULATOR.lock().unwrap_or_else(PoisonError::into_inner)
}

const N: usize = 1 << 20;

/// What one launch of a kernel did.
#[derive(Debug, Default, Clone, PartialEq)]
struct Counted {
    launches: u64,
    /// In sectors of 32 bytes.
    moved: u64,
    bytes: u64,
    /// Bytes in accesses of fewer than 16.
    narrow: u64,
    lane_instructions: u64,
}

/// Everything counted so far, by kernel.
fn counts(emulator: &Emulator) -> BTreeMap<String, Counted> {
    let report: Value = serde_json::from_str(&emulator.report()).expect("JSON");
    let kernels = report["kernels"].as_object().expect("an object");
    let one = |(name, kernel): (&String, &Value)| {
        let mut counted =
            Counted { launches: kernel["launches"].as_u64().expect("a number"), ..Counted::default() };
        for traffic in ["global_loads", "global_stores"].map(|way| &kernel[way]) {
            counted.moved += 32 * traffic["sectors"].as_u64().expect("a number");
            counted.bytes += traffic["bytes"].as_u64().expect("a number");
            let widths = traffic["widths"].as_object().expect("an object").iter();
            let widths =
                widths.map(|(w, n)| (w.parse::<u64>().expect("a number"), n.as_u64().expect("a number")));
            counted.narrow += widths.filter(|(w, _)| *w < 16).map(|(w, n)| w * n).sum::<u64>();
        }
        let instructions = kernel["instructions"].as_object().expect("an object").values();
        counted.lane_instructions = instructions.map(|i| i["lane"].as_u64().expect("a number")).sum();
        (name.clone(), counted)
    };
    kernels.iter().map(one).collect()
}

/// What the second step of an optimizer over tensors of these lengths does, by kernel.
fn step(
    emulator: &Emulator,
    step: &str,
    group: &str,
    dtype: Dtype,
    grad: Dtype,
    lengths: &[usize],
) -> BTreeMap<String, Counted> {
    let shapes: Vec<_> = lengths.iter().map(|&n| vec![n]).collect();
    step_of(emulator, step, group, dtype, grad, &shapes)
}

/// The same of tensors of these shapes.
fn step_of(
    emulator: &Emulator,
    step: &str,
    group: &str,
    dtype: Dtype,
    grad: Dtype,
    shapes: &[Vec<usize>],
) -> BTreeMap<String, Counted> {
    let config = Config::parse(&format!("[step]\n{step}\n[[group]]\nparams = [\"*\"]\nlr = 0.01\n{group}"))
        .expect("legal");
    let previous = config.groups[0].algorithm().needs_previous_gradient();
    let parameters = shapes.iter().enumerate().map(|(i, shape)| {
        let zeros = |dtype| Tensor::zeros(dtype, shape).expect("it fits");
        let parameter = Parameter::new(format!("p{i}"), zeros(dtype)).grad(zeros(grad));
        if previous { parameter.prev_grad(zeros(grad)) } else { parameter }
    });
    let mut optimizer = Optimizer::builder(Device::Emulated(EmulatedCard::Sm80))
        .groups(config.groups.clone())
        .options(config.options)
        .register(parameters)
        .expect("legal");
    optimizer.step().expect("finite");
    let before = counts(emulator);
    optimizer.step().expect("finite");
    let mut after = counts(emulator);
    for (name, now) in &mut after {
        let Some(then) = before.get(name) else { continue };
        now.launches -= then.launches;
        now.moved -= then.moved;
        now.bytes -= then.bytes;
        now.narrow -= then.narrow;
        now.lane_instructions -= then.lane_instructions;
    }
    after.retain(|_, counted| counted.launches > 0);
    after
}

#[test]
fn bytes_are_those_of_the_roofline_and_accesses_are_sixteen_bytes_wide() {
    use Dtype::{Bf16, F32};
    let emulator = emulator();
    let (sign, signum, adamw) =
        ("algorithm = \"sign-sgd\"", "algorithm = \"signum\"", "algorithm = \"adamw\"");
    let lion = "algorithm = \"lion\"\nweight_decay = 0.1";
    let extrapolated =
        "algorithm = \"lmo\"\nnorm = \"sign\"\nestimator = { kind = \"extrapolated\", alpha = 0.2 }";
    let mvr = "algorithm = \"lmo\"\nnorm = \"sign\"\nestimator = { kind = \"mvr\", alpha = 0.2 }";
    let bf16_state = "state_dtype = \"bf16\"";
    // Bytes an element, from the sizes of what is read and written; and lane instructions an element, 6.5 a byte at most, of
    // which a Hopper card at 4.3 TB/s has time for no more.
    let table = [
        (sign, "", Bf16, Bf16, 6.0),
        (lion, bf16_state, Bf16, Bf16, 10.0),
        (signum, bf16_state, Bf16, Bf16, 10.0),
        (lion, "", Bf16, Bf16, 14.0),
        (lion, "", F32, F32, 20.0),
        (lion, "master = \"f32\"", Bf16, Bf16, 20.0),
        (lion, "master = \"compact\"", Bf16, Bf16, 18.0),
        (adamw, bf16_state, Bf16, Bf16, 14.0),
        (adamw, "", Bf16, Bf16, 22.0),
        (adamw, "master = \"f32\"", Bf16, Bf16, 28.0),
        (adamw, "master = \"compact\"", Bf16, Bf16, 26.0),
        (extrapolated, "", Bf16, Bf16, 20.0),
        (extrapolated, "", F32, F32, 24.0),
        (mvr, "", Bf16, F32, 20.0),
    ];
    for (group, more, dtype, grad, expected) in table {
        let counted =
            step(&emulator, "nonfinite = \"propagate\"", &format!("{group}\n{more}"), dtype, grad, &[N]);
        let kernel = &counted["elementwise"];
        let bytes = kernel.moved as f64 / N as f64;
        let instructions = kernel.lane_instructions as f64 / N as f64;
        println!("{group:?} {more:?} {dtype}: {bytes:.3} B/element, {instructions:.1} lane instructions");
        assert!(
            (bytes / expected - 1.0).abs() < 0.01,
            "{group} {more}: {bytes} B/element, expected {expected}"
        );
        // What is narrow is a word for each block: which segment its first chunk belongs to.
        assert!((kernel.narrow as f64) < 0.006 * kernel.bytes as f64, "{group} {more}: {kernel:?}");
        assert!(
            (kernel.bytes as f64) > 0.995 * kernel.moved as f64,
            "{group} {more}: parts of sectors: {kernel:?}"
        );
        assert!(instructions < 6.5 * expected, "{group} {more}: {instructions} instructions an element");
        assert_eq!(kernel.launches, 1);
    }
}

/// Measuring what groups move by adds a hundredth to the bytes at most, and a few instructions an element.
#[test]
fn what_groups_move_by_costs_less_than_a_hundredth_of_the_bytes() {
    let emulator = emulator();
    for (group, bytes) in [("algorithm = \"lion\"", 10.0), ("algorithm = \"adamw\"", 14.0)] {
        let group = format!("{group}\nstate_dtype = \"bf16\"");
        let run = |options: &str| step(&emulator, options, &group, Dtype::Bf16, Dtype::Bf16, &[N]);
        let plain = run("nonfinite = \"propagate\"");
        let measured = run("nonfinite = \"propagate\"\ndiagnostics = true");
        assert!(!plain.contains_key("elementwise_measured") && !measured.contains_key("elementwise"));
        let moved = |name: &str| measured[name].moved as f64 / N as f64;
        let all = moved("elementwise_measured") + moved("measure");
        let lanes = |k: &Counted| k.lane_instructions as f64 / N as f64;
        let (before, after) = (lanes(&plain["elementwise"]), lanes(&measured["elementwise_measured"]));
        println!("{group:?}: {all:.3} B/element, {before:.1} -> {after:.1} lane instructions");
        assert!(all < 1.01 * bytes, "{all}");
        assert!(after < before + 6.0, "{before} -> {after}");
        assert!(measured.values().all(|kernel| kernel.launches == 1), "{measured:?}");
    }
}

#[test]
fn the_scan_reads_gradients_once() {
    let emulator = emulator();
    for (options, dtype, expected) in [
        ("max_grad_norm = 1.0", Dtype::Bf16, 2.0),
        ("max_grad_norm = 1.0", Dtype::F32, 4.0),
        ("nonfinite = \"skip\"", Dtype::Bf16, 2.0),
    ] {
        let counted = step(&emulator, options, "algorithm = \"lion\"", dtype, dtype, &[N]);
        let kernel = &counted["scan"];
        let bytes = kernel.moved as f64 / N as f64;
        let instructions = kernel.lane_instructions as f64 / N as f64;
        println!("{options} {dtype}: {bytes:.3} B/element, {instructions:.1} lane instructions");
        // A block of 4,096 elements: 24 bytes are written, 8 are read, and here, where a warp has one block, the matrix's
        // 128. (A warp with several blocks of a matrix reads that once.)
        assert!((bytes - expected).abs() < 0.075, "{bytes}");
        let rest: u64 = ["gather", "decide", "prepare"].iter().map(|name| counted[*name].moved).sum();
        assert!((rest as f64) < 0.03 * N as f64, "{counted:?}");
    }
}

#[test]
fn norms_read_what_the_direction_is_made_of() {
    let emulator = emulator();
    let counted =
        step(&emulator, "nonfinite = \"propagate\"", "algorithm = \"nsgd\"", Dtype::Bf16, Dtype::Bf16, &[N]);
    let bytes = |kernel: &str| counted[kernel].moved as f64 / N as f64;
    // Gradient and momentum, and as with the scan; then the step itself.
    assert!((bytes("norms") - 6.0).abs() < 0.1, "{}", bytes("norms"));
    assert!((bytes("elementwise") - 14.0).abs() < 0.15, "{}", bytes("elementwise"));
}

/// Rows and columns cost the same: all accesses are along rows. Beside the tensors a block is told of its tile, and each line has
/// a sum of squares a tile.
#[test]
fn lines_are_two_passes_whichever_way_they_run() {
    let emulator = emulator();
    for norm in ["rows", "columns"] {
        let group = format!("algorithm = \"scion\"\nnorm = \"{norm}\"");
        for (dtype, first, second) in [(Dtype::Bf16, 6.0, 14.0), (Dtype::F32, 8.0, 20.0)] {
            let shapes = [vec![1024, 1024]];
            let counted = step_of(&emulator, "nonfinite = \"propagate\"", &group, dtype, dtype, &shapes);
            for (kernel, expected) in [("lengths", first), ("divide", second)] {
                let bytes = counted[kernel].moved as f64 / N as f64;
                let instructions = counted[kernel].lane_instructions as f64 / N as f64;
                println!(
                    "{norm} {dtype} {kernel}: {bytes:.3} B/element, {instructions:.1} lane instructions"
                );
                assert!((bytes - expected).abs() < 0.8, "{norm} {dtype} {kernel}: {bytes} B/element");
                assert_eq!(counted[kernel].launches, 1);
            }
            assert!(!counted.contains_key("elementwise"), "{counted:?}");
        }
    }
    let shapes: Vec<_> = (0..300).map(|i| vec![1 + i % 7, 1 + i % 90]).collect();
    let group = "algorithm = \"scion\"\nnorm = \"rows\"";
    let counted = step_of(&emulator, "nonfinite = \"propagate\"", group, Dtype::Bf16, Dtype::Bf16, &shapes);
    assert!(counted.values().all(|kernel| kernel.launches == 1), "{counted:?}");
    assert_eq!(counted.len(), 3, "{counted:?}");
}

#[test]
fn ten_thousand_tensors_are_one_launch_of_each_kernel() {
    let emulator = emulator();
    let lengths: Vec<usize> = (0..10_000).map(|i| 1 + i * 37 % 97).collect();
    let counted =
        step(&emulator, "max_grad_norm = 1.0", "algorithm = \"nsgd\"", Dtype::Bf16, Dtype::Bf16, &lengths);
    assert!(counted.values().all(|kernel| kernel.launches == 1), "{counted:?}");
    assert_eq!(counted.len(), 7, "{counted:?}");
}
