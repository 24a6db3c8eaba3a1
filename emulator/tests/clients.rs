//! Programs that nobody here wrote, or that know nothing of the emulator, run unchanged as processes of their own on an
//! installed copy.
//!
//! They are fetched: cudarc's dependencies and rustacuda by cargo, Python packages and NVRTC by pip. Without the network,
//! `python3` or `gcc` these tests fail.
#![cfg(target_os = "linux")]

use orthant_gpu::driver::{SETTINGS, SETTINGS_PREFIX};
use orthant_gpu::install::install;
use orthant_gpu::preload::locate;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

#[path = "../../build/nvrtc.rs"]
mod nvrtc;

/// What lasts from run to run: fetched and built programs.
fn kept(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A folder with both names of the driver.
static DRIVER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = kept("driver");
    install(&locate().unwrap(), &folder, &[]).unwrap();
    folder
});

/// A program on the emulator, with nothing else of this process's settings.
fn client(program: impl AsRef<OsStr>, libraries: &[&Path], settings: &[(&str, &str)]) -> Command {
    let path = [DRIVER.as_path()].into_iter().chain(libraries.iter().copied());
    let mut command = Command::new(program);
    command.env("LD_LIBRARY_PATH", std::env::join_paths(path).unwrap());
    command.env_remove("CUDA_VISIBLE_DEVICES").env_remove("LD_PRELOAD");
    for (name, _) in SETTINGS {
        command.env_remove(format!("{SETTINGS_PREFIX}{name}"));
    }
    command.envs(settings.iter().map(|(name, value)| (format!("{SETTINGS_PREFIX}{name}"), value)));
    command
}

fn run(mut command: Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Standard output of a program that succeeds.
#[track_caller]
fn succeeds(command: Command) -> String {
    let shown = format!("{command:?}");
    let output = run(command);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{shown}: {}\n{}\n{}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
    text(&output.stdout)
}

const SEEDS: [&str; 3] = ["0", "3", "4"];

/// cudarc's package, copied out of cargo's cache, with its examples built.
static CUDARC: LazyLock<PathBuf> = LazyLock::new(|| {
    const VERSION: &str = "0.19.10";
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut metadata = Command::new(&cargo);
    metadata.args(["metadata", "--format-version", "1", "--manifest-path"]);
    metadata.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"));
    let metadata: serde_json::Value = serde_json::from_str(&succeeds(metadata)).unwrap();
    let package = metadata["packages"].as_array().unwrap().iter();
    let package = package.filter(|p| p["name"] == "cudarc" && p["version"] == VERSION).collect::<Vec<_>>();
    let source = Path::new(package[0]["manifest_path"].as_str().unwrap()).parent().unwrap();
    let folder = kept(&format!("cudarc-{VERSION}"));
    if !folder.exists() {
        let new = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        copy_folder(source, new.path());
        // It lies in the folder of another workspace, which it is no part of.
        let manifest = new.path().join("Cargo.toml");
        let text = fs::read_to_string(&manifest).unwrap() + "\n[workspace]\n";
        fs::write(&manifest, text).unwrap();
        fs::rename(new.keep(), &folder).unwrap();
    }
    let mut build = Command::new(cargo);
    build.current_dir(&folder).env("CARGO_TARGET_DIR", folder.join("target"));
    build.args(["build", "--locked", "--no-default-features", "--features"]);
    build.arg("std,driver,nvrtc,f16,fallback-dynamic-loading,cuda-12000");
    for name in EXAMPLES {
        build.args(["--example", name]);
    }
    succeeds(build);
    folder
});

const EXAMPLES: [&str; 12] = [
    "01-allocate",
    "02-copy",
    "03-launch-kernel",
    "04-streams",
    "05-device-repr",
    "06-threading",
    "09-constant-memory",
    "10-function-attributes",
    "12-context-config",
    "13-copy-multi-gpu",
    "matmul-kernel",
    "nvrtc-compile",
];

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to);
        } else {
            fs::write(&to, fs::read(&from).unwrap()).unwrap();
        }
    }
}

