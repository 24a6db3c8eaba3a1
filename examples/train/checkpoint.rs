//! Checkpoints that a kill at any moment leaves usable: a new folder is written and synced, then a small file that
//! names it is replaced, and only then the older folder goes.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use candle_nn::VarMap;
use orthant::candle::CandleOptimizer;
use orthant::files::{read_tensors, write_tensors};
use serde::{Deserialize, Serialize};

use crate::report::Curve;
use crate::run::Settings;

const POINTER: &str = "latest";
const PREFIX: &str = "checkpoint-";

/// What a checkpoint holds besides tensors and the curve.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    pub settings: Settings,
    pub step: u64,
    /// Time in all runs so far, without evaluations and checkpoints.
    pub train_seconds: f64,
    /// The optimizer's part of it.
    pub optimizer_seconds: f64,
}

/// Writes a checkpoint into `folder` and makes it the current one.
pub fn save(
    folder: &Path,
    progress: &Progress,
    curve: &Curve,
    vars: &VarMap,
    optimizer: &CandleOptimizer,
) -> anyhow::Result<()> {
    let name = format!("{PREFIX}{:08}", progress.step);
    let new = folder.join(&name);
    remove_folder(&new)?;
    fs::create_dir_all(&new).with_context(|| new.display().to_string())?;
    let mut tensors = vec![];
    for (name, var) in vars.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        let values = var.flatten_all()?.to_vec1::<f32>()?;
        tensors.push((name.clone(), orthant::Tensor::from_vec(values, var.dims())?));
    }
    write_tensors(new.join("variables.safetensors"), tensors.iter().map(|(n, t)| (n.as_str(), t)))?;
    optimizer.save(new.join("optimizer.safetensors"))?;
    write(&new.join("curve.csv"), &curve.csv(&progress.settings.optimizer))?;
    write(&new.join("progress.json"), &serde_json::to_string_pretty(progress)?)?;
    sync_folder(&new)?;
    sync_folder(folder)?;
    replace(&folder.join(POINTER), &name)?;
    clean(folder, Some(&name))
}

/// Reads the current checkpoint's progress, and where its files are; `None` if there is none.
pub fn find(folder: &Path) -> anyhow::Result<Option<(PathBuf, Progress)>> {
    let pointer = folder.join(POINTER);
    let name = match fs::read_to_string(&pointer) {
        Ok(name) => name,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e).with_context(|| pointer.display().to_string()),
    };
    let current = folder.join(name.trim());
    let path = current.join("progress.json");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let progress = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    Ok(Some((current, progress)))
}

/// Puts the checkpoint in `current` into variables and optimizer, and returns its curve.
pub fn load(current: &Path, vars: &VarMap, optimizer: &mut CandleOptimizer) -> anyhow::Result<Curve> {
    let path = current.join("variables.safetensors");
    let mut tensors = read_tensors(&path)?;
    for (name, var) in vars.data().lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        let tensor = tensors.remove(name).with_context(|| format!("{}: no `{name}`", path.display()))?;
        let values = candle_core::Tensor::from_vec(tensor.to_vec::<f32>()?, tensor.shape(), var.device())?;
        var.set(&values).with_context(|| format!("{}: `{name}`", path.display()))?;
    }
    optimizer.load(current.join("optimizer.safetensors"))?;
    let path = current.join("curve.csv");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    Curve::parse(&text).with_context(|| path.display().to_string())
}

/// Forgets an earlier run: the pointer first, so that it never names what is gone.
pub fn discard(folder: &Path) -> anyhow::Result<()> {
    match fs::remove_file(folder.join(POINTER)) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            return Err(e).with_context(|| folder.join(POINTER).display().to_string());
        }
        _ => {}
    }
    clean(folder, None)
}

/// Removes checkpoints other than `keep`: older ones, and leftovers of a killed process.
fn clean(folder: &Path, keep: Option<&str>) -> anyhow::Result<()> {
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) && Some(name.as_str()) != keep {
            remove_folder(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_folder(path: &Path) -> anyhow::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| path.display().to_string())
        }
        _ => Ok(()),
    }
}

/// Replaces a file as a whole, so that a reader or a crash sees the old content or the new one.
pub fn replace(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    write(&temporary, text)?;
    fs::rename(&temporary, path).with_context(|| path.display().to_string())?;
    sync_folder(path.parent().unwrap_or(Path::new(".")))
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    File::create(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .with_context(|| path.display().to_string())
}

fn sync_folder(path: &Path) -> anyhow::Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).with_context(|| path.display().to_string())
}
