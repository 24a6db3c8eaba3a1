//! What is done while calls of the driver fail. Every action may be tried again after an error, and has then done nothing.

use std::sync::LazyLock;

use orthant::Algorithm;
use orthant::Dtype::{Bf16, F32};
use orthant::cuda::Context;

use crate::world::{DEVICE, Done, Place, Stop, World, file};

type Action = Box<dyn Fn(&mut World) -> Done + Send + Sync>;

/// A scenario.
pub struct Scenario {
    pub name: &'static str,
    /// It opens the context itself, rather than that one is given.
    pub opens: bool,
    /// The context is the thread's current one already.
    pub current: bool,
    /// A name with a star is one that may be half done after an error.
    pub actions: Vec<(&'static str, Action)>,
}

fn act(action: impl Fn(&mut World) -> Done + Send + Sync + 'static) -> Action {
    Box::new(action)
}

fn register(config: &'static str) -> (&'static str, Action) {
    ("register", act(move |w| w.register(config)))
}

fn card_set(
    dtype: orthant::Dtype,
    grad: orthant::Dtype,
    shapes: &'static [&'static [usize]],
) -> (&'static str, Action) {
    ("tensors", act(move |w| w.add_card_set(dtype, grad, shapes)))
}

fn host_set(
    dtype: orthant::Dtype,
    grad: orthant::Dtype,
    shapes: &'static [&'static [usize]],
) -> (&'static str, Action) {
    let add = move |w: &mut World| {
        w.add_host_set(dtype, grad, shapes);
        Ok(())
    };
    ("tensors", act(add))
}

fn stream() -> (&'static str, Action) {
    ("stream", act(World::add_stream))
}

fn event() -> (&'static str, Action) {
    ("event", act(World::add_event))
}

fn renew(set: usize, number: u64) -> (&'static str, Action) {
    ("gradients*", act(move |w| w.renew(set, number, false)))
}

fn step(which: usize) -> (&'static str, Action) {
    ("step", act(move |w| w.with(which, |o| o.step()).map(drop)))
}

/// The first half of a step.
fn scan(which: usize) -> (&'static str, Action) {
    ("scan", act(move |w| w.with(which, |o| o.scan()).map(drop)))
}

fn step_on(which: usize, stream: usize) -> (&'static str, Action) {
    ("step_on", act(move |w| w.step_on(which, stream)))
}

fn set_lr(which: usize, group: &'static str, lr: f64) -> (&'static str, Action) {
    ("set_lr", act(move |w| w.with(which, |o| o.set_lr(group, lr))))
}

fn synchronize(which: usize) -> (&'static str, Action) {
    ("synchronize", act(move |w| w.with(which, |o| o.synchronize())))
}

fn status(which: usize) -> (&'static str, Action) {
    ("status", act(move |w| w.status(which)))
}

fn save(which: usize) -> (&'static str, Action) {
    ("save", act(move |w| w.with(which, |o| o.save(file()))))
}

fn load(which: usize) -> (&'static str, Action) {
    ("load", act(move |w| w.with(which, |o| o.load(file()))))
}

fn step_group(group: &'static str, stream: usize, after: usize, done: usize) -> (&'static str, Action) {
    let step = move |w: &mut World| {
        let on = w.stream(stream);
        let events = std::mem::take(&mut w.events);
        let answer = w.with(0, |o| o.step_group_on(group, &on, Some(&events[after]), Some(&events[done])));
        w.events = events;
        answer
    };
    ("step_group_on", act(step))
}

fn record(event: usize, stream: usize) -> (&'static str, Action) {
    ("record", act(move |w| w.events[event].record(&w.stream(stream)).map_err(Stop::Other)))
}

/// Gradients begin so many bytes later from now on.
fn rebind(at: usize) -> (&'static str, Action) {
    let rebind = move |w: &mut World| {
        let Place::Card { at: place, .. } = &mut w.sets[0].place else { panic!("on the card") };
        let before = std::mem::replace(place, at);
        let gradients = w.sets[0].gradients();
        let answer = w.with(0, |o| o.rebind_gradients(gradients));
        if let (Err(_), Place::Card { at: place, .. }) = (&answer, &mut w.sets[0].place) {
            *place = before;
        }
        answer
    };
    ("rebind", act(rebind))
}

/// Host gradients of a wider type.
fn rebind_host() -> (&'static str, Action) {
    let rebind = |w: &mut World| {
        let mut wider = World::new(None);
        let shapes: Vec<&[usize]> = w.sets[0].shapes.iter().map(Vec::as_slice).collect();
        wider.add_host_set(F32, F32, &shapes);
        let Place::Host { grads: new, .. } = &wider.sets[0].place else { panic!("on the host") };
        let named: Vec<_> = new.iter().enumerate().map(|(i, g)| (format!("p{i}"), Some(g.clone()))).collect();
        w.with(0, |o| o.rebind_gradients(named))?;
        w.sets[0].grad_dtype = F32;
        let Place::Host { grads, .. } = &mut w.sets[0].place else { panic!("on the host") };
        grads.clone_from(new);
        Ok(())
    };
    ("rebind", act(rebind))
}

