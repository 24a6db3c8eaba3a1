//! Steps are replays of a graph: what changes between them, who orders them, and steps inside a caller's own graph.
#![allow(unsafe_code, reason = "the caller's own graphs are made with the driver's functions")]

use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys;
use orthant::config::Config;
use orthant::cuda::{Event, Stream};
use orthant::{Algorithm, Device, Dtype, Error};

use crate::device;
use crate::fixture::{Card, Layout, OnCard, Pair, View, assert_same};
use crate::noise::Noise;
use crate::parity::{RULES, Set, config, config_with};

fn shapes() -> Vec<Vec<usize>> {
    vec![vec![33], vec![5, 7], vec![4100], vec![0], vec![300]]
}

fn algorithm(text: &str) -> Algorithm {
    let config = Config::parse(&format!("[[group]]\nparams = [\"*\"]\nlr = 1\n{text}"));
    config.unwrap_or_else(|e| panic!("{e}")).groups[0].algorithm().clone()
}

/// Rules, and the same with other hyperparameters.
const CHANGES: [(usize, &str); 7] = [
    (2, "algorithm = \"signum\"\nmomentum = 0.3"),
    (3, "algorithm = \"lion\"\nbetas = [0.5, 0.7]"),
    (9, "algorithm = \"sgd\"\nmomentum = 0.4\ndampening = 0.3"),
    (12, "algorithm = \"adamw\"\nbetas = [0.5, 0.6]\neps = 1e-3\namsgrad = true"),
    (13, "algorithm = \"adagrad\"\nlr_decay = 0.7\neps = 1e-2"),
    (14, "algorithm = \"nsgd\"\nmomentum = 0.2\neps = 3.0"),
    (16, "algorithm = \"lmo\"\nnorm = \"frobenius\"\nestimator = { kind = \"mvr\", alpha = 0.7 }"),
];

#[test]
fn hyperparameters_changed_between_steps() {
    for (number, (rule, other)) in CHANGES.into_iter().enumerate() {
        let policy = ["nonfinite = \"propagate\"", "nonfinite = \"error\""][number % 2];
        let text = config_with(policy, RULES[rule], "name = \"g\"");
        let dtype = [Dtype::F32, Dtype::Bf16][number % 2];
        let mut pair = Pair::new(&text, dtype, dtype, &shapes());
        let before = algorithm(
            RULES[rule]
                .split('\n')
                .filter(|l| !l.starts_with("lr ="))
                .collect::<Vec<_>>()
                .join("\n")
                .as_str(),
        );
        for step in 1..=9 {
            match step {
                2 => pair.both(|o| o.set_lr("g", 0.3)),
                3 => pair.both(|o| o.set_weight_decay("g", 0.2)),
                4 => pair.both(|o| o.set_algorithm("g", algorithm(other))),
                5 => pair.both(|o| o.set_max_grad_norm(Some(0.25))),
                6 => pair.both(|o| o.set_loss_scale(128.0).and_then(|()| o.set_lr("g", 0.0))),
                7 => pair.both(|o| o.set_max_grad_norm(None).and_then(|()| o.set_lr("g", 1e-3))),
                8 => pair.both(|o| o.set_algorithm("g", before.clone())),
                _ => {}
            }
            pair.renew();
            pair.step(&format!("{other}, step {step}"));
        }
    }
}

/// Nobody waits: a step that is still in its stream must not see the values of a later one.
#[test]
fn thirty_steps_queued_with_a_learning_rate_each() {
    for (rule, decides) in [(3, false), (12, true), (14, false)] {
        let policy = if decides { "nonfinite = \"error\"" } else { "nonfinite = \"propagate\"" };
        let text = config_with(policy, RULES[rule], "name = \"g\"");
        let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &shapes());
        for step in 1..=30 {
            pair.both(|o| {
                o.set_lr("g", 0.1 / f64::from(step))?;
                if step % 7 == 0 {
                    o.set_loss_scale(f64::from(step))?;
                }
                o.step().map(drop)
            });
        }
        pair.optimizer.synchronize().expect("done");
        pair.same(&format!("{} after 30 steps", RULES[rule]));
        let reports = pair.optimizer.status().expect("no step was refused");
        assert_eq!(reports.len(), 30);
        assert!(reports.iter().all(|r| r.applied && !r.pending));
    }
}

