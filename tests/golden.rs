//! Every case in `tests/golden/cases` through the `orthant` binary.
//!
//! The expected results come from other implementations; `tests/golden/README.md` says
//! which, and how the files are made. The bar, for each parameter, with D the change
//! since the start and T the number of steps:
//!
//! `||D - Dref|| <= tolerance * ||Dref||`, plus `T * 2^-24 * ||p_0||` in precision f32.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use safetensors::{Dtype, SafeTensors};
use serde_json::Value;
use tempfile::TempDir;

/// A walk over a missing or half-empty folder must not pass.
const MIN_CASES: usize = 95;

struct Tensor {
    shape: Vec<usize>,
    values: Vec<f64>,
}

type Tensors = BTreeMap<String, Tensor>;

/// Reads an F32 or F64 safetensors file, widened to f64.
fn read_tensors(path: &Path) -> Result<Tensors, String> {
    let bytes = fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|e| format!("{}: {e:?}", path.display()))?;
    let mut tensors = Tensors::new();
    for (name, view) in file.tensors() {
        let data = view.data();
        let values = match view.dtype() {
            Dtype::F32 => {
                data.chunks_exact(4).map(|c| f64::from(f32::from_le_bytes(c.try_into().unwrap()))).collect()
            }
            Dtype::F64 => data.chunks_exact(8).map(|c| f64::from_le_bytes(c.try_into().unwrap())).collect(),
            other => return Err(format!("{}: {name} is {other:?}", path.display())),
        };
        let shape = view.shape().to_vec();
        tensors.insert(name, Tensor { shape, values });
    }
    Ok(tensors)
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|v| v * v).sum::<f64>().sqrt()
}

struct Case {
    name: String,
    dir: PathBuf,
    steps: usize,
    precision: String,
    tolerance: f64,
}

impl Case {
    fn load(dir: PathBuf) -> Case {
        let text = fs::read_to_string(dir.join("case.json"))
            .unwrap_or_else(|e| panic!("{}/case.json: {e}", dir.display()));
        let record: Value =
            serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}/case.json: {e}", dir.display()));
        Case {
            name: dir.file_name().unwrap().to_string_lossy().into_owned(),
            steps: record["steps"].as_u64().expect("steps") as usize,
            precision: record["precision"].as_str().expect("precision").to_owned(),
            tolerance: record["tolerance"].as_f64().expect("tolerance"),
            dir,
        }
    }

    fn config(&self) -> PathBuf {
        self.dir.join("config.toml")
    }

    /// The files `stem_1.safetensors` to `stem_T.safetensors`.
    fn step_files(&self, stem: &str) -> Vec<PathBuf> {
        (1..=self.steps).map(|k| self.dir.join(format!("{stem}_{k}.safetensors"))).collect()
    }

    /// Runs all steps of the case under `config`, leaving the results in `out`.
    fn run(&self, config: &Path, out: &Path) -> Result<(), String> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orthant"));
        command.arg("step").arg("--config").arg(config);
        command.arg("--params").arg(self.dir.join("params.safetensors"));
        command.arg("--grads").args(self.step_files("grads"));
        let previous = self.step_files("prev_grads");
        if previous[0].exists() {
            command.arg("--prev-grads").args(previous);
        }
        command.args(["--precision", &self.precision, "--device", "cpu", "--out"]);
        command.arg(out);
        let output = command.output().map_err(|e| format!("cannot start orthant: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(format!("orthant: {}: {}", output.status, stderr.trim()))
    }

    /// Compares one result file with its reference; one line for each parameter that
    /// misses the bar.
    fn compare(&self, expected: &str, got: &Path) -> Result<Vec<String>, String> {
        let start = read_tensors(&self.dir.join("params.safetensors"))?;
        let expected = read_tensors(&self.dir.join(expected))?;
        let got = read_tensors(got)?;
        let mut misses = Vec::new();
        for name in got.keys().filter(|n| !expected.contains_key(*n)) {
            misses.push(format!("{name}: not a parameter of this case"));
        }
        for (name, want) in &expected {
            let p0 = &start[name].values;
            let Some(have) = got.get(name) else {
                misses.push(format!("{name}: missing from the result"));
                continue;
            };
            if have.shape != want.shape {
                let (have, want) = (&have.shape, &want.shape);
                misses.push(format!("{name}: shape {have:?}, expected {want:?}"));
                continue;
            }
            let moved = || want.values.iter().zip(p0).map(|(w, p)| w - p);
            let error = norm(have.values.iter().zip(p0).zip(moved()).map(|((h, p), d)| (h - p) - d));
            let mut bar = self.tolerance * norm(moved());
            if self.precision == "f32" {
                bar += self.steps as f64 * 2f64.powi(-24) * norm(p0.iter().copied());
            }
            // Written so that a NaN misses the bar.
            let within = error <= bar;
            if !within {
                misses.push(format!("{name}: error {error:.3e}, bar {bar:.3e}"));
            }
        }
        Ok(misses)
    }

    /// Runs the case under `config`. `Err` if that itself failed, otherwise the misses.
    fn check(&self, config: &Path) -> Result<Vec<String>, String> {
        let dir = TempDir::new().map_err(|e| format!("no temporary folder: {e}"))?;
        let out = dir.path().join("out");
        fs::create_dir(&out).map_err(|e| format!("{}: {e}", out.display()))?;
        self.run(config, &out)?;
        let mut misses = self.compare("expected.safetensors", &out.join("params.safetensors"))?;
        let eval_point = "expected_eval_point.safetensors";
        if self.dir.join(eval_point).exists() {
            let more = self.compare(eval_point, &out.join("eval_point.safetensors"))?;
            misses.extend(more.iter().map(|m| format!("eval point of {m}")));
        }
        Ok(misses)
    }
}

