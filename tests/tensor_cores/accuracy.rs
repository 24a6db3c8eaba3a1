//! How far directions are from those of the same polynomial in f64.

use orthant::Device;

use crate::common::Random;
use crate::device;
use crate::zoo::{config, directions, oracle};

#[test]
fn gaussian_matrices_are_accurate() {
    let shapes = [(64, 256), (128, 512), (256, 64), (100, 417), (300, 70), (1, 9), (192, 192), (5, 1000)];
    let mut random = Random(1);
    let matrices: Vec<_> = shapes.iter().map(|&(r, c)| random.gaussian(r, c)).collect();
    for set in ["jordan", "you", "polar-express", "speedrun", "cans"] {
    for (method, dtype, most) in [("standard", "f16", 3e-3), ("gram", "f16", 5e-3), ("standard", "bf16", 2.5e-2)] {
        let coefficients = format!("ns_coefficients = \"{set}\"");
        let ours = format!("{coefficients}\nns_method = \"{method}\"\nns_dtype = \"{dtype}\"");
        let found = directions(device(), &config(&ours), &matrices);
        let cpu = directions(Device::Cpu, &config(&ours), &matrices);
        for ((found, cpu), wanted) in found.iter().zip(cpu).zip(oracle(&coefficients, &matrices)) {
            let error = (found - &wanted).norm() / wanted.norm();
            let cpu = (cpu - &wanted).norm() / wanted.norm();
            println!("{set} {method} {dtype} {} x {}: {error:.2e} {cpu:.2e}", wanted.nrows(), wanted.ncols());
        }
    }}
}
