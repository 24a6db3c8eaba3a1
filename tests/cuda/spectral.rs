//! Steps of methods that orthogonalise, bit for bit the CPU's.
//!
//! Sums on tensor cores have an order of their own, so gradients are chosen for which there is nothing to round: signed
//! permutations of 1, 4, 16 or 64 equal elements, whose norm is a power of two, and a polynomial whose value at such matrices
//! takes 8 bits. Everything around the products (momentum, norm, strips, decay, masters, rounding) has to be right to the bit.

use orthant::config::Config;
use orthant::cuda::{Event, Stream};
use orthant::{Device, Dtype, NonFinite, Tensor};

use crate::device;
use crate::fixture::{Card, Layout, OnCard, Pair, assert_same as assert_same_on_card};
use crate::graphs::Graph;
use crate::noise::Noise;
use crate::parity::{Set, assert_same, config_with};

const SPECTRAL: &str = "norm = \"spectral\"\nns_coefficients = [[1.5, -0.5, 0.0]]\nns_steps = 1\nlr = 0.01";

/// What can stand before and after an orthogonalisation.
const RULES: &[&str] = &[
    "algorithm = \"lmo\"\nestimator = { kind = \"none\" }\nscale = \"none\"",
    "algorithm = \"lmo\"\nestimator = { kind = \"heavy-ball\", momentum = 0.7 }\nscale = \"match_rms_adamw\"\n\
     weight_decay = 0.1\nmaximize = true",
    "algorithm = \"lmo\"\nestimator = { kind = \"ema\", momentum = 0.9 }\nscale = \"rms\"\nweight_decay = 0.1\n\
     constraint = { kind = \"cautious-decay\" }",
    "algorithm = \"lmo\"\nestimator = { kind = \"nesterov\", momentum = 0.9 }\nscale = \"original\"\nweight_decay = 0.1",
    "algorithm = \"lmo\"\nestimator = { kind = \"lion\", betas = [0.9, 0.97] }\n\
     constraint = { kind = \"convex-combination\" }",
    "algorithm = \"lmo\"\nestimator = { kind = \"extrapolated\", alpha = 0.2 }\nweight_decay = 0.1",
    "algorithm = \"lmo\"\nestimator = { kind = \"mvr\", alpha = 0.2 }",
];
/// Presets take no norm.
const ORTHOGONAL_SGDM: &str = "algorithm = \"orthogonal-sgdm\"\nns_coefficients = [[1.5, -0.5, 0.0]]\nns_steps = 1\n\
                               lr = 0.01\nweight_decay = 0.1";

fn rules() -> Vec<String> {
    let family = RULES.iter().map(|rule| format!("{rule}\n{SPECTRAL}"));
    family.chain([ORTHOGONAL_SGDM.to_owned()]).collect()
}

/// Signed permutations with one magnitude a tensor, whose signs stay the same from step to step.
fn renew(set: &Set, other: &Set, noise: &mut Noise) {
    let both = [(&set.grads, &other.grads), (&set.previous, &other.previous)];
    for (a, b) in both.into_iter().flat_map(|(a, b)| a.iter().zip(b)) {
        let size = [0.5, 1.0, 1.25, 3.0][noise.next() as usize % 4];
        let &[.., rows, columns] = a.shape() else { panic!("matrices") };
        let (rows, columns) =
            if a.shape().len() > 3 { (a.shape()[0], a.numel() / a.shape()[0]) } else { (rows, columns) };
        let mut values = vec![0.0; a.numel()];
        for matrix in values.chunks_mut((rows * columns).max(1)) {
            for i in 0..rows.min(columns) {
                let at = (i + 2) % rows.max(columns);
                let at = if rows <= columns { i * columns + at } else { at * columns + i };
                matrix[at] = if i % 3 == 0 { -size } else { size };
            }
        }
        let values = match a.dtype() {
            Dtype::F32 => orthant::Storage::F32(values.iter().map(|&v| v as f32).collect()),
            Dtype::Bf16 => orthant::Storage::Bf16(values.iter().map(|&v| half::bf16::from_f64(v)).collect()),
            _ => orthant::Storage::F16(values.iter().map(|&v| half::f16::from_f64(v)).collect()),
        };
        a.assign(&values).expect("it fits");
        b.assign(&values).expect("it fits");
    }
}

