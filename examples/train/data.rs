//! The text, its split, and batches as a pure function of (seed, step).

use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use candle_core::{Device, Tensor};
use sha2::{Digest, Sha256};

/// Splitmix64: small, and the same everywhere.
pub struct Random(u64);

impl Random {
    /// Streams of different (seed, stream) have nothing to do with each other.
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed);
        random.0 = random.next() ^ stream;
        random.0 = random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (0, 1].
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 / (1u64 << 53) as f64
    }

    pub fn normal(&mut self) -> f64 {
        (-2.0 * self.unit().ln()).sqrt() * (std::f64::consts::TAU * self.unit()).cos()
    }

    fn below(&mut self, n: usize) -> usize {
        ((u128::from(self.next()) * n as u128) >> 64) as usize
    }
}

pub struct Data {
    text: Vec<u8>,
    seq: usize,
    /// Starts of training windows, as (first start, number of starts) per stretch between held-out chunks.
    stretches: Vec<(usize, usize)>,
    /// Starts of held-out windows.
    held_out: Vec<usize>,
    pub train_bytes: usize,
    pub held_out_bytes: usize,
}

/// Largest chunk of the split. Every tenth chunk is held out, so that both parts see all kinds of files.
const CHUNK: usize = 4096;
/// Held-out windows that an evaluation looks at.
const WINDOWS: usize = 64;

impl Data {
    pub fn new(text: Vec<u8>, seq: usize) -> anyhow::Result<Self> {
        let least = 10 * (seq + 1);
        ensure!(text.len() >= least, "the text has {} bytes; --seq {seq} needs at least {least}", text.len());
        let chunk = (text.len() / 20).clamp(seq + 1, CHUNK);
        let chunks = text.len() / chunk;
        // The last chunk takes the remainder.
        let end = |i: usize| if i + 1 == chunks { text.len() } else { (i + 1) * chunk };
        let mut data = Self {
            stretches: vec![],
            held_out: vec![],
            seq,
            train_bytes: text.len(),
            held_out_bytes: 0,
            text: vec![],
        };
        let mut from = 0;
        for i in 0..chunks {
            if i % 10 == 9 {
                data.stretches.push((from, i * chunk - from - seq));
                data.held_out.extend((i * chunk..end(i) - seq).step_by(seq));
                data.held_out_bytes += end(i) - i * chunk;
                from = end(i);
            }
        }
        if text.len() > from + seq {
            data.stretches.push((from, text.len() - from - seq));
        }
        data.train_bytes -= data.held_out_bytes;
        let (all, few) = (data.held_out.len(), data.held_out.len().min(WINDOWS));
        data.held_out = (0..few).map(|i| data.held_out[i * all / few]).collect();
        data.text = text;
        Ok(data)
    }

    /// Inputs (batch, seq) and targets (batch * seq) of a training step.
    pub fn batch(&self, seed: u64, step: u64, batch: usize) -> candle_core::Result<(Tensor, Tensor)> {
        let mut random = Random::new(seed, step);
        let total = self.stretches.iter().map(|(_, count)| count).sum();
        let starts: Vec<usize> = (0..batch).map(|_| self.start(random.below(total))).collect();
        self.windows(&starts)
    }

    fn start(&self, mut index: usize) -> usize {
        for &(first, count) in &self.stretches {
            if index < count {
                return first + index;
            }
            index -= count;
        }
        0
    }

    /// Always the same windows, evenly spread over the held-out part.
    pub fn held_out(&self, batch: usize) -> impl Iterator<Item = candle_core::Result<(Tensor, Tensor)>> {
        self.held_out.chunks(batch).map(|starts| self.windows(starts))
    }

    fn windows(&self, starts: &[usize]) -> candle_core::Result<(Tensor, Tensor)> {
        let tokens = |shift: usize| -> Vec<u32> {
            let window = |&start: &usize| &self.text[start + shift..start + shift + self.seq];
            starts.iter().flat_map(window).map(|&byte| u32::from(byte)).collect()
        };
        let inputs = Tensor::from_vec(tokens(0), (starts.len(), self.seq), &Device::Cpu)?;
        Ok((inputs, Tensor::from_vec(tokens(1), starts.len() * self.seq, &Device::Cpu)?))
    }

    /// Identifies the text in a checkpoint.
    pub fn digest(&self) -> String {
        Sha256::digest(&self.text).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The text of a file, or of the sources and documents of a folder: *.rs, *.md and *.toml, sorted by path.
pub fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    if path.is_file() {
        return std::fs::read(path).with_context(|| path.display().to_string());
    }
    let mut files = vec![];
    walk(path, &mut files)?;
    files.sort();
    if files.is_empty() {
        bail!("{}: no *.rs, *.md or *.toml in it", path.display());
    }
    let mut text = vec![];
    for file in files {
        text.extend(std::fs::read(&file).with_context(|| file.display().to_string())?);
        text.push(b'\n');
    }
    Ok(text)
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Links are not followed: they may lead outside, or round and round.
        let kind = std::fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        if kind.is_dir() {
            let skipped = name.starts_with('.') || name == "target" || path.ends_with("tests/golden/cases");
            if !skipped {
                walk(&path, files)?;
            }
        } else if kind.is_file() && [".rs", ".md", ".toml"].iter().any(|end| name.ends_with(end)) {
            files.push(path);
        }
    }
    Ok(())
}
