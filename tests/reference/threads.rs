//! Results do not depend on the number of threads, nor on what else is in the step.

use orthant::{Algorithm, Device, Group, Optimizer, Parameter, Tensor};

use crate::common::Random;

/// A few parameters large enough for every parallel path.
const SHAPES: [(&str, [usize; 2]); 4] =
    [("a.weight", [300, 520]), ("b.weight", [520, 300]), ("c.weight", [256, 256]), ("d.vector", [1, 70_001])];

fn run(threads: usize, names: &[&str], algorithm: &Algorithm) -> Vec<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| {
        let parameters: Vec<(&str, Tensor, Tensor)> = SHAPES
            .iter()
            .enumerate()
            .filter(|(_, (name, _))| names.contains(name))
            .map(|(i, (name, shape))| {
                let mut random = Random(i as u64);
                let mut draw =
                    || -> Vec<f32> { (0..shape[0] * shape[1]).map(|_| random.normal() as f32).collect() };
                let data = Tensor::from_vec(draw(), shape).unwrap();
                (*name, data, Tensor::from_vec(draw(), shape).unwrap())
            })
            .collect();
        let mut optimizer = Optimizer::builder(Device::Cpu)
            .group(Group::new("g", algorithm.clone()).lr(0.1).weight_decay(0.1).params(["*"]))
            .register(
                parameters
                    .iter()
                    .map(|(name, data, grad)| Parameter::new(*name, data.clone()).grad(grad.clone())),
            )
            .unwrap();
        optimizer.step().unwrap();
        optimizer.step().unwrap();
        parameters
            .iter()
            .map(|(_, data, _)| data.to_vec::<f32>().unwrap().iter().map(|v| v.to_bits()).collect())
            .collect()
    })
}

#[test]
fn bits_do_not_depend_on_threads_or_company() {
    let all: Vec<&str> = SHAPES.iter().map(|(name, _)| *name).collect();
    for algorithm in [Algorithm::muon(), Algorithm::nsgd(), Algorithm::lion(), Algorithm::adamw()] {
        let one = run(1, &all, &algorithm);
        for threads in [2, 3, 8] {
            assert!(run(threads, &all, &algorithm) == one, "{} with {threads} threads", algorithm.name());
        }
        for (i, name) in all.iter().enumerate() {
            assert!(run(2, &[name], &algorithm)[0] == one[i], "{} alone: {name}", algorithm.name());
        }
    }
}
