//! Steps that are refused, skipped or let through for what a gradient holds: the CPU's errors value for value, nothing changed
//! bit for bit, and the next step as if nothing had been.

use orthant::config::Config;
use orthant::{Algorithm, Dtype, Element, Error, Parameter, Storage, Tensor};

use crate::device;
use crate::fixture::{Card, Layout, OnCard, Pair};
use crate::noise::Noise;
use crate::parity::{RULES, Set, assert_same, config, config_with};

const ERROR: &str = "nonfinite = \"error\"";
const SKIP: &str = "nonfinite = \"skip\"";
const PROPAGATE: &str = "nonfinite = \"propagate\"";

fn storage(dtype: Dtype, values: &[f64]) -> Storage {
    fn all<E: Element>(values: &[f64]) -> Vec<E> {
        values.iter().map(|&v| E::from_f64(v)).collect()
    }
    match dtype {
        Dtype::F64 => Storage::F64(all(values)),
        Dtype::F32 => Storage::F32(all(values)),
        Dtype::Bf16 => Storage::Bf16(all(values)),
        Dtype::F16 => Storage::F16(all(values)),
    }
}

/// The same values in the same gradient, or previous gradient, everywhere.
fn put(pair: &Pair, previous: bool, parameter: usize, change: impl Fn(&mut Vec<f64>)) {
    let of =
        |set: &Set| if previous { set.previous[parameter].clone() } else { set.grads[parameter].clone() };
    let mut values = of(&pair.cpu).to_vec_f64();
    change(&mut values);
    let values = storage(of(&pair.cpu).dtype(), &values);
    of(&pair.cpu).assign(&values).expect("it fits");
    of(&pair.set.host).assign(&values).expect("it fits");
    let views = if previous { &pair.set.previous } else { &pair.set.grads };
    views[parameter].write(&values);
}

/// A step that both refuse, with the same words, and that leaves the same behind.
#[track_caller]
fn refused(pair: &mut Pair, what: &str) -> Error {
    let error = told(pair, what);
    pair.same(what);
    error
}

/// The words alone.
#[track_caller]
fn told(pair: &mut Pair, what: &str) -> Error {
    let expected = pair.reference.step().expect_err(what);
    let pending = pair.optimizer.step().unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(pending.pending);
    pair.optimizer.synchronize().unwrap_or_else(|e| panic!("{what}: {e}"));
    let found = pair.optimizer.status().expect_err(what);
    assert_eq!(expected, found, "{what}");
    assert_eq!(pair.optimizer.status(), Ok(vec![]), "{what}: said once");
    expected
}

const BAD: [f64; 3] = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY];

/// The first element, the last, the middle of a tail, both sides of every boundary between blocks.
fn positions(numel: usize) -> Vec<usize> {
    let boundaries = (1..).map(|block| block * 4096).take_while(|&at| at < numel);
    let mut all: Vec<usize> = boundaries.flat_map(|at| [at - 1, at]).collect();
    all.extend([0, 7, 8, numel / 2, numel.saturating_sub(3), numel - 1]);
    all.retain(|&at| at < numel);
    all.sort_unstable();
    all.dedup();
    all
}

#[test]
fn one_bad_element_anywhere_refuses_the_step() {
    for (rule, dtype) in [(3, Dtype::Bf16), (12, Dtype::F32), (14, Dtype::F16)] {
        let shapes = [vec![5], vec![8197], vec![3, 4], vec![0], vec![2, 2, 2051]];
        let text = config_with(ERROR, RULES[rule], "");
        let mut pair = Pair::new(&text, dtype, dtype, &shapes);
        pair.step("before");
        let mut tried = 0;
        for parameter in [0, 1, 2, 4] {
            let numel = pair.cpu.grads[parameter].numel();
            for at in positions(numel) {
                let (bad, good) = (BAD[tried % 3], pair.cpu.grads[parameter].to_vec_f64()[at]);
                put(&pair, false, parameter, |v| v[at] = bad);
                let what = format!("{}: {bad} at {at} of p{parameter}", RULES[rule]);
                let Error::NonFiniteGradient { parameter: name, index, value, .. } =
                    refused(&mut pair, &what)
                else {
                    panic!("{what}")
                };
                assert_eq!((name, index), (format!("p{parameter}"), at), "{what}");
                assert_eq!(value, bad.to_string(), "{what}");
                put(&pair, false, parameter, |v| v[at] = good);
                tried += 1;
                if tried % 8 == 0 {
                    pair.renew();
                    pair.step(&format!("{what}: and the next"));
                }
            }
        }
        pair.step("after");
    }
}

