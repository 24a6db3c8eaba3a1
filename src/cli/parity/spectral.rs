//! Orthogonalisations in 16 bits, held to the same polynomial in f64.
//!
//! A row a matrix: spectra, shapes, methods, number formats, coefficient sets. Tensor cores add up in an order of their own: the
//! tolerance is a fifth more than the largest error of the CPU's iteration in the same format on the matrix, the same with its
//! columns from last to first, and with rows and columns so, and half a unit of the format. No singular value may exceed the
//! coefficients' bound by more than a twentieth.

use orthant::algorithm::{Coefficients, Constraint, Estimator, NewtonSchulz, Norm, NsDtype, NsMethod, Scale};
use orthant::{Algorithm, Device, Dtype, Group, Optimizer, Parameter, Precision, Tensor};
use rayon::prelude::*;

use super::check::Place;
use crate::cli::noise::Noise;
use crate::cli::singular::singular_values;

/// What a matrix's singular values are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spectrum {
    Gaussian,
    /// From 1 down to 1e-4.
    Geometric,
    /// Ones, and two thirds zeros.
    Deficient,
    RankOne,
    Orthogonal,
    Zero,
    Huge,
    Tiny,
}

const SPECTRA: [(&str, Spectrum); 8] = [
    ("gaussian", Spectrum::Gaussian),
    ("geometric", Spectrum::Geometric),
    ("rank-deficient", Spectrum::Deficient),
    ("rank-1", Spectrum::RankOne),
    ("orthogonal", Spectrum::Orthogonal),
    ("zero", Spectrum::Zero),
    ("gaussian 1e30", Spectrum::Huge),
    ("gaussian 1e-30", Spectrum::Tiny),
];

/// Wide, tall, square, odd, and vectors both ways.
const SHAPES: [(usize, usize); 8] =
    [(32, 144), (144, 32), (48, 48), (19, 101), (45, 67), (130, 136), (1, 77), (77, 1)];
const QUICK_SHAPES: [(usize, usize); 3] = [(32, 128), (45, 37), (1, 77)];
/// Gaussian matrices beside them, where a card does the work.
const LARGE: [(usize, usize); 3] = [(256, 1024), (1200, 300), (512, 512)];

/// Methods and formats, and the largest error of Gaussian matrices, four times as long as short, by Jordan's coefficients.
const VARIANTS: [(&str, NsMethod, &str, NsDtype, f64); 3] = [
    ("standard", NsMethod::Standard, "f16", NsDtype::F16, 3e-3),
    ("gram", NsMethod::Gram, "f16", NsDtype::F16, 5e-3),
    ("standard", NsMethod::Standard, "bf16", NsDtype::Bf16, 2.5e-2),
];

/// Elements up to which all singular values are computed.
const JACOBI: usize = 20_000;

/// What an orthogonalisation came to.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub case: String,
    pub spectrum: &'static str,
    pub shape: [usize; 2],
    pub method: &'static str,
    pub dtype: &'static str,
    /// Relative to the f64 direction, in Frobenius's norm; of a zero matrix the norm itself.
    pub error: f64,
    pub tolerance: f64,
    pub sigma_max: f64,
    pub sigma_limit: f64,
    /// `<G, O>` over the sum of G's singular values, which is 1 for the exact direction.
    pub dual: Option<f64>,
}

impl Outcome {
    pub fn ok(&self) -> bool {
        // NaN is no number within bounds.
        self.error <= self.tolerance && self.sigma_max <= self.sigma_limit
    }
}

struct Sample {
    spectrum: Spectrum,
    name: &'static str,
    rows: usize,
    columns: usize,
    values: Vec<f32>,
    /// The sum of its singular values, where finding them is worth its time.
    nuclear: Option<f64>,
}

/// Which of rows and columns go from last to first.
type Reorder = (bool, bool);
/// With the order of sums what rounding comes to changes.
const ORDERS: [Reorder; 2] = [(false, true), (true, true)];

