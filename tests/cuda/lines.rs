//! Steps of methods that divide rows or columns by their norms, bit for bit the CPU's.

use orthant::config::Config;
use orthant::cuda::{self, Event, Stream};
use orthant::{Dtype, Storage};

use crate::device_tensors;
use crate::fixture::{self, Layout, Pair, assert_same};
use crate::graphs::Graph;
use crate::parity::{compare, config, config_with};

const NORMS: [&str; 2] = ["norm = \"rows\"", "norm = \"columns\""];

/// What can stand before and after, with either form of eps and every scale that depends on the norm.
const RULES: [&str; 11] = [
    "algorithm = \"lmo\"\nlr = 0.01\nestimator = { kind = \"none\" }\nmaximize = true",
    "algorithm = \"lmo\"\nlr = 0.01\nestimator = { kind = \"heavy-ball\", momentum = 0.7 }\nscale = \"rms\"\n\
     weight_decay = 0.1\nconstraint = { kind = \"cautious-decay\" }",
    "algorithm = \"lmo\"\nlr = 0.01\nestimator = { kind = \"ema\", momentum = 0.9 }\nscale = \"original\"\n\
     weight_decay = 0.1\neps = 1.5",
    "algorithm = \"lmo\"\nlr = 0.01\nestimator = { kind = \"nesterov\", momentum = 0.9 }\n\
     constraint = { kind = \"convex-combination\" }",
    "algorithm = \"lmo\"\nlr = 0.01\nestimator = { kind = \"lion\", betas = [0.9, 0.97] }\neps = 1e-3\n\
     weight_decay = 0.3",
    "algorithm = \"lmo\"\nlr = 0.01\nestimator = { kind = \"extrapolated\", alpha = 0.2 }\nweight_decay = 0.1\n\
     constraint = { kind = \"decay\" }",
    "algorithm = \"lmo\"\nlr = 0.01\nestimator = { kind = \"extrapolated\", alpha = 0.2 }\nweight_decay = 0.1\n\
     constraint = { kind = \"cautious-decay\" }\nscale = \"rms\"",
    "algorithm = \"lmo\"\nlr = 0.01\nestimator = { kind = \"mvr\", alpha = 0.2 }\nscale = 0.5",
    "algorithm = \"scion\"\nlr = 0.01",
    "algorithm = \"scion\"\nlr = 0.01\nmomentum = 0.8\nscale = 3.0\neps = 0.5",
    "algorithm = \"scion\"\nlr = 0.01\nscale = 0.0\neps = 0.25\nunconstrained = true",
];

fn rules() -> impl Iterator<Item = String> {
    RULES.iter().flat_map(|rule| NORMS.map(|norm| format!("{rule}\n{norm}")))
}

const TYPES: [(Dtype, Dtype); 7] = [
    (Dtype::F32, Dtype::F32),
    (Dtype::Bf16, Dtype::Bf16),
    (Dtype::Bf16, Dtype::F32),
    (Dtype::F16, Dtype::F16),
    (Dtype::F16, Dtype::Bf16),
    (Dtype::Bf16, Dtype::F16),
    (Dtype::F16, Dtype::F32),
];

/// Around the sides of a tile, with and without whole groups of four in a row.
fn shapes() -> Vec<Vec<usize>> {
    let matrices =
        [(1, 1), (1, 9), (9, 1), (3, 7), (16, 8), (5, 64), (64, 5), (33, 12), (65, 68), (0, 4), (4, 0)];
    matrices.iter().map(|&(r, c)| vec![r, c]).collect()
}

#[test]
fn every_rule_in_every_combination_of_types() {
    for (number, rule) in rules().enumerate() {
        for (k, (dtype, grad)) in TYPES.into_iter().enumerate() {
            if (number + k) % 2 == 0 {
                compare(&config(&rule, ""), dtype, grad, &shapes(), 3, number as u64);
            }
        }
    }
}

#[test]
fn masters_narrow_state_and_stochastic_rounding() {
    let options = [
        "master = \"f32\"",
        "master = \"compact\"",
        "state_dtype = \"bf16\"",
        "rounding = \"stochastic\"",
        "state_dtype = \"bf16\"\nrounding = \"stochastic\"",
        "master = \"f32\"\nstate_dtype = \"bf16\"\nrounding = \"stochastic\"",
        "master = \"compact\"\nstate_dtype = \"bf16\"\nrounding = \"stochastic\"",
    ];
    let mut compared = 0;
    for (number, rule) in rules().enumerate() {
        for more in options {
            let config = config(&rule, more);
            // The extrapolated methods keep x in f32 anyway, and state that is not there has no type.
            if rule.contains("extrapolated") && more.contains("master") || Config::parse(&config).is_err() {
                continue;
            }
            compare(&config, Dtype::Bf16, Dtype::F32, &shapes(), 2, number as u64);
            compared += 1;
        }
    }
    assert!(compared > 100, "{compared}");
}