/// Makes the card's primary context current for calls of the driver.
fn driver(calls: impl FnOnce() -> Vec<sys::CUresult>) {
    let (mut context, mut popped) = (null_mut(), null_mut());
    let ordinal = if let Device::Cuda(ordinal) = device() { ordinal as i32 } else { 0 };
    // SAFETY: places for results; the context is alive, for the tests hold it.
    let results = unsafe {
        let mut all = vec![sys::cuDevicePrimaryCtxRetain(&mut context, ordinal)];
        all.push(sys::cuCtxPushCurrent_v2(context));
        all.extend(calls());
        all.push(sys::cuCtxPopCurrent_v2(&mut popped));
        all.push(sys::cuDevicePrimaryCtxRelease_v2(ordinal));
        all
    };
    assert!(results.iter().all(|r| *r == sys::CUresult::CUDA_SUCCESS), "{results:?}");
}

/// A caller's own graph.
pub struct Graph(sys::CUgraphExec, Arc<Stream>);

impl Graph {
    pub fn capture(stream: &Arc<Stream>, work: impl FnOnce()) -> Graph {
        let raw: sys::CUstream = stream.as_raw().cast();
        // Tests beside this one allocate, which a global capture forbids to all threads.
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: here and below: live handles, and places for results.
        driver(|| vec![unsafe { sys::cuStreamBeginCapture_v2(raw, mode) }]);
        work();
        let (mut graph, mut exec) = (null_mut(), null_mut());
        driver(|| unsafe {
            vec![
                sys::cuStreamEndCapture(raw, &mut graph),
                sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0),
                sys::cuGraphDestroy(graph),
            ]
        });
        Graph(exec, stream.clone())
    }

    pub fn launch(&self) {
        // SAFETY: as above.
        driver(|| vec![unsafe { sys::cuGraphLaunch(self.0, self.1.as_raw().cast()) }]);
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: as above.
        driver(|| vec![unsafe { sys::cuGraphExecDestroy(self.0) }]);
    }
}

#[test]
fn a_step_in_the_callers_graph() {
    for (rule, policy) in
        [(3, "nonfinite = \"error\""), (12, "max_grad_norm = 0.5"), (14, "nonfinite = \"propagate\"")]
    {
        let text = config_with(policy, RULES[rule], "name = \"g\"");
        let mut pair = Pair::new(&text, Dtype::Bf16, Dtype::F32, &shapes());
        let stream = pair.card.stream.clone();
        // The first step is the graph's, the third is an ordinary one.
        let graph = Graph::capture(&stream, || pair.optimizer.step_on(&stream).expect("captured"));
        assert_eq!(pair.optimizer.steps(), 0, "a capture runs nothing");
        for step in 1..=14 {
            pair.renew();
            if step % 2 == 0 {
                pair.both(|o| o.set_lr("g", 0.1 / f64::from(step)));
            }
            pair.reference.step().expect("a step");
            if step == 3 {
                pair.optimizer.step().expect("a step");
            } else {
                pair.optimizer.write_control(&stream).expect("written");
                graph.launch();
            }
            stream.synchronize().expect("done");
            pair.same(&format!("{} step {step}", RULES[rule]));
        }
        // Replays are steps like others to the account of them.
        assert_eq!(pair.optimizer.status().expect("no refusal").len(), 14);
    }
}

/// Replays in a row without a wait, each with a learning rate of its own.
#[test]
fn replays_queued_with_a_learning_rate_each() {
    let text = config_with("nonfinite = \"error\"", RULES[12], "name = \"g\"");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &shapes());
    let stream = pair.card.stream.clone();
    let graph = Graph::capture(&stream, || pair.optimizer.step_on(&stream).expect("captured"));
    for step in 1..=20 {
        pair.both(|o| o.set_lr("g", 0.1 / f64::from(step)));
        pair.reference.step().expect("a step");
        pair.optimizer.write_control(&stream).expect("written");
        if step % 5 == 0 {
            pair.optimizer.step().expect("a step");
        } else {
            graph.launch();
        }
    }
    stream.synchronize().expect("done");
    pair.same("after 20 replays");
}