/// The first in the order of registration and of elements is named, whatever else there is.
#[test]
fn the_first_of_many_is_named() {
    let text = config_with(&format!("{ERROR}\nmax_grad_norm = 1.0"), RULES[7], "");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![40], vec![9000], vec![64], vec![3]]);
    // Variance reduction does not read the previous gradient of the first step.
    put(&pair, true, 0, |v| v[3] = f64::NAN);
    pair.step("the first");
    refused(&mut pair, "a previous gradient");
    put(&pair, false, 0, |v| v[30] = f64::INFINITY);
    let Error::NonFiniteGradient { index, .. } = refused(&mut pair, "its own first") else { panic!() };
    assert_eq!(index, 30);
    pair.renew();
    for (parameter, at) in [(3, 0), (2, 63), (1, 8999), (1, 4096), (1, 2)] {
        put(&pair, false, parameter, |v| v[at] = f64::NEG_INFINITY);
        let what = format!("{at} of p{parameter}");
        let Error::NonFiniteGradient { parameter: name, index, .. } = refused(&mut pair, &what) else {
            panic!("{what}")
        };
        assert_eq!((name, index), (format!("p{parameter}"), at));
    }
    pair.renew();
    pair.step("after");
}

/// Among more parameters, and in more blocks, than a block of the kernels takes at once.
#[test]
fn the_first_among_many_parameters_and_blocks() {
    let mut shapes: Vec<Vec<usize>> = (0..520).map(|n| vec![1 + n % 3]).collect();
    shapes[300] = vec![300, 2, 2];
    shapes[400] = vec![260, 4096];
    let mut pair = Pair::new(&config_with(ERROR, RULES[11], ""), Dtype::F32, Dtype::F32, &shapes);
    for (parameter, at, value) in [
        (519, 0, f64::NAN),
        (400, 260 * 4096 - 1, f64::INFINITY),
        (400, 257 * 4096 + 5, f64::NEG_INFINITY),
        (400, 4095, f64::NAN),
        (300, 1199, f64::NAN),
        (300, 1027, f64::INFINITY),
        (258, 0, f64::NAN),
        (257, 0, 1e30),
    ] {
        put(&pair, false, parameter, |v| v[at] = value);
        let what = format!("{value} at {at} of p{parameter}");
        // Not finite goes before too large, wherever they are.
        if let Error::NonFiniteGradient { parameter: name, index, .. } = told(&mut pair, &what) {
            let wanted = if value.is_finite() { (258, 0) } else { (parameter, at) };
            assert_eq!((name, index), (format!("p{}", wanted.0), wanted.1), "{what}");
        } else {
            panic!("{what}");
        }
    }
    pair.same("at the end");
    for (parameter, at) in [(519, 0), (400, 5), (300, 1100), (258, 0)] {
        pair.renew();
        put(&pair, false, parameter, |v| v[at] = 1e25);
        let Error::GradientOverflow { parameter: name, .. } = told(&mut pair, "too large") else { panic!() };
        assert_eq!(name, format!("p{parameter}"));
    }
}

