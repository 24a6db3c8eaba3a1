//! The program's answers when nothing is wrong.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use orthant::files::{read_tensors, write_tensors};
use orthant::{Dtype, Tensor};
use serde_json::Value;
use tempfile::TempDir;

fn orthant(folder: &Path, line: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orthant"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("the program starts")
}

/// Stdout of a run that has to succeed.
fn stdout(folder: &Path, line: &str) -> String {
    let output = orthant(folder, line);
    assert_eq!(output.status.code(), Some(0), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn json(folder: &Path, line: &str) -> Value {
    let text = stdout(folder, line);
    assert_eq!(text.lines().count(), 1, "{line}: JSON is one object on one line");
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {e}: {text}"))
}

const CONFIG: &str = r#"
[step]
max_grad_norm = 1.0
nonfinite = "skip"

[[group]]
name = "hidden"
params = ["*.weight"]
ndim = 2
algorithm = "muon"
lr = 0.02

[[group]]
name = "qkv"
params = ["qkv"]
algorithm = "scion"
splits = 3

[[group]]
name = "rest"
params = ["*"]
algorithm = "adamw"
"#;

/// Two good gradient files and one with a NaN.
fn folder() -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let shapes: [(&str, &[usize]); 4] =
        [("embed.weight", &[4, 6]), ("head.bias", &[5]), ("norm.weight", &[7]), ("qkv", &[6, 2])];
    let write = |file: &str, value: f32| {
        let tensors: Vec<(&str, Tensor)> = shapes
            .iter()
            .map(|(name, shape)| {
                let mut values = vec![0.25f32; shape.iter().product()];
                values[0] = value;
                (*name, Tensor::from_vec(values, shape).expect("a tensor"))
            })
            .collect();
        write_tensors(dir.path().join(file), tensors.iter().map(|(n, t)| (*n, t))).expect("written");
    };
    write("p", 1.0);
    write("g1", 0.5);
    write("g2", -0.5);
    write("nan", f32::NAN);
    fs::write(dir.path().join("c.toml"), CONFIG).expect("written");
    dir
}

#[test]
fn info_says_what_is_built() {
    let dir = folder();
    let text = stdout(dir.path(), "info");
    for fragment in
        ["orthant 0.", "device      cpu", "elementwise sm_90a", "on cards    sgd", "muon", "normuon"]
    {
        assert!(text.contains(fragment), "`{fragment}` is not in: {text}");
    }
    let info = json(dir.path(), "info --json");
    let row = &info["rows"][0];
    assert_eq!(row["device"], "cpu");
    let images = row["kernels"].as_array().expect("kernels");
    let of_one = images.iter().filter(|image| image["source"] == "elementwise");
    let architectures: Vec<&str> =
        of_one.map(|image| image["architecture"].as_str().expect("a name")).collect();
    assert_eq!(architectures, ["sm_80", "sm_90a", "compute_80", "compute_90a"]);
    assert_eq!(row["driver"], Value::Null);
    let has = |key: &str, name: &str| row[key].as_array().expect(key).iter().any(|v| v == name);
    assert!(has("algorithms", "muon") && !has("algorithms", "soap"));
    assert!(has("reserved", "soap") && !has("reserved", "muon"));
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        json(dir.path(), "--json --device cpu info"),
        info,
        "options go before or after the subcommand"
    );
}

