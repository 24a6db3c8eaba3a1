//! A run that is saved and resumed after any step equals the run that went on, bit for bit.

use std::path::Path;
use std::process::Command;

use orthant::algorithm::{Algorithm, Estimator, Initial, Norm, Slot};
use orthant::files::write_tensors;
use orthant::{Device, Dtype, Group, Master, Optimizer, Parameter, Rounding, StateDtype, Tensor};

use crate::model::{bits, noise, scratch, tensor};

const STEPS: usize = 6;
const SHAPES: [(&str, &[usize]); 3] = [("batch", &[2, 3, 4]), ("matrix", &[5, 7]), ("vector", &[6])];

struct Case {
    group: Group,
    dtype: Dtype,
}

fn cases() -> Vec<Case> {
    let group = |name: &str, algorithm: Algorithm| Group::new(name, algorithm).lr(0.05).params(["*"]);
    let plain = |name: &str, algorithm: Algorithm| Case { group: group(name, algorithm), dtype: Dtype::F32 };
    let mut out = vec![
        plain("sgd", Algorithm::sgd()),
        plain("sgd nesterov", Algorithm::sgd().momentum(0.9).nesterov(true)),
        plain("sgd dampened", Algorithm::sgd().momentum(0.9).dampening(0.3)),
        plain("nsgd", Algorithm::nsgd()),
        plain("sign-sgd", Algorithm::sign_sgd()),
        plain("signum", Algorithm::signum()),
        plain("lion", Algorithm::lion()),
        plain("muon", Algorithm::muon()),
        plain("muon without nesterov", Algorithm::muon().nesterov(false)),
        plain("orthogonal-sgdm", Algorithm::orthogonal_sgdm()),
        plain("scion", Algorithm::scion()),
        plain("adamw", Algorithm::adamw()),
        plain("adamw amsgrad", Algorithm::adamw().amsgrad(true).eps(1e-8)),
        plain("adagrad", Algorithm::adagrad().lr_decay(0.1).initial_accumulator_value(0.1)),
    ];
    let initials = [Initial::Zero, Initial::FirstGradient];
    let mut estimators = vec![
        Estimator::None,
        Estimator::Lion { betas: [0.9, 0.99] },
        Estimator::Extrapolated { alpha: 0.3 },
        Estimator::Mvr { alpha: 0.2 },
    ];
    for initial in initials {
        estimators.push(Estimator::HeavyBall { momentum: 0.9, initial });
        estimators.push(Estimator::Ema { momentum: 0.9, initial });
        estimators.push(Estimator::Nesterov { momentum: 0.9, initial });
    }
    for estimator in estimators {
        for norm in [Norm::Sign, Norm::Frobenius, Norm::Spectral, Norm::Rows] {
            let name = format!("lmo {estimator:?} {norm:?}");
            let group = || group(&name, Algorithm::lmo(estimator, norm)).weight_decay(0.1);
            out.push(Case { group: group(), dtype: Dtype::F32 });
            out.push(Case { group: group().master(Master::F32), dtype: Dtype::Bf16 });
            out.push(Case { group: group().master(Master::Compact), dtype: Dtype::Bf16 });
        }
    }
    for algorithm in [Algorithm::muon(), Algorithm::adamw(), Algorithm::lion(), Algorithm::nsgd()] {
        let group = || group(&format!("{} in other types", algorithm.name()), algorithm.clone());
        out.push(Case { group: group(), dtype: Dtype::F64 });
        out.push(Case { group: group().master(Master::F32), dtype: Dtype::F16 });
        out.push(Case { group: group().rounding(Rounding::Stochastic), dtype: Dtype::Bf16 });
        let state = group().state_dtype(StateDtype::Bf16);
        out.push(Case { group: state.clone(), dtype: Dtype::F32 });
        out.push(Case { group: state.clone().rounding(Rounding::Stochastic), dtype: Dtype::Bf16 });
        let compact = state.master(Master::Compact);
        out.push(Case { group: compact.clone(), dtype: Dtype::Bf16 });
        out.push(Case { group: compact.rounding(Rounding::Stochastic), dtype: Dtype::Bf16 });
    }
    out
}

