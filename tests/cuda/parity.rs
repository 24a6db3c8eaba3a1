//! Every rule, type, length and option has the reference's bits: parameters and state, after each of several steps.

use orthant::algorithm::Slot;
use orthant::config::Config;
use orthant::{Device, Dtype, Optimizer, Parameter, Tensor};

use crate::noise::Noise;
use crate::{context, device};

pub const SLOTS: [Slot; 6] =
    [Slot::Momentum, Slot::Variance, Slot::VarianceMax, Slot::Point, Slot::Master, Slot::Low];

/// A set of parameters with its gradients.
pub struct Set {
    pub names: Vec<String>,
    pub data: Vec<Tensor>,
    pub grads: Vec<Tensor>,
    pub previous: Vec<Tensor>,
}

impl Set {
    pub fn new(noise: &mut Noise, dtype: Dtype, grad: Dtype, shapes: &[Vec<usize>]) -> Set {
        let mut tensors = |dtype: Dtype| -> Vec<Tensor> {
            let one = |shape: &Vec<usize>| {
                Tensor::from_storage(noise.storage(dtype, shape.iter().product()), shape).expect("it fits")
            };
            shapes.iter().map(one).collect()
        };
        let (data, grads, previous) = (tensors(dtype), tensors(grad), tensors(grad));
        Set { names: (0..shapes.len()).map(|i| format!("p{i}")).collect(), data, grads, previous }
    }

    /// The same values in storage of their own.
    pub fn copy(&self) -> Set {
        let copies = |tensors: &[Tensor]| -> Vec<Tensor> {
            tensors
                .iter()
                .map(|t| Tensor::from_storage(t.to_storage(), t.shape()).expect("it fits"))
                .collect()
        };
        Set {
            names: self.names.clone(),
            data: copies(&self.data),
            grads: copies(&self.grads),
            previous: copies(&self.previous),
        }
    }