#[test]
fn plan_lists_every_parameter_once_with_reason_and_bytes() {
    let dir = folder();
    let plan = json(dir.path(), "plan --config c.toml --params p --json");
    let rows = plan["rows"].as_array().expect("rows");
    let column = |key: &str| rows.iter().map(|r| r[key].clone()).collect::<Vec<_>>();
    assert_eq!(column("parameter"), ["embed.weight", "head.bias", "norm.weight", "qkv"]);
    assert_eq!(column("group"), ["hidden", "rest", "rest", "qkv"]);
    assert_eq!(column("algorithm"), ["muon", "adamw", "adamw", "scion"]);
    assert_eq!(
        column("reason"),
        ["matches `*.weight` with ndim = 2", "matches `*`", "matches `*`", "matches `qkv`"]
    );
    // One momentum; two moments; three blocks of one momentum; eight bytes of step count each.
    assert_eq!(column("state_bytes"), [24 * 4 + 8, 2 * 5 * 4 + 8, 2 * 7 * 4 + 8, 12 * 4 + 8]);
    assert_eq!(plan["state_bytes"], 24 * 4 + 40 + 56 + 48 + 32);
    assert_eq!(rows[3]["matrices"], serde_json::json!([[2, 2], [2, 2], [2, 2]]));
    assert_eq!(rows[1]["state"], serde_json::json!(["momentum f32", "variance f32"]));
    assert_eq!(rows[0]["composition"], "nesterov(0.95) > spectral[jordan x5 auto] > scale original > decay");
    assert_eq!((&plan["device"], &plan["precision"]), (&"cpu".into(), &"f32".into()));

    let text = stdout(dir.path(), "plan --config c.toml --params p");
    for row in rows {
        let name = row["parameter"].as_str().expect("a name");
        assert_eq!(text.lines().filter(|l| l.contains(&format!(" {name} "))).count(), 1, "{name} in {text}");
    }
    for fragment in ["device cpu, precision f32", "(3 matrices)", "4 parameters, 272 bytes of state"] {
        assert!(text.contains(fragment), "`{fragment}` is not in: {text}");
    }
    let doubled = json(dir.path(), "plan --config c.toml --params p --json --precision f64");
    assert_eq!(doubled["precision"], "f64");
    assert_eq!(doubled["state_bytes"], 2 * (272 - 32) + 32);
}

#[test]
fn plan_warns_of_lost_updates_and_idle_groups() {
    let dir = folder();
    let tensor = Tensor::zeros(Dtype::Bf16, &[2, 2]).expect("zeros");
    write_tensors(dir.path().join("half"), [("w", &tensor)]).expect("written");
    let config = "[[group]]\nname = \"a\"\nparams = [\"*\"]\nalgorithm = \"lion\"\n\
                  [[group]]\nname = \"b\"\nparams = [\"w\"]\nalgorithm = \"lion\"\n";
    fs::write(dir.path().join("w.toml"), config).expect("written");
    let text = stdout(dir.path(), "plan --config w.toml --params half");
    assert!(text.contains("warning: group `b` owns no parameter"), "{text}");
    assert!(text.contains("warning: group `a`: `w`: 16-bit parameters without master"), "{text}");
    let plan = json(dir.path(), "plan --config w.toml --params half --json");
    assert_eq!(plan["warnings"].as_array().expect("warnings").len(), 2);
    // The words of a compact master are named by their type in the state file.
    let config = "[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\nmaster = \"compact\"\n";
    fs::write(dir.path().join("m.toml"), config).expect("written");
    let plan = json(dir.path(), "plan --config m.toml --params half --json");
    assert_eq!(plan["warnings"], serde_json::json!([]));
    assert_eq!(plan["rows"][0]["state"], serde_json::json!(["momentum f32", "low i16"]));
    assert_eq!(plan["state_bytes"], 4 * (4 + 2) + 8);
}