/// What a caller's graph was captured for can change so that it has to be captured again. Then that is said, and an old one
/// that is replayed all the same touches no memory that is not there any more.
#[test]
fn a_callers_graph_that_does_not_fit_any_more() {
    let text = config_with("nonfinite = \"propagate\"", RULES[12], "");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![9, 33], vec![70, 65]]);
    let stream = pair.card.stream.clone();
    let capture =
        |pair: &mut Pair| Graph::capture(&stream, || pair.optimizer.step_on(&stream).expect("captured"));
    let replay = |pair: &mut Pair, graph: &Graph, what: &str| {
        pair.reference.step().expect("a step");
        pair.optimizer.write_control(&stream).unwrap_or_else(|e| panic!("{what}: {e}"));
        graph.launch();
        stream.synchronize().expect("done");
        pair.same(what);
        assert_eq!(pair.optimizer.status().expect("no refusal").len(), 1, "{what}");
    };
    let outdated = |pair: &mut Pair| match pair.optimizer.write_control(&stream) {
        Err(Error::Step(text)) => assert!(text.contains("capture it again"), "{text}"),
        other => panic!("{other:?}"),
    };
    let first = capture(&mut pair);
    replay(&mut pair, &first, "the first");
    // The same shape elsewhere is sent along.
    let moved = |pair: &Pair, gap: usize| -> Vec<View> {
        let grads = pair.set.host.grads.iter();
        grads.map(|t| pair.card.tensor(&t.to_storage(), t.shape(), 0, gap)).collect()
    };
    let bind = |pair: &mut Pair, views: Vec<View>| {
        let bindings = pair.set.host.names.iter().zip(&views).map(|(n, v)| (n, Some(v.tensor.clone())));
        pair.optimizer.rebind_gradients(bindings).expect("bound");
        std::mem::replace(&mut pair.set.grads, views)
    };
    let elsewhere = moved(&pair, 0);
    let kept = bind(&mut pair, elsewhere);
    replay(&mut pair, &first, "bound elsewhere");
    // Other strides are other launches.
    let strided = moved(&pair, 3);
    let kept = (kept, bind(&mut pair, strided));
    outdated(&mut pair);
    pair.step("an ordinary one");
    first.launch();
    stream.synchronize().expect("nothing is touched that is gone");
    drop(kept);
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![9, 33], vec![70, 65]]);
    let first = capture(&mut pair);
    replay(&mut pair, &first, "before");
    pair.both(|o| o.set_max_grad_norm(Some(0.1)));
    outdated(&mut pair);
    let second = capture(&mut pair);
    replay(&mut pair, &second, "with clipping");
    let strided = moved(&pair, 3);
    let kept = bind(&mut pair, strided);
    let third = capture(&mut pair);
    replay(&mut pair, &third, "with gaps");
    drop(kept);
}

const TWO_GROUPS: &str = "[step]\nnonfinite = \"propagate\"\n\
    [[group]]\nname = \"a\"\nparams = [\"p0\", \"p2\"]\nalgorithm = \"lion\"\nlr = 0.01\nweight_decay = 0.1\n\
    [[group]]\nname = \"b\"\nparams = [\"*\"]\nalgorithm = \"nsgd\"\nlr = 0.02\n";

/// Each group steps on a stream of its own as soon as its gradients have come by another one.
#[test]
fn groups_on_streams_of_their_own() {
    let mut pair = Pair::new(TWO_GROUPS, Dtype::F32, Dtype::F32, &shapes());
    let context = pair.card.context.clone();
    let streams = [(); 3].map(|()| Stream::new(&context).expect("a stream"));
    let [of_a, of_b, producer] = &streams;
    let events = [(); 4].map(|()| Event::new(&context, false).expect("an event"));
    let [ready_a, ready_b, done_a, done_b] = &events;
    for step in 1..=12 {
        pair.renew_host();
        if step % 3 == 0 {
            pair.both(|o| o.set_lr("a", 0.1 / f64::from(step)));
            pair.both(|o| o.set_lr("b", 0.3 / f64::from(step)));
        }
        // Gradients may be overwritten when the steps before have read them.
        producer.wait(done_a).and_then(|()| producer.wait(done_b)).expect("given");
        for (groups, ready) in [([0, 2].as_slice(), ready_a), (&[1, 3, 4], ready_b)] {
            for &i in groups {
                let (view, tensor) = (&pair.set.grads[i], &pair.set.host.grads[i]);
                view.send(producer, &tensor.to_storage());
            }
            ready.record(producer).expect("recorded");
        }
        let order = if step % 2 == 0 { ["a", "b"] } else { ["b", "a"] };
        for group in order {
            let (stream, ready, done) =
                if group == "a" { (of_a, ready_a, done_a) } else { (of_b, ready_b, done_b) };
            pair.optimizer.step_group_on(group, stream, Some(ready), Some(done)).expect("given");
        }
        pair.reference.step().expect("a step");
        if step % 4 == 0 {
            done_a.synchronize().and_then(|()| done_b.synchronize()).expect("done");
            assert_same(&format!("step {step}"), (&pair.cpu, &pair.reference), (&pair.set, &pair.optimizer));
        }
    }
    assert!(pair.optimizer.status().expect("nothing to say").is_empty());
}

