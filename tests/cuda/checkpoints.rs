//! State goes from a card to a file and back, and from and to the CPU: the same bytes, and runs that go on exactly.

use std::path::Path;

use orthant::config::Config;
use orthant::{Device, Dtype, Error, Optimizer, Storage};
use tempfile::TempDir;

use crate::device;
use crate::fixture::{self, Card, Layout, OnCard, Pair, steps_by};
use crate::noise::Noise;
use crate::parity::{RULES, Set, assert_same, config, config_with};

const STEPS: usize = 6;
const INITIAL: &str = "algorithm = \"adagrad\"\nlr = 0.01\ninitial_accumulator_value = 0.3";

/// Thousands of files: in memory where the system has such a folder.
fn scratch() -> TempDir {
    TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).expect("a temporary folder")
}

fn shapes() -> Vec<Vec<usize>> {
    vec![vec![6], vec![5, 7], vec![2, 3, 4], vec![0], vec![301]]
}

/// Rules with what their state is made of, and the type of the parameters.
fn cases() -> Vec<(String, Dtype)> {
    let narrow = "state_dtype = \"bf16\"\nrounding = \"stochastic\"";
    let mut out = vec![];
    for (number, rule) in RULES.iter().chain([&INITIAL]).enumerate() {
        let policy = if number % 2 == 0 { "nonfinite = \"error\"" } else { "max_grad_norm = 3.0" };
        let kinds = [
            ("", Dtype::F32),
            ("master = \"f32\"", Dtype::F16),
            ("master = \"compact\"", Dtype::Bf16),
            (narrow, Dtype::Bf16),
        ];
        for (more, dtype) in kinds {
            let text = config_with(policy, rule, more);
            if Config::parse(&text).is_ok() && !(rule.contains("extrapolated") && more.contains("master")) {
                out.push((text, dtype));
            }
        }
    }
    out
}

