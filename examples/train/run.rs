//! The training loop.

use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use candle_nn::{Optimizer as _, VarMap};
use indicatif::{ProgressBar, ProgressStyle};
use orthant::candle::{CandleConfig, CandleOptimizer};
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Progress};
use crate::data::Data;
use crate::model::{Model, Sizes};
use crate::optimizers::Choice;
use crate::report::{Curve, Point};

/// Everything that the curve depends on. A run is resumed with the same settings or not at all.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    pub optimizer: String,
    /// Where the optimizer steps.
    #[serde(default = "cpu")]
    pub device: String,
    pub groups: String,
    pub steps: u64,
    pub batch: usize,
    pub seq: usize,
    pub seed: u64,
    pub eval_every: u64,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub text_sha256: String,
}

/// What checkpoints from before there was a choice have.
fn cpu() -> String {
    "cpu".to_owned()
}

/// What the end table shows.
pub struct Outcome {
    pub curve: Curve,
    pub progress: Progress,
}

/// The command line or the configuration does not fit: exit code 2.
#[derive(Debug)]
pub struct Usage(pub String);

impl std::fmt::Display for Usage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// Factor on all learning rates in a step (from 1): a short warm-up, then linear decay to a tenth.
fn schedule(step: u64, steps: u64) -> f64 {
    let warm_up = (steps / 20).max(1);
    if step <= warm_up {
        return step as f64 / warm_up as f64;
    }
    1.0 - 0.9 * (step - warm_up) as f64 / (steps - warm_up) as f64
}

/// Trains one optimizer, from the start or from the checkpoint in `folder`.
pub fn train(
    settings: &Settings,
    choice: &Choice,
    data: &Data,
    folder: &Path,
    checkpoint_every: u64,
    resume: bool,
) -> anyhow::Result<Outcome> {
    let vars = VarMap::new();
    let sizes = Sizes { width: settings.width, layers: settings.layers, heads: settings.heads };
    let model = Model::new(sizes, settings.seq, settings.seed, &vars)?;
    let config = CandleConfig::new(choice.groups.clone()).options(choice.options);
    let mut optimizer = CandleOptimizer::with_config(&vars, config.device(settings.device.parse()?))?;
    let base_lr = optimizer.learning_rate();

    let found = if resume { checkpoint::find(folder)? } else { None };
    let (mut progress, mut curve) = match found {
        Some((current, progress)) => {
            check(settings, &progress.settings, &current)?;
            let curve = checkpoint::load(&current, &vars, &mut optimizer)?;
            eprintln!("{}: resuming after step {}", settings.optimizer, progress.step);
            (progress, curve)
        }
        None => {
            if resume {
                eprintln!("{}: no checkpoint in {}, starting", settings.optimizer, folder.display());
            }
            std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
            checkpoint::discard(folder)?;
            let mut curve = Curve::default();
            curve.0.push(Point { step: 0, train: None, held_out: Some(held_out(&model, data, settings)?) });
            let settings = settings.clone();
            (Progress { settings, step: 0, train_seconds: 0.0, optimizer_seconds: 0.0 }, curve)
        }
    };

    // For matrices this small, handing parts to other threads costs candle more than it gains.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let bar = ProgressBar::new(settings.steps);
    bar.set_style(ProgressStyle::with_template("{prefix} {bar:30} {pos}/{len} {per_sec} {msg} {eta} left")?);
    bar.set_prefix(settings.optimizer.clone());
    bar.set_position(progress.step);
    bar.reset_eta();
    while progress.step < settings.steps {
        let started = Instant::now();
        let step = progress.step + 1;
        let (inputs, targets) = data.batch(settings.seed, step, settings.batch)?;
        let (loss, grads) = pool.install(|| {
            let loss = model.loss(&inputs, &targets)?;
            loss.backward().map(|grads| (loss, grads))
        })?;
        optimizer.try_set_learning_rate(base_lr * schedule(step, settings.steps))?;
        let stepping = Instant::now();
        optimizer
            .apply(&grads)
            .with_context(|| format!("{}: step {step}; a smaller --lr may help", settings.optimizer))?;
        progress.optimizer_seconds += stepping.elapsed().as_secs_f64();
        let train = loss.to_scalar::<f32>()?;
        progress.train_seconds += started.elapsed().as_secs_f64();
        progress.step = step;
        let mut point = Point { step, train: Some(train), held_out: None };
        let last = step == settings.steps;
        if last || step.is_multiple_of(settings.eval_every) {
            let value = pool.install(|| held_out(&model, data, settings))?;
            point.held_out = Some(value);
            let line = format!("{} step {step}: train {train:.3}, held-out {value:.3}", settings.optimizer);
            if bar.is_hidden() { eprintln!("{line}") } else { bar.println(line) }
        }
        curve.0.push(point);
        bar.set_message(format!("loss {train:.3}"));
        bar.set_position(step);
        if last || (checkpoint_every > 0 && step.is_multiple_of(checkpoint_every)) {
            checkpoint::save(folder, &progress, &curve, &vars, &optimizer)?;
        }
    }
    bar.finish_and_clear();
    Ok(Outcome { curve, progress })
}

/// Mean loss over the held-out windows.
fn held_out(model: &Model, data: &Data, settings: &Settings) -> anyhow::Result<f32> {
    let (mut sum, mut windows) = (0.0, 0);
    for batch in data.held_out(settings.batch) {
        let (inputs, targets) = batch?;
        let count = inputs.dim(0)?;
        sum += f64::from(model.loss(&inputs, &targets)?.to_scalar::<f32>()?) * count as f64;
        windows += count;
    }
    Ok((sum / windows as f64) as f32)
}

/// Names every setting that differs.
fn check(now: &Settings, then: &Settings, current: &Path) -> anyhow::Result<()> {
    let (now, then) = (serde_json::to_value(now)?, serde_json::to_value(then)?);
    let (Some(now), Some(then)) = (now.as_object(), then.as_object()) else { return Ok(()) };
    let differences: Vec<String> = now
        .iter()
        .filter(|(key, value)| then.get(*key) != Some(value))
        .map(|(key, value)| format!("{key} is {value} and was {}", then.get(key).unwrap_or_default()))
        .collect();
    if differences.is_empty() {
        return Ok(());
    }
    let (path, list) = (current.display(), differences.join("; "));
    Err(Usage(format!("--resume: {path} belongs to a run with other settings: {list}")).into())
}