fn cases_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cases")
}

fn all_cases() -> Vec<Case> {
    let entries = fs::read_dir(cases_dir()).expect("tests/golden/cases");
    let mut dirs: Vec<PathBuf> =
        entries.map(|entry| entry.expect("tests/golden/cases").path()).filter(|path| path.is_dir()).collect();
    dirs.sort();
    dirs.into_iter().map(Case::load).collect()
}

#[test]
fn every_case_is_within_its_bar() {
    let cases = all_cases();
    let found = cases.len();
    assert!(found >= MIN_CASES, "only {found} cases, expected {MIN_CASES}");
    let mut failures = Vec::new();
    let mut failed = 0;
    for case in &cases {
        let misses = case.check(&case.config()).unwrap_or_else(|e| vec![e]);
        failed += usize::from(!misses.is_empty());
        failures.extend(misses.iter().map(|m| format!("{}: {m}", case.name)));
    }
    assert!(failures.is_empty(), "{failed} of {found} cases failed:\n{}", failures.join("\n"));
}

/// The bar has teeth: with one hyperparameter changed, a case runs but misses it.
#[test]
fn a_changed_hyperparameter_misses_the_bar() {
    let changes = [
        ("sgd-dampening-f32", "momentum = 0.9", "momentum = 0.89"),
        ("adamw-hyper-f64", "betas = [0.8, 0.95]", "betas = [0.8, 0.9501]"),
        ("clip-two-groups-f64", "max_grad_norm = 1.5", "max_grad_norm = 1.501"),
        ("lion-f32", "weight_decay = 0.1", "weight_decay = 0.11"),
        ("muon-exact", "momentum = 0.95", "momentum = 0.949"),
        ("muon-bf16-match-rms", "momentum = 0.8", "momentum = 0.4"),
        ("lmo-extrapolated-f64", "alpha = 0.5", "alpha = 0.501"),
    ];
    let mut toothless = Vec::new();
    for (name, from, to) in changes {
        let case = Case::load(cases_dir().join(name));
        let text = fs::read_to_string(case.config()).expect("config.toml");
        assert!(text.contains(from), "{name}: no `{from}` in its config.toml");
        let dir = TempDir::new().expect("temporary folder");
        let config = dir.path().join("config.toml");
        fs::write(&config, text.replace(from, to)).expect("config.toml");
        match case.check(&config) {
            Ok(misses) if misses.is_empty() => {
                toothless.push(format!("{name}: `{to}` is within the bar"));
            }
            Ok(_) => {}
            Err(error) => toothless.push(format!("{name}: with `{to}`: {error}")),
        }
    }
    assert!(toothless.is_empty(), "{}", toothless.join("\n"));
}
