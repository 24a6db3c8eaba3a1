//! The kernels on the software GPU, held to the CPU reference bit for bit.

use std::sync::LazyLock;

use orthant_gpu::exec::{Card, Counters};
use orthant_gpu::gpu::{Arg, Gpu, ModuleHandle, Options};

use super::super::table::SCALARS_BYTES;
use super::*;
use crate::IMAGES;
use crate::config::Config;
use crate::tensor::{Storage, Tensor};
use crate::{Device, Optimizer, Parameter};

static PTX: LazyLock<&str> = LazyLock::new(|| {
    let image = IMAGES.iter().find(|image| image.stem == "elementwise" && image.architecture == "compute_80");
    std::str::from_utf8(image.expect("the kernels are compiled").bytes).expect("PTX is text")
});

/// Deterministic noise: a few magnitudes, exact zeros of both signs, ties.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn value(&mut self) -> f64 {
        let bits = self.next();
        let unit = (bits >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0;
        match bits % 16 {
            0 => 0.0,
            1 => -0.0,
            2 => unit * 1e-30,
            3 => unit * 1e4,
            4 => 0.5,
            _ => unit,
        }
    }

    fn storage(&mut self, dtype: Dtype, len: usize) -> Storage {
        let mut storage = Storage::zeros(dtype, len);
        crate::tensor::with_elements!(Storage, &mut storage, values => {
            values.iter_mut().for_each(|v| *v = crate::tensor::Element::from_f64(self.value()));
        });
        storage
    }
}

/// A card with the kernels on it.
struct Rig {
    gpu: Gpu,
    module: ModuleHandle,
}

impl Rig {
    fn new(options: Options) -> Rig {
        let mut gpu = Gpu::new(Card::sm_80(), options);
        let module = gpu.load_module(&PTX).unwrap_or_else(|e| panic!("{e}"));
        Rig { gpu, module }
    }

    /// Bytes at `skew` bytes behind a fresh allocation's start.
    fn put(&self, bytes: &[u8], skew: u64) -> u64 {
        let base = self.gpu.alloc(bytes.len() as u64 + skew.max(1)).unwrap();
        self.gpu.copy_in(base + skew, bytes).unwrap();
        base + skew
    }

    fn get(&self, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.gpu.copy_out(&mut bytes, address).unwrap();
        bytes
    }

    fn launch(&self, kernel: &str, grid: u32, args: &[Arg]) -> Counters {
        let launched = self.gpu.launch(self.module, kernel, [grid, 1, 1], [THREADS, 1, 1], 0, args);
        launched.unwrap_or_else(|e| panic!("{kernel}: {e}"))
    }
}

/// Where the buffers of a parameter lie relative to 16-byte boundaries, in elements.
#[derive(Debug, Clone, Copy)]
enum Skew {
    None,
    /// All alike.
    Common(usize),
    /// The gradient otherwise.
    Apart,
}

