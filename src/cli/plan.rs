//! `orthant plan`: the routing table.

use std::path::PathBuf;

use anyhow::Context;
use comfy_table::{Table, presets};
use orthant::algorithm::Slot;
use orthant::files::read_tensors;
use orthant::{Dtype, ParameterSpec, Plan};

use super::{Common, Unfit, print, read_config};

#[derive(clap::Args)]
pub struct Options {
    /// Groups, as TOML
    #[arg(long)]
    config: PathBuf,
    /// Parameters, as safetensors; the keys are the names
    #[arg(long)]
    params: PathBuf,
}

pub fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let device = common.device()?;
    device.check_runs()?;
    let config = read_config(&options.config)?;
    let specs = read_tensors(&options.params)?
        .iter()
        .map(|(name, tensor)| ParameterSpec {
            name: name.clone(),
            shape: tensor.shape().to_vec(),
            dtype: tensor.dtype(),
            grad_dtype: None,
        })
        .collect();
    let plan = Plan::new(config.groups, specs, common.precision()).context(Unfit)?;
    if common.json {
        print(&json(&plan, &device.to_string()));
    } else if !common.quiet {
        print(&text(&plan, &device.to_string()));
    }
    Ok(())
}

/// What runs a parameter's steps; the kernels of a GPU will have names of their own.
const KERNEL: &str = "cpu reference";

/// A state buffer: name and type, as in the state file.
fn state((slot, dtype): &(Slot, Dtype)) -> String {
    match slot {
        Slot::Low => format!("{} i16", slot.name()),
        _ => format!("{} {dtype}", slot.name()),
    }
}

fn json(plan: &Plan, device: &str) -> String {
    let rows: Vec<_> = plan
        .parameters
        .iter()
        .map(|p| {
            let group = plan.group_of(p);
            serde_json::json!({
                "parameter": p.spec.name,
                "shape": p.spec.shape,
                "dtype": p.spec.dtype.name(),
                "group": group.name(),
                "algorithm": group.algorithm().name(),
                "composition": group.algorithm().composition(),
                "matrices": p.matrices.iter().map(|m| [m.rows, m.columns]).collect::<Vec<_>>(),
                "kernels": [KERNEL],
                "state": p.slots.iter().map(state).collect::<Vec<_>>(),
                "state_bytes": p.state_bytes(),
                "reason": p.reason,
            })
        })
        .collect();
    serde_json::json!({
        "device": device,
        "precision": plan.precision.name(),
        "state_bytes": plan.state_bytes(),
        "warnings": plan.warnings,
        "rows": rows,
    })
    .to_string()
}

fn text(plan: &Plan, device: &str) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header(["parameter", "shape", "dtype", "group", "algorithm", "kernels", "state bytes", "why"]);
    for p in &plan.parameters {
        let group = plan.group_of(p);
        let matrices = match p.matrices.as_slice() {
            [] | [_] => String::new(),
            many => format!(" ({} matrices)", many.len()),
        };
        table.add_row([
            p.spec.name.clone(),
            format!("{:?}{matrices}", p.spec.shape),
            p.spec.dtype.to_string(),
            group.name().to_owned(),
            format!("{}: {}", group.algorithm().name(), group.algorithm().composition()),
            KERNEL.to_owned(),
            p.state_bytes().to_string(),
            p.reason.clone(),
        ]);
    }
    let mut out = format!("device {device}, precision {}\n{table}", plan.precision.name());
    for warning in &plan.warnings {
        out.push_str(&format!("\nwarning: {warning}"));
    }
    out.push_str(&format!("\n{} parameters, {} bytes of state", plan.parameters.len(), plan.state_bytes()));
    out
}
