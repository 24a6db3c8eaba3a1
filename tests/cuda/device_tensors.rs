//! Tensors that lie on the card: any alignment, rows with gaps, views of one matrix, empty ones among others. The bits are
//! the CPU's, gradients stay as they were, and no byte beside the tensors is written.

use orthant::config::Config;
use orthant::{Device, Dtype, Optimizer, Parameter, Tensor};

use crate::device;
use crate::fixture::{Card, Layout, OnCard, assert_same, assert_same_state, steps_by};
use crate::noise::Noise;
use crate::parity::{RULES, Set, config, config_with};

/// Steps on the CPU and with the tensors as `layout` has them, compared after each.
pub fn compare(
    config: &str,
    (dtype, grad): (Dtype, Dtype),
    shapes: &[Vec<usize>],
    layout: Layout,
    steps: usize,
) {
    let config = Config::parse(config).unwrap_or_else(|e| panic!("{e}"));
    let mut noise = Noise(shapes.len() as u64 + layout.skew as u64);
    let cpu = Set::new(&mut noise, dtype, grad, shapes);
    let card = Card::new();
    let set = OnCard::new(&card, &cpu, layout);
    let mut reference = cpu.optimizer(&config, Device::Cpu);
    let mut optimizer = set.optimizer(&card, &config);
    for step in 1..=steps {
        set.renew(&cpu, &mut noise);
        let expected = reference.step().unwrap_or_else(|e| panic!("{e}"));
        let pending = optimizer.step().unwrap_or_else(|e| panic!("{e}"));
        assert!(pending.pending && !pending.applied);
        optimizer.synchronize().unwrap_or_else(|e| panic!("{e}"));
        let found = optimizer.status().unwrap_or_else(|e| panic!("{e}"));
        let Layout { skew, gradient_skew, gap, gradient_gap } = layout;
        let what = format!(
            "{}, step {step}, {dtype} {grad}, skews {skew} {gradient_skew}, gaps {gap} {gradient_gap}",
            config.groups[0].algorithm().composition()
        );
        assert_eq!(found, [expected], "{what}");
        assert_same(&what, (&cpu, &reference), (&set, &optimizer));
    }
}

const TYPES: [(Dtype, Dtype); 5] = [
    (Dtype::F32, Dtype::F32),
    (Dtype::Bf16, Dtype::Bf16),
    (Dtype::Bf16, Dtype::F32),
    (Dtype::F16, Dtype::F16),
    (Dtype::F16, Dtype::Bf16),
];

/// 34 short tensors, and some whose middle is whole groups of 8.
fn lengths() -> Vec<Vec<usize>> {
    (0..=33).chain([257, 2049, 4103]).map(|n| vec![n]).collect()
}

#[test]
fn every_rule_at_every_skew() {
    for (number, rule) in RULES.iter().enumerate() {
        for (k, skew) in [1, 4, 7].into_iter().enumerate() {
            let common = Layout { skew, gradient_skew: skew, ..Layout::default() };
            let types = TYPES[(number + 2 * k) % TYPES.len()];
            compare(&config(rule, ""), types, &lengths(), common, 2);
        }
        let apart = Layout { skew: number % 3, gradient_skew: 3 + number % 5, ..Layout::default() };
        let types = TYPES[(number + 1) % TYPES.len()];
        compare(&config(rule, ""), types, &lengths(), apart, 2);
    }
}

#[test]
fn masters_and_narrow_state_at_skews() {
    let options = [
        "master = \"f32\"",
        "master = \"compact\"",
        "state_dtype = \"bf16\"",
        "master = \"compact\"\nstate_dtype = \"bf16\"\nrounding = \"stochastic\"",
        "rounding = \"stochastic\"",
    ];
    for (number, more) in options.iter().enumerate() {
        for rule in [RULES[3], RULES[12], RULES[14]] {
            let layout = Layout { skew: 1 + number, gradient_skew: 2 * number, ..Layout::default() };
            let shapes: Vec<Vec<usize>> = lengths().into_iter().step_by(3).collect();
            compare(&config(rule, more), (Dtype::Bf16, Dtype::F32), &shapes, layout, 2);
        }
    }
}

fn matrices() -> Vec<Vec<usize>> {
    vec![vec![3, 5], vec![1, 9], vec![9, 1], vec![4, 64], vec![17, 33], vec![0, 7], vec![7, 0], vec![70, 65]]
}

#[test]
fn rows_with_gaps() {
    let rules = [0, 3, 5, 6, 7, 9, 12, 13, 14, 15, 16, 17];
    for (number, &rule) in rules.iter().enumerate() {
        let step = ["nonfinite = \"propagate\"", "max_grad_norm = 0.5", "nonfinite = \"skip\""][number % 3];
        let config = config_with(step, RULES[rule], "");
        let layouts = [
            Layout { gap: 3, gradient_gap: 3, ..Layout::default() },
            Layout { gradient_gap: 8, skew: 1, ..Layout::default() },
            Layout { gap: 1, gradient_skew: 1, ..Layout::default() },
        ];
        for (k, layout) in layouts.into_iter().enumerate() {
            compare(&config, TYPES[(number + k) % TYPES.len()], &matrices(), layout, 2);
        }
    }
}

#[test]
fn strided_parameters_with_masters_and_points() {
    let layout = Layout { gap: 5, skew: 2, ..Layout::default() };
    for (rule, more) in [
        (3, "master = \"f32\""),
        (12, "master = \"compact\""),
        (6, "state_dtype = \"bf16\""),
        (17, ""),
        (3, "rounding = \"stochastic\"\nstate_dtype = \"bf16\""),
    ] {
        compare(&config(RULES[rule], more), (Dtype::Bf16, Dtype::Bf16), &matrices(), layout, 3);
    }
}