const LION: &str = "[step]\nnonfinite = \"propagate\"\n[[group]]\nname = \"all\"\nparams = [\"*\"]\nalgorithm = \"lion\"\nlr = 0.01";
const SIGNUM: &str = "[step]\nnonfinite = \"propagate\"\n[[group]]\nname = \"all\"\nparams = [\"*\"]\n\
                      algorithm = \"signum\"\nlr = 0.01\nweight_decay = 0.1";
const ADAMW: &str = "[step]\nmax_grad_norm = 1\n[[group]]\nname = \"all\"\nparams = [\"*\"]\nalgorithm = \"adamw\"\nlr = 0.01\n\
                     master = \"f32\"";
const SKIP: &str = "[step]\nnonfinite = \"skip\"\n[[group]]\nname = \"all\"\nparams = [\"*\"]\nalgorithm = \"lion\"\nlr = 0.01";
const TWO_GROUPS: &str = "[step]\nnonfinite = \"propagate\"\n[[group]]\nname = \"a\"\nparams = [\"p0\"]\nalgorithm = \"lion\"\n\
                          lr = 0.01\n[[group]]\nname = \"b\"\nparams = [\"*\"]\nalgorithm = \"adagrad\"\nlr = 0.01\n\
                          initial_accumulator_value = 0.5";
const POINTS: &str = "[step]\nnonfinite = \"propagate\"\n[[group]]\nname = \"all\"\nparams = [\"*\"]\nalgorithm = \"lmo\"\n\
                      lr = 0.01\nnorm = \"sign\"\nestimator = { kind = \"extrapolated\", alpha = 0.2 }";

const SMALL: &[&[usize]] = &[&[3, 5], &[9]];

fn open() -> (&'static str, Action) {
    let open = |w: &mut World| {
        w.context = Some(Context::open(DEVICE).map_err(Stop::Other)?);
        Ok(())
    };
    ("open", act(open))
}

fn poison(set: usize, number: u64) -> (&'static str, Action) {
    ("gradients*", act(move |w| w.renew(set, number, true)))
}

fn drop_stream(which: usize) -> (&'static str, Action) {
    let drop_stream = move |w: &mut World| {
        w.streams[which] = None;
        Ok(())
    };
    ("drop stream", act(drop_stream))
}

fn drop_optimizer(which: usize) -> (&'static str, Action) {
    let drop_optimizer = move |w: &mut World| {
        w.optimizers[which] = None;
        Ok(())
    };
    ("drop optimizer", act(drop_optimizer))
}

fn eval_point() -> (&'static str, Action) {
    // After an error, `train_point` undoes what was done.
    let eval = |w: &mut World| match w.with(0, |o| o.eval_point()) {
        Err(Stop::Optimizer(0, error)) if !matches!(error, orthant::Error::DeviceLost { .. }) => {
            w.with(0, |o| o.train_point()).unwrap_or_else(|e| panic!("{e:?}"));
            Err(Stop::Optimizer(0, error))
        }
        answer => answer,
    };
    ("eval_point", act(eval))
}

/// The same, but tried again with nothing in between.
fn eval_point_again() -> (&'static str, Action) {
    ("eval_point*", act(|w| w.with(0, |o| o.eval_point())))
}

fn train_point() -> (&'static str, Action) {
    ("train_point*", act(|w| w.with(0, |o| o.train_point())))
}

fn set_algorithm() -> (&'static str, Action) {
    let set = |w: &mut World| {
        let lion = orthant::config::Config::parse(
            "[[group]]\nparams = [\"*\"]\nalgorithm = \"lion\"\nlr = 1\nbetas = [0.5, 0.6]",
        );
        let algorithm: Algorithm = lion.unwrap_or_else(|e| panic!("{e}")).groups[0].algorithm().clone();
        w.with(0, |o| o.set_algorithm("all", algorithm.clone()))
    };
    ("set_algorithm", act(set))
}

/// More products than before, and another type: other launches.
fn more_steps() -> (&'static str, Action) {
    let set = |w: &mut World| {
        let algorithm = Algorithm::muon().ns_steps(2).ns_dtype(orthant::algorithm::NsDtype::F16);
        w.with(0, |o| o.set_algorithm("all", algorithm.clone()))
    };
    ("set_algorithm", act(set))
}

fn clip(max: Option<f64>) -> (&'static str, Action) {
    ("set_max_grad_norm", act(move |w| w.with(0, |o| o.set_max_grad_norm(max))))
}

