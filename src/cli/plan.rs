//! `orthant plan`: the routing table.

use std::path::PathBuf;

use comfy_table::{Table, presets};
use orthant::algorithm::Slot;
use orthant::files::read_tensors;
use orthant::{Device, Dtype, ParameterSpec, Plan, StepOptions};

use super::{Common, print, read_config, unfit};

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
    let plan = Plan::new(config.groups, specs, common.precision()).map_err(unfit)?;
    let runs = Runs::new(device, &plan, &config.options).map_err(unfit)?;
    if common.json {
        print(&json(&plan, &runs));
    } else if !common.quiet {
        print(&text(&plan, &runs));
    }
    Ok(())
}

/// What takes steps there. No driver is asked: a plan can be made where there is no card.
struct Runs {
    device: Device,
    /// Of each group.
    kernels: Vec<Vec<&'static str>>,
    /// State, work space, tables.
    bytes: Option<[usize; 3]>,
    products: Option<Products>,
}

/// What tensor cores are given.
struct Products {
    workspace: usize,
    cohorts: usize,
    /// Of the whole step.
    launches: u32,
    flops: (u64, u64),
    /// Matrices by group and shape, the first ones first.
    shapes: Vec<Shape>,
}

/// Matrices of a shape.
struct Shape {
    group: usize,
    rows: usize,
    columns: usize,
    count: usize,
    method: &'static str,
    dtype: &'static str,
    /// Needed and executed, of all of them.
    flops: (u64, u64),
}

impl Runs {
    fn new(device: Device, plan: &Plan, options: &StepOptions) -> orthant::Result<Self> {
        if device == Device::Cpu {
            return Ok(Self {
                device,
                kernels: vec![vec!["cpu"]; plan.groups.len()],
                bytes: None,
                products: None,
            });
        }
        #[cfg(feature = "cuda")]
        {
            use orthant::cuda;
            cuda::check_plan(device, plan)?;
            let kernels = plan.groups.iter().map(|group| cuda::kernels(group, options));
            let kernels = kernels.collect::<orthant::Result<_>>()?;
            let products = Products::new(plan, options)?;
            Ok(Self { device, kernels, bytes: Some(cuda::device_bytes(plan, options)?), products })
        }
        #[cfg(not(feature = "cuda"))]
        {
            let _ = options;
            Err(orthant::Driver::open(device).err().unwrap_or(orthant::Error::NoGradients))
        }
    }
}

impl Products {
    #[cfg(feature = "cuda")]
    fn new(plan: &Plan, options: &StepOptions) -> orthant::Result<Option<Self>> {
        use orthant::algorithm::{NsMethod, Rule};
        let schedule = orthant::schedule::Schedule::new(plan, options.max_workspace)?;
        let mut shapes: Vec<Shape> = vec![];
        for (cohort, item) in schedule.cohorts.iter().flat_map(|c| c.items.iter().map(move |item| (c, item)))
        {
            let (group, rows, columns) = (cohort.group, item.view.rows, item.view.columns);
            let Rule::Lmo(lmo) = plan.groups[group].algorithm().rule() else { continue };
            let of = (item.program.ideal_flops(rows, columns), item.program.executed_flops(rows, columns));
            let same = |s: &&mut Shape| (s.group, s.rows, s.columns) == (group, rows, columns);
            if let Some(shape) = shapes.iter_mut().find(same) {
                shape.count += 1;
                shape.flops = (shape.flops.0 + of.0, shape.flops.1 + of.1);
                continue;
            }
            let gram = lmo.newton_schulz.method_for(rows, columns) == NsMethod::Gram;
            let method = if gram { "gram" } else { "standard" };
            let dtype = if cohort.half { "f16" } else { "bf16" };
            shapes.push(Shape { group, rows, columns, count: 1, method, dtype, flops: of });
        }
        if shapes.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self {
            workspace: schedule.space.bytes,
            cohorts: schedule.cohorts.len(),
            launches: orthant::cuda::launches(plan, options)?,
            flops: schedule.flops(),
            shapes,
        }))
    }

    fn json(&self, plan: &Plan) -> serde_json::Value {
        let shape = |s: &Shape| {
            serde_json::json!({
                "group": plan.groups[s.group].name(),
                "shape": [s.rows, s.columns],
                "matrices": s.count,
                "method": s.method,
                "dtype": s.dtype,
                "ideal_flops": s.flops.0,
                "tensor_flops": s.flops.1,
            })
        };
        serde_json::json!({
            "workspace": self.workspace,
            "cohorts": self.cohorts,
            "launches": self.launches,
            "ideal_flops": self.flops.0,
            "tensor_flops": self.flops.1,
            "shapes": self.shapes.iter().map(shape).collect::<Vec<_>>(),
        })
    }

    fn text(&self, plan: &Plan) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_HORIZONTAL_ONLY);
        table.set_header(["group", "matrices", "shape", "method", "dtype", "MFLOP", "executed"]);
        let mega = |flops: u64| format!("{:.1}", flops as f64 / 1e6);
        for s in &self.shapes {
            table.add_row([
                plan.groups[s.group].name().to_owned(),
                s.count.to_string(),
                format!("{} x {}", s.rows, s.columns),
                s.method.to_owned(),
                s.dtype.to_owned(),
                mega(s.flops.0),
                mega(s.flops.1),
            ]);
        }
        format!(
            "orthogonalised, with {} MFLOP a step ({} executed), in {} cohorts that share {} bytes of work space; \
             {} launches a step\n{table}",
            mega(self.flops.0),
            mega(self.flops.1),
            self.cohorts,
            self.workspace,
            self.launches
        )
    }
}

/// A state buffer: name and type, as in the state file.
fn state((slot, dtype): &(Slot, Dtype)) -> String {
    match slot {
        Slot::Low => format!("{} i16", slot.name()),
        _ => format!("{} {dtype}", slot.name()),
    }
}

fn json(plan: &Plan, runs: &Runs) -> String {
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
                "kernels": runs.kernels[p.group],
                "state": p.slots.iter().map(state).collect::<Vec<_>>(),
                "state_bytes": p.state_bytes(),
                "reason": p.reason,
            })
        })
        .collect();
    let bytes = runs.bytes.map(|[state, work, tables]| {
        serde_json::json!({ "state": state, "work": work, "tables": tables, "all": state + work + tables })
    });
    serde_json::json!({
        "device": runs.device.to_string(),
        "precision": plan.precision.name(),
        "state_bytes": plan.state_bytes(),
        "device_bytes": bytes,
        "orthogonalised": runs.products.as_ref().map(|products| products.json(plan)),
        "warnings": plan.warnings,
        "rows": rows,
    })
    .to_string()
}

fn text(plan: &Plan, runs: &Runs) -> String {
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
            runs.kernels[p.group].join(", "),
            p.state_bytes().to_string(),
            p.reason.clone(),
        ]);
    }
    let mut out = format!("device {}, precision {}\n{table}", runs.device, plan.precision.name());
    for warning in &plan.warnings {
        out.push_str(&format!("\nwarning: {warning}"));
    }
    out.push_str(&format!("\n{} parameters, {} bytes of state", plan.parameters.len(), plan.state_bytes()));
    if let Some(products) = &runs.products {
        out.push_str(&format!("\n{}", products.text(plan)));
    }
    if let Some([state, work, tables]) = runs.bytes {
        out.push_str(&format!(
            "\n{} bytes on the device beside the tensors: state {state}, work space {work}, tables {tables}",
            state + work + tables
        ));
    }
    out
}