fn shapes() -> Vec<Vec<usize>> {
    let matrices = [
        (16, 64),
        (64, 16),
        (16, 16),
        (16, 37),
        (37, 16),
        (4, 5),
        (1, 9),
        (9, 1),
        (1, 1),
        (64, 130),
        (64, 64),
    ];
    let more = [vec![3, 16, 20], vec![16, 4, 3, 2], vec![0, 7], vec![7, 0]];
    matrices.iter().map(|&(r, c)| vec![r, c]).chain(more).collect()
}

fn compare(config: &str, dtype: Dtype, grad: Dtype, shapes: &[Vec<usize>], steps: usize) {
    let config = Config::parse(config).unwrap_or_else(|e| panic!("{e}\n{config}"));
    let mut noise = Noise(shapes.len() as u64);
    let cpu = Set::new(&mut noise, dtype, grad, shapes);
    let card = cpu.copy();
    let mut reference = cpu.optimizer(&config, Device::Cpu);
    let mut optimizer = card.optimizer(&config, device());
    for step in 1..=steps {
        renew(&cpu, &card, &mut noise);
        let expected = reference.step().unwrap_or_else(|e| panic!("{e}"));
        let found = optimizer.step().unwrap_or_else(|e| panic!("{e}"));
        let what = format!("{}, step {step}, {dtype:?} {grad:?}", config.groups[0].algorithm().composition());
        assert_eq!(expected, found, "{what}");
        assert_same(&what, (&cpu, &reference), (&card, &optimizer));
    }
}

#[test]
fn everything_around_the_products_has_the_reference_bits() {
    let types = [
        (Dtype::F32, Dtype::F32),
        (Dtype::Bf16, Dtype::Bf16),
        (Dtype::F16, Dtype::F32),
        (Dtype::Bf16, Dtype::F16),
    ];
    for (number, rule) in rules().iter().enumerate() {
        for (k, (dtype, grad)) in types.into_iter().enumerate() {
            let ns = ["bf16", "f16"][(number + k) % 2];
            let step =
                ["nonfinite = \"propagate\"", "max_grad_norm = 0.5", "nonfinite = \"skip\"\nloss_scale = 8"]
                    [k % 3];
            compare(&config_with(step, rule, &format!("ns_dtype = \"{ns}\"")), dtype, grad, &shapes(), 3);
        }
    }
}

#[test]
fn masters_narrow_state_and_stochastic_rounding() {
    // Momentum that is rounded at random is no multiple of a permutation any more: one step of those.
    let options = [
        ("master = \"f32\"", 3),
        ("master = \"compact\"", 3),
        ("state_dtype = \"bf16\"", 3),
        ("rounding = \"stochastic\"", 3),
        ("state_dtype = \"bf16\"\nrounding = \"stochastic\"", 1),
        ("master = \"f32\"\nstate_dtype = \"bf16\"\nrounding = \"stochastic\"", 1),
        ("master = \"compact\"\nstate_dtype = \"bf16\"\nrounding = \"stochastic\"", 1),
    ];
    for rule in rules() {
        for (more, steps) in options {
            if rule.contains("extrapolated") && more.contains("master") {
                continue;
            }
            let config = config_with("nonfinite = \"propagate\"", &rule, more);
            let stateless = rule.contains("\"none\" }") && more.contains("state_dtype");
            if !stateless {
                compare(&config, Dtype::Bf16, Dtype::F32, &shapes(), steps);
            }
        }
    }
}

#[test]
fn splits_are_matrices_of_their_own() {
    for splits in ["splits = 3", "splits = [4, 16, 28]"] {
        let shapes = [vec![48, 64], vec![2, 48, 64]];
        let rule = format!("{}\n{SPECTRAL}", RULES[3]);
        let config = config_with("max_grad_norm = 1.0", &rule, splits);
        let config = Config::parse(&config).unwrap_or_else(|e| panic!("{e}"));
        let mut noise = Noise(5);
        let cpu = Set::new(&mut noise, Dtype::Bf16, Dtype::Bf16, &shapes);
        let card = cpu.copy();
        let (mut reference, mut optimizer) =
            (cpu.optimizer(&config, Device::Cpu), card.optimizer(&config, device()));
        // Within each split a signed permutation: heights are 4, 16 and 28, or 16 each.
        let heights: &[usize] = if splits.ends_with('3') { &[16, 16, 16] } else { &[4, 16, 28] };
        for (a, b) in cpu.grads.iter().zip(&card.grads) {
            let mut values = vec![half::bf16::ZERO; a.numel()];
            for matrix in values.chunks_mut(48 * 64) {
                let mut first = 0;
                for &height in heights {
                    // Of 28 rows 16 have an element: the norm is 4 all the same.
                    for i in 0..height.min(16) {
                        matrix[(first + i) * 64 + (i + 5) % 64] =
                            half::bf16::from_f64(if i % 2 == 0 { 0.5 } else { -0.5 });
                    }
                    first += height;
                }
            }
            a.assign(&orthant::Storage::Bf16(values.clone())).expect("it fits");
            b.assign(&orthant::Storage::Bf16(values)).expect("it fits");
        }
        reference.step().expect("a step");
        optimizer.step().expect("a step");
        assert_same(splits, (&cpu, &reference), (&card, &optimizer));
    }
}