/// All of them; on the software GPU and the CPU small ones alone.
pub fn run(place: &Place, device: Device, quick: bool, seed: u64) -> orthant::Result<Vec<Outcome>> {
    let sets: &[Coefficients] = match quick {
        true => &[Coefficients::Jordan, Coefficients::PolarExpress],
        false => &[
            Coefficients::Jordan,
            Coefficients::You,
            Coefficients::PolarExpress,
            Coefficients::Speedrun,
            Coefficients::Cans,
        ],
    };
    let samples = samples(quick, matches!(device, Device::Cuda(_)), seed);
    let orders: Vec<Vec<Sample>> =
        ORDERS.map(|order| samples.iter().map(|s| s.reordered(order)).collect()).into();
    let mut outcomes = vec![];
    for set in sets {
        let wanted = directions(None, set, NsMethod::Standard, NsDtype::F64, &samples)?;
        let bound = NewtonSchulz { coefficients: set.clone(), ..NewtonSchulz::default() }.sigma_bound();
        for variant in VARIANTS {
            let (_, method, _, dtype, _) = variant;
            let mut cpu = vec![directions(Some(&Place::Cpu), set, method, dtype, &samples)?];
            for samples in &orders {
                cpu.push(directions(Some(&Place::Cpu), set, method, dtype, samples)?);
            }
            let found = match place {
                Place::Cpu => cpu[0].clone(),
                #[cfg(feature = "cuda")]
                Place::Card(_) => directions(Some(place), set, method, dtype, &samples)?,
            };
            let outcome = |(i, sample): (usize, &Sample)| {
                let others = ORDERS.iter().zip(&cpu[1..]);
                let others = others.map(|(&order, of)| distance(&of[i], &sample.reorder(&wanted[i], order)));
                let error = others.fold(distance(&cpu[0][i], &wanted[i]), f64::max);
                sample.outcome(set, variant, (&found[i], &wanted[i]), error, bound)
            };
            outcomes.par_extend(samples.par_iter().enumerate().map(outcome));
        }
    }
    Ok(outcomes)
}

impl Sample {
    /// `cpu_error`: the largest of the CPU's in the same format.
    fn outcome(
        &self,
        set: &Coefficients,
        (method, _, dtype_name, dtype, most): (&'static str, NsMethod, &'static str, NsDtype, f64),
        (found, wanted): (&[f64], &[f64]),
        cpu_error: f64,
        bound: f64,
    ) -> Outcome {
        // Half a unit in the last place: what rounding the result alone may do.
        let floor = if dtype == NsDtype::F16 { 1.0 / 2048.0 } else { 1.0 / 256.0 };
        let mut tolerance = 1.2 * cpu_error + floor;
        let (short, long) = (self.rows.min(self.columns), self.rows.max(self.columns));
        // Of a vector, one number's rounding is all there is.
        let long_gaussian = self.spectrum == Spectrum::Gaussian && short >= 32 && long >= 4 * short;
        if *set == Coefficients::Jordan && long_gaussian {
            tolerance = tolerance.min(most);
        }
        let inner: f64 = self.values.iter().zip(found).map(|(g, o)| f64::from(*g) * o).sum();
        Outcome {
            case: format!(
                "{} {}x{}: {method} {dtype_name}, {}",
                self.name,
                self.rows,
                self.columns,
                set.name()
            ),
            spectrum: self.name,
            shape: [self.rows, self.columns],
            method,
            dtype: dtype_name,
            error: distance(found, wanted),
            tolerance,
            sigma_max: largest_singular_value(found, self.rows, self.columns),
            sigma_limit: 1.05 * bound,
            dual: self.nuclear.filter(|nuclear| *nuclear > 0.0).map(|nuclear| inner / nuclear),
        }
    }

    /// A row-major matrix of its shape with its rows and columns in another order.
    fn reorder<T: Copy>(&self, values: &[T], (rows, columns): Reorder) -> Vec<T> {
        let at = |i: usize| {
            let (row, column) = (i / self.columns, i % self.columns);
            let row = if rows { self.rows - 1 - row } else { row };
            let column = if columns { self.columns - 1 - column } else { column };
            values[row * self.columns + column]
        };
        (0..values.len()).map(at).collect()
    }

    fn reordered(&self, order: Reorder) -> Self {
        Self { values: self.reorder(&self.values, order), ..*self }
    }
}