/// All of them in one launch.
#[test]
fn every_shape_up_to_33_by_33() {
    let shapes: Vec<Vec<usize>> = (0..=33).flat_map(|r| (0..=33).map(move |c| vec![r, c])).collect();
    for (norm, dtype) in [(0, Dtype::Bf16), (1, Dtype::F32)] {
        let rule = format!("{}\n{}", RULES[4], NORMS[norm]);
        compare(&config_with("max_grad_norm = 1.0", &rule, ""), dtype, dtype, &shapes, 2, 33);
    }
}

/// Several bands and tiles; lines of more blocks than there are lanes; one long line, and many short ones.
#[test]
fn large_and_odd_shapes() {
    let shapes = [
        [65, 130],
        [130, 65],
        [300, 70],
        [70, 300],
        [1, 1000],
        [1000, 1],
        [1, 16_500],
        [2, 16_448],
        [16_450, 3],
    ]
    .map(|shape| shape.to_vec());
    for (k, norm) in NORMS.into_iter().enumerate() {
        let rule = format!("{}\n{norm}", RULES[1]);
        let (dtype, grad) = [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::Bf16)][k];
        compare(&config(&rule, ""), dtype, grad, &shapes, 2, 5);
    }
}

#[test]
fn tensors_anywhere_on_the_card() {
    let layouts = [
        Layout { skew: 1, gradient_skew: 1, ..Layout::default() },
        Layout { skew: 4, gradient_skew: 4, ..Layout::default() },
        Layout { skew: 2, gradient_skew: 7, ..Layout::default() },
        Layout { gap: 3, gradient_gap: 3, ..Layout::default() },
        Layout { gap: 4, gradient_gap: 8, ..Layout::default() },
        Layout { gradient_gap: 8, skew: 1, ..Layout::default() },
        Layout { gap: 1, gradient_skew: 1, ..Layout::default() },
    ];
    let steps = ["nonfinite = \"propagate\"", "max_grad_norm = 0.5", "nonfinite = \"skip\""];
    for (number, rule) in rules().enumerate() {
        for k in 0..2 {
            let config = config_with(steps[(number + k) % 3], &rule, "");
            let layout = layouts[(number + 3 * k) % layouts.len()];
            device_tensors::compare(&config, TYPES[(number + k) % 5], &shapes(), layout, 2);
        }
    }
    let kept = [
        (1, "master = \"f32\""),
        (4, "master = \"compact\""),
        (6, "state_dtype = \"bf16\"\nrounding = \"stochastic\""),
        (3, "rounding = \"stochastic\"\nstate_dtype = \"bf16\""),
    ];
    for (number, (rule, more)) in kept.into_iter().enumerate() {
        for (norm, layout) in NORMS.into_iter().zip(&layouts[2 + number % 2..]) {
            let config = config(&format!("{}\n{norm}", RULES[rule]), more);
            device_tensors::compare(&config, (Dtype::Bf16, Dtype::Bf16), &shapes(), *layout, 3);
        }
    }
}

#[test]
fn every_matrix_of_a_batch_or_split_has_its_own_norms_scale_and_eps() {
    let batch = [vec![3, 5, 7], vec![2, 64, 36], vec![4, 3, 3, 3], vec![2, 0, 5]];
    let split = [vec![48, 20], vec![2, 48, 7], vec![48, 3, 3, 2]];
    for (number, rule) in rules().enumerate() {
        let dtype = TYPES[number % 2].0;
        compare(&config(&rule, ""), dtype, dtype, &batch, 2, 1);
        let splits = ["splits = 3", "splits = [4, 16, 28]"][number % 2];
        compare(&config_with("max_grad_norm = 1.0", &rule, splits), dtype, dtype, &split, 2, 2);
    }
}