/// Runs `steps` steps of the first group of `config` on the CPU and on the card, over parameters of these shapes, and
/// compares every bit of parameters and state.
fn compare(
    config: &str,
    dtype: Dtype,
    grad: Dtype,
    shapes: &[Vec<usize>],
    skew: Skew,
    steps: usize,
    seed: u64,
) {
    let mut config = Config::parse(config).unwrap_or_else(|e| panic!("{e}"));
    config.options.seed = seed;
    let mut noise = Noise(seed ^ shapes.len() as u64);
    let tensors: Vec<(String, Tensor, Tensor, Tensor)> = shapes
        .iter()
        .enumerate()
        .map(|(i, shape)| {
            let len = shape.iter().product();
            let mut tensor = |dtype| Tensor::from_storage(noise.storage(dtype, len), shape).unwrap();
            (format!("p{i}"), tensor(dtype), tensor(grad), tensor(grad))
        })
        .collect();
    let rig = Rig::new(Options { seed: seed % 3, ..Options::default() });
    let before: Vec<Storage> = tensors.iter().map(|(_, p, ..)| p.to_storage()).collect();
    let previous = config.groups[0].algorithm.needs_previous_gradient();
    let register = tensors.iter().map(|(name, p, g, q)| {
        let parameter = Parameter::new(name.as_str(), p.clone()).grad(g.clone());
        if previous { parameter.prev_grad(q.clone()) } else { parameter }
    });
    let mut optimizer = Optimizer::builder(Device::Cpu)
        .groups(config.groups.clone())
        .options(config.options)
        .register(register)
        .unwrap_or_else(|e| panic!("{e}"));
    let plan = optimizer.plan().clone();
    let group = &plan.groups[0];
    let entry = group_entry(group, group.hyperparameters().unwrap(), seed).expect("an elementwise rule");

    // The device's copies, before the CPU moves anything.
    let mut table = Table::default();
    let mut buffers = Vec::new();
    for ((planned, (_, p, g, q)), x) in plan.parameters.iter().zip(&tensors).zip(&before) {
        let put = |storage: &Storage, apart: bool| {
            let elements = match skew {
                Skew::None => 0,
                Skew::Common(elements) => elements,
                Skew::Apart => 1 + usize::from(apart),
            };
            let dtype = storage.dtype();
            let address = rig.put(storage.as_le_bytes(), (elements * dtype.size()) as u64);
            Buffer { address, dtype }
        };
        let state = planned.slots.iter().map(|&(slot, dtype)| {
            let start = match slot {
                Slot::Point | Slot::Master => {
                    let values: Vec<f32> = p.to_vec_f64().iter().map(|&v| v as f32).collect();
                    crate::tensor::Element::wrap(values)
                }
                _ => Storage::zeros(dtype, p.numel()),
            };
            (slot, put(&start, false))
        });
        let found = Buffers {
            parameter: put(x, false),
            gradient: put(&g.to_storage(), true),
            previous: previous.then(|| put(&q.to_storage(), true)),
            state: state.collect(),
        };
        table.push(planned, group, &found, seed);
        buffers.push(found);
    }
    let device = |bytes: &[u8]| Arg::U64(rig.put(bytes, 0));
    let count = table.parameters.len() as u32;
    let (segments, chunks) = (device(bytemuck::cast_slice(&table.segments)), table.chunks.len() as u32);
    let parameters = device(bytemuck::cast_slice(&table.parameters));
    let groups = device(bytemuck::bytes_of(&entry));
    let step_counts = device(&vec![0; 8 * table.parameters.len()]);
    let scalars = device(&vec![0; SCALARS_BYTES * table.segments.len().max(1)]);
    let chunk_list = device(bytemuck::cast_slice(&table.chunks));
    for step in 1..=steps {
        // New gradients.
        for ((_, _, g, q), found) in tensors.iter().zip(&buffers) {
            let mut renew = |tensor: &Tensor, buffer: Buffer| {
                let storage = noise.storage(buffer.dtype, tensor.numel());
                tensor.assign(&storage).unwrap();
                rig.gpu.copy_in(buffer.address, storage.as_le_bytes()).unwrap();
            };
            renew(g, found.gradient);
            if let Some(buffer) = found.previous {
                renew(q, buffer);
            }
        }
        optimizer.step().unwrap_or_else(|e| panic!("{e}"));
        let prepared = [
            segments.clone(),
            parameters.clone(),
            Arg::U32(count),
            groups.clone(),
            step_counts.clone(),
            Arg::U64(0),
            scalars.clone(),
        ];
        rig.launch("prepare", count.div_ceil(THREADS), &prepared);
        let args = [segments.clone(), scalars.clone(), chunk_list.clone(), Arg::U32(chunks)];
        rig.launch("elementwise", chunks.clamp(1, 7), &args);
        for ((planned, (name, p, ..)), found) in plan.parameters.iter().zip(&tensors).zip(&buffers) {
            let what = format!("{name} {:?}, step {step}, {dtype:?} {grad:?} {skew:?}", planned.spec.shape);
            let same = |cpu: &Storage, buffer: Buffer, which: &str| {
                let card = rig.get(buffer.address, buffer.dtype.size() * cpu.len());
                assert_eq!(buffer.dtype, cpu.dtype());
                if cpu.as_le_bytes() != card {
                    let card = Storage::from_le_bytes(buffer.dtype, &card).unwrap();
                    let at = (0..cpu.len()).find(|&i| cpu.get_f64(i) != card.get_f64(i));
                    let pair = at.map(|i| (i, cpu.get_f64(i), card.get_f64(i)));
                    panic!("{which} of {what}: element, CPU, card: {pair:?}");
                }
            };
            same(&p.to_storage(), found.parameter, "parameter");
            for (slot, buffer) in &found.state {
                let cpu = optimizer.state(name, *slot).unwrap().expect("a slot");
                let mut storage = Storage::zeros(buffer.dtype, cpu.len());
                crate::tensor::with_elements!(Storage, &mut storage, values => {
                    values.iter_mut().zip(&cpu).for_each(|(v, c)| *v = crate::tensor::Element::from_f64(*c));
                });
                same(&storage, *buffer, slot.name());
            }
        }
    }
}