/// Finite gradients whose squares or sums the state cannot hold.
#[test]
fn gradients_too_large_for_the_state() {
    let bf16 = "state_dtype = \"bf16\"";
    let cases = [
        (12, "", Dtype::F32, 1e30),
        (11, bf16, Dtype::Bf16, -1e25),
        (13, "", Dtype::F32, 3e19),
        (13, bf16, Dtype::Bf16, 3e19),
        (2, "", Dtype::F32, 3.3e38),
        (4, bf16, Dtype::Bf16, -3e38),
        (7, "", Dtype::F32, 3e38),
        (9, "", Dtype::F32, 3e38),
        (14, bf16, Dtype::Bf16, 3.38e38),
        (16, "", Dtype::F32, -2.9e38),
    ];
    let mut refusals = cases.map(|_| 0);
    for (case, (rule, more, dtype, value)) in cases.into_iter().enumerate() {
        for step in [ERROR, SKIP, "nonfinite = \"error\"\nloss_scale = 1e-3"] {
            let text = config_with(step, RULES[rule], more);
            let mut pair = Pair::new(&text, dtype, dtype, &[vec![40], vec![70, 65], vec![9]]);
            pair.step("before");
            put(&pair, false, 1, |v| v[4100] = value);
            let what = format!("{} {more}, {value} {step}", RULES[rule]);
            // Some are taken in: both have to say the same.
            if pair.reference.step().is_ok() {
                pair.optimizer.step().expect("given");
                pair.optimizer.synchronize().expect("done");
                pair.optimizer.status().unwrap_or_else(|e| panic!("{what}: {e}"));
                pair.same(&what);
            } else {
                let Error::GradientOverflow { parameter, .. } = refused(&mut pair, &what) else {
                    panic!("{what}")
                };
                assert_eq!(parameter, "p1");
                refusals[case] += 1;
            }
            pair.renew();
            pair.step(&format!("{what}: and the next"));
        }
    }
    // Skipped steps are no errors, and two of the values only a loss scale makes too large.
    assert_eq!(refusals, [2, 2, 2, 2, 1, 2, 2, 2, 1, 2]);
}

/// The sums of AdaGrad leave less and less room.
#[test]
fn sums_that_grow_to_the_limit() {
    let mut pair = Pair::new(
        &config_with(ERROR, "algorithm = \"adagrad\"", ""),
        Dtype::F32,
        Dtype::F32,
        &[vec![9], vec![5000]],
    );
    put(&pair, false, 1, |v| v[4097] = 1e19);
    let mut applied = 0;
    while pair.reference.step().is_ok() {
        pair.optimizer.step().expect("given");
        pair.optimizer.synchronize().expect("done");
        pair.optimizer.status().unwrap_or_else(|e| panic!("step {applied}: {e}"));
        pair.same("a sum");
        applied += 1;
    }
    assert_eq!(applied, 3);
    refused(&mut pair, "the fourth");
}

/// Variance reduction takes in the previous gradient too.
#[test]
fn previous_gradients_too_large() {
    let mut pair = Pair::new(&config_with(ERROR, RULES[7], ""), Dtype::F32, Dtype::F32, &[vec![9], vec![50]]);
    put(&pair, true, 1, |v| v[49] = 3e38);
    pair.step("the first does not read it");
    let Error::GradientOverflow { parameter, .. } = refused(&mut pair, "the second") else { panic!() };
    assert_eq!(parameter, "p1");
    put(&pair, true, 1, |v| v[49] = 1.0);
    pair.step("the next");
}

/// Nobody waits: the refusal of a step comes with a later call, and that call gives nothing.
#[test]
fn refusals_come_later_and_steps_go_on() {
    let mut pair =
        Pair::new(&config_with(ERROR, RULES[12], ""), Dtype::F32, Dtype::F32, &[vec![40], vec![300]]);
    let mut noise = Noise(5);
    let mut wanted = vec![];
    let mut found = vec![];
    for step in 1..=12 {
        let mut values = noise.storage(Dtype::F32, 300);
        if step % 4 == 2 {
            let mut with_bad: Vec<f64> = (0..300).filter_map(|i| values.get_f64(i)).collect();
            with_bad[step] = f64::NAN;
            values = storage(Dtype::F32, &with_bad);
        }
        pair.cpu.grads[1].assign(&values).expect("it fits");
        pair.set.host.grads[1].assign(&values).expect("it fits");
        pair.set.grads[1].send(&pair.card.stream, &values);
        wanted.extend(pair.reference.step().err());
        while let Err(error) = pair.optimizer.step() {
            found.push(error);
            assert!(found.len() <= wanted.len(), "{found:?}");
        }
    }
    pair.optimizer.synchronize().expect("done");
    while let Err(error) = pair.optimizer.status() {
        found.push(error);
        assert!(found.len() <= wanted.len(), "{found:?}");
    }
    assert_eq!(wanted, found);
    assert_eq!(wanted.len(), 3);
    pair.same("after 12 steps");
}