/// The folder of an NVRTC under the name that cudarc asks for first.
static NVRTC: LazyLock<PathBuf> = LazyLock::new(|| {
    let places = nvrtc::Places { cache: Some(kept("cache")), ..nvrtc::Places::of_process() };
    let found = nvrtc::find(&places, true).unwrap_or_else(|error| panic!("{error}"));
    let library = std::path::absolute(found.library).unwrap();
    let link = DRIVER.join("libnvrtc.so");
    _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(&library, link).unwrap();
    library.parent().unwrap().to_path_buf()
});

/// What an example of cudarc's prints, run from its package's folder.
#[track_caller]
fn example(name: &str, settings: &[(&str, &str)]) -> Command {
    let mut command = client(CUDARC.join("target/debug/examples").join(name), &[&NVRTC], settings);
    command.current_dir(&*CUDARC);
    command
}

/// The numbers behind a word, such as `Found [1.0, 2.0]`.
fn numbers(text: &str, word: &str) -> Vec<f64> {
    let list = text.split(&format!("{word} [")).nth(1).and_then(|rest| rest.split(']').next());
    let list = list.unwrap_or_else(|| panic!("no {word} in {text}"));
    list.split(", ").map(|number| number.parse().unwrap()).collect()
}

#[test]
fn cudarcs_examples_run_and_find_what_they_expect() {
    for seed in SEEDS {
        let out = |name| succeeds(example(name, &[("SEED", seed)]));
        for quiet in ["01-allocate", "02-copy", "05-device-repr"] {
            assert_eq!(out(quiet), "");
        }
        for name in ["03-launch-kernel", "04-streams"] {
            let text = out(name);
            let (found, expected) = (numbers(&text, "Found"), numbers(&text, "Expected"));
            assert_eq!(found.len(), 3);
            assert!(found.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{text}");
        }
        let text = out("matmul-kernel");
        assert_eq!(numbers(&text, "Found"), [7.0, 10.0, 15.0, 22.0], "{text}");
        let text = out("09-constant-memory");
        assert!(text.contains("f(5.0) = 586.0 (expected 586.0)"), "{text}");
        assert!(text.contains("All results match expected values!"), "{text}");
        let text = out("10-function-attributes");
        assert!(text.contains("PTX version:              7.3"), "{text}");
        assert!(text.contains("Static shared memory:     0 bytes"), "{text}");
        let text = out("12-context-config");
        assert!(text.contains("Updated stack size: 2048 bytes"), "{text}");
        assert!(text.contains("CU_FUNC_CACHE_PREFER_SHARED"), "{text}");
        assert!(out("nvrtc-compile").contains("Compilation succeeded!"));
    }
}

#[test]
fn cudarcs_threads_print_from_their_kernels() {
    for seed in SEEDS {
        let text = succeeds(example("06-threading", &[("SEED", seed)]));
        for thread in 0..10 {
            let line = format!("Hello from the cuda kernel in thread {thread}");
            // Two launches of 1024 threads each: a configuration "for one element" is a whole block.
            assert_eq!(text.lines().filter(|found| *found == line).count(), 2 * 1024, "{seed} {thread}");
        }
    }
}

/// `clone_dtod` copies from card to card on the legacy stream of whichever context is current, the first card's; the
/// copy back waits for the second card's. No card notices, for so small a copy; here it is reported.
#[test]
fn cudarcs_copy_between_cards_lacks_an_order_and_runs_when_nobody_looks() {
    for seed in SEEDS {
        let settings = [("SEED", seed), ("DEVICES", "2")];
        let output = run(example("13-copy-multi-gpu", &settings));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("unordered read") || said.contains("race"), "{said}");
        assert!(said.contains("`copy from device to device`"), "{said}");
        succeeds(example(
            "13-copy-multi-gpu",
            &[settings.as_slice(), &[("CHECKS", "uninitialised")]].concat(),
        ));
        // One card is not enough for it.
        let output = run(example("13-copy-multi-gpu", &[("SEED", seed)]));
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains("CUDA_ERROR_INVALID_DEVICE"), "{said}");
    }
}