#[test]
fn step_reports_every_step() {
    let dir = folder();
    let line = "step --config c.toml --params p --grads g1 nan g2 --out out --json";
    let report = json(dir.path(), line);
    assert_eq!((&report["steps"], &report["skipped"]), (&2.into(), &1.into()));
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 3);
    for (i, row) in rows.iter().enumerate() {
        let bad = i == 1;
        assert_eq!(row["step"], i + 1);
        assert_eq!(row["applied"], !bad);
        assert_eq!(row["updated"], if bad { 0 } else { 4 });
        assert_eq!(row["without_gradient"], 0);
        assert_eq!(row["non_finite"], if bad { "embed.weight".into() } else { Value::Null });
        assert_eq!(row["orthogonalise_fallbacks"], 0);
        if !bad {
            // Four elements of 0.5 and 44 of 0.25.
            let norm = (4.0 * 0.25f64 + 44.0 * 0.0625).sqrt();
            assert!((row["grad_norm"].as_f64().expect("clipping is on") - norm).abs() < 1e-12);
        }
    }
    let mut files: Vec<String> = fs::read_dir(dir.path().join("out"))
        .expect("results")
        .map(|e| e.expect("an entry").file_name().display().to_string())
        .collect();
    files.sort_unstable();
    assert_eq!(files, ["params.safetensors", "state.safetensors"]);
    let after = read_tensors(dir.path().join("out/params.safetensors")).expect("parameters");
    assert_eq!(after.len(), 4);

    let text = stdout(dir.path(), "step --config c.toml --params p --grads g1 nan g2 --out again");
    assert!(
        text.contains("2 steps applied, 1 skipped") && text.contains("`embed.weight` is not finite"),
        "{text}"
    );
    assert!(text.contains("written to again") && !text.contains("step 1:"), "{text}");
    let text = stdout(dir.path(), "step --config c.toml --params p --grads g1 nan g2 --out again -v");
    assert!(text.contains("step 1: 4 updated, 0 without gradient, gradient norm"), "{text}");
    let read = |out: &str| fs::read(dir.path().join(out).join("state.safetensors")).expect("state");
    assert!(read("out") == read("again"), "the same run twice gives the same bytes");
}

#[test]
fn quiet_prints_nothing() {
    let dir = folder();
    for line in [
        "plan --config c.toml --params p --quiet",
        "-q step --config c.toml --params p --grads g1 --out deep/er/out",
        "info --quiet",
    ] {
        let output = orthant(dir.path(), line);
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{line}: {output:?}");
    }
    assert!(dir.path().join("deep/er/out/params.safetensors").exists());
    let output = orthant(dir.path(), "plan --config c.toml --params missing --quiet");
    assert!(!output.stderr.is_empty(), "errors are printed all the same");
}

#[test]
fn help_and_version_succeed() {
    let dir = folder();
    assert_eq!(stdout(dir.path(), "--version"), format!("orthant {}\n", env!("CARGO_PKG_VERSION")));
    for subcommand in ["info", "plan", "step", "parity", "bench"] {
        assert!(stdout(dir.path(), "--help").contains(subcommand));
        assert!(stdout(dir.path(), &format!("help {subcommand}")).contains("Usage: orthant"));
        let version = stdout(dir.path(), &format!("{subcommand} --version"));
        assert!(version.contains(env!("CARGO_PKG_VERSION")));
    }
    for option in [
        "--config",
        "--params",
        "--grads",
        "--prev-grads",
        "--state",
        "--out",
        "--device",
        "--precision",
        "--json",
    ] {
        assert!(stdout(dir.path(), "step --help").contains(option), "{option}");
    }
}

#[test]
fn step_warns_of_sixteen_bit_gradients_under_variance_reduction() {
    let dir = folder();
    let parameter = Tensor::zeros(Dtype::F32, &[2, 2]).expect("zeros");
    let gradient = Tensor::zeros(Dtype::Bf16, &[2, 2]).expect("zeros");
    write_tensors(dir.path().join("x"), [("w", &parameter)]).expect("written");
    write_tensors(dir.path().join("g"), [("w", &gradient)]).expect("written");
    let config = "[[group]]\nname = \"storm\"\nparams = [\"*\"]\nalgorithm = \"lmo\"\nlr = 0.1\nnorm = \"sign\"\n\
                  estimator = { kind = \"mvr\", alpha = 0.5 }\n";
    fs::write(dir.path().join("mvr.toml"), config).expect("written");
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_orthant"))
        .current_dir(dir.path())
        .args(["step", "--config", "mvr.toml", "--params", "x", "--grads", "g", "--out", "out"])
        .output()
        .expect("started");
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{stderr}");
    assert!(stderr.contains("group `storm`: `w`: variance reduction"), "{stderr}");
}