/// The gradients of a step.
fn renew(set: &Set, step: usize) {
    for (k, tensors) in [&set.grads, &set.previous].into_iter().enumerate() {
        for (i, tensor) in tensors.iter().enumerate() {
            let mut noise = Noise((100 * step + 10 * i + k) as u64);
            tensor.assign(&noise.storage(tensor.dtype(), tensor.numel())).expect("it fits");
        }
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("a file")
}

/// Parameters as they were, in storage of their own.
fn with_values(set: &Set, values: &[Storage]) -> Set {
    let set = set.copy();
    set.data.iter().zip(values).for_each(|(tensor, values)| tensor.assign(values).expect("it fits"));
    set
}

#[test]
fn the_same_file_from_both_and_runs_that_go_on_exactly() {
    let dir = scratch();
    for (number, (text, dtype)) in cases().into_iter().enumerate() {
        let config = Config::parse(&text).expect("a configuration");
        let host = Set::new(&mut Noise(1), dtype, dtype, &shapes());
        let copy = host.copy();
        let mut reference = host.optimizer(&config, Device::Cpu);
        let mut straight = copy.optimizer(&config, device());
        let mut history: Vec<Vec<Storage>> = vec![];
        let path = |step: usize| dir.path().join(format!("{number}-{step}"));
        for step in 0..=STEPS {
            let what = format!("{text}, {dtype}, after step {step}");
            assert_same(&what, (&host, &reference), (&copy, &straight));
            let other = dir.path().join("cpu");
            straight.save(path(step)).expect("it saves");
            reference.save(&other).expect("it saves");
            assert!(bytes(&path(step)) == bytes(&other), "{what}: the files differ");
            history.push(host.data.iter().map(|t| t.to_storage()).collect());
            if step < STEPS {
                [&host, &copy].iter().for_each(|set| renew(set, step));
                assert_eq!(reference.step(), straight.step(), "{what}");
            }
        }
        // From the card's file on the card, and on the CPU, from every step on: the CPU's file is the same.
        for (from, values) in history.iter().enumerate() {
            let on = if (from + number) % 4 == 0 { Device::Cpu } else { device() };
            let set = with_values(&host, values);
            let mut resumed = set.optimizer(&config, on);
            resumed.load(path(from)).unwrap_or_else(|e| panic!("{text}: {e}"));
            let again = dir.path().join("again");
            resumed.save(&again).expect("it saves");
            assert!(bytes(&again) == bytes(&path(from)), "{text}: loaded after step {from}");
            // One step is enough: what comes of it is what the run that went on had, and saved.
            if from < STEPS {
                renew(&set, from);
                resumed.step().unwrap_or_else(|e| panic!("{text}: {e}"));
                let same = set.data.iter().zip(&history[from + 1]).all(|(t, v)| t.to_storage() == *v);
                assert!(same, "{text}: from step {from} on {on}");
                resumed.save(&again).expect("it saves");
                assert!(bytes(&again) == bytes(&path(from + 1)), "{text}: from step {from} on {on}");
            }
        }
    }
}

/// Tensors on the card: saved and loaded with steps before and behind that nobody waited for.
#[test]
fn steps_under_way_while_state_is_saved_and_loaded() {
    let dir = scratch();
    let file = dir.path().join("state");
    for (rule, more) in [(3, ""), (12, "master = \"compact\""), (14, "state_dtype = \"bf16\""), (6, "")] {
        let mut pair = Pair::new(&config(RULES[rule], more), Dtype::Bf16, Dtype::F32, &shapes());
        for _ in 0..3 {
            pair.both(|o| o.step().map(drop));
        }
        // The card waits for its three steps.
        pair.optimizer.save(&file).expect("it saves");
        let kept: Vec<Storage> = pair.cpu.data.iter().map(|t| t.to_storage()).collect();
        let other = dir.path().join("cpu");
        pair.reference.save(&other).expect("it saves");
        assert!(bytes(&file) == bytes(&other), "{}: the files differ", RULES[rule]);
        for _ in 0..4 {
            pair.both(|o| o.step().map(drop));
        }
        pair.both(|o| o.load(&file));
        pair.cpu.data.iter().zip(&kept).for_each(|(tensor, values)| tensor.assign(values).expect("it fits"));
        pair.set.data.iter().zip(&kept).for_each(|(view, values)| view.write(values));
        pair.same("loaded");
        for _ in 0..2 {
            pair.both(|o| o.step().map(drop));
        }
        pair.optimizer.synchronize().expect("done");
        pair.same("and on");
    }
}

#[test]
fn a_file_that_does_not_fit_changes_nothing() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let optimizer = |rule: &str, shapes: &[Vec<usize>]| {
        let set = Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, shapes);
        let mut optimizer = set.optimizer(&Config::parse(&config(rule, "")).expect("legal"), Device::Cpu);
        optimizer.step().expect("a step");
        optimizer
    };
    optimizer(RULES[3], &shapes()).save(path("algorithm")).expect("it saves");
    optimizer(RULES[12], &[vec![6], vec![7, 5], vec![2, 3, 4], vec![0], vec![301]])
        .save(path("shape"))
        .expect("it saves");
    optimizer(RULES[12], &shapes()[..4]).save(path("fewer")).expect("it saves");
    optimizer(RULES[12], &[&shapes()[..], &[vec![3]]].concat()).save(path("more")).expect("it saves");
    let mut pair =
        Pair::new(&config_with("nonfinite = \"error\"", RULES[12], ""), Dtype::F32, Dtype::F32, &shapes());
    pair.step("before");
    pair.optimizer.save(path("good")).expect("it saves");
    let good = bytes(&path("good"));
    std::fs::write(path("short"), &good[..good.len() - 1]).expect("written");
    std::fs::write(path("empty"), []).expect("written");
    let mut flipped = good.clone();
    *flipped.last_mut().expect("bytes") ^= 0x10;
    std::fs::write(path("flipped"), flipped).expect("written");
    pair.step("another");
    for name in ["algorithm", "shape", "fewer", "more", "short", "empty", "flipped", "absent"] {
        let expected = pair.reference.load(path(name)).expect_err(name);
        let found = pair.optimizer.load(path(name)).expect_err(name);
        assert_eq!(expected, found, "{name}");
        pair.same(name);
        pair.renew();
        pair.step(name);
    }
    // State that is not finite is let in by those only who let gradients in.
    let config = |policy: &str| Config::parse(&config_with(policy, RULES[12], "")).expect("legal");
    let set = Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, &shapes());
    let mut careless = set.optimizer(&config("nonfinite = \"propagate\""), device());
    set.grads[0].copy_from_slice(&[f32::NAN; 6]).expect("it fits");
    careless.step().expect("let through");
    careless.save(path("nan")).expect("it saves");
    careless.load(path("nan")).expect("let in");
    assert!(matches!(pair.optimizer.load(path("nan")), Err(Error::File { .. })));
    pair.same("not finite");
    pair.step("after");
}