#[test]
fn skipped_steps_are_counted_and_named() {
    let text = config_with(&format!("{SKIP}\nmax_grad_norm = 0.5"), RULES[3], "");
    let mut pair = Pair::new(&text, Dtype::Bf16, Dtype::Bf16, &[vec![40], vec![300], vec![7]]);
    for step in 1..=9 {
        pair.renew();
        if step % 3 == 0 {
            put(&pair, false, step / 3 - 1, |v| v[step / 2] = BAD[step / 3 - 1]);
        }
        pair.step(&format!("step {step}"));
    }
    assert_eq!((pair.optimizer.steps(), pair.optimizer.skipped_steps()), (6, 3));
}

/// Of more than 64 steps the oldest are not reported; a refusal is.
#[test]
fn many_steps_without_asking() {
    let mut pair = Pair::new(&config_with(SKIP, RULES[0], ""), Dtype::F32, Dtype::F32, &[vec![3]]);
    for step in 1..=150 {
        if step == 149 {
            put(&pair, false, 0, |v| v[1] = f64::NAN);
        }
        pair.both(|o| o.step().map(drop));
    }
    pair.optimizer.synchronize().expect("done");
    pair.same("after 150 steps");
    let reports = pair.optimizer.status().expect("nothing is refused");
    assert_eq!(reports.len(), 64, "what a status can be asked for does not grow for ever");
    assert!(reports[..62].iter().all(|r| r.applied) && !reports[62].applied && !reports[63].applied);
    assert_eq!(pair.optimizer.status(), Ok(vec![]));

    let mut pair = Pair::new(&config_with(ERROR, RULES[0], ""), Dtype::F32, Dtype::F32, &[vec![3]]);
    put(&pair, false, 0, |v| v[1] = f64::NAN);
    let expected = pair.reference.step().expect_err("refused");
    pair.optimizer.step().expect("given");
    let Err(found) = (1..200).try_for_each(|_| pair.optimizer.step().map(drop)) else {
        let found = pair.optimizer.synchronize().and_then(|()| pair.optimizer.status()).expect_err("told");
        assert!(matches!(found, Error::NonFiniteGradient { .. }));
        return;
    };
    assert_eq!(expected, found);
}

/// Under `propagate` what is not finite spreads as on the CPU. (Cards have one NaN.)
#[test]
fn what_is_let_through_spreads_as_on_the_cpu() {
    for (number, rule) in RULES.iter().enumerate() {
        let step = if number % 2 == 0 { PROPAGATE } else { "nonfinite = \"propagate\"\nmax_grad_norm = 1.0" };
        let mut pair = Pair::new(&config_with(step, rule, ""), Dtype::F32, Dtype::F32, &[vec![20], vec![5]]);
        for (i, bad) in BAD.into_iter().enumerate() {
            put(&pair, false, 0, |v| v[3 + 5 * i] = bad);
        }
        for _ in 0..2 {
            pair.both(|o| o.step().map(drop));
        }
        pair.optimizer.synchronize().expect("done");
        for (tensor, view) in pair.cpu.data.iter().zip(&pair.set.data) {
            let found = view.read();
            for (i, expected) in tensor.to_vec_f64().into_iter().enumerate() {
                let found = found.get_f64(i).expect("an element");
                let same = expected.to_bits() == found.to_bits() || expected.is_nan() && found.is_nan();
                assert!(same, "{rule}: element {i}: CPU {expected}, card {found}");
            }
        }
    }
}

/// The normalised direction does not depend on the gradient's scale, down to the smallest numbers.
#[test]
fn huge_tiny_and_denormal_gradients() {
    for rule in [RULES[14], RULES[15], RULES[16], RULES[0], RULES[3], RULES[11]] {
        let mut results: Vec<Vec<u8>> = vec![];
        for exponent in [0, 120, -100, -126, -140, -149] {
            let text = config_with(PROPAGATE, rule, "");
            let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![40], vec![4100]]);
            for parameter in 0..2 {
                // A few bits each, so that most scales lose none.
                let value = |i: usize| f64::from(i as i32 * 7 % 13 - 6);
                let scaled =
                    |v: &mut Vec<f64>| (0..v.len()).for_each(|i| v[i] = value(i) * 2f64.powi(exponent));
                put(&pair, false, parameter, scaled);
                put(&pair, true, parameter, scaled);
            }
            pair.both(|o| o.step().map(drop));
            pair.optimizer.synchronize().expect("done");
            pair.same(&format!("{rule}: gradients of about 2^{exponent}"));
            results.push(pair.set.data[1].read().as_le_bytes().to_vec());
        }
        if rule == RULES[14] {
            assert!(results.iter().all(|r| *r == results[0]), "{rule} depends on the scale");
        }
    }
}

