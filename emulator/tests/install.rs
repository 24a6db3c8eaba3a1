//! Where the library is put, what is left out of it, and who comes first when a process has two drivers to choose from.
#![cfg(target_os = "linux")]

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_LOCAL, RTLD_NOW};
use orthant_gpu::driver::symbols_after;
use orthant_gpu::install::install;
use orthant_gpu::preload::{Emulator, Error, locate};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

fn installed(dir: &Path, without: &[&str]) -> Result<Vec<PathBuf>, String> {
    let without: Vec<String> = without.iter().map(|symbol| symbol.to_string()).collect();
    install(&locate().unwrap(), dir, &without)
}

fn open(path: impl AsRef<Path>) -> Library {
    unsafe { Library::open(Some(path.as_ref()), RTLD_NOW | RTLD_LOCAL) }.unwrap()
}

fn has(library: &Library, symbol: &str) -> bool {
    unsafe { library.get::<extern "C" fn()>(symbol) }.is_ok()
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orthant-emulator")).args(arguments).output().unwrap()
}

/// A driver as on a machine without a card. Its SONAME is that of the real one.
fn stub(dir: &Path) -> PathBuf {
    let (source, file) = (dir.join("stub.c"), dir.join("libcuda.so"));
    fs::write(&source, "int cuInit(unsigned flags) { (void)flags; return 100; }\n").unwrap();
    let mut gcc = Command::new("gcc");
    gcc.args(["-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o"]).args([&file, &source]);
    let status = gcc.status().unwrap_or_else(|error| panic!("gcc is needed here: {error}"));
    assert!(status.success());
    file
}

#[test]
fn both_names_are_written_and_work() {
    let dir = folder();
    let below = dir.path().join("made/anew");
    for _ in 0..2 {
        let files = installed(&below, &[]).unwrap();
        assert_eq!(files, [below.join("libcuda.so.1"), below.join("libcuda.so")]);
        let names: BTreeSet<_> =
            fs::read_dir(&below).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(names, BTreeSet::from(["libcuda.so".into(), "libcuda.so.1".into()]));
    }
    for name in ["libcuda.so", "libcuda.so.1"] {
        let library = open(below.join(name));
        let init: libloading::os::unix::Symbol<extern "C" fn(u32) -> u32> =
            unsafe { library.get("cuInit") }.unwrap();
        assert_eq!(init(0), 0);
    }
}

#[test]
fn other_drivers_and_cargos_folders_are_left_alone() {
    let dir = folder();
    let other = stub(dir.path());
    let before = fs::read(&other).unwrap();
    let error = installed(dir.path(), &[]).unwrap_err();
    assert!(error.contains("another driver") && error.contains("libcuda.so"), "{error}");
    assert_eq!(fs::read(&other).unwrap(), before);
    assert!(!dir.path().join("libcuda.so.1").exists(), "nothing is written when something is refused");

    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    for cargos in [deps.as_path(), deps.parent().unwrap()] {
        let error = installed(cargos, &[]).unwrap_err();
        assert!(error.contains("cargo builds here"), "{error}");
        assert!(!cargos.join("libcuda.so").exists() && !cargos.join("libcuda.so.1").exists());
    }

    let error = install(&other, &dir.path().join("x"), &[]).unwrap_err();
    assert!(error.contains("not the emulated driver"), "{error}");
}

#[test]
fn symbols_that_are_left_out_are_found_by_nobody() {
    let dir = folder();
    let out = program(&["install", dir.path().to_str().unwrap(), "--without", "cuGraphLaunch"]);
    assert!(out.status.success(), "{out:?}");
    let library = open(dir.path().join("libcuda.so.1"));
    assert!(!has(&library, "cuGraphLaunch"));
    for kept in ["cuGraphLaunch_ptsz", "cuGraphInstantiateWithFlags", "cuLaunchKernel", "orthant_emulated"] {
        assert!(has(&library, kept), "{kept}");
    }
    for wrong in ["cuNothing", "orthant_emulated", "malloc", "cuGraphLaunc"] {
        let error = installed(dir.path(), &[wrong]).unwrap_err();
        assert!(error.contains(wrong), "{error}");
    }
    let out = program(&["install", dir.path().to_str().unwrap(), "--without", "cuNothing"]);
    assert!(!out.status.success());
    assert!(String::from_utf8_lossy(&out.stderr).contains("cuNothing"), "{out:?}");
}

