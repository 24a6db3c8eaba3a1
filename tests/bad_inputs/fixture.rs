//! Folders of input files, the program run in them, and the proof that a refused run changed nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tempfile::TempDir;

use crate::model::scratch;

/// A safetensors file of F32 tensors, in the order given.
pub fn f32_file(tensors: &[(&str, &[usize], Vec<f32>)]) -> Vec<u8> {
    let entries: Vec<_> = tensors
        .iter()
        .map(|(name, shape, values)| {
            (*name, "F32", *shape, values.iter().flat_map(|v| v.to_le_bytes()).collect())
        })
        .collect();
    file(&entries)
}

/// A safetensors file with any dtype names and any bytes: what a correct writer would refuse to write.
pub fn file(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut header = vec![];
    let mut data = vec![];
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        let name = serde_json::to_string(name).expect("a JSON string");
        header.push(format!(
            r#"{name}:{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{}]}}"#,
            data.len()
        ));
    }
    raw(&format!("{{{}}}", header.join(",")), &data)
}

/// Header length, header, data; nothing is checked.
pub fn raw(header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// Not round, not symmetric, never zero.
pub fn numbers(count: usize, seed: f32) -> Vec<f32> {
    (0..count).map(|i| ((i as f32 + 1.0) * 1.7 + seed).sin() + 0.01).collect()
}

/// `w` is a 4 x 6 matrix and `b` a vector of 6.
pub fn default_tensors(seed: f32) -> Vec<u8> {
    f32_file(&[("b", &[6], numbers(6, seed)), ("w", &[4, 6], numbers(24, seed + 0.5))])
}

pub const GOOD_CONFIG: &str =
    "[[group]]\nname = \"all\"\nparams = [\"*\"]\nalgorithm = \"signum\"\nlr = 0.1\n";

pub const STEP: &str =
    "step --config config.toml --params params.safetensors --grads grads.safetensors --out out";
pub const PLAN: &str = "plan --config config.toml --params params.safetensors";

/// One refusal: a folder that differs from a good one in one thing, the command lines, and what must be said.
pub struct Case {
    pub name: String,
    files: BTreeMap<String, Vec<u8>>,
    folders: Vec<String>,
    commands: Vec<Vec<String>>,
    exit: i32,
    says: Vec<String>,
}

impl Case {
    pub fn new(name: impl Into<String>, exit: i32) -> Self {
        let files = [
            ("config.toml", GOOD_CONFIG.as_bytes().to_vec()),
            ("params.safetensors", default_tensors(0.0)),
            ("grads.safetensors", default_tensors(2.0)),
            // Results of an earlier run, which a refused run must leave alone.
            ("out/params.safetensors", b"earlier parameters".to_vec()),
            ("out/state.safetensors", b"earlier state".to_vec()),
            ("out/eval_point.safetensors", b"earlier point".to_vec()),
        ];
        let files = files.into_iter().map(|(name, bytes)| (name.to_owned(), bytes)).collect();
        let case = Self { name: name.into(), files, folders: vec![], commands: vec![], exit, says: vec![] };
        case.command(STEP)
    }

    pub fn file(mut self, name: &str, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name.to_owned(), bytes.into());
        self
    }

    pub fn without(mut self, name: &str) -> Self {
        self.files.remove(name);
        self
    }

    /// A folder where a file is expected.
    pub fn folder(mut self, name: &str) -> Self {
        self.folders.push(name.to_owned());
        self.without(name)
    }

    pub fn config(self, text: impl Into<String>) -> Self {
        self.file("config.toml", text.into())
    }

    /// The configuration is wrong without any gradient: `plan` must refuse it as `step` does.
    pub fn plan_too(mut self) -> Self {
        self.commands.push(words(PLAN));
        self
    }

    /// Another command line, in words separated by blanks.
    pub fn command(mut self, line: &str) -> Self {
        self.commands = vec![words(line)];
        self
    }

    pub fn says<S: AsRef<str>>(mut self, fragments: impl IntoIterator<Item = S>) -> Self {
        self.says.extend(fragments.into_iter().map(|f| f.as_ref().to_owned()));
        self
    }

    fn make(&self) -> TempDir {
        let dir = scratch();
        for folder in &self.folders {
            fs::create_dir_all(dir.path().join(folder)).expect("a folder");
        }
        for (name, bytes) in &self.files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
            fs::write(path, bytes).expect("a file");
        }
        dir
    }

    /// Everything that is wrong with how the program refuses this case.
    fn complaints(&self) -> Vec<String> {
        let dir = self.make();
        let before = snapshot(dir.path());
        let mut out = vec![];
        for command in &self.commands {
            let got = orthant(dir.path(), command);
            let stderr = String::from_utf8_lossy(&got.stderr);
            let mut complain = |what: String| {
                out.push(format!(
                    "{}: `{}`: {what}; stderr: {}",
                    self.name,
                    command.join(" "),
                    stderr.trim()
                ));
            };
            if got.status.code() != Some(self.exit) {
                complain(format!("exit {:?}, expected {}", got.status.code(), self.exit));
            }
            for fragment in self.says.iter().filter(|f| !stderr.contains(f.as_str())) {
                complain(format!("does not say `{fragment}`"));
            }
            if stderr.contains("panicked") {
                complain("panicked".to_owned());
            }
            if !got.stdout.is_empty() {
                complain(format!("stdout holds {:?}", String::from_utf8_lossy(&got.stdout)));
            }
            for path in differences(&before, &snapshot(dir.path())) {
                complain(format!("{path} was changed, made or removed"));
            }
        }
        out
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// Runs the program in a folder.
pub fn orthant<S: AsRef<std::ffi::OsStr>>(folder: &Path, arguments: &[S]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orthant"))
        .args(arguments)
        .current_dir(folder)
        .env("RAYON_NUM_THREADS", "2")
        .output()
        .expect("the program starts")
}

/// Every file below a folder with its bytes, and every folder.
pub fn snapshot(root: &Path) -> BTreeMap<String, Option<Vec<u8>>> {
    let mut out = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(folder) = todo.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let bytes = if path.is_dir() {
                todo.push(path.clone());
                None
            } else {
                Some(fs::read(&path).expect("a file"))
            };
            out.insert(path.strip_prefix(root).expect("inside").display().to_string(), bytes);
        }
    }
    out
}

fn differences(
    before: &BTreeMap<String, Option<Vec<u8>>>,
    after: &BTreeMap<String, Option<Vec<u8>>>,
) -> Vec<String> {
    let names: std::collections::BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

/// Runs all cases on a few threads and fails with all complaints.
pub fn check(cases: &[Case]) {
    let next = AtomicUsize::new(0);
    let complaints = Mutex::new(vec![]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let found = case.complaints();
                    complaints.lock().expect("no thread panicked").extend(found);
                }
            });
        }
    });
    let complaints = complaints.into_inner().expect("no thread panicked");
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}
