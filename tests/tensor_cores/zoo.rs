//! Directions of matrices, by the card and by the reference.

use nalgebra::DMatrix;
use orthant::config::Config;
use orthant::{Device, Optimizer, Parameter, Precision, StepReport, Tensor};

use crate::context;

/// A free composition that steps by minus the direction of the gradient.
pub fn config(newton_schulz: &str) -> Config {
    let text = format!(
        "[[group]]\nparams = [\"*\"]\nalgorithm = \"lmo\"\nnorm = \"spectral\"\nestimator = {{ kind = \"none\" }}\n\
         scale = \"none\"\nconstraint = {{ kind = \"none\" }}\nlr = 1.0\n{newton_schulz}"
    );
    Config::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// The directions of matrices.
pub fn directions(device: Device, config: &Config, matrices: &[DMatrix<f64>]) -> Vec<DMatrix<f64>> {
    directions_of(device, config, matrices, None).0
}

/// The same with the report of the step.
pub fn reported(
    device: Device,
    config: &Config,
    matrices: &[DMatrix<f64>],
) -> (Vec<DMatrix<f64>>, StepReport) {
    directions_of(device, config, matrices, None)
}

/// Computed in f64 by the reference, to the polynomial's last digits.
pub fn oracle(newton_schulz: &str, matrices: &[DMatrix<f64>]) -> Vec<DMatrix<f64>> {
    let config = config(&format!("{newton_schulz}\nns_dtype = \"f64\""));
    directions_of(Device::Cpu, &config, matrices, Some(Precision::F64)).0
}

fn directions_of(
    device: Device,
    config: &Config,
    matrices: &[DMatrix<f64>],
    precision: Option<Precision>,
) -> (Vec<DMatrix<f64>>, StepReport) {
    let tensor = |m: &DMatrix<f64>, values: Vec<f64>| match precision {
        Some(_) => Tensor::from_vec(values, &[m.nrows(), m.ncols()]),
        None => Tensor::from_vec(values.iter().map(|&v| v as f32).collect(), &[m.nrows(), m.ncols()]),
    };
    let tensor = |m: &DMatrix<f64>, values| tensor(m, values).expect("it fits");
    let data: Vec<Tensor> = matrices.iter().map(|m| tensor(m, vec![0.0; m.len()])).collect();
    let parameters = matrices.iter().zip(&data).enumerate().map(|(i, (m, data))| {
        // Column-major is the transpose's row-major order.
        Parameter::new(format!("p{i}"), data.clone()).grad(tensor(m, m.transpose().as_slice().to_vec()))
    });
    let builder = Optimizer::builder(device).groups(config.groups.clone()).options(config.options);
    let builder =
        if device == Device::Cpu { builder } else { builder.context(context().expect("a context")) };
    let builder = match precision {
        Some(precision) => builder.precision(precision),
        None => builder,
    };
    let mut optimizer = builder.register(parameters).unwrap_or_else(|e| panic!("{e}"));
    let report = optimizer.step().unwrap_or_else(|e| panic!("{e}"));
    let values = |(m, data): (&DMatrix<f64>, &Tensor)| {
        let storage = data.to_storage();
        let values: Vec<f64> = (0..storage.len()).map(|i| -storage.get_f64(i).expect("inside")).collect();
        DMatrix::from_row_slice(m.nrows(), m.ncols(), &values)
    };
    (matrices.iter().zip(&data).map(values).collect(), report)
}