#[test]
fn an_older_driver_lacks_what_came_later() {
    let dir = folder();
    let out = program(&["install", dir.path().to_str().unwrap(), "--driver", "12.0"]);
    assert!(out.status.success(), "{out:?}");
    let library = open(dir.path().join("libcuda.so"));
    let later = symbols_after("12.0").unwrap();
    // From the release notes of CUDA 12.1 to 12.4: among what came after 12.0.
    for name in ["cuGraphAddNode", "cuGraphConditionalHandleCreate", "cuGreenCtxCreate", "cuMulticastCreate"]
    {
        assert!(later.iter().any(|symbol| symbol == name), "{name}");
    }
    for symbol in &later {
        assert!(!has(&library, symbol), "{symbol}");
    }
    let earlier: Vec<String> =
        symbols_after("2.0").unwrap().into_iter().filter(|symbol| !later.contains(symbol)).collect();
    assert!(earlier.len() > 300 && earlier.contains(&"cuGraphExecUpdate_v2".to_string()));
    for symbol in &earlier {
        assert!(has(&library, symbol), "{symbol}");
    }
    let out = program(&["install", dir.path().to_str().unwrap(), "--driver", "newest"]);
    assert!(!out.status.success() && String::from_utf8_lossy(&out.stderr).contains("newest"), "{out:?}");
}

#[test]
fn no_file_of_cargos_is_called_libcuda() {
    // Cargo puts its folders on the library path of all that it runs: a program would get the emulator unasked.
    let deps = std::env::current_exe().unwrap().parent().unwrap().to_path_buf();
    let mut left = vec![deps.parent().unwrap().to_path_buf()];
    let mut seen = 0;
    while let Some(folder) = left.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            // Other builds may be at work here.
            let Ok(entry) = entry else { continue };
            let name = entry.file_name().to_string_lossy().into_owned();
            assert!(!name.starts_with("libcuda.so"), "{}", entry.path().display());
            seen += usize::from(name == "liborthant_gpu.so");
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && name != "incremental" {
                left.push(entry.path());
            }
        }
    }
    assert!(seen > 0);
}

/// Runs [`child`] in a process whose library path begins with a driver of a machine without a card.
fn with_stub(part: &str) {
    let dir = folder();
    stub(dir.path());
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["child", "--exact", "--ignored", "--nocapture"])
        .env("ORTHANT_TEST_PART", part)
        .env("LD_LIBRARY_PATH", dir.path())
        .output()
        .unwrap();
    assert!(child.status.success(), "{part}: {child:?}");
    assert!(String::from_utf8_lossy(&child.stdout).contains("1 passed"), "{child:?}");
}

#[test]
fn preloaded_it_comes_before_what_the_loader_would_find() {
    with_stub("first");
}

#[test]
fn it_does_not_hide_behind_a_driver_that_was_loaded_before() {
    with_stub("late");
}

#[test]
#[ignore = "a part of the two above, which run it in a process of its own"]
fn child() {
    match std::env::var("ORTHANT_TEST_PART").as_deref() {
        Ok("first") => {
            let emulator = Emulator::preload(None).unwrap();
            assert!(has(&open("libcuda.so"), "orthant_emulated"));
            assert!(emulator.report().contains("\"emulated\":true"));
            let global = unsafe { Library::open(Some("libcuda.so"), RTLD_NOW | RTLD_GLOBAL) }.unwrap();
            assert!(has(&global, "orthant_emulated"));
        }
        Ok("late") => {
            let stub = unsafe { Library::open(Some("libcuda.so"), RTLD_NOW | RTLD_GLOBAL) }.unwrap();
            assert!(has(&stub, "cuInit") && !has(&stub, "orthant_emulated"));
            assert!(matches!(Emulator::preload(None), Err(Error::OtherDriver)));
        }
        part => panic!("run by the other tests alone: {part:?}"),
    }
}