/// A Python with NVIDIA's packages and tinygrad.
static PYTHON: LazyLock<PathBuf> = LazyLock::new(|| {
    const PACKAGES: [&str; 5] = [
        "cuda-bindings==13.5.0",
        "cuda-core==1.2.2",
        "numpy==2.4.6",
        "nvidia-cuda-nvrtc==13.5.37",
        "tinygrad==0.14.0",
    ];
    let folder = kept("python");
    let (python, complete) = (folder.join("bin/python"), folder.join("complete"));
    if fs::read_to_string(&complete).ok() != Some(PACKAGES.join("\n")) {
        let mut make = Command::new("python3");
        make.args(["-m", "venv", "--clear"]).arg(&folder);
        succeeds(make);
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(PACKAGES);
        succeeds(pip);
        fs::write(complete, PACKAGES.join("\n")).unwrap();
    }
    python
});

fn script(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    for (card, capability) in [("sm_80", "8.0"), ("sm_90a", "9.0")] {
        for seed in SEEDS {
            let mut command = client(&*PYTHON, &[], &[("SEED", seed), ("CARD", card)]);
            command.arg(&path).env_remove("PYTHONPATH");
            let text = succeeds(command);
            assert!(text.contains(&format!("compute capability {capability}")), "{text}");
            assert!(text.ends_with("\nok\n"), "{text}");
        }
    }
}

#[test]
fn nvidias_python_bindings() {
    script("cuda_bindings_saxpy.py");
}

#[test]
fn nvidias_python_core() {
    script("cuda_core_scale.py");
}

#[test]
fn a_c_program_without_headers() {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let program = folder.path().join("plain");
    let mut gcc = Command::new("gcc");
    gcc.args(["-Wall", "-Wextra", "-Werror", "-o"]).arg(&program);
    gcc.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/plain.c")).arg("-ldl");
    succeeds(gcc);
    for seed in SEEDS {
        for devices in ["1", "2"] {
            let settings = [("SEED", seed), ("DEVICES", devices)];
            assert_eq!(succeeds(client(&program, &[], &settings)), "ok\n");
        }
    }
}

#[test]
fn tinygrad() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clients/tinygrad_ops.py");
    for seed in SEEDS {
        let mut command = client(&*PYTHON, &[&NVRTC], &[("SEED", seed)]);
        command.arg(path).env_remove("PYTHONPATH");
        command.envs([("DEV", "CUDA"), ("CACHELEVEL", "0")]).env("XDG_CACHE_HOME", kept("cache"));
        assert_eq!(succeeds(command), "ok\n");
    }
}

/// A crate that links the driver when it is built.
#[test]
fn rustacuda() {
    let folder = kept("rustacuda");
    fs::create_dir_all(folder.join("src")).unwrap();
    let manifest = "[package]\nname = \"client\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\n[workspace]\n\n\
        [dependencies]\nrustacuda = \"=0.1.3\"\nrustacuda_core = \"=0.1.2\"\nrustacuda_derive = \"=0.1.2\"\n";
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();
    fs::write(folder.join("src/main.rs"), include_str!("clients/rustacuda_sin.rs")).unwrap();
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.arg("build").current_dir(&folder).env("CARGO_TARGET_DIR", folder.join("target"));
    build.env("LIBRARY_PATH", &*DRIVER);
    succeeds(build);
    for seed in SEEDS {
        let mut command = client(folder.join("target/debug/client"), &[], &[("SEED", seed)]);
        command.arg(CUDARC.join("examples/sin.ptx"));
        assert_eq!(succeeds(command), "ok\n");
    }
}