pub static SCENARIOS: LazyLock<Vec<Scenario>> = LazyLock::new(|| {
    let scenario = |name, actions| Scenario { name, opens: false, current: false, actions };
    let current = |name, actions| Scenario { name, opens: false, current: true, actions };
    vec![
        Scenario {
            name: "open and register lion",
            opens: true,
            current: false,
            actions: vec![open(), host_set(F32, F32, SMALL), register(LION), step(0)],
        },
        scenario(
            "register adamw with masters and clipping",
            vec![stream(), card_set(Bf16, Bf16, SMALL), register(ADAMW), step(0), synchronize(0)],
        ),
        current(
            "steps of host tensors",
            vec![
                host_set(Bf16, Bf16, SMALL),
                register(ADAMW),
                step(0),
                renew(0, 2),
                set_lr(0, "all", 0.5),
                step(0),
                clip(None),
                renew(0, 3),
                step(0),
            ],
        ),
        current(
            "steps of device tensors",
            vec![
                stream(),
                card_set(F32, F32, SMALL),
                register(LION),
                step(0),
                set_lr(0, "all", 0.5),
                renew(0, 2),
                step_on(0, 0),
                status(0),
                set_lr(0, "all", 0.25),
                renew(0, 3),
                step(0),
                synchronize(0),
                status(0),
            ],
        ),
        current(
            "a step in a caller's graph",
            vec![
                stream(),
                card_set(F32, Bf16, SMALL),
                register(ADAMW_F32),
                ("warm_up", act(|w| w.with(0, |o| o.warm_up()))),
                ("capture", act(|w| w.capture(false))),
                ("replay", act(World::replay)),
                set_lr(0, "all", 0.5),
                renew(0, 2),
                ("replay", act(World::replay)),
                status(0),
            ],
        ),
        current(
            "steps in two halves",
            vec![
                stream(),
                card_set(F32, Bf16, SMALL),
                register(ADAMW_F32),
                scan(0),
                step(0),
                set_lr(0, "all", 0.5),
                renew(0, 2),
                scan(0),
                set_lr(0, "all", 0.25),
                step(0),
                synchronize(0),
                status(0),
                ("capture", act(|w| w.capture(true))),
                renew(0, 3),
                ("replay", act(World::replay)),
                status(0),
            ],
        ),
        current(
            "steps by groups on two streams",
            vec![
                stream(),
                stream(),
                event(),
                event(),
                event(),
                card_set(Bf16, F32, SMALL),
                register(TWO_GROUPS),
                record(0, 0),
                step_group("a", 1, 0, 1),
                step_group("b", 0, 0, 2),
                record(0, 0),
                step_group("b", 1, 0, 1),
                synchronize(0),
            ],
        ),
        scenario(
            "gradients elsewhere",
            vec![
                stream(),
                card_set(F32, F32, SMALL),
                register(LION),
                step(0),
                rebind(4),
                renew(0, 2),
                step(0),
                rebind(8),
                set_algorithm(),
                renew(0, 3),
                step(0),
                rebind(0),
                synchronize(0),
            ],
        ),
        current(
            "host gradients of another type",
            vec![
                host_set(Bf16, Bf16, SMALL),
                register(LION),
                step(0),
                rebind_host(),
                step(0),
                renew(0, 2),
                step(0),
            ],
        ),
        current(
            "save",
            vec![
                stream(),
                card_set(F32, F32, SMALL),
                register(SIGNUM),
                step(0),
                save(0),
                renew(0, 2),
                step(0),
                save(0),
            ],
        ),
        current(
            "load",
            vec![
                host_set(F32, F32, SMALL),
                register(SIGNUM),
                step(0),
                save(0),
                renew(0, 2),
                step(0),
                load(0),
                renew(0, 3),
                step(0),
            ],
        ),
        current(
            "extrapolated points",
            vec![
                stream(),
                card_set(F32, F32, SMALL),
                register(POINTS),
                step(0),
                eval_point(),
                train_point(),
                eval_point_again(),
                train_point(),
                step(0),
                synchronize(0),
            ],
        ),
        current(
            "skipped steps",
            vec![
                stream(),
                card_set(F32, F32, SMALL),
                register(SKIP),
                poison(0, 1),
                step(0),
                status(0),
                renew(0, 2),
                step(0),
                synchronize(0),
                status(0),
            ],
        ),
        current(
            "orthogonalised matrices",
            vec![
                stream(),
                card_set(F32, F32, MATRICES),
                register(MUON),
                step(0),
                more_steps(),
                step(0),
                synchronize(0),
            ],
        ),
        current(
            "two optimizers, dropped in odd order",
            vec![
                stream(),
                stream(),
                card_set(F32, F32, SMALL),
                card_set(Bf16, Bf16, SMALL),
                register(LION),
                register(SIGNUM),
                step_on(0, 1),
                step_on(1, 0),
                step_on(1, 1),
                drop_stream(1),
                synchronize(1),
                drop_optimizer(0),
                step(1),
                drop_stream(0),
                synchronize(1),
            ],
        ),
    ]
});

const ADAMW_F32: &str = "[step]\nmax_grad_norm = 1\n[[group]]\nname = \"all\"\nparams = [\"*\"]\nalgorithm = \"adamw\"\nlr = 0.01";
const MATRICES: &[&[usize]] = &[&[3, 5]];
const MUON: &str =
    "[[group]]\nname = \"all\"\nparams = [\"*\"]\nalgorithm = \"muon\"\nlr = 0.01\nns_steps = 1";