impl Case {
    fn fresh(&self) -> (Vec<Tensor>, Optimizer) {
        let vectors = !self.group.algorithm().needs_matrix();
        let named: Vec<_> = SHAPES
            .iter()
            .filter(|(_, shape)| vectors || shape.len() > 1)
            .map(|(name, shape)| (*name, tensor(self.dtype, shape, noise(0.5))))
            .collect();
        let tensors = named.iter().map(|(_, t)| t.clone()).collect();
        let registered = named.into_iter().map(|(name, t)| Parameter::new(name, t));
        let builder = Optimizer::builder(Device::Cpu).group(self.group.clone()).max_grad_norm(3.0);
        (tensors, builder.register(registered).expect("it registers"))
    }

    /// The `k`-th step. The matrix has no gradient in one of them, so that the parameters' step counts differ.
    fn step(&self, optimizer: &mut Optimizer, k: usize) {
        let shapes: Vec<_> = optimizer.plan().parameters.iter().map(|p| p.spec.clone()).collect();
        let gradients = |seed: f64| {
            shapes.iter().map(move |spec| {
                let absent = spec.name == "matrix" && k == 2;
                let gradient = tensor(Dtype::F32, &spec.shape, noise(k as f64 + seed));
                (spec.name.clone(), (!absent).then_some(gradient))
            })
        };
        optimizer.rebind_gradients(gradients(3.0)).expect("they fit");
        if self.group.algorithm().needs_previous_gradient() {
            optimizer.rebind_previous_gradients(gradients(3.1)).expect("they fit");
        }
        optimizer.step().expect("a step");
    }
}

#[test]
fn resume_is_exact_after_every_step() {
    let dir = scratch();
    let cases = cases();
    let mut compared = 0;
    for (i, case) in cases.iter().enumerate() {
        let (tensors, mut straight) = case.fresh();
        let mut checkpoints = vec![];
        let mut history = vec![];
        for k in 0..=STEPS {
            let path = dir.path().join(format!("{i}-{k}"));
            straight.save(&path).expect("it saves");
            checkpoints.push((path, tensors.iter().map(Tensor::to_storage).collect::<Vec<_>>()));
            history.push(bits(&straight));
            if k < STEPS {
                case.step(&mut straight, k);
            }
        }
        straight.eval_point().unwrap();
        let iterates = bits(&straight);
        for (k, (path, values)) in checkpoints.iter().enumerate() {
            let (tensors, mut resumed) = case.fresh();
            for (tensor, values) in tensors.iter().zip(values) {
                tensor.assign(values).expect("the same type and size");
            }
            resumed.load(path).expect("it loads");
            assert_eq!(bits(&resumed), history[k], "{}: loaded after step {k}", case.group.name());
            for later in k..STEPS {
                case.step(&mut resumed, later);
                let name = case.group.name();
                assert_eq!(bits(&resumed), history[later + 1], "{name}: saved after {k}, at {later}");
                compared += 1;
            }
            resumed.eval_point().unwrap();
            assert_eq!(bits(&resumed), iterates, "{}: the iterates, saved after {k}", case.group.name());
        }
    }
    println!("{} compositions, {compared} resumed steps compared", cases.len());
    assert!(compared >= 2000, "only {compared} steps compared");
}

/// A resumed run must not merely equal a run from zeroed state.
#[test]
fn a_run_without_its_state_is_another_run() {
    for case in cases() {
        let (_, mut straight) = case.fresh();
        if straight.plan().parameters.iter().all(|p| p.slots.is_empty()) {
            continue;
        }
        (0..2).for_each(|k| case.step(&mut straight, k));
        let (_, fresh) = case.fresh();
        let differs = straight.parameters().any(|(name, _)| {
            [Slot::Momentum, Slot::Variance, Slot::Point, Slot::Master, Slot::Low]
                .iter()
                .any(|slot| straight.state(name, *slot).unwrap() != fresh.state(name, *slot).unwrap())
        });
        assert!(differs, "{}: two steps left no trace in the state", case.group.name());
    }
}

