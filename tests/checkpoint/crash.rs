//! Kills during saves and writers that meet.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use orthant::algorithm::{Algorithm, Slot};
use orthant::{Device, Dtype, Group, Optimizer, Parameter, Tensor};
use tempfile::TempDir;

use crate::model::{scratch, tensor};

const TARGET: &str = "ORTHANT_TEST_SAVE_TO";
const SHAPE: [usize; 2] = [1024, 1024];
const KILLS: usize = 200;

/// Its state tells its generation: after k steps with gradient 1, every element of `variance` is k.
fn counter() -> Optimizer {
    let group = Group::new("counter", Algorithm::adagrad()).params(["*"]);
    let ones = |_| 1.0;
    let data = tensor(Dtype::F32, &SHAPE, ones);
    let parameter = Parameter::new("w", data).grad(tensor(Dtype::F32, &SHAPE, ones));
    Optimizer::builder(Device::Cpu).group(group).register([parameter]).expect("it registers")
}

fn generation(optimizer: &Optimizer) -> u64 {
    let steps = optimizer.step_count("w").unwrap().expect("w is registered");
    let variance = optimizer.state("w", Slot::Variance).unwrap().expect("adagrad has it");
    assert!(variance.iter().all(|v| *v == steps as f64), "not the state of generation {steps}");
    steps
}

/// Not a test by itself: saves until it is killed, when the parent test asks for it.
#[test]
fn child_saves_until_killed() {
    let Some(path) = std::env::var_os(TARGET) else { return };
    let mut optimizer = counter();
    optimizer.load(&path).expect("the file of the last generation");
    println!("ready");
    loop {
        optimizer.step().expect("a step");
        optimizer.save(&path).expect("it saves");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().display().to_string())
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn kills_during_saves_lose_nothing() {
    let dir = TempDir::new().expect("a temporary folder");
    let path = dir.path().join("state");
    let mut optimizer = counter();
    let start = Instant::now();
    optimizer.save(&path).expect("it saves");
    // On a slow disk a save may take longer than that.
    let window = start.elapsed().mul_f64(2.0).max(Duration::from_millis(30));
    let mut reached = 0;
    let mut while_writing = 0;
    let mut random = 0x9e37_79b9_7f4a_7c15u64;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this executable"))
            .args(["--exact", "crash::child_saves_until_killed", "--nocapture"])
            .env(TARGET, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the child starts");
        let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let ready = lines.by_ref().any(|line| line.is_ok_and(|l| l.contains("ready")));
        assert!(ready, "kill {kill}: the child could not load");
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        std::thread::sleep(window.mul_f64((random >> 33) as f64 / f64::from(1u32 << 31)));
        child.kill().expect("the child is killed");
        child.wait().expect("the child is gone");
        let left = names(dir.path());
        match left.as_slice() {
            [only] if only == "state" => {}
            [temporary, state] if state == "state" && temporary == ".state.orthant-tmp" => while_writing += 1,
            other => panic!("kill {kill}: the folder holds {other:?}"),
        }
        optimizer.load(&path).unwrap_or_else(|e| panic!("kill {kill}: {e}"));
        let found = generation(&optimizer);
        assert!(found >= reached, "kill {kill}: generation {found} after {reached}");
        reached = found;
    }
    println!(
        "{KILLS} kills, {while_writing} of them while a temporary file existed; {reached} generations saved"
    );
    assert!(while_writing >= KILLS / 20, "only {while_writing} kills met a save: the test has no teeth");
    assert!(reached >= 20, "only {reached} generations were saved");
    optimizer.save(&path).expect("it saves over the leftover");
    assert_eq!(names(dir.path()), ["state"], "the leftover was not taken up");
}

#[test]
fn writers_that_meet_never_mix() {
    let dir = TempDir::new().expect("a temporary folder");
    let path = dir.path().join("state");
    counter().save(&path).expect("it saves");
    let saved = std::sync::atomic::AtomicUsize::new(0);
    let refused = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for writer in 1..=3 {
            let (path, saved, refused) = (&path, &saved, &refused);
            scope.spawn(move || {
                let mut optimizer = counter();
                (0..writer * 10).for_each(|_| drop(optimizer.step().expect("a step")));
                for _ in 0..15 {
                    match optimizer.save(path) {
                        Ok(()) => saved.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
                        Err(e) => {
                            assert!(e.to_string().contains("another process is writing it"), "{e}");
                            refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
                        }
                    };
                }
            });
        }
        let mut reader = counter();
        for _ in 0..40 {
            reader.load(&path).expect("always a whole file");
            assert!([0, 10, 20, 30].contains(&generation(&reader)));
        }
    });
    let (saved, refused) = (saved.into_inner(), refused.into_inner());
    println!("{saved} saves went through, {refused} were refused");
    assert_eq!(saved + refused, 45);
    assert!(saved > 0 && refused > 0, "{saved} saved, {refused} refused: the writers never met");
    assert_eq!(names(dir.path()), ["state"]);
}

