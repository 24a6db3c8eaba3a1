//! Drivers are found, told apart and refused with a reason. Child processes, since a process can have one driver only.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

/// The symbols that the library looks for, as its sources list them.
fn symbols() -> Vec<&'static str> {
    let sources = [include_str!("../src/cuda/driver.rs"), include_str!("../src/cuda/api.rs")];
    let lists = sources.into_iter().flat_map(|source| source.split("SYMBOLS: [&str; ").skip(1));
    // Behind the array's type: the names, in brackets.
    let names = lists.map(|list| list.split(['[', ']']).nth(2).expect("a list"));
    names.flat_map(|names| names.split('"').skip(1).step_by(2)).collect()
}

/// A `libcuda.so` as a C program of a few lines makes it: `version`, the answer of `cuInit`, and all the symbols that are
/// looked for but `without`.
fn stub(version: i32, init: i32, without: &str) -> TempDir {
    let dir = TempDir::new().expect("a temporary folder");
    let code: String = symbols()
        .into_iter()
        .filter(|name| *name != without)
        .map(|name| match name {
            "cuInit" => format!("int cuInit(unsigned f) {{ return {init}; }}\n"),
            "cuDriverGetVersion" => format!("int {name}(int *v) {{ *v = {version}; return 0; }}\n"),
            "cuDeviceGetCount" => format!("int {name}(int *n) {{ *n = 0; return 0; }}\n"),
            _ => format!("int {name}(void) {{ return 101; }}\n"),
        })
        .collect();
    fs::write(dir.path().join("stub.c"), code).expect("written");
    let mut compile = Command::new("cc");
    compile.args(["-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", "libcuda.so", "stub.c"]);
    let compiled = compile.current_dir(dir.path()).status().expect("a C compiler, cc");
    assert!(compiled.success());
    fs::copy(dir.path().join("libcuda.so"), dir.path().join("libcuda.so.1")).expect("copied");
    dir
}

fn info(device: &str, library_path: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orthant"))
        .args(["info", "--json", "--device", device])
        .env("LD_LIBRARY_PATH", library_path)
        .output()
        .expect("the program starts")
}

fn row(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut object: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    object["rows"][0].take()
}

#[track_caller]
fn refused(output: &Output, words: &[&str]) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert!(output.stdout.is_empty());
}

/// The software GPU's library as cargo built it.
fn emulator() -> PathBuf {
    orthant_gpu::preload::locate().expect("the software GPU's library")
}

#[test]
fn a_driver_that_cannot_be_used_is_an_error_with_its_cause() {
    let none = stub(13_000, 100, "");
    refused(&info("cuda", none.path()), &["device `cuda:0`", "has no card", "libcuda.so"]);
    let old = stub(11_040, 0, "");
    refused(&info("cuda:1", old.path()), &["device `cuda:1`", "supports CUDA 11.4", "12.0 is needed"]);
    let lacking = stub(13_000, 0, "cuDeviceTotalMem_v2");
    refused(&info("cuda", lacking.path()), &["lacks cuDeviceTotalMem_v2"]);
    let broken = stub(13_000, 999, "");
    refused(&info("cuda", broken.path()), &["cuInit failed", "UNKNOWN"]);
    let empty = stub(13_000, 0, "");
    refused(&info("cuda:0", empty.path()), &["there are 0 cards"]);
}

/// One run for each symbol, with a driver that has all but that.
#[test]
fn a_driver_that_lacks_any_symbol_is_an_error_that_names_it() {
    let all = symbols();
    assert!(all.len() >= 50, "{all:?}");
    for symbol in &all {
        let lacking = stub(13_000, 0, symbol);
        // Without this one it is not even taken for a driver.
        let words = if *symbol == "cuInit" { "cuInit" } else { &format!("lacks {symbol};") };
        refused(&info("cuda", lacking.path()), &["device `cuda:0`", words]);
    }
}

/// Whether an address is a symbol of the driver is found out beforehand: what the backend calls, is in the lists.
#[test]
fn every_function_that_is_called_is_looked_for_beforehand() {
    let all = symbols();
    let mut paths = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda")];
    let mut called = 0;
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            paths.extend(
                fs::read_dir(path).expect("the sources").map(|entry| entry.expect("an entry").path()),
            );
            continue;
        }
        let text = fs::read_to_string(path).expect("text");
        for before in ["call!(cu", "sys::cu", "b\"cu"] {
            for rest in text.split(before).skip(1) {
                let name: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                // Names of functions go on with a capital.
                if name.starts_with(|c: char| c.is_ascii_uppercase()) {
                    called += 1;
                    assert!(all.contains(&format!("cu{name}").as_str()), "cu{name}");
                }
            }
        }
    }
    assert!(called >= all.len(), "{called}");
}