/// Every rule and estimator, with each option that changes what is computed.
const RULES: &[&str] = &[
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
];

fn config(rule: &str, more: &str) -> String {
    format!("[step]\nnonfinite = \"propagate\"\n[[group]]\nparams = [\"*\"]\n{rule}\n{more}\n")
}

const TYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

/// Lengths around every boundary that the kernel has.
fn lengths() -> Vec<Vec<usize>> {
    let around = [2047, 2048, 2049, 16_383, 16_384, 16_385, 40_001];
    (0..=33).chain(around).map(|n| vec![n]).collect()
}

#[test]
fn every_rule_has_the_reference_bits_in_every_combination_of_types() {
    for (number, rule) in RULES.iter().enumerate() {
        for dtype in TYPES {
            for grad in TYPES {
                let grad = if dtype == Dtype::F32 { Dtype::F32 } else { grad };
                let shapes: Vec<Vec<usize>> = lengths().into_iter().take(36).collect();
                compare(&config(rule, ""), dtype, grad, &shapes, Skew::None, 3, number as u64);
            }
        }
    }
}

#[test]
fn heads_tails_and_buffers_without_a_common_boundary() {
    for (number, rule) in RULES.iter().enumerate() {
        let dtype = TYPES[number % 3];
        for skew in [Skew::Common(1), Skew::Common(4), Skew::Common(7), Skew::Apart] {
            let shapes: Vec<Vec<usize>> = lengths().into_iter().step_by(3).collect();
            compare(&config(rule, ""), dtype, dtype, &shapes, skew, 2, 100 + number as u64);
        }
    }
}

#[test]
fn chunks_of_large_tensors() {
    let shapes: Vec<Vec<usize>> = lengths().into_iter().skip(34).collect();
    for (number, skew) in [Skew::None, Skew::Common(3), Skew::Apart].into_iter().enumerate() {
        let lion = config(RULES[3], "");
        compare(&lion, Dtype::Bf16, Dtype::Bf16, &shapes, skew, 2, number as u64);
        let adamw = config(RULES[12], "");
        compare(&adamw, Dtype::F32, Dtype::F32, &shapes, skew, 2, number as u64);
    }
}

#[test]
fn masters_sixteen_bit_state_and_stochastic_rounding() {
    let options = [
        "master = \"f32\"",
        "state_dtype = \"bf16\"",
        "rounding = \"stochastic\"",
        "state_dtype = \"bf16\"\nrounding = \"stochastic\"",
        "master = \"f32\"\nstate_dtype = \"bf16\"\nrounding = \"stochastic\"",
    ];
    for (number, rule) in RULES.iter().enumerate() {
        for more in options {
            // The extrapolated methods keep x in f32 anyway.
            if rule.contains("extrapolated") && more.contains("master") {
                continue;
            }
            for skew in [Skew::None, Skew::Common(5)] {
                let shapes: Vec<Vec<usize>> = lengths().into_iter().step_by(5).collect();
                compare(&config(rule, more), Dtype::Bf16, Dtype::F32, &shapes, skew, 2, 7 + number as u64);
            }
        }
    }
}

#[test]
fn every_matrix_of_a_batch_has_its_own_scale() {
    let scaled = "algorithm = \"lmo\"\nlr = 0.01\nnorm = \"sign\"\nscale = \"original\"\n\
                  estimator = { kind = \"ema\", momentum = 0.9 }\nweight_decay = 0.1";
    let shapes = [vec![3, 5, 7], vec![2, 64, 33], vec![4, 3, 3, 3], vec![2, 0, 5]];
    for skew in [Skew::None, Skew::Common(2)] {
        compare(&config(scaled, ""), Dtype::Bf16, Dtype::Bf16, &shapes, skew, 3, 1);
    }
}

