//! The fast reference against the method in plain loops.

use orthant::algorithm::{
    Algorithm, Coefficients, Constraint, Estimator, Initial, Norm, NsDtype, Rule, Scale,
};
use orthant::reference::naive::Naive;
use orthant::reference::real::Real;
use orthant::{Device, Group, Optimizer, Parameter, Precision, Tensor};

use crate::common::{Random, relative};

const STEPS: usize = 4;
const LR: f64 = 0.03;
const DECAY: f64 = 0.2;

fn estimators() -> Vec<Estimator> {
    let (momentum, mut out) = (0.8, vec![Estimator::None]);
    for initial in [Initial::Zero, Initial::FirstGradient] {
        out.push(Estimator::HeavyBall { momentum, initial });
        out.push(Estimator::Ema { momentum, initial });
        out.push(Estimator::Nesterov { momentum, initial });
    }
    out.push(Estimator::Lion { betas: [0.7, 0.9] });
    out.push(Estimator::Extrapolated { alpha: 0.3 });
    out.push(Estimator::Mvr { alpha: 0.3 });
    out
}

/// Runs `algorithm` on one matrix both ways and returns (fast x, fast buffer, naive x, naive y).
fn both<T: Real>(
    algorithm: &Algorithm,
    rows: usize,
    columns: usize,
    seed: u64,
) -> (Vec<f64>, Vec<f64>, Naive<T>) {
    let mut random = Random(seed);
    let mut draw = || -> Vec<T> {
        (0..rows * columns)
            .map(|_| if random.uniform() < 0.1 { T::zero() } else { T::of(random.normal()) })
            .collect()
    };
    let x = draw();
    let tensor = |values: &[T]| Tensor::from_vec(values.to_vec(), &[rows, columns]).unwrap();
    let (data, grad, prev) = (tensor(&x), tensor(&x), tensor(&x));
    let convex = algorithm.composition().contains("convex");
    let mut group = Group::new("g", algorithm.clone()).params(["w"]).lr(LR);
    let decay = if convex || algorithm.composition().ends_with("none") { 0.0 } else { DECAY };
    group = group.weight_decay(decay);
    let mut parameter = Parameter::new("w", data.clone()).grad(grad.clone());
    if algorithm.needs_previous_gradient() {
        parameter = parameter.prev_grad(prev.clone());
    }
    let mut optimizer =
        Optimizer::builder(Device::Cpu).group(group).precision(T::PRECISION).register([parameter]).unwrap();
    let Rule::Lmo(lmo) = algorithm.rule() else { panic!("{} is beside the family", algorithm.name()) };
    let mut naive = Naive::new(rows, columns, x);
    for _ in 0..STEPS {
        let (g, p) = (draw(), draw());
        grad.copy_from_slice(&g).unwrap();
        prev.copy_from_slice(&p).unwrap();
        optimizer.step().unwrap();
        naive.step(lmo, LR, decay, &g, &p);
    }
    let shown = data.to_vec_f64();
    optimizer.eval_point().unwrap();
    (data.to_vec_f64(), shown, naive)
}

fn wide<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|v| orthant::Element::to_f64(*v)).collect()
}

#[test]
fn sign_family_bit_for_bit() {
    fn check<T: Real>(algorithm: &Algorithm) {
        // Sizes around the block and task limits of the sweep as well as tiny ones.
        for (rows, columns) in [(1, 1), (3, 5), (1, 511), (1, 513), (7, 150), (33, 1000)] {
            let (x, y, naive) = both::<T>(algorithm, rows, columns, 21);
            assert_eq!(x, wide(&naive.x), "{} {rows}x{columns}", algorithm.composition());
            assert_eq!(y, wide(&naive.y), "{} {rows}x{columns}", algorithm.composition());
        }
    }
    for estimator in estimators() {
        for (_, constraint) in Constraint::ALL {
            for scale in [Scale::None, Scale::MatchRmsAdamw, Scale::Factor(3.0)] {
                let algorithm = Algorithm::lmo(estimator, Norm::Sign).constraint(constraint).scale(scale);
                check::<f32>(&algorithm);
                check::<f64>(&algorithm);
            }
        }
    }
    for preset in [Algorithm::sign_sgd(), Algorithm::signum(), Algorithm::lion().cautious_weight_decay(true)]
    {
        check::<f32>(&preset);
        check::<f64>(&preset);
    }
}

#[test]
fn norms_to_rounding() {
    for norm in [Norm::Frobenius, Norm::Rows, Norm::Columns, Norm::Spectral, Norm::RmsToRms] {
        for estimator in estimators() {
            for (_, constraint) in Constraint::ALL {
                let algorithm = Algorithm::lmo(estimator, norm).constraint(constraint).scale(Scale::Rms);
                for (rows, columns) in [(1, 1), (5, 3), (12, 20), (40, 9), (70, 70)] {
                    let (x, y, naive) = both::<f64>(&algorithm, rows, columns, 22);
                    let label = format!("{} {rows}x{columns}", algorithm.composition());
                    // Amplified by Newton-Schulz, whose slope at 0 is 485.
                    assert!(relative(&x, &wide(&naive.x)) < 1e-11, "{label}");
                    assert!(relative(&y, &wide(&naive.y)) < 1e-11, "{label}");
                }
            }
        }
    }
}

#[test]
fn presets_of_the_family_to_rounding() {
    let presets = [
        Algorithm::nsgd(),
        Algorithm::muon(),
        Algorithm::muon().ns_coefficients(Coefficients::PolarExpress).adjust_lr_fn(Scale::MatchRmsAdamw),
        Algorithm::orthogonal_sgdm(),
        Algorithm::scion(),
        Algorithm::scion().norm(Norm::Columns).scale(Scale::Factor(5.0)),
    ];
    for algorithm in presets {
        let (x, _, naive) = both::<f64>(&algorithm, 24, 36, 23);
        assert!(relative(&x, &wide(&naive.x)) < 1e-11, "{}", algorithm.composition());
    }
    let f32_muon = Algorithm::muon().ns_dtype(NsDtype::F32);
    let (x, _, naive) = both::<f32>(&f32_muon, 24, 36, 24);
    assert!(relative(&x, &wide(&naive.x)) < 1e-5);
}

#[test]
fn the_oracle_is_double_precision() {
    let (fast, _, _) = both::<f64>(&Algorithm::muon(), 24, 36, 25);
    let (single, _, _) = both::<f32>(&Algorithm::muon().ns_dtype(NsDtype::F32), 24, 36, 25);
    let error = relative(&single, &fast);
    assert!(error > 1e-9 && error < 1e-4, "{error:e}");
    assert_eq!(<f64 as Real>::PRECISION, Precision::F64);
}
