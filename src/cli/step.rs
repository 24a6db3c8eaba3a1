//! `orthant step`: one optimizer step for each gradient file.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use orthant::algorithm::Slot;
use orthant::files::{read_tensors, write_tensors};
use orthant::{Dtype, Element, Error, NonFinite, Optimizer, Parameter, StepReport, Tensor};

use super::{Common, display, print, progress, read_config, unfit};

#[derive(clap::Args)]
pub struct Options {
    /// Groups, as TOML
    #[arg(long)]
    config: PathBuf,
    /// Parameters x, as safetensors; the keys are the names
    #[arg(long)]
    params: PathBuf,
    /// Gradients, one file a step; a parameter that a file lacks is left alone in that step
    #[arg(long, num_args = 1.., required = true, value_name = "FILE")]
    grads: Vec<PathBuf>,
    /// Gradients at the previous point on the same samples, one file a step (variance reduction only); without a
    /// state the first is not used
    #[arg(long, num_args = 1.., value_name = "FILE")]
    prev_grads: Vec<PathBuf>,
    /// State to start from: the state.safetensors beside the parameters (extrapolated methods read the
    /// eval_point.safetensors beside it, too)
    #[arg(long)]
    state: Option<PathBuf>,
    /// Folder for params.safetensors, state.safetensors and, for extrapolated methods, eval_point.safetensors
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

const PARAMS: &str = "params.safetensors";
const STATE: &str = "state.safetensors";
const EVAL_POINT: &str = "eval_point.safetensors";
/// Where they are written before they take their places.
const STAGED: &str = ".results.orthant-tmp";
const OUTPUTS: [&str; 3] = [PARAMS, STATE, EVAL_POINT];

pub fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let device = common.device()?;
    if !options.prev_grads.is_empty() && options.prev_grads.len() != options.grads.len() {
        return Err(Error::Config(format!(
            "{} --prev-grads files for {} --grads files: they pair one to one",
            options.prev_grads.len(),
            options.grads.len()
        ))
        .into());
    }
    let mut config = read_config(&options.config)?;
    config.options.seed = common.seed.unwrap_or(config.options.seed);
    check_out(&options.out)?;
    let tensors = read_tensors(&options.params)?;
    let must_be_finite = config.options.nonfinite != NonFinite::Propagate;
    let mut builder = Optimizer::builder(device).groups(config.groups).options(config.options);
    if let Some(precision) = common.precision() {
        builder = builder.precision(precision);
    }
    let mut optimizer = builder
        .register(tensors.iter().map(|(name, tensor)| Parameter::new(name, tensor.clone())))
        .map_err(unfit)?;
    let previous_used = optimizer.plan().groups.iter().any(|g| g.algorithm().needs_previous_gradient());
    if !options.prev_grads.is_empty() && !previous_used {
        return Err(Error::Config("--prev-grads were given, and no group uses them".into()).into());
    }
    if must_be_finite {
        check_finite(optimizer.parameters(), "in the file given")?;
    }
    if let Some(path) = &options.state {
        optimizer.load(path)?;
        check_iterates(&optimizer, &tensors, path)?;
        restore_points(&optimizer, &tensors, path, common)?;
        if must_be_finite {
            check_finite(optimizer.parameters(), "in the eval point given")?;
        }
    }

    let mut reports = vec![];
    let bar = progress(options.grads.len(), "steps", common);
    for (i, path) in options.grads.iter().enumerate() {
        let report = step(&mut optimizer, &tensors, path, options.prev_grads.get(i).map(PathBuf::as_path))
            .with_context(|| format!("step {} ({}); nothing was written", i + 1, display(path)))?;
        reports.push(report);
        bar.inc(1);
        if i == 0 && !common.quiet {
            // Only now are the gradients' types known.
            bar.suspend(|| optimizer.plan().warnings.iter().for_each(|w| eprintln!("warning: {w}")));
        }
    }
    bar.finish();

    if must_be_finite {
        check_finite(optimizer.parameters(), "after the steps: its type overflowed; nothing was written")?;
    }
    write(&mut optimizer, &options.out)?;
    if common.json {
        print(&json(&optimizer, &reports));
    } else if !common.quiet {
        print(&text(&optimizer, &reports, common.verbose));
        print(&format!("written to {}", display(&options.out)));
    }
    Ok(())
}