fn run(folder: &Path, line: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_orthant"))
        .args(line.split_whitespace())
        .current_dir(folder)
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_program_resumes_exactly() {
    let lmo = |kind: &str| {
        format!("algorithm = \"lmo\"\nestimator = {{ kind = \"{kind}\", alpha = 0.3 }}\nnorm = \"sign\"")
    };
    let cases = [
        ("muon".to_owned(), "algorithm = \"muon\"".to_owned(), Dtype::F32),
        ("adamw".to_owned(), "algorithm = \"adamw\"\nmaster = \"f32\"".to_owned(), Dtype::Bf16),
        ("adamw compact".to_owned(), "algorithm = \"adamw\"\nmaster = \"compact\"".to_owned(), Dtype::Bf16),
        ("muon compact".to_owned(), "algorithm = \"muon\"\nmaster = \"compact\"".to_owned(), Dtype::Bf16),
        ("extrapolated".to_owned(), lmo("extrapolated"), Dtype::F32),
        ("extrapolated master".to_owned(), lmo("extrapolated") + "\nmaster = \"f32\"", Dtype::Bf16),
        ("extrapolated f64".to_owned(), lmo("extrapolated"), Dtype::F64),
        ("mvr".to_owned(), lmo("mvr"), Dtype::F32),
    ];
    for (name, lines, dtype) in cases {
        let dir = scratch();
        let at = |file: &str| dir.path().join(file);
        std::fs::write(at("c.toml"), format!("[[group]]\nparams = [\"*\"]\nlr = 0.05\n{lines}\n"))
            .expect("written");
        let shapes: [(&str, &[usize]); 2] = [("u", &[3, 4]), ("w", &[5, 7])];
        let write = |file: String, dtype: Dtype, seed: f64, names: &[&str]| {
            let tensors: Vec<_> = shapes
                .iter()
                .filter(|(name, _)| names.contains(name))
                .map(|(name, shape)| (*name, tensor(dtype, shape, noise(seed))))
                .collect();
            write_tensors(at(&file), tensors.iter().map(|(name, t)| (*name, t))).expect("written");
        };
        write("p".into(), dtype, 0.5, &["u", "w"]);
        for k in 1..=5 {
            // After the resumption, `u` never has a gradient again: it must stay where it was.
            let names: &[&str] = if k <= 2 { &["u", "w"] } else { &["w"] };
            write(format!("g{k}"), Dtype::F32, k as f64, names);
            write(format!("h{k}"), Dtype::F32, k as f64 + 0.1, names);
        }
        let previous =
            |files: &str| if name == "mvr" { format!("--prev-grads {files}") } else { String::new() };
        run(
            dir.path(),
            &format!(
                "step --config c.toml --params p --grads g1 g2 g3 g4 g5 {} --out straight",
                previous("h1 h2 h3 h4 h5")
            ),
        );
        run(
            dir.path(),
            &format!("step --config c.toml --params p --grads g1 g2 {} --out half", previous("h1 h2")),
        );
        run(
            dir.path(),
            &format!(
                "step --config c.toml --params half/params.safetensors --state half/state.safetensors --grads g3 g4 g5 {} --out whole",
                previous("h3 h4 h5")
            ),
        );
        let mut files = 0;
        for entry in std::fs::read_dir(at("straight")).expect("results") {
            let file = entry.expect("an entry").file_name();
            let read = |folder: &str| std::fs::read(at(folder).join(&file)).expect("a result");
            assert!(read("straight") == read("whole"), "{name}: {} differs", file.display());
            files += 1;
        }
        assert_eq!(files, if name.starts_with("extrapolated") { 3 } else { 2 }, "{name}");
    }
}