#[test]
fn zeros_of_both_signs() {
    for rule in RULES {
        for zero in [0.0, -0.0] {
            let mut pair =
                Pair::new(&config_with(ERROR, rule, ""), Dtype::F32, Dtype::Bf16, &[vec![40], vec![7]]);
            for parameter in 0..2 {
                put(&pair, false, parameter, |v| v.fill(zero));
            }
            for step in 1..=2 {
                pair.step(&format!("{rule}: gradients of {zero}, step {step}"));
            }
        }
    }
}

#[test]
fn parameters_without_a_gradient_are_left_alone() {
    for (rule, step) in [(12, ERROR), (14, "max_grad_norm = 0.5"), (3, PROPAGATE)] {
        let parsed = Config::parse(&config_with(step, RULES[rule], "")).expect("a configuration");
        let mut noise = Noise(1);
        let host = Set::new(&mut noise, Dtype::F32, Dtype::F32, &[vec![40], vec![4100], vec![7], vec![0]]);
        let copy = host.copy();
        let register = |set: &Set, device| {
            let parameters = (0..4).map(|i| {
                let parameter = Parameter::new(set.names[i].as_str(), set.data[i].clone());
                if i % 2 == 1 { parameter } else { parameter.grad(set.grads[i].clone()) }
            });
            orthant::Optimizer::builder(device)
                .groups(parsed.groups.clone())
                .options(parsed.options)
                .register(parameters)
                .expect("registered")
        };
        let (mut cpu, mut card) = (register(&host, orthant::Device::Cpu), register(&copy, device()));
        for step in 1..=4 {
            let what = format!("{} step {step}", RULES[rule]);
            assert_eq!(cpu.step(), card.step(), "{what}");
            assert_same(&what, (&host, &cpu), (&copy, &card));
            if step == 2 {
                for (set, optimizer) in [(&host, &mut cpu), (&copy, &mut card)] {
                    let swap = [("p1", Some(set.grads[1].clone())), ("p0", None)];
                    optimizer.rebind_gradients(swap).expect("bound");
                }
            }
        }
        assert_eq!(card.step_count("p0"), Ok(Some(2)));
        assert_eq!(card.step_count("p1"), Ok(Some(2)));
        assert_eq!(card.step_count("p3"), Ok(Some(0)));
    }
}