/// What would make writing the results fail after all the work, or after the first of the files.
fn check_out(out: &Path) -> anyhow::Result<()> {
    // `exists` is false below a file too, so the nearest thing that does exist is looked at.
    let nearest = out.ancestors().find(|p| p.symlink_metadata().is_ok());
    if let Some(file) = nearest.filter(|p| !p.is_dir()) {
        bail!("--out {}: {} is not a folder", display(out), display(file));
    }
    for name in OUTPUTS {
        if out.join(name).is_dir() {
            bail!("--out {}: {name} is a folder there", display(out));
        }
    }
    Ok(())
}

/// The parameters given beside a state must be the ones it was written with, as far as the state knows them.
fn check_iterates(
    optimizer: &Optimizer,
    tensors: &BTreeMap<String, Tensor>,
    path: &Path,
) -> anyhow::Result<()> {
    for (name, tensor) in tensors {
        for slot in [Slot::Point, Slot::Master] {
            let Some(full) = optimizer.state(name, slot)? else { continue };
            let rounded: Vec<f64> = full.iter().map(|v| round_as(tensor, *v)).collect();
            let same = rounded.iter().zip(tensor.to_vec_f64()).all(|(a, b)| a.to_bits() == b.to_bits());
            if !same {
                bail!(Error::File {
                    path: path.to_owned(),
                    problems: vec![format!(
                        "entry `{name}.{}` does not belong to the parameters given: pass the params.safetensors written beside it",
                        slot.name()
                    )],
                });
            }
        }
    }
    Ok(())
}

/// Extrapolated methods keep `x` in the state and `y` in the buffer. `y` does not follow from the state, and a parameter
/// without a gradient has to stay where it is.
fn restore_points(
    optimizer: &Optimizer,
    tensors: &BTreeMap<String, Tensor>,
    state: &Path,
    common: &Common,
) -> anyhow::Result<()> {
    let plan = optimizer.plan();
    let extrapolated: Vec<&str> = plan
        .parameters
        .iter()
        .filter(|p| plan.group_of(p).algorithm().is_extrapolated())
        .map(|p| p.spec.name.as_str())
        .collect();
    let path = state.with_file_name(EVAL_POINT);
    if extrapolated.is_empty() {
        return Ok(());
    }
    if !path.exists() {
        if !common.quiet {
            eprintln!(
                "warning: there is no {EVAL_POINT} beside the state: a parameter that gets no gradient in this run will have x as its eval point"
            );
        }
        return Ok(());
    }
    let points = read_tensors(&path)?;
    for name in extrapolated {
        let tensor = &tensors[name];
        match points.get(name) {
            Some(y) if y.shape() == tensor.shape() && y.dtype() == tensor.dtype() => {
                tensor.assign(&y.to_storage())?;
            }
            _ => bail!(Error::File {
                path,
                problems: vec![format!(
                    "it has no `{name}` of shape {:?} and type {}: it must be the file written beside the state",
                    tensor.shape(),
                    tensor.dtype()
                )],
            }),
        }
    }
    Ok(())
}

fn round_as(tensor: &Tensor, value: f64) -> f64 {
    fn round<E: Element>(value: f64) -> f64 {
        E::from_f64(value).to_f64()
    }
    match tensor.dtype() {
        Dtype::F64 => value,
        Dtype::F32 => round::<f32>(value),
        Dtype::Bf16 => round::<half::bf16>(value),
        Dtype::F16 => round::<half::f16>(value),
    }
}

/// Parameters that are not finite are refused, unless non-finite values may propagate: a step would carry them on
/// silently, and so would an update that overflows a 16-bit type.
fn check_finite<'a>(
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
    when: &str,
) -> anyhow::Result<()> {
    for (name, tensor) in tensors {
        if let Some(at) = tensor.to_vec_f64().iter().position(|v| !v.is_finite()) {
            return Err(Error::Parameter {
                parameter: name.to_owned(),
                reason: format!("its element {at} is not finite {when}"),
            }
            .into());
        }
    }
    Ok(())
}

fn step(
    optimizer: &mut Optimizer,
    tensors: &BTreeMap<String, Tensor>,
    grads: &Path,
    previous: Option<&Path>,
) -> anyhow::Result<StepReport> {
    optimizer.rebind_gradients(by_parameter(tensors, grads)?)?;
    let used: Vec<String> = optimizer
        .plan()
        .parameters
        .iter()
        .filter(|p| optimizer.plan().group_of(p).algorithm().needs_previous_gradient())
        .map(|p| p.spec.name.clone())
        .collect();
    let mut started = false;
    for name in &used {
        started |= optimizer.step_count(name)? > Some(0);
    }
    if let Some(previous) = previous.filter(|_| !started) {
        // The first step has no previous point: the file has to be there, and what it holds is not looked at.
        fs::metadata(previous).with_context(|| format!("{}: it cannot be read", display(previous)))?;
    } else if let Some(previous) = previous {
        let bindings = by_parameter(tensors, previous)?;
        optimizer.rebind_previous_gradients(bindings.into_iter().filter(|(name, _)| used.contains(name)))?;
    }
    Ok(optimizer.step()?)
}