/// The left and the right columns of one matrix are two parameters; so are those of their gradients.
#[test]
fn halves_of_one_matrix() {
    for (rule, step) in
        [(3, "nonfinite = \"error\""), (12, "max_grad_norm = 0.1"), (14, "max_grad_norm = 2.0")]
    {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            let config = Config::parse(&config_with(step, RULES[rule], "")).expect("a configuration");
            let (rows, columns, middle) = (13, 21, 8);
            let mut noise = Noise(7);
            let whole: Vec<_> = (0..2).map(|_| noise.storage(dtype, rows * columns)).collect();
            let halves = [(0, middle), (middle, columns - middle)];
            let host: Vec<Tensor> = whole
                .iter()
                .map(|s| Tensor::from_storage(s.clone(), &[rows, columns]).expect("it fits"))
                .collect();
            let card = Card::new();
            let blocks: Vec<_> = whole.iter().map(|s| card.block(dtype, s.len())).collect();
            let (mut of_cpu, mut of_card, mut views) = (vec![], vec![], vec![]);
            for (i, (at, width)) in halves.into_iter().enumerate() {
                let strides = [columns, 1];
                let part = |t: &Tensor| t.view(at, &[rows, width], &strides).expect("a view");
                let name = format!("half{i}");
                of_cpu.push(Parameter::new(&name, part(&host[0])).grad(part(&host[1])));
                let own = [0, 1].map(|k| blocks[k].view(at, &[rows, width], &strides));
                own.iter().zip(&host).for_each(|(view, t)| view.write(&part(t).to_storage()));
                of_card.push(Parameter::new(&name, own[0].tensor.clone()).grad(own[1].tensor.clone()));
                views.push(own);
            }
            let build = |device, parameters: Vec<Parameter>| {
                let builder =
                    Optimizer::builder(device).groups(config.groups.clone()).options(config.options);
                if device == Device::Cpu { builder } else { builder.stream(card.stream.clone()) }
                    .register(parameters)
                    .unwrap_or_else(|e| panic!("{e}"))
            };
            let (mut reference, mut optimizer) = (build(Device::Cpu, of_cpu), build(device(), of_card));
            for step in 1..=3 {
                reference.step().unwrap_or_else(|e| panic!("{e}"));
                steps_by(&mut optimizer).unwrap_or_else(|e| panic!("{e}"));
                for (i, ([data, grad], (at, width))) in views.iter().zip(halves).enumerate() {
                    let part = |t: &Tensor| t.view(at, &[rows, width], &[columns, 1]).expect("a view");
                    let what = format!("{} step {step} half {i}", RULES[rule]);
                    for (view, tensor) in [(data, &host[0]), (grad, &host[1])] {
                        let (x, y) = (part(tensor).to_storage(), view.read());
                        assert_eq!(x.as_le_bytes(), y.as_le_bytes(), "{what}");
                    }
                    assert_same_state(&what, &format!("half{i}"), &reference, &optimizer);
                }
            }
        }
    }
}

#[test]
fn empty_parameters_among_37() {
    for (rule, step) in
        [(3, "nonfinite = \"error\""), (12, "max_grad_norm = 1.0"), (14, "max_grad_norm = 1.0")]
    {
        let mut shapes: Vec<Vec<usize>> = (0..37).map(|n| vec![1 + n % 5, 1 + n % 11]).collect();
        for (at, empty) in [(0, vec![0]), (18, vec![4, 0]), (19, vec![0, 3, 2]), (36, vec![0, 0])] {
            shapes[at] = empty;
        }
        let config = config_with(step, RULES[rule], "");
        compare(&config, (Dtype::F32, Dtype::F32), &shapes, Layout::default(), 2);
        let empty = vec![vec![0]; 3];
        compare(&config, (Dtype::Bf16, Dtype::F32), &empty, Layout::default(), 2);
    }
}

/// Single elements, of no dimension too.
#[test]
fn scalars() {
    let shapes = [vec![], vec![1], vec![1, 1], vec![1, 1, 1], vec![]];
    for rule in [1, 7, 12, 14] {
        let layout = Layout { skew: 1, gradient_skew: 2, ..Layout::default() };
        compare(&config_with("max_grad_norm = 0.3", RULES[rule], ""), TYPES[rule % 5], &shapes, layout, 3);
    }
}

/// More parameters, matrices, blocks of a matrix and chunks than one block of a kernel takes at once.
#[test]
fn more_of_everything_than_a_block_takes() {
    let many: Vec<Vec<usize>> = (0..600).map(|n| vec![1 + n * 7 % 23]).collect();
    let batches = [vec![300, 2, 3], vec![5], vec![270, 3, 2]];
    // 300 blocks of 4,096, and around 8 of them.
    let large = [vec![300, 4096], vec![7, 4096], vec![8, 4096], vec![9, 4096]];
    for (step, rule) in [("max_grad_norm = 0.5", 14), ("nonfinite = \"skip\"\nmax_grad_norm = 2.0", 3)] {
        let config = config_with(step, RULES[rule], "");
        compare(&config, (Dtype::F32, Dtype::F32), &many, Layout::default(), 2);
        compare(&config, (Dtype::Bf16, Dtype::F32), &batches, Layout { skew: 3, ..Layout::default() }, 2);
    }
    let config = config_with("max_grad_norm = 0.5", RULES[14], "");
    compare(&config, (Dtype::Bf16, Dtype::Bf16), &large, Layout { gradient_skew: 1, ..Layout::default() }, 1);
}