#[test]
fn groups_cannot_step_alone_where_all_gradients_decide() {
    for step in
        ["nonfinite = \"error\"", "nonfinite = \"skip\"", "max_grad_norm = 1.0\nnonfinite = \"propagate\""]
    {
        let text = config_with(step, RULES[3], "name = \"g\"");
        let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &shapes());
        let stream = pair.card.stream.clone();
        match pair.optimizer.step_group_on("g", &stream, None, None) {
            Err(Error::Step(text)) => assert!(text.contains("need all gradients"), "{text}"),
            other => panic!("{other:?}"),
        }
        pair.same("refused");
        pair.optimizer.set_max_grad_norm(None).expect("legal");
        if step.contains("propagate") {
            pair.optimizer.step_group_on("g", &stream, None, None).expect("nothing decides any more");
        }
        match pair.optimizer.step_group_on("h", &stream, None, None) {
            Err(Error::Config(text)) => assert!(text.contains("no group `h`"), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn two_optimizers_on_two_threads() {
    let run = |rule: usize, dtype: Dtype| {
        let text = config_with("max_grad_norm = 3.0", RULES[rule], "name = \"g\"");
        let mut pair = Pair::new(&text, dtype, Dtype::F32, &shapes());
        for step in 1..=15 {
            pair.both(|o| o.set_lr("g", 0.1 / f64::from(step)).and_then(|()| o.step().map(drop)));
        }
        pair.optimizer.synchronize().expect("done");
        pair.same(RULES[rule]);
    };
    std::thread::scope(|scope| {
        scope.spawn(|| run(3, Dtype::Bf16));
        scope.spawn(|| run(12, Dtype::F32));
        run(14, Dtype::F32);
    });
}

/// An optimizer may be handed to another thread between steps.
#[test]
fn an_optimizer_moves_between_threads() {
    let text = config_with("nonfinite = \"error\"", RULES[3], "");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &shapes());
    for step in 1..=3 {
        pair.reference.step().expect("a step");
        let optimizer = &mut pair.optimizer;
        std::thread::scope(|scope| {
            scope.spawn(move || optimizer.step().expect("a step"));
        });
        pair.optimizer.synchronize().expect("done");
        pair.same(&format!("step {step}"));
    }
}

/// Gradients come by a copy on another stream, and an event says when.
#[test]
fn gradients_from_another_stream() {
    let mut pair =
        Pair::new(&config_with("max_grad_norm = 0.5", RULES[12], ""), Dtype::F32, Dtype::F32, &shapes());
    let producer = Stream::new(&pair.card.context).expect("a stream");
    let [ready, read] = [(); 2].map(|()| Event::new(&pair.card.context, false).expect("an event"));
    for step in 1..=10 {
        pair.renew_host();
        if step > 1 {
            producer.wait(&read).expect("given");
        }
        for (view, tensor) in pair.set.grads.iter().zip(&pair.set.host.grads) {
            view.send(&producer, &tensor.to_storage());
        }
        ready.record(&producer).expect("recorded");
        pair.card.stream.wait(&ready).expect("given");
        pair.reference.step().expect("a step");
        pair.optimizer.step().expect("given");
        read.record(&pair.card.stream).expect("recorded");
    }
    pair.optimizer.synchronize().expect("done");
    pair.same("after 10 steps");
}

/// What one stream was told of holds for steps on another that the caller orders behind it.
#[test]
fn steps_on_one_stream_after_another() {
    let text = config_with("nonfinite = \"error\"", RULES[3], "name = \"g\"");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &shapes());
    let context = pair.card.context.clone();
    let other = Stream::new(&context).expect("a stream");
    let event = Event::new(&context, false).expect("an event");
    let names = pair.set.host.names.clone();
    for step in 1..=10 {
        let (stream, next) =
            if step % 2 == 0 { (&other, &*pair.card.stream) } else { (&*pair.card.stream, &other) };
        if step % 3 != 0 {
            pair.reference.set_lr("g", 0.1 / f64::from(step)).expect("legal");
            pair.optimizer.set_lr("g", 0.1 / f64::from(step)).expect("legal");
        }
        if step % 4 == 1 {
            // The same gradients once more: tables are sent again.
            let again = names.iter().zip(&pair.set.grads).map(|(name, g)| (name, Some(g.tensor.clone())));
            pair.optimizer.rebind_gradients(again).expect("bound");
        }
        pair.reference.step().expect("a step");
        pair.optimizer.step_on(stream).expect("given");
        if step % 5 == 0 {
            stream.synchronize().expect("done");
        } else {
            event.record(stream).and_then(|()| next.wait(&event)).expect("given");
        }
    }
    pair.optimizer.synchronize().expect("done");
    pair.same("after 10 steps");
}

/// The stream waits, the host rebinds, another stream goes on.
#[test]
fn gradients_bound_between_steps_on_two_streams() {
    let text = config_with("nonfinite = \"error\"", RULES[3], "");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &shapes());
    let other = Stream::new(&pair.card.context).expect("a stream");
    let names = pair.set.host.names.clone();
    for step in 1..=4 {
        let again = names.iter().zip(&pair.set.grads).map(|(name, g)| (name, Some(g.tensor.clone())));
        pair.optimizer.rebind_gradients(again).expect("bound");
        pair.reference.step().expect("a step");
        let stream = if step % 2 == 0 { &other } else { &*pair.card.stream };
        pair.optimizer.step_on(stream).expect("given");
        stream.synchronize().expect("done");
    }
    pair.same("after 4 steps");
}