#[test]
fn clipping_loss_scale_and_the_scan() {
    let steps = [
        "max_grad_norm = 1.0",
        "max_grad_norm = 0.01\nnonfinite = \"propagate\"\nloss_scale = 1000",
        "max_grad_norm = 1e6\nnonfinite = \"skip\"\nloss_scale = 0.25",
        "nonfinite = \"error\"",
    ];
    for (number, step) in steps.iter().enumerate() {
        for rule in rules().skip(number).step_by(4) {
            compare(&config_with(step, &rule, ""), Dtype::Bf16, Dtype::Bf16, &shapes(), 3, number as u64);
        }
    }
}

/// A refused step changes nothing, and the next one finds everything as it was.
#[test]
fn a_step_that_is_skipped() {
    for rule in rules().skip(2).step_by(3) {
        let text = config_with("nonfinite = \"skip\"", &rule, "");
        let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &[vec![65, 130], vec![3, 7]]);
        for step in 1..=4 {
            pair.renew();
            if step % 2 == 0 {
                let mut values = pair.cpu.grads[1].to_storage();
                if let Storage::F32(v) = &mut values {
                    v[20] = f32::INFINITY;
                }
                pair.cpu.grads[1].assign(&values).expect("it fits");
                pair.set.host.grads[1].assign(&values).expect("it fits");
                pair.set.send_gradients();
            }
            pair.step(&format!("{rule}, step {step}"));
        }
        assert_eq!(pair.optimizer.skipped_steps(), 2);
    }
}

/// Lines of zeros, of the smallest and of the largest numbers.
#[test]
fn lines_of_every_magnitude() {
    let sizes = [0.0, -0.0, 1e-45, 3e-39, 1e-30, 1.0, 1e30, 3e38];
    for by_columns in [false, true] {
        let norm = NORMS[usize::from(by_columns)];
        for eps in ["eps = 0.0", "eps = 1e-35"] {
            let rule =
                format!("algorithm = \"lmo\"\nlr = 0.01\nestimator = {{ kind = \"none\" }}\n{norm}\n{eps}");
            let mut pair = Pair::new(&config(&rule, ""), Dtype::F32, Dtype::F32, &[vec![8, 8]]);
            let values = (0..64).map(|i| {
                let line = if by_columns { i % 8 } else { i / 8 };
                (sizes[line] * if i % 3 == 0 { -1.0 } else { 1.0 }) as f32
            });
            let values = Storage::F32(values.collect());
            pair.cpu.grads[0].assign(&values).expect("it fits");
            pair.set.host.grads[0].assign(&values).expect("it fits");
            pair.set.send_gradients();
            pair.step(&rule);
        }
    }
}

/// Numbers that are not finite spoil their line and no other.
#[test]
fn what_is_not_finite_stays_in_its_line() {
    for (by_columns, norm) in NORMS.into_iter().enumerate() {
        for bad in [f32::NAN, f32::INFINITY] {
            let rule = format!("{}\n{norm}", RULES[2]);
            let mut pair = Pair::new(&config(&rule, ""), Dtype::F32, Dtype::F32, &[vec![70, 68]]);
            let mut values = pair.cpu.grads[0].to_storage();
            if let Storage::F32(v) = &mut values {
                v[67 * 68 + 5] = bad;
            }
            pair.cpu.grads[0].assign(&values).expect("it fits");
            pair.set.host.grads[0].assign(&values).expect("it fits");
            pair.set.send_gradients();
            pair.reference.step().expect("a step");
            fixture::steps_by(&mut pair.optimizer).expect("a step");
            let (x, y) = (pair.cpu.data[0].to_storage(), pair.set.data[0].read());
            for i in 0..70 * 68 {
                let spoilt = if by_columns == 1 { i % 68 == 5 } else { i / 68 == 67 };
                let (x, y) = (x.get_f64(i).expect("there"), y.get_f64(i).expect("there"));
                assert_eq!(x.is_nan(), spoilt, "{norm} {bad} element {i}");
                assert!(
                    x.to_bits() == y.to_bits() || spoilt && y.is_nan(),
                    "{norm} {bad} element {i}: {x} {y}"
                );
            }
        }
    }
}

/// The same bits in steps of our own and in replays of a caller's graph, with hyperparameters that change.
#[test]
fn captured_and_eager() {
    for (number, rule) in rules().enumerate().filter(|(i, _)| i % 5 == 0) {
        let policy = ["nonfinite = \"propagate\"", "max_grad_norm = 0.5"][number % 2];
        let text = config_with(policy, &rule, "name = \"g\"");
        let mut pair = Pair::new(&text, Dtype::Bf16, Dtype::F32, &[vec![70, 65], vec![2, 9, 12], vec![0, 3]]);
        let stream = pair.card.stream.clone();
        let graph = Graph::capture(&stream, || pair.optimizer.step_on(&stream).expect("captured"));
        for step in 1..=6 {
            pair.renew();
            pair.both(|o| o.set_lr("g", 0.1 / f64::from(step)));
            pair.reference.step().expect("a step");
            if step % 3 == 0 {
                pair.optimizer.step().expect("a step");
            } else {
                pair.optimizer.write_control(&stream).expect("written");
                graph.launch();
            }
            stream.synchronize().expect("done");
            pair.same(&format!("{rule}, step {step}"));
        }
    }
}

