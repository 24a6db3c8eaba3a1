//! What groups move by in a step, measured: the reference's bits, wherever tensors begin.

use orthant::config::Config;
use orthant::{Device, Dtype, Optimizer, Tensor};

use crate::fixture::{Card, Layout, OnCard, Pair};
use crate::noise::Noise;
use crate::parity::{RULES, Set, config_with};

const MEASURED: &str = "nonfinite = \"skip\"\ndiagnostics = true";

/// Lengths around those of lanes, rows and chunks.
fn shapes() -> Vec<Vec<usize>> {
    let lengths = [1, 31, 255, 256, 257, 300, 1023, 1024, 1025, 1300, 4096, 40_001, 300 * 1024];
    let vectors = lengths.into_iter().map(|n| vec![n]);
    vectors.chain([vec![5, 7], vec![33, 65], vec![3, 20, 30], vec![0]]).collect()
}

fn told(optimizer: &mut Optimizer) -> Vec<f64> {
    optimizer.synchronize().expect("done");
    let report = optimizer.status().expect("no refusal").pop().expect("a report");
    report.update_rms.expect("measured")
}

/// Every rule, with types and copies in turn: `Pair::step` compares the reports to the last digit.
#[test]
fn every_rule_has_the_reference_bits() {
    let types = [(Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::Bf16), (Dtype::F16, Dtype::F32)];
    for (number, rule) in RULES.iter().enumerate() {
        let (dtype, grad) = types[number % 3];
        let more = ["", "state_dtype = \"bf16\"", "master = \"f32\""][number / 3 % 3];
        let more = if dtype == Dtype::F32 { "" } else { more };
        let mut pair = Pair::new(&config_with(MEASURED, rule, more), dtype, grad, &shapes());
        for step in 1..=2 {
            pair.renew();
            pair.step(&format!("{rule}, {more}, step {step}"));
        }
    }
}

/// With state there is no boundary that a skewed tensor has in common with it; without, there is one behind the first elements.
#[test]
fn wherever_tensors_begin() {
    let card = Card::new();
    for (rule, more) in [(12, "master = \"compact\""), (1, "")] {
        let config = Config::parse(&config_with(MEASURED, RULES[rule], more)).expect("legal");
        let fresh = || Set::new(&mut Noise(9), Dtype::Bf16, Dtype::Bf16, &shapes());
        let mut reference = fresh().optimizer(&config, Device::Cpu);
        let expected = reference.step().expect("a step").update_rms.expect("measured");
        assert!(expected[0] > 0.0);
        for (skew, gradient_skew) in [(0, 0), (3, 3), (0, 1), (8, 4), (7, 2)] {
            let set = OnCard::new(&card, &fresh(), Layout { skew, gradient_skew, ..Layout::default() });
            let mut optimizer = set.optimizer(&card, &config);
            optimizer.step().expect("a step");
            assert_eq!(told(&mut optimizer), expected, "{skew}, {gradient_skew}");
        }
        // Rows that lie apart are added up by rows: the same but for rounding.
        let set = OnCard::new(&card, &fresh(), Layout { gap: 3, ..Layout::default() });
        let mut optimizer = set.optimizer(&card, &config);
        optimizer.step().expect("a step");
        let found = told(&mut optimizer)[0];
        assert!((found / expected[0] - 1.0).abs() < 1e-5, "{found}, {}", expected[0]);
    }
}

/// By groups, of parameters with a gradient, in steps that are applied, in more steps than the ring has entries.
#[test]
fn by_groups_and_steps() {
    let text = "[step]\nnonfinite = \"skip\"\ndiagnostics = true\n[[group]]\nname = \"a\"\nparams = [\"p1\", \"p3\"]\n\
                algorithm = \"lion\"\nlr = 0.25\nweight_decay = 0\n[[group]]\nname = \"b\"\nparams = [\"p0\"]\n\
                algorithm = \"adamw\"\nlr = 0.01\n[[group]]\nname = \"c\"\nparams = [\"*\"]\nalgorithm = \"sgd\"\nlr = 0";
    let shapes = [vec![700], vec![2000], vec![65], vec![1024]];
    let mut pair = Pair::new(text, Dtype::F32, Dtype::F32, &shapes);
    for step in 1..=70 {
        pair.renew();
        pair.step(&format!("step {step}"));
    }
    pair.both(|o| o.rebind_gradients([("p3", None::<Tensor>), ("p0", None)]));
    pair.renew();
    pair.step("without two gradients");
    let nan = |set: &Set| {
        let mut values = set.grads[1].to_vec_f64();
        values[5] = f64::NAN;
        set.grads[1]
            .assign(&orthant::Storage::F32(values.iter().map(|v| *v as f32).collect()))
            .expect("it fits");
    };
    nan(&pair.cpu);
    nan(&pair.set.host);
    pair.set.send_gradients();
    pair.step("skipped");
    // In two halves it is measured, too.
    pair.renew();
    pair.optimizer.scan().expect("a scan");
    pair.step("in halves");
    pair.renew();
    pair.optimizer.step().expect("a step");
    let found = told(&mut pair.optimizer);
    assert!(found[0] > 0.2 && found[0] <= 0.25 && found[1] == 0.0 && found[2] == 0.0, "{found:?}");
}

/// Rows and columns over their norms are added up by tiles: the same but for rounding. Beside them groups of other kinds.
#[test]
fn rows_and_columns_beside_others() {
    let group =
        |name: &str, rule: &str| format!("[[group]]\nname = \"{name}\"\nparams = [\"{name}*\"]\n{rule}\n");
    let scion = |norm: &str| format!("algorithm = \"scion\"\nlr = 0.1\nnorm = \"{norm}\"");
    let text = format!(
        "[step]\n{MEASURED}\n{}{}{}{}",
        group("p0", "algorithm = \"muon\"\nlr = 0.1"),
        group("p1", &scion("columns")),
        group("p2", "algorithm = \"lion\"\nlr = 0.01"),
        group("p3", &scion("rows"))
    );
    let shapes = [vec![5, 70], vec![130, 67], vec![1500], vec![3, 65, 40]];
    let mut pair = Pair::new(&text, Dtype::F32, Dtype::F32, &shapes);
    for step in 1..=3 {
        pair.renew();
        if step == 2 {
            let bad = Tensor::from_vec(vec![f32::NAN; 1500], &[1500]).expect("it fits").to_storage();
            for set in [&pair.cpu, &pair.set.host] {
                set.grads[2].assign(&bad).expect("it fits");
            }
            pair.set.send_gradients();
        }
        let expected = pair.reference.step().expect("a step");
        pair.optimizer.step().expect("a step");
        pair.optimizer.synchronize().expect("done");
        let found = pair.optimizer.status().expect("reports").pop().expect("one");
        assert_eq!(found.applied, step != 2);
        let (Some(expected), Some(found)) = (expected.update_rms, found.update_rms) else {
            assert_eq!(step, 2);
            continue;
        };
        // The direction of the first group is rounded to 16 bits on the CPU.
        for (group, most) in [1e-2, 1e-5, 0.0, 1e-5].into_iter().enumerate() {
            let (a, b) = (expected[group], found[group]);
            assert!(
                a > 0.0 && (a - b).abs() <= most * a,
                "step {step}, group {group}: {expected:?} {found:?}"
            );
        }
    }
}
