//! The three policies for gradients that hold NaN or an infinity.

use std::collections::BTreeSet;

use orthant::algorithm::{Algorithm, Estimator, Initial, Norm, Rule};
use orthant::{Dtype, Error, Group, NonFinite, Tensor};

use crate::model::{bits, noise, optimizer, tensor};

pub fn algorithms() -> Vec<Algorithm> {
    let mut out = vec![
        Algorithm::sgd(),
        Algorithm::sgd().momentum(0.9),
        Algorithm::nsgd(),
        Algorithm::sign_sgd(),
        Algorithm::signum(),
        Algorithm::lion(),
        Algorithm::muon(),
        Algorithm::orthogonal_sgdm(),
        Algorithm::scion(),
        Algorithm::adamw(),
        Algorithm::adamw().amsgrad(true),
        Algorithm::adagrad(),
    ];
    for norm in Norm::ALL.map(|(_, norm)| norm) {
        for estimator in [
            Estimator::None,
            Estimator::HeavyBall { momentum: 0.9, initial: Initial::Zero },
            Estimator::Extrapolated { alpha: 0.5 },
            Estimator::Mvr { alpha: 0.5 },
        ] {
            out.push(Algorithm::lmo(estimator, norm));
        }
    }
    out
}

const SHAPE: [usize; 2] = [3, 5];

fn subject(algorithm: &Algorithm, policy: NonFinite) -> orthant::Optimizer {
    let group = |name: &str| Group::new(name, algorithm.clone()).lr(0.1);
    optimizer(&[("w", group("one"), Dtype::F32, &SHAPE), ("z", group("two"), Dtype::F32, &SHAPE)], policy)
}

fn with(value: f64, at: usize) -> Tensor {
    let good = noise(4.0);
    tensor(Dtype::F32, &SHAPE, |i| if i == at { value } else { good(i) })
}

#[test]
fn error_finds_every_position_and_changes_nothing() {
    let mut checked = 0;
    for algorithm in algorithms() {
        let mut subject = subject(&algorithm, NonFinite::Error);
        subject.step().expect("a step");
        if algorithm.needs_previous_gradient() {
            let previous = ["w", "z"].map(|name| (name, Some(with(0.5, 0))));
            subject.rebind_previous_gradients(previous).expect("they fit");
        }
        let before = bits(&subject);
        for name in ["w", "z"] {
            for at in 0..15 {
                for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
                    subject.rebind_gradients([(name, Some(with(value, at)))]).expect("it fits");
                    match subject.step() {
                        Err(Error::NonFiniteGradient { step: 2, parameter, index, value: printed }) => {
                            assert_eq!((parameter.as_str(), index, printed), (name, at, value.to_string()));
                        }
                        other => panic!("{}: {other:?}", algorithm.composition()),
                    }
                    checked += 1;
                }
            }
            subject.rebind_gradients([(name, Some(with(0.5, 0)))]).expect("it fits");
        }
        assert_eq!(bits(&subject), before, "{}", algorithm.composition());
        subject.step().expect("a correct step works afterwards");
    }
    println!("{checked} positions");
}

#[test]
fn skip_is_as_if_the_bad_step_had_not_been() {
    for algorithm in algorithms() {
        let mut control = subject(&algorithm, NonFinite::Error);
        let mut skipping = subject(&algorithm, NonFinite::Skip);
        let previous = || ["w", "z"].map(|name| (name, Some(with(0.3, 1))));
        if algorithm.needs_previous_gradient() {
            control.rebind_previous_gradients(previous()).expect("they fit");
            skipping.rebind_previous_gradients(previous()).expect("they fit");
        }
        for k in 0..3 {
            let good = || [("z", Some(with(0.1 * f64::from(k), 2)))];
            let before = bits(&skipping);
            skipping.rebind_gradients([("z", Some(with(f64::NAN, 14)))]).expect("it fits");
            let report = skipping.step().expect("skipping is no error");
            assert!(!report.applied && report.updated == 0);
            assert_eq!(report.non_finite.as_deref(), Some("z"));
            assert_eq!(bits(&skipping), before, "{}", algorithm.composition());
            control.rebind_gradients(good()).expect("it fits");
            skipping.rebind_gradients(good()).expect("it fits");
            assert_eq!(control.step(), skipping.step());
            assert_eq!(bits(&control), bits(&skipping), "{}", algorithm.composition());
        }
        assert_eq!((skipping.steps(), skipping.skipped_steps()), (3, 3));
        assert_eq!((control.steps(), control.skipped_steps()), (3, 0));
    }
}

/// NaN reaches exactly the elements whose direction depends on it: the element, its row or column, or the matrix.
#[test]
fn propagate_spreads_nan_as_far_as_the_norm_reaches() {
    for algorithm in algorithms() {
        for at in 0..15 {
            let (row, column) = (at / 5, at % 5);
            let reach: BTreeSet<usize> = match algorithm.rule() {
                Rule::Lmo(lmo) => match lmo.norm {
                    Norm::Sign => [at].into(),
                    Norm::Rows => (row * 5..row * 5 + 5).collect(),
                    Norm::Columns => (0..3).map(|i| i * 5 + column).collect(),
                    _ => (0..15).collect(),
                },
                _ => [at].into(),
            };
            let mut subject = subject(&algorithm, NonFinite::Propagate);
            subject.rebind_gradients([("w", Some(with(f64::NAN, at)))]).expect("it fits");
            let report = subject.step().expect("propagate steps");
            assert!(report.applied && report.non_finite.is_none());
            for (name, data) in subject.parameters() {
                let values = data.to_vec_f64();
                let nan: BTreeSet<usize> = (0..15).filter(|&i| values[i].is_nan()).collect();
                let expected = if name == "w" { reach.clone() } else { BTreeSet::new() };
                assert_eq!(nan, expected, "{}: `{name}`, NaN at {at}", algorithm.composition());
                assert!(values.iter().all(|v| v.is_nan() || v.is_finite()), "{}", algorithm.composition());
            }
        }
    }
}