    pub fn optimizer(&self, config: &Config, device: Device) -> Optimizer {
        self.try_optimizer(config, device).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn try_optimizer(&self, config: &Config, device: Device) -> orthant::Result<Optimizer> {
        let previous = config.groups.iter().any(|g| g.algorithm().needs_previous_gradient());
        let parameters = self.names.iter().enumerate().map(|(i, name)| {
            let parameter = Parameter::new(name.as_str(), self.data[i].clone()).grad(self.grads[i].clone());
            if previous { parameter.prev_grad(self.previous[i].clone()) } else { parameter }
        });
        let builder = Optimizer::builder(device).groups(config.groups.clone()).options(config.options);
        if device == Device::Cpu { builder } else { builder.context(context()?) }.register(parameters)
    }

    /// New gradients for this set and another one.
    pub fn renew(&self, other: &Set, noise: &mut Noise) {
        let both = [(&self.grads, &other.grads), (&self.previous, &other.previous)];
        for (a, b) in both.into_iter().flat_map(|(a, b)| a.iter().zip(b)) {
            let values = noise.storage(a.dtype(), a.numel());
            a.assign(&values).expect("it fits");
            b.assign(&values).expect("it fits");
        }
    }
}

/// Whether two sets and their optimizers hold the same bits.
#[track_caller]
pub fn assert_same(what: &str, (cpu, a): (&Set, &Optimizer), (card, b): (&Set, &Optimizer)) {
    for (i, name) in cpu.names.iter().enumerate() {
        let (x, y) = (cpu.data[i].to_storage(), card.data[i].to_storage());
        if x.as_le_bytes() != y.as_le_bytes() {
            let at = (0..x.len()).find(|&i| x.get_f64(i) != y.get_f64(i));
            let pair = at.map(|i| (i, x.get_f64(i), y.get_f64(i)));
            panic!("{what}: {name} {:?}: element, CPU, card: {pair:?}", cpu.data[i].shape());
        }
        for slot in SLOTS {
            let (x, y) = (a.state(name, slot).expect("readable"), b.state(name, slot).expect("readable"));
            let bits = |v: &Option<Vec<f64>>| -> Option<Vec<u64>> {
                v.as_ref().map(|v| v.iter().map(|x| x.to_bits()).collect())
            };
            if bits(&x) != bits(&y) {
                let pair = x.iter().flatten().zip(y.iter().flatten()).enumerate();
                let first = pair.into_iter().find(|(_, (x, y))| x.to_bits() != y.to_bits());
                panic!("{what}: {name} {:?} {}: CPU, card: {first:?}", cpu.data[i].shape(), slot.name());
            }
        }
        assert_eq!(a.step_count(name), b.step_count(name), "{what}: {name}");
    }
}

/// Runs steps on the CPU and on the card, and compares every bit after each.
pub fn compare(config: &str, dtype: Dtype, grad: Dtype, shapes: &[Vec<usize>], steps: usize, seed: u64) {
    let mut config = Config::parse(config).unwrap_or_else(|e| panic!("{e}"));
    config.options.seed = seed;
    let mut noise = Noise(seed ^ shapes.len() as u64);
    let cpu = Set::new(&mut noise, dtype, grad, shapes);
    let card = cpu.copy();
    let mut reference = cpu.optimizer(&config, Device::Cpu);
    let mut optimizer = card.optimizer(&config, device());
    for step in 1..=steps {
        cpu.renew(&card, &mut noise);
        let expected = reference.step().unwrap_or_else(|e| panic!("{e}"));
        let found = optimizer.step().unwrap_or_else(|e| panic!("{e}"));
        let what =
            format!("{:?}, step {step}, {dtype:?} {grad:?}", config.groups[0].algorithm().composition());
        assert_eq!(expected, found, "{what}");
        assert_same(&what, (&cpu, &reference), (&card, &optimizer));
    }
}

/// Every rule and estimator, with each option that changes what is computed.
pub const RULES: &[&str] = &[
    "algorithm = \"sign-sgd\"\nlr = 0.01",
    "algorithm = \"sign-sgd\"\nlr = 0.01\nweight_decay = 0.1\nmaximize = true",
    "algorithm = \"signum\"\nlr = 0.01\nmomentum = 0.8\nweight_decay = 0.1",
    "algorithm = \"lion\"\nlr = 0.01\nbetas = [0.9, 0.97]\nweight_decay = 0.3",
    "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"sign\"\nestimator = { kind = \"heavy-ball\", momentum = 0.7 }",
    "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"sign\"\nestimator = { kind = \"nesterov\", momentum = 0.7 }\n\
     weight_decay = 0.1\nconstraint = { kind = \"cautious-decay\" }",
    "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"sign\"\nestimator = { kind = \"extrapolated\", alpha = 0.2 }\n\
     weight_decay = 0.1\nconstraint = { kind = \"decay\" }",
    "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"sign\"\nestimator = { kind = \"mvr\", alpha = 0.2 }\n\
     constraint = { kind = \"convex-combination\" }",
    "algorithm = \"sgd\"\nlr = 0.01",
    "algorithm = \"sgd\"\nlr = 0.01\nmomentum = 0.9\ndampening = 0.1\nweight_decay = 0.1",
    "algorithm = \"sgd\"\nlr = 0.01\nmomentum = 0.9\nnesterov = true",
    "algorithm = \"adamw\"\nlr = 0.01",
    "algorithm = \"adamw\"\nlr = 0.01\nbetas = [0.8, 0.95]\neps = 1e-8\nweight_decay = 0.1\namsgrad = true",
    "algorithm = \"adagrad\"\nlr = 0.01\nlr_decay = 0.1\nweight_decay = 0.1\neps = 1e-10",
    "algorithm = \"nsgd\"\nlr = 0.01",
    "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"frobenius\"\nestimator = { kind = \"lion\", betas = [0.9, 0.97] }\neps = 1e-3\n\
     weight_decay = 0.1\nconstraint = { kind = \"decay\" }\nscale = \"rms\"",
    "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"frobenius\"\nestimator = { kind = \"mvr\", alpha = 0.2 }",
    "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"frobenius\"\nestimator = { kind = \"extrapolated\", alpha = 0.2 }",
];

pub fn config(rule: &str, more: &str) -> String {
    config_with("nonfinite = \"propagate\"", rule, more)
}

pub fn config_with(step: &str, rule: &str, more: &str) -> String {
    format!("[step]\n{step}\n[[group]]\nparams = [\"*\"]\n{rule}\n{more}\n")
}

const TYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

/// Lengths around every boundary that the kernels have.
fn lengths() -> Vec<Vec<usize>> {
    let around = [255, 256, 257, 2047, 2048, 2049, 4095, 4096, 4097, 16_383, 16_384, 16_385, 40_001];
    (0..=33).chain(around).map(|n| vec![n]).collect()
}

#[test]
fn every_rule_has_the_reference_bits_in_every_combination_of_types() {
    for (number, rule) in RULES.iter().enumerate() {
        for dtype in TYPES {
            for grad in TYPES {
                let grad = if dtype == Dtype::F32 { Dtype::F32 } else { grad };
                let shapes: Vec<Vec<usize>> = lengths().into_iter().take(40).collect();
                compare(&config(rule, ""), dtype, grad, &shapes, 3, number as u64);
            }
        }
    }
}

#[test]
fn chunks_of_large_tensors() {
    let shapes: Vec<Vec<usize>> = lengths().into_iter().skip(34).collect();
    for rule in [3, 12, 14] {
        compare(&config(RULES[rule], ""), Dtype::Bf16, Dtype::Bf16, &shapes, 2, 1);
        compare(&config(RULES[rule], ""), Dtype::F32, Dtype::F32, &shapes, 2, 2);
    }
}

#[test]
fn masters_sixteen_bit_state_and_stochastic_rounding() {
    let options = [
        "master = \"f32\"",
        "master = \"compact\"",
        "state_dtype = \"bf16\"",
        "rounding = \"stochastic\"",
        "state_dtype = \"bf16\"\nrounding = \"stochastic\"",
        "master = \"f32\"\nstate_dtype = \"bf16\"\nrounding = \"stochastic\"",
        "master = \"compact\"\nstate_dtype = \"bf16\"\nrounding = \"stochastic\"",
    ];
    for (number, rule) in RULES.iter().enumerate() {
        for more in options {
            // The extrapolated methods keep x in f32 anyway.
            if rule.contains("extrapolated") && more.contains("master") {
                continue;
            }
            let shapes: Vec<Vec<usize>> = lengths().into_iter().step_by(5).collect();
            let config = config(rule, more);
            if Config::parse(&config).is_err() {
                continue;
            }
            compare(&config, Dtype::Bf16, Dtype::F32, &shapes, 2, 7 + number as u64);
        }
    }
}

#[test]
fn every_matrix_of_a_batch_has_its_own_scale_and_norm() {
    let scaled = "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"sign\"\nscale = \"original\"\n\
                  estimator = { kind = \"ema\", momentum = 0.9 }\nweight_decay = 0.1";
    let shapes = [vec![3, 5, 7], vec![2, 64, 33], vec![4, 3, 3, 3], vec![2, 0, 5]];
    for rule in [scaled, RULES[14], RULES[15]] {
        compare(&config(rule, ""), Dtype::Bf16, Dtype::Bf16, &shapes, 3, 1);
    }
}

#[test]
fn clipping_loss_scale_and_the_scan_have_the_reference_bits() {
    let steps = [
        "max_grad_norm = 1.0",
        "max_grad_norm = 0.01\nnonfinite = \"propagate\"\nloss_scale = 1000",
        "max_grad_norm = 1e6\nnonfinite = \"skip\"\nloss_scale = 0.25",
        "nonfinite = \"error\"",
    ];
    for (number, step) in steps.iter().enumerate() {
        for (rule, dtype) in
            [(3, Dtype::Bf16), (7, Dtype::F32), (12, Dtype::F32), (13, Dtype::Bf16), (14, Dtype::F16)]
        {
            let shapes: Vec<Vec<usize>> = lengths().into_iter().skip(number).step_by(3).collect();
            compare(&config_with(step, RULES[rule], ""), dtype, dtype, &shapes, 3, number as u64);
        }
    }
}

/// More blocks than one warp adds up, and sums over several matrices; more than a thread reads at once in `gather`, and in
/// `radii`.
#[test]
fn the_norm_of_a_large_matrix() {
    let clips = |rule, shapes: &[Vec<usize>]| {
        compare(&config_with("max_grad_norm = 1.0", RULES[rule], ""), Dtype::Bf16, Dtype::Bf16, shapes, 1, 1);
    };
    clips(8, &[vec![4000, 4001], vec![3, 70, 70], vec![5]]);
    clips(14, &[vec![5703, 5702]]);
}

/// Every matrix up to 33 x 33, all of them in one launch.
#[test]
fn every_shape_up_to_33_by_33() {
    let shapes: Vec<Vec<usize>> = (0..=33).flat_map(|r| (0..=33).map(move |c| vec![r, c])).collect();
    for (rule, dtype) in [(RULES[3], Dtype::Bf16), (RULES[12], Dtype::F32), (RULES[14], Dtype::F16)] {
        compare(&config_with("max_grad_norm = 1.0", rule, ""), dtype, dtype, &shapes, 2, 33);
    }
}