/// To about a hundredth where there are many elements.
fn largest_singular_value(values: &[f64], rows: usize, columns: usize) -> f64 {
    if rows * columns <= JACOBI {
        return singular_values(values, rows, columns).first().copied().unwrap_or_default();
    }
    let mut v = Noise(1).gaussian(columns);
    let mut largest = 0.0f64;
    for _ in 0..100 {
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        v.iter_mut().for_each(|v| *v /= norm);
        let u: Vec<f64> =
            values.chunks(columns).map(|row| row.iter().zip(&v).map(|(a, v)| a * v).sum()).collect();
        largest = u.iter().map(|u| u * u).sum::<f64>().sqrt();
        v.fill(0.0);
        for (row, u) in values.chunks(columns).zip(&u) {
            v.iter_mut().zip(row).for_each(|(v, a)| *v += a * u);
        }
    }
    largest
}

fn distance(found: &[f64], wanted: &[f64]) -> f64 {
    let off = found.iter().zip(wanted).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
    let norm = wanted.iter().map(|v| v * v).sum::<f64>().sqrt();
    if norm > 0.0 { off / norm } else { off }
}

fn samples(quick: bool, on_card: bool, seed: u64) -> Vec<Sample> {
    let shapes: &[(usize, usize)] = if quick { &QUICK_SHAPES } else { &SHAPES };
    let large: &[(usize, usize)] = if on_card && !quick { &LARGE } else { &[] };
    let all = shapes.iter().flat_map(|&shape| SPECTRA.map(|spectrum| (shape, spectrum)));
    let all = all.chain(large.iter().map(|&shape| (shape, SPECTRA[0])));
    let sample = |i: u64, (rows, columns): (usize, usize), (name, spectrum): (&'static str, Spectrum)| {
        let values = matrix(spectrum, rows, columns, &mut Noise(seed ^ ((i + 1) << 32)));
        let values: Vec<f32> = values.into_iter().map(|v| v as f32).collect();
        let wide: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
        let worth_it = rows * columns <= JACOBI;
        let nuclear = worth_it.then(|| singular_values(&wide, rows, columns).iter().sum());
        Sample { spectrum, name, rows, columns, values, nuclear }
    };
    let numbered = (0..).zip(all).collect::<Vec<_>>().into_par_iter();
    numbered.map(|(i, (shape, spectrum))| sample(i, shape, spectrum)).collect()
}

/// Row-major.
fn matrix(spectrum: Spectrum, rows: usize, columns: usize, noise: &mut Noise) -> Vec<f64> {
    let short = rows.min(columns);
    let scaled = |scale: f64, noise: &mut Noise| -> Vec<f64> {
        noise.gaussian(rows * columns).into_iter().map(|v| v * scale).collect()
    };
    let singular: Vec<f64> = match spectrum {
        Spectrum::Gaussian => return scaled(1.0, noise),
        Spectrum::Huge => return scaled(1e30, noise),
        Spectrum::Tiny => return scaled(1e-30, noise),
        Spectrum::Zero => return vec![0.0; rows * columns],
        Spectrum::Geometric => {
            let last = short.saturating_sub(1).max(1) as f64;
            (0..short).map(|i| 10f64.powf(-4.0 * i as f64 / last)).collect()
        }
        Spectrum::Deficient => (0..short).map(|i| f64::from(u8::from(3 * i < short))).collect(),
        Spectrum::RankOne => vec![1.0],
        Spectrum::Orthogonal => vec![1.0; short],
    };
    let (left, right) =
        (orthonormal(singular.len(), rows, noise), orthonormal(singular.len(), columns, noise));
    let mut out = vec![0.0; rows * columns];
    for ((s, u), v) in singular.iter().zip(&left).zip(&right) {
        for (row, u) in out.chunks_mut(columns).zip(u) {
            row.iter_mut().zip(v).for_each(|(x, v)| *x += s * u * v);
        }
    }
    out
}

/// So many orthonormal vectors, by Gram and Schmidt's method, twice over.
fn orthonormal(count: usize, length: usize, noise: &mut Noise) -> Vec<Vec<f64>> {
    let mut found: Vec<Vec<f64>> = vec![];
    for _ in 0..count {
        let mut v = noise.gaussian(length);
        for _ in 0..2 {
            for u in &found {
                let along: f64 = u.iter().zip(&v).map(|(u, v)| u * v).sum();
                v.iter_mut().zip(u).for_each(|(v, u)| *v -= along * u);
            }
        }
        let norm = v.iter().map(|v| v * v).sum::<f64>().sqrt();
        v.iter_mut().for_each(|v| *v /= norm);
        found.push(v);
    }
    found
}