#[test]
fn tensors_anywhere_on_the_card() {
    let layouts = [
        Layout::default(),
        Layout { skew: 1, gradient_skew: 1, ..Layout::default() },
        Layout { skew: 4, gradient_skew: 2, ..Layout::default() },
        Layout { gap: 4, gradient_gap: 8, ..Layout::default() },
        Layout { gap: 3, gradient_gap: 1, skew: 2, ..Layout::default() },
    ];
    let card = Card::new();
    for (number, rule) in rules().iter().enumerate() {
        for (k, layout) in layouts.into_iter().enumerate() {
            let dtype = [Dtype::F32, Dtype::Bf16, Dtype::F16][(number + k) % 3];
            let master = if dtype == Dtype::Bf16 && !rule.contains("extrapolated") {
                "master = \"compact\""
            } else {
                ""
            };
            let config = config_with("max_grad_norm = 0.5", rule, master);
            let config = Config::parse(&config).unwrap_or_else(|e| panic!("{e}"));
            let mut noise = Noise(number as u64);
            let cpu = Set::new(&mut noise, dtype, dtype, &shapes());
            let set = OnCard::new(&card, &cpu, layout);
            let mut reference = cpu.optimizer(&config, Device::Cpu);
            let mut optimizer = set.optimizer(&card, &config);
            for step in 1..=2 {
                renew(&cpu, &set.host, &mut noise);
                set.send_gradients();
                let expected = reference.step().expect("a step");
                optimizer.step().expect("a step");
                optimizer.synchronize().expect("done");
                let found = optimizer.status().expect("reports");
                let what = format!("{}, layout {k}, step {step}", config.groups[0].algorithm().composition());
                assert_eq!(found, [expected], "{what}");
                assert_same_on_card(&what, (&cpu, &reference), (&set, &optimizer));
            }
        }
    }
}

/// A gradient that is not finite changes nothing, or what it changes is the reference's.
#[test]
fn gradients_that_are_not_finite() {
    for policy in ["skip", "propagate"] {
        let config = config_with(&format!("nonfinite = \"{policy}\""), &rules()[3], "");
        let config = Config::parse(&config).unwrap_or_else(|e| panic!("{e}"));
        let mut noise = Noise(8);
        let cpu = Set::new(&mut noise, Dtype::F32, Dtype::F32, &[vec![16, 40], vec![40, 16]]);
        let card = cpu.copy();
        let (mut reference, mut optimizer) =
            (cpu.optimizer(&config, Device::Cpu), card.optimizer(&config, device()));
        for step in 1..=3 {
            renew(&cpu, &card, &mut noise);
            if step == 2 {
                let bad = Tensor::from_vec(vec![f32::NAN; 640], &[40, 16]).expect("it fits").to_storage();
                cpu.grads[1].assign(&bad).expect("it fits");
                card.grads[1].assign(&bad).expect("it fits");
            }
            let expected = reference.step().expect("a step");
            let found = optimizer.step().expect("a step");
            assert_eq!(expected, found, "{policy}, step {step}");
            assert_eq!(config.options.nonfinite == NonFinite::Skip && step == 2, !found.applied);
            let x = card.data[0].to_storage();
            assert!(
                (0..x.len()).all(|i| x.get_f64(i).is_some_and(f64::is_finite)),
                "the other matrix stays finite"
            );
            if policy == "skip" || step == 1 {
                assert_same(policy, (&cpu, &reference), (&card, &optimizer));
            } else {
                let x = card.data[1].to_storage();
                assert!(
                    (0..x.len()).all(|i| x.get_f64(i).is_some_and(f64::is_nan)),
                    "NaN spreads over its matrix"
                );
            }
        }
    }
}