/// Bytes an element of one launch over 2^20 elements, and what else is counted.
fn counted(rule: &str, more: &str, dtype: Dtype, grad: Dtype) -> (f64, Counters) {
    const N: usize = 1 << 20;
    let config = Config::parse(&config(rule, more)).unwrap_or_else(|e| panic!("{e}"));
    let plan = crate::Plan::new(
        config.groups,
        vec![crate::ParameterSpec { name: "p".into(), shape: vec![N], dtype, grad_dtype: Some(grad) }],
        None,
    )
    .unwrap_or_else(|e| panic!("{e}"));
    let group = &plan.groups[0];
    let rig = Rig::new(Options::default());
    let zeros = |dtype: Dtype| Buffer { address: rig.put(&vec![0; N * dtype.size()], 0), dtype };
    let buffers = Buffers {
        parameter: zeros(dtype),
        gradient: zeros(grad),
        previous: group.algorithm.needs_previous_gradient().then(|| zeros(grad)),
        state: plan.parameters[0].slots.iter().map(|&(slot, dtype)| (slot, zeros(dtype))).collect(),
    };
    let mut table = Table::default();
    table.push(&plan.parameters[0], group, &buffers, 0);
    let entry = group_entry(group, group.hyperparameters().unwrap(), 0).expect("an elementwise rule");
    let device = |bytes: &[u8]| Arg::U64(rig.put(bytes, 0));
    let (segments, scalars) = (device(bytemuck::cast_slice(&table.segments)), device(&[0; SCALARS_BYTES]));
    let parameters = device(bytemuck::cast_slice(&table.parameters));
    let args = [
        segments.clone(),
        parameters,
        Arg::U32(1),
        device(bytemuck::bytes_of(&entry)),
        device(&[0; 8]),
        Arg::U64(0),
        scalars.clone(),
    ];
    rig.launch("prepare", 1, &args);
    let chunks = device(bytemuck::cast_slice(&table.chunks));
    let args = [segments, scalars, chunks, Arg::U32(table.chunks.len() as u32)];
    let counters = rig.launch("elementwise", 64, &args);
    let bytes = 32 * (counters.global_loads.sectors + counters.global_stores.sectors);
    (bytes as f64 / N as f64, counters)
}

#[test]
fn bytes_are_those_of_the_roofline_and_accesses_are_sixteen_bytes_wide() {
    use Dtype::{Bf16, F32};
    let (sign, lion, adamw) = (RULES[0], RULES[3], RULES[11]);
    let (extrapolated, mvr) = (RULES[6], RULES[7]);
    let bf16_state = "state_dtype = \"bf16\"";
    // kernels.md, table 3.1.
    let table = [
        (sign, "", Bf16, Bf16, 6.0),
        (lion, bf16_state, Bf16, Bf16, 10.0),
        (lion, "", Bf16, Bf16, 14.0),
        (lion, "master = \"f32\"", Bf16, Bf16, 20.0),
        (adamw, bf16_state, Bf16, Bf16, 14.0),
        (adamw, "", Bf16, Bf16, 22.0),
        (extrapolated, "", Bf16, Bf16, 20.0),
        (extrapolated, "", F32, F32, 24.0),
        (mvr, "", Bf16, F32, 20.0),
    ];
    for (rule, more, dtype, grad, expected) in table {
        let (bytes, counters) = counted(rule, more, dtype, grad);
        println!(
            "{rule:?} {more:?}: {bytes:.3} B/element, {:.1} lane instructions an element",
            counters.total().lane as f64 / (1 << 20) as f64
        );
        assert!(
            (bytes / expected - 1.0).abs() < 0.01,
            "{rule} {more}: {bytes} B/element, expected {expected}"
        );
        for traffic in [&counters.global_loads, &counters.global_stores] {
            let narrow: u64 = traffic
                .widths
                .iter()
                .filter(|(width, _)| **width < 16)
                .map(|(width, count)| u64::from(*width) * count)
                .sum();
            assert!((narrow as f64) < 0.005 * traffic.bytes as f64, "{rule}: {:?}", traffic.widths);
        }
    }
}
