//! Runs of scenarios, each with one fault, and what is asserted of each.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

use cudarc::driver::sys;
use orthant::cuda::Context;
use orthant::{Driver, Error, Optimizer};
use orthant_gpu::preload::Emulator;
use serde_json::Value;

use crate::scenarios::{SCENARIOS, Scenario};
use crate::world::{DEVICE, Place, Stop, World, file};

/// An error of each class: the caller's, a resource's, the driver's end, a context's, uncorrectable memory, faults of running
/// code, something that is not built, and what nobody knows.
const CODES: [u32; 9] = [1, 2, 4, 201, 214, 700, 719, 801, 999];
/// Those that end the context on the software GPU, as on a card.
const ENDS_CONTEXT: [u32; 3] = [214, 700, 719];
/// Calls that give something back: what they fail to give back stays.
const GIVES_BACK: [&str; 8] = [
    "cuDevicePrimaryCtxRelease_v2",
    "cuEventDestroy_v2",
    "cuGraphDestroy",
    "cuGraphExecDestroy",
    "cuMemFreeHost",
    "cuMemFree_v2",
    "cuModuleUnload",
    "cuStreamDestroy_v2",
];
/// Longest that one run may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// The software GPU of this process, for one test at a time.
pub struct Session {
    pub emulator: &'static Emulator,
    _one: MutexGuard<'static, ()>,
}

pub fn session() -> Session {
    static EMULATOR: LazyLock<Emulator> = LazyLock::new(|| {
        Driver::open(DEVICE).unwrap_or_else(|e| panic!("{e}"));
        Emulator::preload(None).unwrap_or_else(|e| panic!("{e}"))
    });
    static ONE: Mutex<()> = Mutex::new(());
    let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let session = Session { emulator: &EMULATOR, _one: one };
    session.restart();
    session
}

impl Session {
    /// A driver that knows of nothing that was before.
    pub fn restart(&self) {
        self.restart_in_order("0");
    }

    /// The same with work that runs late and in any legal order, which the seed chooses; 0: at once.
    fn restart_in_order(&self, seed: &str) {
        let settings = [("CARD", "sm_80"), ("QUIET", "1"), ("THREADS", "1"), ("SEED", seed)];
        self.emulator.configure(&settings).unwrap_or_else(|e| panic!("{e}"));
    }

    pub fn report(&self) -> Value {
        let report = self.emulator.report();
        serde_json::from_str(&report).unwrap_or_else(|e| panic!("{e}: {report}"))
    }

    /// The first call that was made to fail.
    fn ordered(&self) -> Option<String> {
        Some(self.report()["ordered"].as_array()?.first()?["name"].as_str()?.to_owned())
    }

    pub fn living(&self) -> Value {
        self.report()["living"].clone()
    }
}

/// A context with its kernels, that scenarios share: to load them is most of what a run would take.
fn keeper() -> Context {
    let context = Context::open(DEVICE).unwrap_or_else(|e| panic!("{e}"));
    let mut world = World::new(Some(context.clone()));
    world.add_host_set(orthant::Dtype::F32, orthant::Dtype::F32, &[&[1]]);
    world
        .register("[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\nlr = 1")
        .unwrap_or_else(|e| panic!("{e:?}"));
    context
}

type Seen = Vec<(String, Vec<u8>)>;

/// What a run without a fault shows after so many actions.
struct Reference(Vec<Seen>);

impl Reference {
    fn of(scenario: &Scenario, context: Option<Context>) -> Reference {
        if scenario.current {
            make_current();
        }
        let mut world = World::new(context);
        let mut seen = vec![world.observe().unwrap_or_else(|e| panic!("{e}"))];
        for (name, action) in &scenario.actions {
            action(&mut world).unwrap_or_else(|e| panic!("{}: {name}: {e:?}", scenario.name));
            seen.push(world.observe().unwrap_or_else(|e| panic!("{}: {name}: {e}", scenario.name)));
        }
        Reference(seen)
    }
}

#[track_caller]
fn assert_same(expected: &Seen, found: &Seen, what: &str) {
    let names = |seen: &Seen| -> Vec<String> { seen.iter().map(|(name, _)| name.clone()).collect() };
    assert_eq!(names(expected), names(found), "{what}");
    for ((name, expected), (_, found)) in expected.iter().zip(found) {
        assert!(expected == found, "{what}: {name} differs");
    }
}

fn is_lost(error: &Error) -> bool {
    matches!(error, Error::DeviceLost { .. })
}