/// Other iterations between steps: other coefficients in the same launches, then other launches and more work space.
#[test]
fn algorithms_changed_between_steps() {
    let algorithm = |more: &str| {
        let text =
            format!("[[group]]\nparams = [\"*\"]\nlr = 0.1\n{}\nnorm = \"spectral\"\n{more}", RULES[3]);
        Config::parse(&text).unwrap_or_else(|e| panic!("{e}")).groups[0].algorithm().clone()
    };
    let exact = "ns_coefficients = [[1.5, -0.5, 0.0]]";
    let one = format!("{exact}\nns_steps = 1");
    let other = "ns_coefficients = [[1.25, -0.25, 0.0]]\nns_steps = 1";
    let gram = "ns_method = \"gram\"\nns_dtype = \"f16\"\nns_steps = 5";
    let config = config_with("nonfinite = \"skip\"", &format!("{}\n{SPECTRAL}", RULES[3]), "name = \"g\"");
    let config = Config::parse(&config).unwrap_or_else(|e| panic!("{e}"));
    let mut noise = Noise(6);
    let cpu = Set::new(&mut noise, Dtype::F32, Dtype::F32, &[vec![16, 64], vec![64, 16], vec![16, 200]]);
    let card = cpu.copy();
    let (mut reference, mut optimizer) =
        (cpu.optimizer(&config, Device::Cpu), card.optimizer(&config, device()));
    for (step, more) in [one.as_str(), other, gram, other, one.as_str()].into_iter().enumerate() {
        for o in [&mut reference, &mut optimizer] {
            o.set_algorithm("g", algorithm(more)).unwrap_or_else(|e| panic!("{e}"));
        }
        renew(&cpu, &card, &mut noise);
        let expected = reference.step().expect("a step");
        assert_eq!(expected, optimizer.step().expect("a step"), "step {step}");
        if more == gram {
            // Not exact in 16 bits; from here on both go on with the card's parameters.
            for (a, b) in cpu.data.iter().zip(&card.data) {
                let (x, y) = (a.to_storage(), b.to_storage());
                let error = (0..x.len())
                    .map(|i| (x.get_f64(i).unwrap_or(f64::NAN) - y.get_f64(i).unwrap_or(f64::NAN)).abs());
                assert!(error.fold(0.0, f64::max) < 0.01, "step {step}");
                a.assign(&y).expect("it fits");
            }
        }
        assert_same(&format!("step {step}: {more}"), (&cpu, &reference), (&card, &optimizer));
    }
    let refused = optimizer.set_algorithm("g", algorithm("ns_dtype = \"f32\"")).expect_err("no such kernels");
    assert!(refused.to_string().contains("ns_dtype = f32"), "{refused}");
    reference.step().expect("a step");
    optimizer.step().expect("a step");
    assert_same("after a refusal", (&cpu, &reference), (&card, &optimizer));
}

/// A caller's graph holds the products that there were: with others it has to be captured again.
#[test]
fn other_iterations_are_another_graph() {
    let mut pair = groups("nonfinite = \"propagate\"");
    let stream = pair.card.stream.clone();
    let graph = Graph::capture(&stream, || pair.optimizer.step_on(&stream).expect("captured"));
    let group =
        |text: &str| Config::parse(text).unwrap_or_else(|e| panic!("{e}")).groups[0].algorithm().clone();
    let with = |more: &str| {
        group(&format!("[[group]]\nparams = [\"*\"]\nlr = 1\n{}\nnorm = \"spectral\"\n{more}", RULES[3]))
    };
    pair.optimizer
        .set_algorithm("a", with("ns_coefficients = [[1.25, -0.25, 0.0]]\nns_steps = 1"))
        .expect("legal");
    pair.optimizer.write_control(&stream).expect("the same launches");
    graph.launch();
    stream.synchronize().expect("done");
    pair.optimizer.set_algorithm("a", with("ns_steps = 2")).expect("legal");
    let refused = pair.optimizer.write_control(&stream).expect_err("other launches").to_string();
    assert!(refused.contains("iterations changed: capture it again"), "{refused}");
}

/// Two groups of matrices and one of everything else.
const GROUPS: &str = "[[group]]\nname = \"a\"\nparams = [\"p1\"]\nSPECTRAL\n[[group]]\nname = \"b\"\nparams = [\"p2\"]\n\
                      SPECTRAL\nns_dtype = \"f16\"\n[[group]]\nname = \"c\"\nparams = [\"*\"]\nalgorithm = \"lion\"\nlr = 0.01";