/// Two groups of lines, one of other kernels: each steps alone, on a stream of its own.
#[test]
fn groups_step_alone() {
    let text = "[step]\nnonfinite = \"propagate\"\n\
        [[group]]\nname = \"a\"\nparams = [\"p0\", \"p3\"]\nalgorithm = \"scion\"\nnorm = \"columns\"\nlr = 0.01\n\
        [[group]]\nname = \"b\"\nparams = [\"p1\"]\nalgorithm = \"lion\"\nlr = 0.01\n\
        [[group]]\nname = \"c\"\nparams = [\"*\"]\nalgorithm = \"scion\"\nnorm = \"rows\"\nlr = 0.02\n";
    let shapes = [vec![70, 65], vec![33], vec![5, 12], vec![2, 3, 4], vec![130, 4]];
    let mut pair = Pair::new(text, Dtype::F32, Dtype::F32, &shapes);
    let context = pair.card.context.clone();
    let streams = [(); 3].map(|()| Stream::new(&context).expect("a stream"));
    let done = [(); 3].map(|()| Event::new(&context, false).expect("an event"));
    for step in 1..=4 {
        pair.renew();
        pair.reference.step().expect("a step");
        for k in 0..3 {
            let k = (k + step) % 3;
            let group = ["a", "b", "c"][k];
            pair.optimizer.step_group_on(group, &streams[k], None, Some(&done[k])).expect("given");
        }
        done.iter().for_each(|event| event.synchronize().expect("done"));
        assert_same(&format!("step {step}"), (&pair.cpu, &pair.reference), (&pair.set, &pair.optimizer));
    }
    pair.renew();
    pair.reference.step().expect("a step");
    pair.optimizer.step().and_then(|_| pair.optimizer.synchronize()).expect("done");
    assert_same("all at once", (&pair.cpu, &pair.reference), (&pair.set, &pair.optimizer));
}

/// Gradients elsewhere, with other strides: tables and work space grow, and the counts of tiles stay where they are.
#[test]
fn rebound_between_steps() {
    let rule = format!("{}\n{}", RULES[2], NORMS[1]);
    let mut pair = Pair::new(&config(&rule, ""), Dtype::F32, Dtype::F32, &[vec![130, 65], vec![9, 12]]);
    for (step, gap) in [(1, 0), (2, 3), (3, 0), (4, 4)] {
        pair.renew_host();
        let grads = pair.set.host.grads.iter();
        let views: Vec<_> = grads.map(|t| pair.card.tensor(&t.to_storage(), t.shape(), 0, gap)).collect();
        let bindings = pair.set.host.names.iter().zip(&views).map(|(n, v)| (n, Some(v.tensor.clone())));
        pair.optimizer.rebind_gradients(bindings).expect("bound");
        pair.set.grads = views;
        pair.step(&format!("step {step}, gap {gap}"));
    }
}

#[test]
fn what_the_plan_says() {
    for rule in rules() {
        let parsed = Config::parse(&config(&rule, "")).expect("a configuration");
        let families = cuda::kernels(&parsed.groups[0], &parsed.options).expect("it has kernels");
        assert_eq!(families, ["lines"]);
        let specs = [("p", vec![70, 65]), ("q", vec![3, 4]), ("r", vec![0, 4])].map(|(name, shape)| {
            orthant::ParameterSpec {
                name: name.into(),
                shape,
                dtype: Dtype::Bf16,
                grad_dtype: Some(Dtype::Bf16),
            }
        });
        let plan = orthant::Plan::new(parsed.groups.clone(), specs.to_vec(), None).expect("legal");
        assert_eq!(cuda::launches(&plan, &parsed.options).expect("known"), 3, "scalars, norms, elements");
        let empty = orthant::Plan::new(parsed.groups.clone(), specs[2..].to_vec(), None).expect("legal");
        assert_eq!(cuda::launches(&empty, &parsed.options).expect("known"), 1);
    }
}