/// That an error says what failed and where. `others`: calls after the first may be the ones that it speaks of.
fn check_words(error: &Error, call: &str, code: u32, others: bool, what: &str) {
    let unversioned = call.trim_end_matches("_v2");
    match error {
        // The driver repeats the first error at whatever comes after, so another call may be the first to be told.
        Error::DeviceLost { device, call: named, code: said, .. }
        | Error::Driver { device, call: named, code: said, .. } => {
            let told_later = others || ENDS_CONTEXT.contains(&code);
            assert!(*said == code && (*named == call || told_later), "{what}: {error}");
            assert_eq!(*device, DEVICE.to_string(), "{what}");
        }
        Error::Device { device, reason } => {
            assert!(
                (others || reason.contains(unversioned)) && *device == DEVICE.to_string(),
                "{what}: {error}"
            );
        }
        Error::OutOfMemory { device, .. } => {
            assert!(
                code == 2 && (others || call == "cuMemAlloc_v2") && *device == DEVICE.to_string(),
                "{what}: {error}"
            );
        }
        // An address that the driver does not know.
        Error::Parameter { .. } => assert!(code == 1 && call == "cuPointerGetAttribute", "{what}: {error}"),
        _ => panic!("{what}: {error:?}"),
    }
    let text = error.to_string();
    assert!(text.len() > 20 && text.is_ascii(), "{what}: {text}");
}