fn groups(step: &str) -> Pair {
    let text =
        format!("[step]\n{step}\n{}", GROUPS.replace("SPECTRAL", &format!("{}\n{SPECTRAL}", RULES[3])));
    Pair::new(&text, Dtype::Bf16, Dtype::F32, &[vec![40], vec![16, 64], vec![64, 16], vec![16, 20]])
}

fn renew_groups(pair: &mut Pair) {
    let vectors = |set: &Set| Set {
        names: vec![],
        data: vec![],
        grads: set.grads[1..].to_vec(),
        previous: set.previous[1..].to_vec(),
    };
    renew(&vectors(&pair.cpu), &vectors(&pair.set.host), &mut pair.noise);
    pair.set.send_gradients();
}

#[test]
fn a_step_in_the_callers_graph() {
    let mut pair = groups("max_grad_norm = 0.5");
    let stream = pair.card.stream.clone();
    let graph = Graph::capture(&stream, || pair.optimizer.step_on(&stream).expect("captured"));
    for step in 1..=5 {
        renew_groups(&mut pair);
        pair.both(|o| o.set_lr("a", 0.1 / f64::from(step)));
        pair.both(|o| o.set_weight_decay("b", 0.1 / f64::from(step)));
        pair.reference.step().expect("a step");
        if step == 3 {
            pair.optimizer.step().expect("a step");
        } else {
            pair.optimizer.write_control(&stream).expect("written");
            graph.launch();
        }
        stream.synchronize().expect("done");
        pair.same(&format!("step {step}"));
    }
}

#[test]
fn each_group_as_soon_as_its_gradients_are_there() {
    let mut pair = groups("nonfinite = \"propagate\"");
    let streams = [(); 3].map(|()| Stream::new(&pair.card.context).expect("a stream"));
    let stream = pair.card.stream.clone();
    let [ready, done] = [(); 2].map(|()| Event::new(&pair.card.context, false).expect("an event"));
    for step in 1..=3 {
        renew_groups(&mut pair);
        ready.record(&stream).expect("recorded");
        for (group, stream) in ["b", "c", "a"].into_iter().zip(&streams) {
            pair.optimizer.step_group_on(group, stream, Some(&ready), Some(&done)).expect("given");
        }
        pair.optimizer.synchronize().expect("done");
        pair.reference.step().expect("a step");
        assert_same_on_card(
            &format!("step {step}"),
            (&pair.cpu, &pair.reference),
            (&pair.set, &pair.optimizer),
        );
    }
}

/// What groups move by, of matrices too.
#[test]
fn what_groups_move_by() {
    let mut pair = groups("nonfinite = \"skip\"\ndiagnostics = true");
    for step in 1..=4 {
        renew_groups(&mut pair);
        if step == 3 {
            let bad = Tensor::from_vec(vec![f32::INFINITY; 320], &[16, 20]).expect("it fits").to_storage();
            pair.cpu.grads[3].assign(&bad).expect("it fits");
            pair.set.host.grads[3].assign(&bad).expect("it fits");
            pair.set.send_gradients();
        }
        let expected = pair.reference.step().expect("a step");
        pair.optimizer.step().expect("a step");
        pair.optimizer.synchronize().expect("done");
        let found = pair.optimizer.status().expect("reports").pop().expect("one");
        assert_eq!(found.applied, step != 3);
        let (duals, of_card) = (expected.dual_norms, found.dual_norms);
        for (a, b) in duals.iter().flatten().zip(of_card.iter().flatten()) {
            // The strips have 8 bits of what is orthogonalised.
            assert!((a - b).abs() <= 4e-3 * a, "step {step}: {duals:?} {of_card:?}");
        }
        assert!(step == 3 || of_card.is_some_and(|d| d[0] > 0.0 && d[1] > 0.0 && d[2] == 0.0), "step {step}");
        let (expected, found) = (expected.update_rms, found.update_rms);
        for (a, b) in expected.iter().flatten().zip(found.iter().flatten()) {
            // Other orders of the same sums.
            assert!((a - b).abs() <= 1e-6 * a, "step {step}: {expected:?} {found:?}");
        }
        assert_eq!((expected.is_some(), found.is_some()), (step != 3, step != 3));
        assert!(found.iter().flatten().all(|&rms| rms > 0.0), "{found:?}");
    }
}