/// The first step of variance reduction reads no previous gradient; that of a resumed run does.
#[test]
fn a_resumed_run_of_variance_reduction_needs_the_previous_gradient() {
    let dir = scratch();
    let (started, fresh) = (dir.path().join("started"), dir.path().join("fresh"));
    let mut pair = Pair::new(&config(RULES[7], ""), Dtype::F32, Dtype::F32, &[vec![6]]);
    pair.optimizer.save(&fresh).expect("it saves");
    pair.step("the first");
    pair.optimizer.save(&started).expect("it saves");
    let none = || [("p0", None::<orthant::DeviceTensor>)];
    pair.optimizer.rebind_previous_gradients(none()).expect("bound");
    pair.optimizer.load(&fresh).expect("it loads");
    steps_by(&mut pair.optimizer).expect("the first again");
    pair.optimizer.load(&started).expect("it loads");
    assert!(matches!(pair.optimizer.step(), Err(Error::Parameter { .. })));
}

/// The iterates x in the place of the points y, and back.
#[test]
fn iterates_are_shown_and_taken_back() {
    for (rule, dtype, more) in
        [(6, Dtype::F32, ""), (6, Dtype::Bf16, "state_dtype = \"bf16\""), (17, Dtype::F16, "")]
    {
        let shapes = [vec![40], vec![9, 33]];
        let config = Config::parse(&config(RULES[rule], more)).expect("a configuration");
        let cpu = Set::new(&mut Noise(2), dtype, dtype, &shapes);
        let (host, card) = (cpu.copy(), Card::new());
        let set = OnCard::new(&card, &cpu, Layout { skew: 1, gap: 3, ..Layout::default() });
        let mut reference = cpu.optimizer(&config, Device::Cpu);
        let mut of_host = host.optimizer(&config, device());
        let mut of_card = set.optimizer(&card, &config);
        let same = |what: &str, reference: &Optimizer, of_host: &Optimizer, of_card: &Optimizer| {
            assert_same(what, (&cpu, reference), (&host, of_host));
            fixture::assert_same(what, (&cpu, reference), (&set, of_card));
        };
        for round in 1..=3 {
            let all = [&mut reference, &mut of_host, &mut of_card];
            for optimizer in all {
                optimizer.step().expect("a step");
                optimizer.step().expect("a step");
                // Twice is once.
                optimizer.eval_point().and_then(|()| optimizer.eval_point()).expect("shown");
            }
            same(&format!("round {round}: x"), &reference, &of_host, &of_card);
            for optimizer in [&mut reference, &mut of_host, &mut of_card] {
                for refused in [optimizer.step().map(drop), optimizer.load("nowhere")] {
                    assert!(matches!(refused, Err(Error::Step(_))), "{refused:?}");
                }
                optimizer.train_point().and_then(|()| optimizer.train_point()).expect("taken back");
            }
            same(&format!("round {round}: y"), &reference, &of_host, &of_card);
        }
    }
}

/// Others have nothing to show.
#[test]
fn parameters_without_a_point_are_shown_as_they_are() {
    let mut pair = Pair::new(&config(RULES[12], ""), Dtype::F32, Dtype::F32, &shapes());
    pair.step("before");
    pair.both(Optimizer::eval_point);
    pair.same("shown");
    pair.step("steps go on");
    pair.both(Optimizer::train_point);
    pair.step("after");
}
