//! Command lines that are wrong.

use crate::fixture::Case;

/// (command line, what must be said)
#[rustfmt::skip] // one row a line
const ROWS: &[(&str, &[&str])] = &[
    ("", &["Usage: orthant"]),
    ("stepp", &["unrecognized subcommand 'stepp'", "step"]),
    ("train", &["unrecognized subcommand 'train'"]),
    ("--frobnicate", &["unexpected argument '--frobnicate'"]),
    ("step", &["--config", "--params", "--grads", "--out"]),
    ("step --params params.safetensors --grads grads.safetensors --out out", &["--config <CONFIG>"]),
    ("step --config config.toml --grads grads.safetensors --out out", &["--params <PARAMS>"]),
    ("step --config config.toml --params params.safetensors --out out", &["--grads <FILE>"]),
    ("step --config config.toml --params params.safetensors --grads grads.safetensors", &["--out <DIR>"]),
    ("step --config config.toml --params params.safetensors --grads --out out", &["--grads <FILE>", "value"]),
    ("step --config config.toml --config config.toml --params params.safetensors --grads grads.safetensors --out out", &["--config", "multiple times"]),
    ("step --config config.toml --params params.safetensors --grads grads.safetensors --out out --lr 0.1", &["unexpected argument '--lr'"]),
    ("step config.toml", &["unexpected argument 'config.toml'"]),
    ("plan", &["--config", "--params"]),
    ("plan --config config.toml", &["--params <PARAMS>"]),
    ("plan --params params.safetensors", &["--config <CONFIG>"]),
    ("plan --config config.toml --params params.safetensors --grads grads.safetensors", &["unexpected argument '--grads'"]),
    ("info extra", &["unexpected argument 'extra'"]),
    ("info -q -v", &["cannot be used with"]),
    ("plan --config config.toml --params params.safetensors --quiet --verbose", &["cannot be used with"]),
    ("info --device gpu", &["device `gpu`", "must be auto, cpu"]),
    ("info --device cuda:x", &["device `cuda:x`", "must be"]),
    ("info --device cuda:-1", &["device `cuda:-1`", "must be"]),
    ("info --device cuda:99999999999", &["device `cuda:99999999999`", "no card of this number"]),
    ("info --device emulated:sm_120", &["device `emulated:sm_120`", "must be"]),
    ("info --device CPU", &["device `CPU`", "must be"]),
    ("info --device cpu:0", &["device `cpu:0`", "must be"]),
    ("info --device=", &["device ``", "must be"]),
    ("info --device", &["--device <DEVICE>"]),
    ("step --config config.toml --params params.safetensors --grads grads.safetensors --out out --device emulated --precision f64", &["device `emulated:sm_80`", "f64", "stay on device `cpu`"]),
    ("plan --config config.toml --params params.safetensors --device emulated --precision f64", &["device `emulated:sm_80`", "f64", "stay on device `cpu`"]),
    ("step --config config.toml --params params.safetensors --grads grads.safetensors --out out --precision f16", &["'f16'", "--precision", "f32, f64"]),
    ("step --config config.toml --params params.safetensors --grads grads.safetensors --out out --precision bf16", &["'bf16'", "f32, f64"]),
    ("plan --config config.toml --params params.safetensors --precision", &["--precision"]),
    ("step --config config.toml --params params.safetensors --grads grads.safetensors --prev-grads grads.safetensors grads.safetensors --out out", &["2 --prev-grads", "1 --grads", "one to one"]),
    ("step --config config.toml --params params.safetensors --grads grads.safetensors grads.safetensors --prev-grads grads.safetensors --out out", &["1 --prev-grads", "2 --grads", "one to one"]),
    ("step --config config.toml --params params.safetensors --grads grads.safetensors --prev-grads grads.safetensors --out out", &["--prev-grads were given", "no group uses them"]),
];

pub fn cases() -> Vec<Case> {
    let mut out: Vec<Case> = ROWS
        .iter()
        .map(|(line, says)| Case::new(format!("orthant {line}"), 2).command(line).says(*says))
        .collect();
    out.push(
        Case::new("f64 parameters under --precision f32", 2)
            .file("params.safetensors", crate::fixture::file(&[("w", "F64", &[1], vec![0; 8])]))
            .command(&format!("{} --precision f32", crate::fixture::STEP))
            .says(["parameter `w`", "stored in f64"]),
    );
    out
}
