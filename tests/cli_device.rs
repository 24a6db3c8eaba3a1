//! The program on the software GPU: the CPU's files and answers, what `plan` says of a device, `parity` and `bench`.

use std::fs;
use std::path::Path;
use std::process::Command;

use orthant::files::write_tensors;
use orthant::{Dtype, Element, Storage, Tensor};
use serde_json::Value;
use tempfile::TempDir;

/// Exit code, stdout, stderr.
fn run(folder: &Path, line: &str) -> (i32, String, String) {
    let out = Command::new(env!("CARGO_BIN_EXE_orthant"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("the program starts");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (out.status.code().expect("no signal"), text(out.stdout), text(out.stderr))
}

#[track_caller]
fn good(folder: &Path, line: &str) -> String {
    let (code, stdout, stderr) = run(folder, line);
    assert_eq!(code, 0, "{line}: {stderr}");
    stdout
}

#[track_caller]
fn json(folder: &Path, line: &str) -> Value {
    let text = good(folder, line);
    assert_eq!(text.lines().count(), 1, "{line}: JSON is one object on one line");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e}: {text}"))
}

fn values<E: Element>(n: usize, seed: u64) -> Vec<E> {
    let one = |i: u64| ((i + 31 * seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f64 / 1e7 - 0.8;
    (0..n as u64).map(|i| E::from_f64(one(i))).collect()
}

fn tensor(dtype: Dtype, shape: &[usize], seed: u64) -> Tensor {
    let n = shape.iter().product();
    let storage = match dtype {
        Dtype::F64 => Storage::F64(values(n, seed)),
        Dtype::F32 => Storage::F32(values(n, seed)),
        Dtype::Bf16 => Storage::Bf16(values(n, seed)),
        Dtype::F16 => Storage::F16(values(n, seed)),
    };
    Tensor::from_storage(storage, shape).expect("it fits")
}

/// Parameters of a type in `x`, gradients in `g1` to `g3`, and the configuration in `c.toml`.
fn folder(dtype: Dtype, config: &str) -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let shapes: [(&str, &[usize]); 4] = [("a", &[33]), ("b", &[7, 129]), ("c", &[5000]), ("d", &[1])];
    for (file, seed, dtype) in
        [("x", 0, dtype), ("g1", 1, Dtype::F32), ("g2", 2, Dtype::F32), ("g3", 3, Dtype::F32)]
    {
        let tensors = shapes.map(|(name, shape)| (name, tensor(dtype, shape, seed)));
        write_tensors(dir.path().join(file), tensors.iter().map(|(n, t)| (*n, t))).expect("written");
    }
    fs::write(dir.path().join("c.toml"), config).expect("written");
    dir
}

const FILES: [&str; 3] = ["params.safetensors", "state.safetensors", "eval_point.safetensors"];

fn files(folder: &Path, out: &str) -> [Option<Vec<u8>>; 3] {
    FILES.map(|file| fs::read(folder.join(out).join(file)).ok())
}

#[test]
fn steps_write_the_cpu_files_and_go_on_from_each_other() {
    let rows = [
        (Dtype::F32, "algorithm = \"adamw\"\nlr = 0.01\namsgrad = true"),
        (Dtype::Bf16, "algorithm = \"lion\"\nlr = 0.01\nweight_decay = 0.1\nmaster = \"compact\""),
        (Dtype::Bf16, "algorithm = \"signum\"\nlr = 0.01\nstate_dtype = \"bf16\"\nrounding = \"stochastic\""),
        (Dtype::F16, "algorithm = \"sgd\"\nlr = 0.01\nmomentum = 0.9\nmaster = \"f32\""),
        (
            Dtype::Bf16,
            "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"frobenius\"\nestimator = { kind = \"extrapolated\", alpha = 0.2 }",
        ),
        (
            Dtype::F32,
            "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"sign\"\nestimator = { kind = \"mvr\", alpha = 0.2 }",
        ),
        (Dtype::F32, "algorithm = \"adagrad\"\nlr = 0.01\ninitial_accumulator_value = 0.1"),
    ];
    for (dtype, group) in rows {
        let config = format!(
            "[step]\nmax_grad_norm = 1.5\nloss_scale = 4\nseed = 3\n[[group]]\nparams = [\"*\"]\n{group}\n"
        );
        let dir = folder(dtype, &config);
        let (at, previous) = (dir.path(), group.contains("mvr"));
        let step = |params: &str, grads: &str, more: &str, out: &str| {
            let previous = if previous { format!("--prev-grads {grads}") } else { String::new() };
            let line = format!(
                "step --config c.toml --params {params} --grads {grads} {previous} {more} --out {out} --quiet"
            );
            good(at, &line);
        };
        step("x", "g1 g2 g3", "", "straight");
        step("x", "g1 g2 g3", "--device emulated", "straight-card");
        for (first, second) in [("cpu", "emulated"), ("emulated", "cpu")] {
            step("x", "g1", &format!("--device {first}"), &format!("first-{first}"));
            let from = format!("first-{first}");
            let more = format!("--device {second} --state {from}/state.safetensors");
            step(&format!("{from}/params.safetensors"), "g2 g3", &more, &format!("then-{second}"));
        }
        let expected = files(at, "straight");
        assert!(expected[0].is_some() && expected[1].is_some());
        for out in ["straight-card", "then-emulated", "then-cpu"] {
            assert!(files(at, out) == expected, "{group}: {out}");
        }
        assert!(files(at, "first-cpu") == files(at, "first-emulated"), "{group}");
    }
}

#[test]
fn refused_steps_have_the_cpu_words_and_exit_codes() {
    for policy in ["error", "skip", "propagate"] {
        let config =
            format!("[step]\nnonfinite = \"{policy}\"\n[[group]]\nparams = [\"*\"]\nalgorithm = \"adamw\"\n");
        let dir = folder(Dtype::F32, &config);
        for (file, value) in [("nan", f32::NAN), ("huge", 1e30)] {
            let mut of = values::<f32>(33, 9);
            of[7] = value;
            let bad = Tensor::from_vec(of, &[33]).expect("it fits");
            write_tensors(dir.path().join(file), [("a", &bad)]).expect("written");
            let on = |device: &str| {
                let line = format!(
                    "step --config c.toml --params x --grads g1 {file} g2 --out o-{device} --device {device} -v"
                );
                let (code, stdout, stderr) = run(dir.path(), &line);
                let written = dir.path().join(format!("o-{device}/params.safetensors")).exists();
                (code, stdout.replace("emulated:sm_80", "cpu").replace("emulated", "cpu"), stderr, written)
            };
            let (cpu, card) = (on("cpu"), on("emulated"));
            assert_eq!(card, cpu, "{policy}, {file}");
            let refused = policy == "error";
            assert_eq!(cpu.0, i32::from(refused), "{cpu:?}");
            assert!(!refused || (cpu.2.contains("step 2") && cpu.2.contains("`a`")), "{cpu:?}");
        }
    }
}

#[test]
fn a_device_that_cannot_be_used_is_no_misfit() {
    let dir = folder(Dtype::F32, "[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\n");
    let out = Command::new(env!("CARGO_BIN_EXE_orthant"))
        .args("step --config c.toml --params x --grads g1 --out o --device emulated".split(' '))
        .env("ORTHANT_EMULATOR_MEMORY", "64K")
        .current_dir(dir.path())
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: device `emulated:sm_80`"), "{stderr}");
}

#[test]
fn plan_names_kernels_and_device_bytes() {
    let groups = "[[group]]\nname = \"norm\"\nparams = [\"b\"]\nalgorithm = \"nsgd\"\nlr = 0.1\n\
                  [[group]]\nname = \"rest\"\nparams = [\"*\"]\nalgorithm = \"adamw\"\n";
    let scanned = folder(Dtype::F32, groups);
    let plain = folder(Dtype::F32, &format!("[step]\nnonfinite = \"propagate\"\n{groups}"));
    let kernels = |dir: &TempDir, device: &str| -> Vec<String> {
        let plan = json(dir.path(), &format!("plan --config c.toml --params x --json {device}"));
        let rows = plan["rows"].as_array().expect("rows").clone();
        let joined = |row: &Value| {
            let names = row["kernels"].as_array().expect("kernels");
            names.iter().map(|n| n.as_str().expect("a name")).collect::<Vec<_>>().join(", ")
        };
        rows.iter().map(joined).collect()
    };
    let (all, norms) = ("scan, elementwise".to_owned(), "scan, norms, elementwise".to_owned());
    // No driver is asked for a plan, so a card need not be there.
    for device in ["--device emulated", "--device cuda:3"] {
        assert_eq!(kernels(&scanned, device), [all.clone(), norms.clone(), all.clone(), all.clone()]);
        assert_eq!(
            kernels(&plain, device),
            ["elementwise", "norms, elementwise", "elementwise", "elementwise"]
        );
    }
    assert_eq!(kernels(&plain, ""), ["cpu"; 4]);
    let plan = json(scanned.path(), "plan --config c.toml --params x --json --device emulated");
    let bytes = |key: &str| plan["device_bytes"][key].as_u64().expect("bytes");
    assert_eq!(bytes("all"), bytes("state") + bytes("work") + bytes("tables"));
    assert!(bytes("state") >= plan["state_bytes"].as_u64().expect("bytes"));
    let text = good(scanned.path(), "plan --config c.toml --params x --device emulated");
    for fragment in ["scan, norms, elementwise".to_owned(), format!("{} bytes on the device", bytes("all"))] {
        assert!(text.contains(&fragment), "`{fragment}` is not in: {text}");
    }
    let on_cpu = json(scanned.path(), "plan --config c.toml --params x --json");
    assert_eq!(on_cpu["device_bytes"], Value::Null);
}

#[test]
fn plan_says_how_matrices_are_orthogonalised() {
    let config = "[[group]]\nname = \"hidden\"\nparams = [\"b\"]\nalgorithm = \"muon\"\nlr = 0.1\nns_dtype = \"f16\"\n\
                  [[group]]\nparams = [\"*\"]\nalgorithm = \"adamw\"\n";
    let dir = folder(Dtype::F32, config);
    let plan = json(dir.path(), "plan --config c.toml --params x --json --device emulated");
    let of = &plan["orthogonalised"];
    assert_eq!((&of["cohorts"], &of["shapes"][0]["method"]), (&1.into(), &"gram".into()), "{of}");
    assert_eq!(
        (&of["shapes"][0]["shape"], &of["shapes"][0]["matrices"]),
        (&serde_json::json!([7, 129]), &1.into())
    );
    // A matrix of 64 x 192 with padding, twice or more often, and squares of 64.
    assert!(of["workspace"].as_u64() >= Some(2 * 2 * 64 * 192), "{of}");
    assert!(of["tensor_flops"].as_u64() > of["ideal_flops"].as_u64() && of["ideal_flops"].as_u64() > Some(0));
    assert!(of["launches"].as_u64() > Some(10));
    let text = good(dir.path(), "plan --config c.toml --params x --device emulated");
    assert!(text.contains("in 1 cohorts") && text.contains("gram") && text.contains("7 x 129"), "{text}");
    let on_cpu = json(dir.path(), "plan --config c.toml --params x --json");
    assert_eq!(on_cpu["orthogonalised"], Value::Null);
}

#[test]
fn a_group_without_kernels_is_refused_by_name() {
    let config = "[[group]]\nname = \"hidden\"\nparams = [\"b\"]\nalgorithm = \"orthogonal-sgdm\"\nlr = 0.1\nns_dtype = \"f32\"\n\
                  [[group]]\nname = \"rest\"\nparams = [\"*\"]\nalgorithm = \"lion\"\n";
    let dir = folder(Dtype::F32, config);
    for line in [
        "plan --config c.toml --params x --device emulated",
        "step --config c.toml --params x --grads g1 --out o --device emulated",
    ] {
        let (code, stdout, stderr) = run(dir.path(), line);
        assert_eq!(code, 2, "{line}: {stderr}");
        for fragment in ["group `hidden`", "ns_dtype = f32", "device `cpu`"] {
            assert!(stderr.contains(fragment), "{line}: `{fragment}` is not in: {stderr}");
        }
        assert!(stdout.is_empty());
    }
}

#[test]
fn parity_holds_and_says_so() {
    let dir = TempDir::new().expect("a temporary folder");
    for (line, device, bits) in [
        ("parity --quick --device emulated --json", "emulated:sm_80", true),
        ("parity --quick --device emulated:sm_90a --json --seed 5", "emulated:sm_90a", true),
        ("parity --quick --json", "cpu", false),
    ] {
        let report = json(dir.path(), line);
        assert_eq!(report["device"], device);
        let rows = report["rows"].as_array().expect("rows");
        let (spectral, rows): (Vec<&Value>, Vec<&Value>) =
            rows.iter().partition(|row| row.get("method").is_some());
        let of = |kind: &str| -> Vec<&Value> {
            rows.iter().copied().filter(|row| row["case"].as_str().expect("a name").ends_with(kind)).collect()
        };
        let (exact, near) = (of(": bits"), of(": f64"));
        assert_eq!(exact.len(), if bits { near.len() } else { 0 });
        assert!(near.len() > 40 && exact.len() + near.len() == rows.len());
        assert!(exact.iter().all(|row| row["tolerance"] == 0.0 && row["error"] == 0.0 && row["ok"] == true));
        for row in spectral {
            let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
            assert!(number("error") <= number("tolerance") && row["ok"] == true, "{row}");
            assert!(number("sigma_max") <= number("sigma_limit") && number("sigma_limit") < 1.4, "{row}");
            let zero = row["case"].as_str().expect("a name").starts_with("zero");
            assert!(zero == row["dual"].is_null() && (zero || number("error") > 0.0), "{row}");
        }
        for row in near {
            let error = row["error"].as_f64().expect("a number");
            assert!(row["tolerance"] == 1.0 && error <= 1.0 && row["ok"] == true, "{row}");
            // Something was compared, and rounding was seen.
            assert!(error > 0.3 && row["compared"].as_u64() > Some(100), "{row}");
        }
    }
    let text = good(dir.path(), "parity --quick --device emulated");
    assert!(text.contains("all within tolerance") && text.contains("frobenius mvr"), "{text}");
    assert!(text.contains("rank-deficient, gram f16") && !text.contains("MISSED"), "{text}");
    assert!(good(dir.path(), "parity --quick -v").contains("lion, bf16/"));
    assert_eq!(good(dir.path(), "parity --quick -q"), "");
}

/// A bit of device memory flips while steps run: somebody has to notice.
#[test]
fn parity_misses_are_listed_and_are_exit_1() {
    let dir = TempDir::new().expect("a temporary folder");
    let out = Command::new(env!("CARGO_BIN_EXE_orthant"))
        .args(["parity", "--quick", "--device", "emulated", "--json"])
        // In the first case's parameters, whose first allocation it is, before their first step.
        .env("ORTHANT_EMULATOR_FLIPS", "0+3.6@120")
        .current_dir(dir.path())
        .output()
        .expect("the program starts");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("missed: sign-sgd, f32/f32, lengths: bits: error 2"), "{stderr}");
    let report: Value = serde_json::from_slice(&out.stdout).expect("JSON all the same");
    let missed = report["rows"].as_array().expect("rows").iter().filter(|row| row["ok"] == false).count();
    assert!(missed >= 1 && stderr.contains(&format!("{missed} of ")), "{stderr}");
}

fn rows_of(report: &Value) -> &Vec<Value> {
    report["rows"].as_array().expect("rows")
}

#[test]
fn bench_counts_on_the_software_gpu_and_times_nothing() {
    let dir = TempDir::new().expect("a temporary folder");
    let report = json(dir.path(), "bench --device emulated --json --elements 300001 --tensors 3");
    assert_eq!(report["driver"]["emulated"], true);
    assert_eq!(report["card"]["compute_capability"], "8.0");
    assert_eq!(report["kernels"]["machine_code"], false);
    assert_eq!(report["left_out"], serde_json::json!([]));
    let expected = [
        ("sign-sgd", "bf16", "bf16", "none", 6.0, 2),
        ("signum", "bf16", "bf16", "bf16", 10.0, 2),
        ("lion", "bf16", "bf16", "bf16", 10.0, 2),
        ("lion", "bf16", "bf16", "f32", 14.0, 2),
        ("lion", "bf16", "bf16", "f32", 20.0, 2),
        ("lion", "f32", "f32", "f32", 20.0, 2),
        ("sgd", "bf16", "bf16", "bf16", 10.0, 2),
        ("adamw", "bf16", "bf16", "bf16", 14.0, 2),
        ("adamw", "bf16", "bf16", "f32", 22.0, 2),
        ("adamw", "bf16", "bf16", "f32", 28.0, 2),
        ("adagrad", "bf16", "bf16", "f32", 14.0, 2),
        ("nsgd", "bf16", "bf16", "bf16", 14.0, 4),
        ("extrapolated", "bf16", "bf16", "f32", 20.0, 2),
        ("mvr", "bf16", "f32", "f32", 20.0, 2),
        ("scan", "bf16", "bf16", "none", 2.0, 5),
        ("clip", "bf16", "bf16", "bf16", 12.0, 5),
        ("accumulate", "bf16", "f32", "none", 10.0, 1),
    ];
    let rows = rows_of(&report);
    assert_eq!(rows.len(), expected.len());
    for (row, (kernel, param, grad, state, bytes, launches)) in rows.iter().zip(expected) {
        for (key, value) in [("kernel", kernel), ("param", param), ("grad", grad), ("state", state)] {
            assert_eq!(row[key], value, "{row}");
        }
        assert_eq!((&row["elements"], &row["tensors"]), (&300_001.into(), &3.into()));
        assert_eq!(row["launches"], launches, "{row}");
        let counted = row["bytes_per_element"].as_f64().expect("counted");
        // Descriptions are read once a warp, or a chunk, which weighs in tensors of 100,000 elements.
        assert!(counted >= bytes && counted < 1.01 * bytes + 0.5, "{row}");
        assert!(row["sector_efficiency"].as_f64() > Some(0.95), "{row}");
        assert!(row["instructions_per_element"].as_f64() > Some(5.0), "{row}");
        for key in ["ns", "copy_ns", "share_of_copy", "host_ns"] {
            assert!(row.get(key).is_none(), "the software GPU has no times: {row}");
        }
    }
    let text = good(dir.path(), "bench --device emulated --quick --kernels lion,scan");
    assert!(text.contains("not measured") && text.contains("not timed"), "{text}");
    assert!(!text.contains("adamw"), "{text}");
}

#[test]
fn bench_counts_tensor_cores() {
    let dir = TempDir::new().expect("a temporary folder");
    let report =
        json(dir.path(), "bench --device emulated --json --kernels gram,square,long --shapes 2x40x72");
    let rows = rows_of(&report);
    let flops: Vec<_> = rows
        .iter()
        .map(|row| (row["kernel"].as_str(), row["dtype"].as_str(), row["tensor_flops"].as_u64()))
        .collect();
    // Blocks of 16 x 8 with 16 terms: 3 x 5 of them, 11 on and below the diagonal, and 9 in a row of the long result.
    let (block, gram, square, long) = (4096, 11 * 5, 11 * 3, 3 * 9 * 3);
    let of = |kernel, dtype, blocks: u64| (Some(kernel), Some(dtype), Some(2 * blocks * block));
    let expected: Vec<_> = [("gram", gram), ("square", square), ("long", long)]
        .into_iter()
        .flat_map(|(kernel, blocks)| [of(kernel, "f16", blocks), of(kernel, "bf16", blocks)])
        .collect();
    assert_eq!(flops, expected);
    for row in rows {
        assert_eq!(
            (&row["shape"], &row["method"], &row["launches"]),
            (&"2x40x72".into(), &"product".into(), &1.into())
        );
        assert_eq!((&row["bank_conflicts"], &row["planned"]), (&0.into(), &false.into()), "{row}");
        assert!(row["error"].as_f64().is_some_and(|error| error > 0.0 && error < 5e-3), "{row}");
        for key in ["ns", "cublas_ns", "ratio", "cublas", "host_ns", "sigma_max"] {
            assert!(row.get(key).is_none(), "{row}");
        }
    }
    let report = json(dir.path(), "bench --device emulated --json --kernels newton-schulz --shapes 40x136");
    let rows = rows_of(&report);
    let methods: Vec<_> = rows.iter().map(|row| (row["method"].as_str(), row["dtype"].as_str())).collect();
    let both = |method| [(Some(method), Some("bf16")), (Some(method), Some("f16"))];
    assert_eq!(methods, [both("standard"), both("gram")].concat());
    for row in rows {
        assert!(row["tensor_flops"].as_u64() >= row["ideal_flops"].as_u64() && row["ns"].is_null(), "{row}");
        assert!(row["sigma_max"].as_f64().is_some_and(|sigma| sigma > 0.9 && sigma < 1.3), "{row}");
    }
    let report = json(dir.path(), "bench --device emulated --json --set gpt2-124m,llama-7b");
    for row in rows_of(&report) {
        assert!(
            row["planned"] == true && row["tensor_flops"].as_u64() > row["ideal_flops"].as_u64(),
            "{row}"
        );
        assert!(
            row.get("bank_conflicts").is_none() && row.get("instructions_per_element").is_none(),
            "{row}"
        );
    }
    assert_eq!(rows_of(&report).len(), 4);
    let text = good(dir.path(), "bench --device emulated --set llama-1b");
    assert!(text.contains("planned") && text.contains("not measured") && !text.contains("lion"), "{text}");
}

#[test]
fn bench_times_the_cpu_and_counts_nothing() {
    let dir = TempDir::new().expect("a temporary folder");
    let report = json(dir.path(), "bench --quick --json --kernels lion,accumulate,scan");
    assert_eq!((&report["device"], &report["driver"]), (&"cpu".into(), &Value::Null));
    let rows = rows_of(&report);
    assert_eq!(rows.len(), 6);
    for row in rows {
        let number = |key: &str| row[key].as_f64().unwrap_or_else(|| panic!("{key}: {row}"));
        assert!((number("share_of_copy") - number("copy_ns") / number("ns")).abs() < 1e-9);
        assert!([2.0, 10.0, 14.0, 20.0].contains(&number("bytes_per_element")), "{row}");
        for key in ["launches", "sector_efficiency", "instructions_per_element", "host_ns"] {
            assert!(row.get(key).is_none(), "{row}");
        }
    }
}

#[test]
fn bench_refuses_what_there_is_not() {
    let dir = TempDir::new().expect("a temporary folder");
    for (line, says) in [
        ("bench --kernels lyon", "there is no `lyon`; legal: sign-sgd, signum, lion,"),
        ("bench --elements 0", "--elements"),
        ("bench --elements 3 --tensors 4", "there are 3 elements"),
        ("bench --device emulated:sm_7", "must be"),
        ("bench --device emulated --shapes 3x0", "it must be ROWSxCOLUMNS or BATCHxROWSxCOLUMNS"),
        ("bench --device emulated --set gpt5", "there is no `gpt5`; legal: gpt2-124m,"),
        ("bench --kernels gram", "name a card with --device"),
    ] {
        let (code, stdout, stderr) = run(dir.path(), line);
        assert!(code == 2 && stdout.is_empty() && stderr.contains(says), "{line}: {code} {stderr}");
    }
}