/// Every call of a lost optimizer answers with its first error.
pub fn check_lost(world: &mut World, which: usize, first: &Error, what: &str) {
    let stream = world.streams.iter().flatten().next().cloned();
    let on_card = matches!(world.sets[which].place, Place::Card { .. });
    let gradients = if on_card { world.sets[which].gradients() } else { vec![] };
    let optimizer = world.optimizers[which].as_mut().expect("it is there");
    let begun = Instant::now();
    let check = |name: &str, answer: orthant::Result<()>| match answer {
        Err(error) => assert_eq!(error.to_string(), first.to_string(), "{what}: then {name}"),
        Ok(()) => panic!("{what}: then {name} went well"),
    };
    for _ in 0..2 {
        check("synchronize", optimizer.synchronize());
        check("status", optimizer.status().map(drop));
        check("step", optimizer.step().map(drop));
        check("step_count", optimizer.step_count("p0").map(drop));
        check("warm_up", optimizer.warm_up());
        let group = optimizer.plan().groups[0].name().to_owned();
        check("set_lr", optimizer.set_lr(&group, 0.5));
        check("set_max_grad_norm", optimizer.set_max_grad_norm(Some(7.0)));
        if let Some(stream) = &stream {
            check("write_control", optimizer.write_control(stream));
            if on_card {
                check("step_on", optimizer.step_on(stream));
                check("rebind", optimizer.rebind_gradients(gradients.clone()));
            }
        }
        let before = std::fs::read(file()).ok();
        check("save", optimizer.save(file()));
        assert_eq!(before, std::fs::read(file()).ok(), "{what}: the file");
        if before.is_some() {
            check("load", optimizer.load(file()));
        }
        _ = optimizer.train_point();
        let points =
            |o: &Optimizer| o.plan().groups.iter().any(|g| format!("{g:?}").contains("Extrapolated"));
        if points(optimizer) {
            check("eval_point", optimizer.eval_point());
        }
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{what}: calls of a lost device take their time");
}

/// The calling thread's current context.
fn current() -> usize {
    let mut context = std::ptr::null_mut();
    // SAFETY: a place for the result.
    unsafe { sys::cuCtxGetCurrent(&mut context) };
    context as usize
}

/// One run: the call that failed before its end, if one did.
fn run(
    session: &Session,
    scenario: &Scenario,
    reference: &Reference,
    context: Option<Context>,
    code: u32,
    lasting: bool,
    what: &str,
) -> Option<String> {
    let mut world = World::new(context);
    let stopped = scenario
        .actions
        .iter()
        .enumerate()
        .find_map(|(k, (name, action))| action(&mut world).err().map(|stop| (k, *name, stop)));
    let call = session.ordered();
    if lasting && call.is_some() {
        // Else nothing can be looked at. What has happened is known.
        session.emulator.forget_faults().unwrap_or_else(|e| panic!("{e}"));
    }
    let Some((k, name, stop)) = stopped else {
        if let Some(call) = &call {
            let what = format!("{what} {call}, which nobody told");
            match world.observe() {
                Ok(seen) => assert_same(reference.0.last().expect("some"), &seen, &what),
                Err(error) => assert!(ENDS_CONTEXT.contains(&code) && is_lost(&error), "{what}: {error}"),
            }
        }
        return call;
    };
    let Some(call) = call else { panic!("{what}: {name}: {stop:?} without a fault") };
    let what = format!("{what} {call}: {name}");
    let error = match stop {
        Stop::Caller(_) => return Some(call),
        Stop::Other(error) => {
            check_words(&error, &call, code, lasting, &what);
            error
        }
        Stop::Optimizer(which, error) => {
            check_words(&error, &call, code, lasting, &what);
            if is_lost(&error) {
                check_lost(&mut world, which, &error, &what);
            }
            error
        }
    };
    if is_lost(&error) {
        let files = [k, (k + 1).min(reference.0.len() - 1)].map(|at| reference.0[at].last());
        let found = ("file".to_string(), std::fs::read(file()).unwrap_or_default());
        assert!(files.contains(&Some(&found)), "{what}: the file is torn");
        // The other optimizers are lost too, or as they were.
        for which in 0..world.optimizers.len() {
            let Some(optimizer) = &world.optimizers[which] else { continue };
            match optimizer.synchronize() {
                Err(first) => check_lost(&mut world, which, &first, &what),
                Ok(()) => {
                    let seen = world.observe_one(which).unwrap_or_else(|e| panic!("{what}: {e}"));
                    for (name, bytes) in seen {
                        let before = reference.0[k].iter().find(|(other, _)| *other == name);
                        assert!(before.is_some_and(|(_, before)| *before == bytes), "{what}: {name} differs");
                    }
                }
            }
        }
        return Some(call);
    }
    if !name.ends_with('*') {
        let seen = world.observe().unwrap_or_else(|e| panic!("{what}: looking: {e}"));
        // Reports come when they come; at the end they are all there.
        let without =
            |seen: &Seen| -> Seen { seen.iter().filter(|(n, _)| n != "reports").cloned().collect() };
        assert_same(&without(&reference.0[k]), &without(&seen), &format!("{what}, after the error"));
    }
    for (name, action) in &scenario.actions[k..] {
        action(&mut world).unwrap_or_else(|stop| panic!("{what}, then {name} again: {stop:?}"));
    }
    let seen = world.observe().unwrap_or_else(|e| panic!("{what}: looking: {e}"));
    assert_same(reference.0.last().expect("some"), &seen, &format!("{what}, at the end"));
    Some(call)
}

/// Whether nothing more is alive than before, but for one object that was not given back, and what belongs to it.
fn check_living(before: &Value, after: &Value, call: &str, what: &str) -> bool {
    if before == after {
        return true;
    }
    assert!(GIVES_BACK.contains(&call), "{what} {call}: alive before {before}, after {after}");
    let count = |living: &Value, kind: &str| living[kind].as_u64().unwrap_or_default();
    for kind in before.as_object().into_iter().flatten().map(|(kind, _)| kind) {
        let more = count(after, kind).saturating_sub(count(before, kind));
        assert!(more <= 1, "{what} {call}: alive before {before}, after {after}");
    }
    false
}

/// Which faults are tried.
#[derive(Clone, Copy)]
enum Part {
    All,
    /// Of the codes of each call, every third; which, the seed and the call say.
    Third(u64),
    /// Two codes, and all calls after the one fail as well until somebody is told.
    Lasting,
}

/// Tries a scenario with every call failing; how many faults there were.
fn sweep(session: &Session, scenario: &'static Scenario, part: Part, order: &str) -> usize {
    let (mut tried, mut failures, mut context) = (0, 0, None);
    let lasting = matches!(part, Part::Lasting);
    let fresh = |context: &mut Option<Context>| {
        drop(context.take());
        session.restart_in_order(order);
        *context = (!scenario.opens).then(keeper);
    };
    fresh(&mut context);
    // In a thread of its own, as every run: contexts are current in threads.
    let of = |context| std::thread::scope(|s| s.spawn(|| Reference::of(scenario, context)).join());
    let reference = of(context.clone()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    std::thread::scope(|scope| {
        for nth in 1.. {
            let mut fired = false;
            for (index, code) in CODES.into_iter().enumerate() {
                let skipped = match part {
                    Part::All => false,
                    Part::Third(seed) => !(nth + index as u64 + seed).is_multiple_of(3),
                    Part::Lasting => ![2, 999].contains(&code),
                };
                if skipped {
                    continue;
                }
                let what = format!("{}: call {nth} fails with {code}:", scenario.name);
                let before = session.living();
                let (tell, told) = mpsc::channel();
                let (this, reference) = (context.clone(), &reference);
                let thread = scope.spawn({
                    let what = what.clone();
                    move || {
                        if scenario.current {
                            make_current();
                        }
                        let before = current();
                        for nth in nth..=if lasting { nth + 300 } else { nth } {
                            session.emulator.inject("*", nth, code).unwrap_or_else(|e| panic!("{e}"));
                        }
                        let call = run(session, scenario, reference, this, code, lasting, &what);
                        let call = call.or_else(|| session.ordered());
                        session.emulator.forget_faults().unwrap_or_else(|e| panic!("{e}"));
                        assert!(lasting || current() == before, "{what} the thread's context");
                        _ = tell.send(call);
                    }
                });
                let call = match told.recv_timeout(PATIENCE) {
                    Ok(call) => call,
                    Err(mpsc::RecvTimeoutError::Timeout) => {
                        eprintln!("{what} the run hangs");
                        std::process::abort();
                    }
                    Err(mpsc::RecvTimeoutError::Disconnected) => Some("a panic".into()),
                };
                let panicked = thread.join().is_err();
                failures += usize::from(panicked);
                let Some(call) = call else { break };
                fired = true;
                tried += 1;
                let after = session.living();
                // A driver that gives out does not take things back.
                let clean = match panicked || lasting {
                    true => before == after,
                    false => check_living(&before, &after, &call, &what),
                };
                if panicked || !clean || ENDS_CONTEXT.contains(&code) {
                    fresh(&mut context);
                }
            }
            if !fired || failures > 20 {
                break;
            }
        }
    });
    assert_eq!(failures, 0, "runs of `{}` failed: their words are above", scenario.name);
    // All is well afterwards.
    let again = of(context.clone()).unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    assert_same(again.0.last().expect("some"), reference.0.last().expect("some"), scenario.name);
    tried
}

/// Makes the card's primary context current, as in a thread that works with it anyway.
pub fn make_current() {
    let mut raw = std::ptr::null_mut();
    // SAFETY: places for results, and a handle that somebody holds.
    let results = unsafe {
        [
            sys::cuDevicePrimaryCtxRetain(&mut raw, 0),
            sys::cuCtxSetCurrent(raw),
            sys::cuDevicePrimaryCtxRelease_v2(0),
        ]
    };
    assert!(results.iter().all(|&result| result as u32 == 0), "{results:?}");
}

/// The scenarios that are asked for, by part of their names.
fn only() -> Option<String> {
    std::env::var("ORTHANT_FAULTS_ONLY").ok()
}

/// Tries all scenarios, and prints how many faults that were.
fn sweep_all(part: Part) -> usize {
    let session = session();
    let begun = Instant::now();
    let mut total = 0;
    let only = only().unwrap_or_default();
    let scenarios = SCENARIOS.iter().enumerate().filter(|(_, scenario)| scenario.name.contains(&only));
    for (number, scenario) in scenarios {
        let before = begun.elapsed();
        // Every other one with work that runs late.
        let order = if let Part::Third(seed) = part { number as u64 + seed } else { number as u64 };
        let tried = sweep(&session, scenario, part, ["0", "3"][order as usize % 2]);
        println!("{tried:6} faults, {:5.1} s: {}", (begun.elapsed() - before).as_secs_f64(), scenario.name);
        total += tried;
    }
    println!("{total:6} faults injected into {} scenarios, none lost", SCENARIOS.len());
    total
}

#[test]
fn every_call_may_fail_and_nothing_is_lost() {
    let seed = std::env::var("ORTHANT_FAULTS_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0);
    assert!(sweep_all(Part::Third(seed)) >= 5000 || only().is_some());
}

#[test]
fn a_driver_that_answers_nothing_but_errors_from_some_call_on() {
    let session = session();
    let names =
        ["steps of host tensors", "a step in a caller's graph", "steps by groups on two streams", "load"];
    let scenarios = SCENARIOS.iter().filter(|scenario| names.contains(&scenario.name));
    let tried: usize = scenarios.map(|scenario| sweep(&session, scenario, Part::Lasting, "0")).sum();
    println!("{tried:6} drivers gave out, none lost");
    assert!(tried >= 500);
}

#[test]
#[ignore = "minutes"]
fn every_call_may_fail_with_every_code_and_nothing_is_lost() {
    assert!(sweep_all(Part::All) >= 15_000 || only().is_some());
}