/// A parameter's bits do not depend on what else is in the step, nor on the run.
#[test]
fn alone_and_among_others() {
    for rule in [3, 7, 12, 14] {
        let text = config(RULES[rule], "");
        let parsed = Config::parse(&text).expect("a configuration");
        let mut noise = Noise(3);
        let all = Set::new(&mut noise, Dtype::F32, Dtype::F32, &shapes());
        let card = Card::new();
        let run = |wanted: &[usize]| {
            let copy = all.copy();
            let pick = |v: &[orthant::Tensor]| wanted.iter().map(|&i| v[i].clone()).collect();
            let names = wanted.iter().map(|&i| copy.names[i].clone()).collect();
            let set = Set {
                names,
                data: pick(&copy.data),
                grads: pick(&copy.grads),
                previous: pick(&copy.previous),
            };
            let on_card = OnCard::new(&card, &set, Layout { skew: wanted.len() % 2, ..Layout::default() });
            let mut optimizer = on_card.optimizer(&card, &parsed);
            for _ in 0..3 {
                optimizer.step().expect("a step");
            }
            optimizer.synchronize().expect("done");
            on_card.data.iter().map(|view| view.read().as_le_bytes().to_vec()).collect::<Vec<_>>()
        };
        let everything = run(&[0, 1, 2, 3, 4]);
        assert_eq!(everything, run(&[0, 1, 2, 3, 4]), "{}: another run", RULES[rule]);
        for (i, together) in everything.iter().enumerate() {
            assert_eq!(*together, run(&[i])[0], "{}: p{i} alone", RULES[rule]);
        }
        let backwards: Vec<_> = run(&[4, 2, 0]);
        assert_eq!(backwards, [4, 2, 0].map(|i| everything[i].clone()), "{}: in another order", RULES[rule]);
    }
}

#[test]
fn captured_now_rather_than_with_the_first_step() {
    let mut pair = Pair::new(&config(RULES[12], ""), Dtype::F32, Dtype::F32, &shapes());
    pair.optimizer.warm_up().expect("captured");
    pair.same("nothing ran");
    pair.step("the first");
    let text = config(RULES[12], "");
    let parsed = Config::parse(&text).expect("a configuration");
    match pair.cpu.optimizer(&parsed, Device::Cpu).warm_up() {
        Err(Error::Step(text)) => assert!(text.contains("no streams"), "{text}"),
        other => panic!("{other:?}"),
    }
}

/// A caller's graph is replayed before anything was ever sent: registration has sent what the groups were given.
#[test]
fn a_callers_graph_before_any_write_of_the_control_block() {
    let text = config_with("max_grad_norm = 0.5\nloss_scale = 8", RULES[12], "");
    let mut pair = Pair::new(&text, Dtype::Bf16, Dtype::F32, &shapes());
    let stream = pair.card.stream.clone();
    let graph = Graph::capture(&stream, || pair.optimizer.step_on(&stream).expect("captured"));
    for step in 1..=3 {
        pair.renew();
        pair.reference.step().expect("a step");
        graph.launch();
        stream.synchronize().expect("done");
        pair.same(&format!("step {step}"));
    }
}