/// What the file system refuses leaves the old file and no temporary one.
#[test]
fn a_save_that_cannot_be_finished_leaves_nothing_behind() {
    let dir = TempDir::new().expect("a temporary folder");
    let optimizer = counter();
    fs::create_dir(dir.path().join("state")).expect("a folder");
    let refused = optimizer.save(dir.path().join("state")).expect_err("a folder is in the way").to_string();
    assert!(refused.contains("state") && refused.contains("cannot be replaced"), "{refused}");
    assert_eq!(names(dir.path()), ["state"]);
    let refused = optimizer.save(dir.path().join("none/state")).expect_err("no such folder").to_string();
    assert!(refused.contains("none") && refused.contains("No such file"), "{refused}");
    let refused = optimizer.save("/").expect_err("no file name").to_string();
    assert!(refused.contains("names no file"), "{refused}");
    let tensor = Tensor::zeros(Dtype::F32, &[1]).expect("a tensor");
    let twice = [("w", &tensor), ("w", &tensor)];
    let refused = orthant::files::write_tensors(dir.path().join("new"), twice).expect_err("a name twice");
    assert!(refused.to_string().contains("`w` was given twice"), "{refused}");
    let refused = orthant::files::write_tensors(dir.path().join("new"), [("a\nb", &tensor)]);
    assert!(refused.expect_err("a control character").to_string().contains("a\\nb"));
    assert_eq!(names(dir.path()), ["state"]);
}

/// A limit on the size of files stands in for a disk that is full at that byte.
#[test]
#[cfg(unix)]
fn a_full_disk_leaves_the_old_results() {
    let dir = scratch();
    let at = |name: &str| dir.path().join(name);
    // No state buffers: the state's file is small, the parameters' is not.
    let config = "[[group]]\nparams = [\"*\"]\nalgorithm = \"sign-sgd\"\nlr = 0.1\n";
    fs::write(at("c.toml"), config).expect("written");
    let values = tensor(Dtype::F32, &[16, 1024], |i| i as f64);
    orthant::files::write_tensors(at("p"), [("w", &values)]).expect("written");
    fs::create_dir(at("out")).expect("a folder");
    for name in ["params.safetensors", "state.safetensors"] {
        fs::write(at("out").join(name), "earlier").expect("written");
    }
    // A limited write fails instead of killing the process once the signal is ignored.
    let run = |blocks: u32| {
        Command::new("sh")
            .arg("-c")
            .arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" step --config c.toml --params p --grads p --out out"))
            .arg(env!("CARGO_BIN_EXE_orthant"))
            .current_dir(dir.path())
            .output()
            .expect("the shell starts")
    };
    for blocks in [0, 1, 4, 20, 60] {
        let output = run(blocks);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{blocks} blocks: {stderr}");
        assert!(
            stderr.contains("cannot be written") && stderr.contains("safetensors"),
            "{blocks} blocks: {stderr}"
        );
        assert_eq!(names(&at("out")), ["params.safetensors", "state.safetensors"]);
        for name in ["params.safetensors", "state.safetensors"] {
            assert_eq!(fs::read(at("out").join(name)).expect("it is there"), b"earlier", "{blocks} blocks");
        }
    }
    assert_eq!(run(1 << 20).status.code(), Some(0), "a limit that is not reached");
    assert_eq!(names(&at("out")), ["params.safetensors", "state.safetensors"]);
}