#[test]
fn steps_before_any_gradient() {
    let card = Card::new();
    let parsed = Config::parse(&config_with(ERROR, RULES[7], "")).expect("a configuration");
    let host = Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, &[vec![40]]);
    let set = OnCard::new(&card, &host, Layout::default());
    let builder = orthant::Optimizer::builder(device()).groups(parsed.groups.clone()).options(parsed.options);
    let bare = Parameter::new("p0", set.data[0].tensor.clone());
    let mut optimizer = builder.stream(card.stream.clone()).register([bare]).expect("registered");
    assert_eq!(optimizer.step(), Err(Error::NoGradients));
    assert_eq!(optimizer.step_on(&card.stream), Err(Error::NoGradients));
    let bind = |optimizer: &mut orthant::Optimizer| {
        optimizer.rebind_gradients([("p0", Some(set.grads[0].tensor.clone()))])
    };
    bind(&mut optimizer).expect("bound");
    // Variance reduction: the first step needs no previous gradient, the second does.
    optimizer.step().expect("given");
    match optimizer.step() {
        Err(Error::Parameter { parameter, reason }) => {
            assert_eq!(parameter, "p0");
            assert!(reason.contains("previous point"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    optimizer.synchronize().expect("done");
    assert_eq!(optimizer.step_count("p0"), Ok(Some(1)));
    optimizer.rebind_previous_gradients([("p0", Some(set.previous[0].tensor.clone()))]).expect("bound");
    optimizer.step().expect("given");
    assert_eq!(optimizer.step_count("p0"), Ok(Some(2)));
}

#[test]
fn illegal_hyperparameters_change_nothing() {
    let text =
        config_with(&format!("{ERROR}\nmax_grad_norm = 2.0\nloss_scale = 4.0"), RULES[12], "name = \"g\"");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![40], vec![9]]);
    pair.step("before");
    let optimizer = &mut pair.optimizer;
    for bad in [-1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
        assert!(optimizer.set_lr("g", bad).is_err(), "{bad}");
        assert!(optimizer.set_weight_decay("g", bad).is_err(), "{bad}");
        assert!(optimizer.set_max_grad_norm(Some(bad)).is_err(), "{bad}");
        assert!(optimizer.set_loss_scale(bad).is_err(), "{bad}");
        assert!(
            optimizer.set_algorithm("g", Algorithm::adamw().betas(bad, 0.5).amsgrad(true)).is_err(),
            "{bad}"
        );
    }
    // Decay of the whole parameter in one step.
    assert!(optimizer.set_lr("g", 11.0).is_err());
    assert!(optimizer.set_algorithm("g", Algorithm::lion()).is_err(), "another algorithm");
    assert!(optimizer.set_algorithm("g", Algorithm::adamw()).is_err(), "without its state");
    assert!(optimizer.set_lr("h", 0.1).is_err(), "no such group");
    assert_eq!(optimizer.lr("g"), Ok(0.01));
    assert_eq!(optimizer.loss_scale(), 4.0);
    pair.renew();
    pair.step("after");
}

/// Tensors in host memory: the error comes with the step itself, and nothing was copied back.
#[test]
fn steps_of_host_tensors_are_refused_at_once() {
    for (rule, bad) in [(3, f64::NAN), (12, 1e30), (13, f64::INFINITY)] {
        for step in [ERROR, SKIP] {
            let parsed = Config::parse(&config_with(step, RULES[rule], "")).expect("a configuration");
            let mut noise = Noise(9);
            let host = Set::new(&mut noise, Dtype::F32, Dtype::F32, &[vec![40], vec![4100]]);
            let copy = host.copy();
            let mut reference = host.optimizer(&parsed, orthant::Device::Cpu);
            let mut optimizer = copy.optimizer(&parsed, device());
            for step in 1..=5 {
                host.renew(&copy, &mut noise);
                if step % 2 == 0 {
                    for set in [&host, &copy] {
                        let mut values: Vec<f32> = set.grads[1].to_vec().expect("f32");
                        values[4099] = bad as f32;
                        set.grads[1].copy_from_slice(&values).expect("it fits");
                    }
                }
                let what = format!("{} {bad} step {step}", RULES[rule]);
                assert_eq!(reference.step(), optimizer.step(), "{what}");
                assert_same(&what, (&host, &reference), (&copy, &optimizer));
                assert_eq!(reference.steps(), optimizer.steps(), "{what}");
                assert_eq!(reference.skipped_steps(), optimizer.skipped_steps(), "{what}");
            }
        }
    }
}

/// What a step was given with is what its report speaks of, whatever was changed since.
#[test]
fn reports_speak_of_their_own_step() {
    let text = config_with(&format!("{SKIP}\nmax_grad_norm = 2.0"), RULES[0], "");
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![40], vec![9]]);
    let mut wanted = vec![];
    for step in 1..=4 {
        let max = if step % 2 == 0 { None } else { Some(1.0) };
        pair.both(|o| o.set_max_grad_norm(max));
        if step == 3 {
            pair.both(|o| o.rebind_gradients([("p1", None::<Tensor>)]));
        }
        wanted.push(pair.reference.step().expect("a step"));
        pair.optimizer.step().expect("given");
    }
    pair.optimizer.synchronize().expect("done");
    assert_eq!(pair.optimizer.status(), Ok(wanted));
}

#[test]
fn a_step_on_the_cpu_has_no_stream() {
    let host = Set::new(&mut Noise(1), Dtype::F32, Dtype::F32, &[vec![40]]);
    let parsed = Config::parse(&config(RULES[0], "")).expect("a configuration");
    let card = Card::new();
    let mut on_card = host.copy().optimizer(&parsed, device());
    let mut on_cpu = host.optimizer(&parsed, orthant::Device::Cpu);
    for (optimizer, words) in [(&mut on_cpu, "device `cpu`"), (&mut on_card, "host memory")] {
        match optimizer.step_on(&card.stream) {
            Err(Error::Step(text)) => assert!(text.contains(words), "{text}"),
            other => panic!("{other:?}"),
        }
    }
}