fn run(dir: &std::path::Path, arguments: &str) -> (Option<i32>, String) {
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_orthant"))
        .current_dir(dir)
        .args(arguments.split(' '))
        .output()
        .expect("started");
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

fn numbers(n: usize, seed: u64) -> Vec<f32> {
    (0..n as u64).map(|i| ((i + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as f32 / 1e7 - 0.8).collect()
}

/// Enough elements that some master lies just beside the middle between two bf16 numbers.
#[test]
fn masters_resume_through_the_program() {
    let dir = folder();
    let n = 200_000;
    let half: Vec<half::bf16> = numbers(n, 1).iter().map(|v| half::bf16::from_f32(*v)).collect();
    let x = Tensor::from_vec(half, &[n]).expect("x");
    let g = Tensor::from_vec(numbers(n, 2), &[n]).expect("g");
    write_tensors(dir.path().join("x"), [("w", &x)]).expect("written");
    write_tensors(dir.path().join("g"), [("w", &g)]).expect("written");
    for master in ["f32", "compact"] {
        let config =
            format!("[[group]]\nparams = [\"*\"]\nalgorithm = \"adamw\"\nlr = 0.01\nmaster = \"{master}\"\n");
        fs::write(dir.path().join("m.toml"), config).expect("written");
        assert_eq!(
            run(dir.path(), "step --config m.toml --params x --grads g g --out one"),
            (Some(0), String::new())
        );
        let resumed = "step --config m.toml --params one/params.safetensors --state one/state.safetensors --grads g --out two";
        assert_eq!(run(dir.path(), resumed), (Some(0), String::new()));
        assert_eq!(
            run(dir.path(), "step --config m.toml --params x --grads g g g --out straight").0,
            Some(0)
        );
        for file in ["params.safetensors", "state.safetensors"] {
            let read = |folder: &str| fs::read(dir.path().join(folder).join(file)).expect("written");
            assert!(read("two") == read("straight"), "{master}: {file}");
        }
    }
}

#[test]
fn parameters_that_are_or_become_non_finite_are_refused() {
    let dir = folder();
    let config = |policy: &str| {
        format!(
            "[step]\nnonfinite = \"{policy}\"\n[[group]]\nparams = [\"*\"]\nalgorithm = \"sgd\"\nlr = 1e3\n"
        )
    };
    fs::write(dir.path().join("e.toml"), config("error")).expect("written");
    fs::write(dir.path().join("p.toml"), config("propagate")).expect("written");
    let one = half::f16::ONE;
    for (name, values) in [("nan", [one, half::f16::NAN]), ("ok", [one, one])] {
        let t = Tensor::from_vec(values.to_vec(), &[2]).expect("a tensor");
        write_tensors(dir.path().join(name), [("w", &t)]).expect("written");
    }
    let big = Tensor::from_vec(vec![1e4f32; 2], &[2]).expect("a tensor");
    write_tensors(dir.path().join("big"), [("w", &big)]).expect("written");
    for (params, what) in [("nan", "in the file given"), ("ok", "its type overflowed")] {
        let (code, stderr) =
            run(dir.path(), &format!("step --config e.toml --params {params} --grads big --out o"));
        assert!(code == Some(1) && stderr.contains("`w`") && stderr.contains(what), "{code:?} {stderr}");
        assert!(!dir.path().join("o").join("params.safetensors").exists());
        let arguments = format!("step --config p.toml --params {params} --grads big --out o-{params}");
        assert_eq!(run(dir.path(), &arguments).0, Some(0));
    }
}

#[test]
fn the_first_previous_gradient_is_not_looked_into() {
    let dir = folder();
    let t = Tensor::from_vec(vec![1.0f32; 4], &[2, 2]).expect("a tensor");
    let other = Tensor::from_vec(vec![1.0f64; 3], &[3]).expect("a tensor");
    write_tensors(dir.path().join("x"), [("w", &t)]).expect("written");
    write_tensors(dir.path().join("wrong"), [("stranger", &other)]).expect("written");
    let config = "[[group]]\nparams = [\"*\"]\nalgorithm = \"lmo\"\nlr = 0.1\nnorm = \"sign\"\n\
                  estimator = { kind = \"mvr\", alpha = 0.5 }\n";
    fs::write(dir.path().join("mvr.toml"), config).expect("written");
    let line = "step --config mvr.toml --params x --grads x x --prev-grads";
    assert_eq!(run(dir.path(), &format!("{line} wrong x --out a")).0, Some(0));
    assert_eq!(run(dir.path(), &format!("{line} missing x --out a")).0, Some(1));
    let (code, stderr) = run(dir.path(), &format!("{line} x wrong --out b"));
    assert!(code == Some(1) && stderr.contains("stranger"), "{code:?} {stderr}");
}

#[test]
fn the_seed_steers_stochastic_rounding() {
    let dir = folder();
    let x = Tensor::from_vec(vec![half::bf16::ONE; 500], &[500]).expect("x");
    write_tensors(dir.path().join("x"), [("w", &x)]).expect("written");
    let config = |seed: &str| {
        format!(
            "[step]\n{seed}\n[[group]]\nparams = [\"*\"]\nalgorithm = \"sign-sgd\"\nlr = 1e-3\nrounding = \"stochastic\"\n"
        )
    };
    fs::write(dir.path().join("0.toml"), config("")).expect("written");
    fs::write(dir.path().join("7.toml"), config("seed = 7")).expect("written");
    for (out, rest) in [("a", "0.toml"), ("b", "0.toml"), ("c", "0.toml --seed 7"), ("d", "7.toml")] {
        assert_eq!(
            run(dir.path(), &format!("step --params x --grads x --out {out} --config {rest}")).0,
            Some(0)
        );
    }
    let read = |folder: &str| fs::read(dir.path().join(folder).join("params.safetensors")).expect("written");
    assert!(read("a") == read("b") && read("c") == read("d") && read("a") != read("c"));
}

#[test]
fn runs_into_one_folder_do_not_mix() {
    let dir = folder();
    let n = 50_000;
    for seed in 0..2u64 {
        let t = Tensor::from_vec(numbers(n, seed), &[n]).expect("a tensor");
        write_tensors(dir.path().join(format!("x{seed}")), [("w", &t)]).expect("written");
    }
    let config = "[[group]]\nparams = [\"*\"]\nalgorithm = \"adamw\"\nlr = 0.01\n";
    fs::write(dir.path().join("c.toml"), config).expect("written");
    let line =
        |seed: u64, out: &str| format!("step --config c.toml --params x{seed} --grads x{seed} --out {out}");
    for seed in 0..2 {
        assert_eq!(run(dir.path(), &line(seed, &format!("alone{seed}"))).0, Some(0));
    }
    let pair = |folder: &str| {
        ["params.safetensors", "state.safetensors"]
            .map(|f| fs::read(dir.path().join(folder).join(f)).expect("there"))
    };
    let whole = [pair("alone0"), pair("alone1")];
    for _ in 0..10 {
        let codes: Vec<(Option<i32>, String)> = std::thread::scope(|s| {
            let handles: Vec<_> = (0..2)
                .map(|seed| {
                    s.spawn({
                        let (dir, line) = (dir.path(), line(seed, "both"));
                        move || run(dir, &line)
                    })
                })
                .collect();
            handles.into_iter().map(|h| h.join().expect("joined")).collect()
        });
        assert!(codes.iter().any(|(code, _)| *code == Some(0)), "{codes:?}");
        for (code, stderr) in codes {
            assert!(code == Some(0) || stderr.contains("another run is writing there"), "{stderr}");
        }
        assert!(whole.contains(&pair("both")), "files of two runs");
    }
}