/// Minus what a step of size 1 does to zeros; without a place in f64 on the CPU.
fn directions(
    place: Option<&Place>,
    set: &Coefficients,
    method: NsMethod,
    dtype: NsDtype,
    samples: &[Sample],
) -> orthant::Result<Vec<Vec<f64>>> {
    let algorithm = Algorithm::lmo(Estimator::None, Norm::Spectral)
        .constraint(Constraint::None)
        .scale(Scale::None)
        .ns_coefficients(set.clone())
        .ns_method(method)
        .ns_dtype(dtype);
    let stored = if place.is_some() { Dtype::F32 } else { Dtype::F64 };
    let zeros = |sample: &Sample| Tensor::zeros(stored, &[sample.rows, sample.columns]);
    let data: Vec<Tensor> = samples.iter().map(zeros).collect::<orthant::Result<_>>()?;
    let mut parameters = vec![];
    for (i, (sample, data)) in samples.iter().zip(&data).enumerate() {
        let shape = [sample.rows, sample.columns];
        let grad = match stored {
            Dtype::F32 => Tensor::from_vec(sample.values.clone(), &shape)?,
            _ => Tensor::from_vec(sample.values.iter().map(|v| f64::from(*v)).collect(), &shape)?,
        };
        parameters.push(Parameter::new(format!("p{i}"), data.clone()).grad(grad));
    }
    let builder = match place {
        None => Optimizer::builder(Device::Cpu).precision(Precision::F64),
        Some(Place::Cpu) => Optimizer::builder(Device::Cpu),
        #[cfg(feature = "cuda")]
        Some(Place::Card(context)) => Optimizer::builder(context.device()).context(context.clone()),
    };
    let group = Group::new("all", algorithm).lr(1.0).params(["*"]);
    builder.group(group).register(parameters)?.step()?;
    Ok(data.iter().map(|data| data.to_vec_f64().into_iter().map(|v| -v).collect()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_the_largest_singular_value_agree() {
        let values = matrix(Spectrum::Gaussian, 120, 180, &mut Noise(2));
        let (found, exact) =
            (largest_singular_value(&values, 120, 180), singular_values(&values, 120, 180)[0]);
        assert!(found <= exact * (1.0 + 1e-12) && found > 0.99 * exact, "{found} {exact}");
    }

    #[test]
    fn spectra_are_what_they_are_called() {
        let of = |spectrum| singular_values(&matrix(spectrum, 12, 30, &mut Noise(1)), 12, 30);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-12, "{a} {b}");
        let geometric = of(Spectrum::Geometric);
        near(geometric[0], 1.0);
        near(geometric[11], 1e-4);
        let deficient = of(Spectrum::Deficient);
        near(deficient[3], 1.0);
        near(deficient[4], 0.0);
        near(of(Spectrum::RankOne)[1], 0.0);
        near(of(Spectrum::Orthogonal)[11], 1.0);
        assert!(
            of(Spectrum::Huge)[11] > 1e29 && of(Spectrum::Tiny)[0] < 1e-28 && of(Spectrum::Zero)[0] == 0.0
        );
    }

    /// The CPU keeps to its own bounds, and a direction that is a little off does not.
    #[test]
    fn errors_are_seen() {
        let outcomes = run(&Place::Cpu, Device::Cpu, true, 0).expect("steps");
        for outcome in &outcomes {
            assert!(outcome.ok(), "{outcome:?}");
            assert!(outcome.dual.is_none_or(|dual| dual > 0.3 && dual < 1.3), "{outcome:?}");
            assert_eq!(outcome.dual.is_none(), outcome.spectrum == "zero", "{outcome:?}");
            let other = Outcome { error: 1.3 * outcome.tolerance, ..outcome.clone() };
            assert!(!other.ok());
            let wild = Outcome { sigma_max: f64::NAN, ..outcome.clone() };
            assert!(!wild.ok());
        }
        assert_eq!(outcomes.len(), 2 * 3 * 3 * 8);
    }
}
