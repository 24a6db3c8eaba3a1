//! The train example: killed and resumed, it follows the same curve bit for bit.
#![cfg(all(unix, feature = "candle", feature = "cli"))]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

/// The example's binary next to this test's. `cargo test` builds it along; with `cargo test --test train_example` it
/// may be missing or old, and is built here.
fn binary() -> &'static Path {
    // Tests run side by side.
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(find_or_build)
}

fn find_or_build() -> PathBuf {
    let test = std::env::current_exe().expect("the test's path");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/TEST");
    let binary = profile.join("examples").join("train");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let sources = newest(&root.join("src")).max(newest(&root.join("examples").join("train")));
    if modified(&binary).is_some_and(|built| Some(built) >= sources) {
        return binary;
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(root).args(["build", "--example", "train", "--features", "candle,cli", "--target-dir"]);
    cargo.arg(profile.parent().expect("target"));
    match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(profile) => drop(cargo.args(["--profile", profile])),
    }
    assert!(cargo.status().expect("cargo runs").success(), "the example does not build");
    assert!(binary.is_file(), "{} is missing after building it", binary.display());
    binary
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|m| m.modified()).ok()
}

fn newest(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).expect("a source folder");
    entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| if path.is_dir() { newest(&path) } else { modified(&path) })
        .max()
        .flatten()
}

/// A tiny configuration on a small text.
fn train(folder: &Path, out: &str, more: &[&str]) -> Command {
    let text = folder.join("text");
    let words = |i: usize| format!("line {i} of {} lines, {}\n", i * i % 97, ["ab", "cde", "f"][i % 3]);
    fs::write(&text, (0..400).map(words).collect::<String>()).expect("the text is written");
    let mut command = Command::new(binary());
    command.args("--batch 4 --seq 16 --width 16 --layers 1 --heads 2 --eval-every 20".split(' '));
    command.args(["--checkpoint-every", "7", "--seed", "3", "--text"]).arg(text);
    command.arg("--out").arg(folder.join(out)).args(more);
    if !more.contains(&"--steps") {
        command.args(["--steps", "240"]);
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn finish(mut command: Command) -> String {
    let output = command.output().expect("the example runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {stderr}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned() + &stderr
}

/// Starts the command and kills it (SIGKILL) as soon as the current checkpoint is that of step `least` or later.
fn kill_after(mut command: Command, pointer: &Path, least: u64) {
    let mut child = command.stderr(Stdio::null()).spawn().expect("the example runs");
    let started = Instant::now();
    let step = || fs::read_to_string(pointer).ok()?.trim().strip_prefix("checkpoint-")?.parse::<u64>().ok();
    while step().is_none_or(|step| step < least) {
        assert!(started.elapsed() < Duration::from_secs(60), "no checkpoint of step {least}");
        assert!(child.try_wait().expect("a child").is_none(), "it ended before step {least} was saved");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().expect("it can be killed");
    let status = child.wait().expect("it ends");
    assert_eq!(status.signal(), Some(9), "it ended before it could be killed: {status}");
}

#[test]
fn killed_and_resumed_it_follows_the_same_curve() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    let text = finish(train(folder, "whole", &[]));
    assert!(text.contains("curves.csv") && text.contains("held-out loss"), "{text}");

    let pointer = folder.join("killed/muon/latest");
    kill_after(train(folder, "killed", &[]), &pointer, 30);
    kill_after(train(folder, "killed", &["--resume"]), &pointer, 120);
    assert!(!folder.join("killed/curves.csv").exists());
    // What a kill between creating a checkpoint's folder and filling it leaves behind.
    fs::create_dir(folder.join("killed/muon/checkpoint-00000239")).expect("a folder");
    let text = finish(train(folder, "killed", &["--resume"]));
    assert!(text.contains("resuming after step"), "{text}");

    let same = |name: &str| {
        let read = |run: &str| fs::read(folder.join(run).join(name)).expect(name);
        assert!(read("whole") == read("killed"), "{name} differs");
    };
    same("curves.csv");
    same("curves.svg");
    same("muon/latest");
    same("muon/checkpoint-00000240/variables.safetensors");
    same("muon/checkpoint-00000240/optimizer.safetensors");
    let left: Vec<_> = fs::read_dir(folder.join("killed/muon")).expect("the folder").collect();
    assert_eq!(left.len(), 2, "{left:?}");

    let curves = fs::read_to_string(folder.join("whole/curves.csv")).expect("curves");
    let lines: Vec<&str> = curves.lines().collect();
    assert_eq!(lines.len(), 1 + 1 + 240);
    let held_out = |line: &str| line.rsplit(',').next().and_then(|v| v.parse::<f64>().ok()).expect("a loss");
    let (first, last) = (held_out(lines[1]), held_out(lines[241]));
    assert!(first > 5.0 && last < 3.0, "{first} -> {last}");
    let plot = fs::read_to_string(folder.join("whole/curves.svg")).expect("plot");
    assert!(plot.contains("<text") && plot.contains("muon") && plot.contains("<polyline"), "{plot}");

    let output = train(folder, "killed", &["--resume", "--lr", "0.5"]).output().expect("it runs");
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("groups is"), "{message}");
}

/// Elementwise steps have the CPU's bits there, orthogonalisations an order of their own.
#[cfg(feature = "cuda")]
#[test]
fn the_optimizer_steps_on_the_software_gpu() {
    let temporary = tempfile::tempdir().expect("a folder");
    let folder = temporary.path();
    let losses = |optimizer: &str, device: &str| -> Vec<f64> {
        let out = format!("{optimizer}-{}", device.replace(':', "-"));
        finish(train(folder, &out, &["--optimizer", optimizer, "--device", device, "--steps", "6"]));
        let curves = fs::read_to_string(folder.join(out).join("curves.csv")).expect("curves");
        let loss = |line: &str| line.split(',').nth(2).and_then(|v| v.parse().ok());
        curves.lines().filter_map(loss).collect()
    };
    let (cpu, card) = (losses("adamw", "cpu"), losses("adamw", "emulated"));
    assert!(cpu.len() == 6 && cpu == card, "{cpu:?} {card:?}");
    let (cpu, card) = (losses("muon", "cpu"), losses("muon", "emulated:sm_90a"));
    let near = |(a, b): (&f64, &f64)| (a / b - 1.0).abs() < 1e-2;
    assert!(card.len() == 6 && cpu.iter().zip(&card).all(near), "{cpu:?} {card:?}");
    assert!(cpu != card, "the same bits: it stepped on the CPU");
}

#[test]
fn usage_errors_exit_with_2_and_failures_with_1() {
    let temporary = tempfile::tempdir().expect("a folder");
    let code = |more: &[&str], part: &str| {
        let output = train(temporary.path(), "out", more).output().expect("it runs");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(message.contains(part), "{more:?}: {message}");
        output.status.code()
    };
    assert_eq!(code(&["--optimizer", "moun"], "did you mean `muon`?"), Some(2));
    assert_eq!(code(&["--compare", "lion,lion"], "twice"), Some(2));
    assert_eq!(code(&["--optimizer", "soap"], "not built"), Some(2));
    assert_eq!(code(&["--lr", "-1"], "lr"), Some(2));
    assert_eq!(code(&["--device", "gpu"], "--device"), Some(2));
    assert_eq!(code(&["--config", "no-such-file"], "no-such-file"), Some(1));
    assert!(!temporary.path().join("out").exists(), "nothing was written");
}