#[test]
fn without_any_driver_it_says_so() {
    // Whether this machine has one is asked in a process of its own: in this one another test may have loaded the software
    // GPU, which answers to the name.
    let empty = TempDir::new().expect("a temporary folder");
    let opens = "import ctypes\nfor name in ('libcuda.so', 'libcuda.so.1'):\n    try: ctypes.CDLL(name); print(name)\n    \
                 except OSError: pass";
    let asked = Command::new("python3").args(["-c", opens]).env("LD_LIBRARY_PATH", empty.path()).output();
    let asked = asked.expect("python3");
    assert!(asked.status.success(), "{}", String::from_utf8_lossy(&asked.stderr));
    let output = info("cuda", empty.path());
    if asked.stdout.is_empty() {
        refused(&output, &["device `cuda:0`", "no NVIDIA driver was found", "use `cpu`"]);
    } else {
        // It has: whatever is said is about that one.
        assert!(!String::from_utf8_lossy(&output.stderr).contains("no NVIDIA driver was found"));
        assert!(matches!(output.status.code(), Some(0 | 2)));
    }
}

#[test]
fn the_software_gpu_wins_where_it_is_asked_for_and_nowhere_else() {
    let stub = stub(13_000, 100, "");
    for (device, capability) in [("emulated", "8.0"), ("emulated:sm_80", "8.0"), ("emulated:sm_90a", "9.0")] {
        let row = row(&info(device, stub.path()));
        assert_eq!(row["driver"]["emulated"], true);
        let path = PathBuf::from(row["driver"]["path"].as_str().expect("a path"));
        assert_eq!(path.canonicalize().expect("it exists"), emulator().canonicalize().expect("it exists"));
        assert_eq!(row["driver"]["devices"][0]["compute_capability"], capability);
        assert!(row["driver"]["devices"][0]["name"].as_str().is_some_and(|name| name.contains("emulated")));
    }
    refused(&info("cuda", stub.path()), &["has no card"]);
    let row = row(&info("auto", stub.path()));
    assert_eq!((&row["device"], &row["driver"]), (&Value::from("cpu"), &Value::Null));
}

#[test]
fn the_software_gpu_is_never_taken_for_a_card() {
    let dir = TempDir::new().expect("a temporary folder");
    orthant_gpu::install::install(&emulator(), dir.path(), &[]).expect("installed");
    for device in ["cuda", "cuda:0"] {
        refused(
            &info(device, dir.path()),
            &["is the software GPU, not a card's driver", "`emulated` uses it"],
        );
    }
    assert_eq!(row(&info("auto", dir.path()))["device"], "cpu");
    // Preloaded by somebody else, it is found out as well.
    let output = Command::new(env!("CARGO_BIN_EXE_orthant"))
        .args(["info", "--device", "cuda"])
        .env("LD_PRELOAD", emulator())
        .output()
        .expect("the program starts");
    refused(&output, &["is the software GPU"]);
}

#[test]
fn the_environment_may_describe_the_card_and_name_the_library() {
    let run = |variables: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orthant"));
        command.args(["info", "--json", "--device", "emulated:sm_90a"]).envs(variables.iter().copied());
        command.output().expect("the program starts")
    };
    let few = row(&run(&[("ORTHANT_EMULATOR_CARD", "sm_90a,sms=7")]));
    assert_eq!(few["driver"]["devices"][0]["multiprocessors"], 7);
    let other = row(&run(&[("ORTHANT_EMULATOR_CARD", "sm_80,sms=7")]));
    assert_eq!(other["driver"]["devices"][0]["compute_capability"], "9.0");
    refused(&run(&[("ORTHANT_EMULATOR", "/nowhere/at/all.so")]), &["ORTHANT_EMULATOR", "/nowhere/at/all.so"]);
    let stub = stub(13_000, 100, "");
    let stub = stub.path().join("libcuda.so");
    let stub = stub.to_str().expect("UTF-8");
    refused(&run(&[("ORTHANT_EMULATOR", stub)]), &["libcuda.so is not the software GPU's library"]);
}

#[test]
fn a_process_has_one_driver() {
    use orthant::{Device, Driver, EmulatedCard, Error};
    let driver = Driver::open(Device::Emulated(EmulatedCard::Sm80)).expect("the software GPU");
    assert!(driver.emulated && driver.devices.len() == 1);
    assert_eq!(Driver::open(Device::Emulated(EmulatedCard::Sm80)).expect("again"), driver);
    for other in [Device::Cuda(0), Device::Emulated(EmulatedCard::Sm90a), Device::Cpu] {
        match Driver::open(other) {
            Err(Error::Device { device, reason }) => {
                assert_eq!(device, other.to_string());
                assert!(reason.contains("one driver only") || other == Device::Cpu, "{reason}");
            }
            found => panic!("{found:?}"),
        }
    }
}