/// A binding for every parameter: its tensor in the file, or none.
fn by_parameter(
    tensors: &BTreeMap<String, Tensor>,
    path: &Path,
) -> anyhow::Result<Vec<(String, Option<Tensor>)>> {
    let mut found = read_tensors(path)?;
    let bindings = tensors.keys().map(|name| (name.clone(), found.remove(name))).collect();
    if let Some(stranger) = found.keys().next() {
        return Err(Error::Parameter {
            parameter: stranger.clone(),
            reason: "it has a gradient and is no parameter".into(),
        }
        .into());
    }
    Ok(bindings)
}

/// Parameters and state are of use only as a pair, so all files are written elsewhere before the first takes its place:
/// a full disk leaves all the old ones.
fn write(optimizer: &mut Optimizer, out: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(out).with_context(|| display(out))?;
    let folder = fs::File::open(out).with_context(|| display(out))?;
    // Held until the end: two runs into one folder would mix their files.
    folder.try_lock().with_context(|| format!("{}: another run is writing there", display(out)))?;
    let staged = out.join(STAGED);
    // What a killed process left.
    if staged.exists() {
        fs::remove_dir_all(&staged).with_context(|| display(&staged))?;
    }
    fs::create_dir(&staged).with_context(|| display(&staged))?;
    let written = write_into(optimizer, &staged).and_then(|names| {
        for name in names {
            fs::rename(staged.join(name), out.join(name)).with_context(|| display(&out.join(name)))?;
        }
        Ok(())
    });
    // Best effort: the first error is what the user needs to see.
    let _ = fs::remove_dir_all(&staged);
    written?;
    folder.sync_all().with_context(|| display(out))
}

/// Writes the results and returns the names of the files.
fn write_into(optimizer: &mut Optimizer, folder: &Path) -> anyhow::Result<Vec<&'static str>> {
    let mut names = vec![STATE, PARAMS];
    if optimizer.plan().groups.iter().any(|g| g.algorithm().is_extrapolated()) {
        write_tensors(folder.join(EVAL_POINT), optimizer.parameters())?;
        names.insert(0, EVAL_POINT);
    }
    optimizer.save(folder.join(STATE))?;
    optimizer.eval_point()?;
    let written = write_tensors(folder.join(PARAMS), optimizer.parameters());
    optimizer.train_point()?;
    written?;
    Ok(names)
}

fn json(optimizer: &Optimizer, reports: &[StepReport]) -> String {
    let rows: Vec<_> = reports
        .iter()
        .enumerate()
        .map(|(i, r)| {
            serde_json::json!({
                "step": i + 1,
                "applied": r.applied,
                "updated": r.updated,
                "without_gradient": r.without_gradient,
                "grad_norm": r.grad_norm,
                "update_rms": r.update_rms,
                "dual_norms": r.dual_norms,
                "non_finite": r.non_finite,
                "orthogonalise_fallbacks": r.orthogonalise_fallbacks,
            })
        })
        .collect();
    serde_json::json!({
        "device": optimizer.device().to_string(),
        "precision": optimizer.plan().precision.name(),
        "steps": optimizer.steps(),
        "skipped": optimizer.skipped_steps(),
        "rows": rows,
    })
    .to_string()
}

fn text(optimizer: &Optimizer, reports: &[StepReport], verbose: bool) -> String {
    let mut out = format!(
        "device {}, precision {}: {} steps applied, {} skipped",
        optimizer.device(),
        optimizer.plan().precision.name(),
        optimizer.steps(),
        optimizer.skipped_steps()
    );
    for (i, r) in reports.iter().enumerate().filter(|(_, r)| verbose || !r.applied) {
        let norm = r.grad_norm.map_or(String::new(), |n| format!(", gradient norm {n:.6e}"));
        let skipped =
            r.non_finite.as_ref().map_or(String::new(), |p| format!(", skipped: `{p}` is not finite"));
        out.push_str(&format!(
            "\nstep {}: {} updated, {} without gradient{norm}{skipped}",
            i + 1,
            r.updated,
            r.without_gradient
        ));
    }
    out
}
