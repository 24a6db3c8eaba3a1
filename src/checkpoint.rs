//! Checkpoints of optimizer state: a safetensors file that others can read, with a schema and digests in its metadata.
//!
//! # Format
//! Tensors are called `<parameter>.<slot>` (`momentum`, `variance`, `variance_max`, `point`, `master`, `low`) and
//! have the parameter's shape; `<parameter>.step` is a scalar, the number of applied steps. The metadata has one key,
//! `orthant`, whose value is JSON:
//!
//! ```text
//! {"header_digest": "<64 hex>",          SHA-256 of the header's JSON bytes with these 64 digits set to 0
//!  "format": 1,
//!  "parameters": {"<name>": {"shape": [..], "dtype": "f32", "algorithm": "muon", "momentum": "ema", "step": 12}},
//!  "digests": {"<tensor>": "<64 hex>"}}  SHA-256 of each tensor's bytes
//! ```
//!
//! The header digest covers the tensor digests, so every byte of the file is covered. `dtype` is the parameter's,
//! `momentum` the momentum convention, `step` the tensor `<name>.step` again.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::algorithm::Slot;
use crate::error::{Error, Result};
use crate::files::{Raw, header, open_safetensors, problem, serialise, stored_dtype, write_atomically};
use crate::plan::Plan;
use crate::reference::State;
use crate::tensor::{Dtype, Storage, with_elements};

const FORMAT: u32 = 1;
const DIGEST_MARK: &[u8] = br#"{\"header_digest\":\""#;
const NO_DIGEST: &str = "0000000000000000000000000000000000000000000000000000000000000000";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Schema {
    header_digest: String,
    format: u32,
    parameters: BTreeMap<String, Entry>,
    digests: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Entry {
    shape: Vec<usize>,
    dtype: String,
    algorithm: String,
    momentum: String,
    step: u64,
}

/// Type of the step counts: readers elsewhere know I64 better than U64.
const STEP: safetensors::Dtype = safetensors::Dtype::I64;

/// Type of a buffer in the file.
fn stored_as(slot: Slot, dtype: Dtype) -> safetensors::Dtype {
    match slot {
        // Readers that took the words for numbers would see noise.
        Slot::Low => safetensors::Dtype::I16,
        _ => stored_dtype(dtype),
    }
}

fn step_key(parameter: &str) -> String {
    format!("{parameter}.step")
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) fn save(path: &Path, plan: &Plan, states: &[State]) -> Result<()> {
    write_atomically(path, &encode(path, plan, states)?)
}

/// The bytes of a checkpoint.
pub(crate) fn encode(path: &Path, plan: &Plan, states: &[State]) -> Result<Vec<u8>> {
    let mut schema = Schema {
        header_digest: NO_DIGEST.to_owned(),
        format: FORMAT,
        parameters: BTreeMap::new(),
        digests: BTreeMap::new(),
    };
    let steps: Vec<[u8; 8]> = states.iter().map(|s| s.step.to_le_bytes()).collect();
    let mut tensors: Vec<Raw<'_>> = vec![];
    for ((planned, state), step) in plan.parameters.iter().zip(states).zip(&steps) {
        let algorithm = &plan.group_of(planned).algorithm;
        let entry = Entry {
            shape: planned.spec.shape.clone(),
            dtype: planned.spec.dtype.name().to_owned(),
            algorithm: algorithm.name().to_owned(),
            momentum: algorithm.convention().to_owned(),
            step: state.step,
        };
        schema.parameters.insert(planned.spec.name.clone(), entry);
        for (slot, storage) in &state.slots {
            let name = format!("{}.{}", planned.spec.name, slot.name());
            let stored = stored_as(*slot, storage.dtype());
            tensors.push((name, stored, &planned.spec.shape, storage.as_le_bytes()));
        }
        tensors.push((step_key(&planned.spec.name), STEP, &[], step));
    }
    schema.digests = tensors.iter().map(|(name, _, _, bytes)| (name.clone(), hex(bytes))).collect();
    let metadata = serde_json::to_string(&schema)
        .map_err(|e| problem(path, format!("its schema cannot be written: {e}")))?;
    let mut bytes = serialise(path, &tensors, Some(("orthant", metadata)))?;
    let (start, end) =
        digest_position(&bytes).ok_or_else(|| problem(path, "its header has no place for the digest"))?;
    let digest = hex(header(&bytes));
    bytes[start..end].copy_from_slice(digest.as_bytes());
    Ok(bytes)
}

/// Where the 64 digits of the header digest stand, if the mark occurs exactly once.
fn digest_position(bytes: &[u8]) -> Option<(usize, usize)> {
    let header = header(bytes);
    let mut found = header.windows(DIGEST_MARK.len()).enumerate().filter(|(_, w)| *w == DIGEST_MARK);
    let (at, _) = found.next()?;
    let start = 8 + at + DIGEST_MARK.len();
    (found.next().is_none() && start + 64 <= 8 + header.len()).then_some((start, start + 64))
}

pub(crate) fn load(path: &Path, plan: &Plan, must_be_finite: bool) -> Result<Vec<State>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "cannot be read"))?;
    decode(&bytes, plan, must_be_finite).map_err(|problems| Error::File { path: path.to_owned(), problems })
}

/// State from the bytes of a checkpoint, or everything that is wrong with them.
pub(crate) fn decode(
    bytes: &[u8],
    plan: &Plan,
    must_be_finite: bool,
) -> std::result::Result<Vec<State>, Vec<String>> {
    let (tensors, schema) = open(bytes).map_err(|e| vec![e])?;
    let damaged = damage(&tensors, &schema);
    let mut problems: Vec<String> = damaged.values().cloned().collect();
    // What a damaged header says about the entries is worth nothing.
    problems.extend(header_damage(bytes, &schema).map(str::to_owned));
    if schema.format != FORMAT {
        problems.push(format!("format version {} is not {FORMAT}", schema.format));
    }
    if problems.len() > damaged.len() {
        return Err(problems);
    }
    let mut states = Vec::with_capacity(plan.parameters.len());
    let mut expected: Vec<String> = vec![];
    for planned in &plan.parameters {
        let name = &planned.spec.name;
        let algorithm = &plan.group_of(planned).algorithm;
        let Some(entry) = schema.parameters.get(name) else {
            problems.push(format!("parameter `{name}` is missing"));
            continue;
        };
        let mut differs = |what: &str, in_file: String, here: String| {
            if in_file != here {
                problems.push(format!("parameter `{name}`: {what} is {in_file} in the file and {here} here"));
            }
        };
        differs("shape", format!("{:?}", entry.shape), format!("{:?}", planned.spec.shape));
        differs("dtype", entry.dtype.clone(), planned.spec.dtype.name().to_owned());
        differs("algorithm", entry.algorithm.clone(), algorithm.name().to_owned());
        differs("momentum convention", entry.momentum.clone(), algorithm.convention().to_owned());
        let mut slots = vec![];
        for &(slot, dtype) in &planned.slots {
            let key = format!("{name}.{}", slot.name());
            match tensors.tensor(&key) {
                _ if damaged.contains_key(&key) => {}
                Err(_) => problems.push(format!("entry `{key}` is missing")),
                Ok(view) if view.dtype() != stored_as(slot, dtype) || view.shape() != planned.spec.shape => {
                    let needed = if slot == Slot::Low { "i16" } else { dtype.name() };
                    problems.push(format!(
                        "entry `{key}` is {:?} {:?} in the file, and {needed} {:?} is needed",
                        view.dtype(),
                        view.shape(),
                        planned.spec.shape
                    ));
                }
                Ok(view) => match Storage::from_le_bytes(dtype, view.data()) {
                    Err(e) => problems.push(format!("entry `{key}`: {e}")),
                    // Every word is legal, and none is a number.
                    Ok(storage) if must_be_finite && slot != Slot::Low && !is_finite(&storage) => {
                        problems.push(format!("entry `{key}` holds NaN or an infinity"));
                    }
                    Ok(storage) => slots.push((slot, storage)),
                },
            }
            expected.push(key);
        }
        let key = step_key(name);
        let step = tensors.tensor(&key).ok().filter(|v| v.dtype() == STEP && v.shape().is_empty());
        let step = step.and_then(|v| Some(u64::from_le_bytes(v.data().try_into().ok()?)));
        let legal = step == Some(entry.step) && entry.step <= i64::MAX as u64;
        if !legal && !damaged.contains_key(&key) {
            problems.push(format!("entry `{key}` is not the scalar {} of the schema", entry.step));
        }
        expected.push(key);
        states.push(State { step: entry.step, slots });
    }
    let known: std::collections::HashSet<&str> =
        plan.parameters.iter().map(|p| p.spec.name.as_str()).collect();
    let extra_parameters = schema.parameters.keys().filter(|k| !known.contains(k.as_str()));
    problems.extend(extra_parameters.map(|k| format!("parameter `{k}` is not registered here")));
    let expected: std::collections::HashSet<&str> = expected.iter().map(String::as_str).collect();
    let mut extra: Vec<&str> = tensors.names().into_iter().filter(|n| !expected.contains(n)).collect();
    extra.sort_unstable();
    // Buffers of unregistered parameters are covered by the line about the parameter.
    let covered = |n: &str| {
        n.rsplit_once('.').is_some_and(|(p, _)| schema.parameters.contains_key(p) && !known.contains(p))
    };
    extra.retain(|n| !covered(n));
    problems.extend(extra.into_iter().map(|n| format!("entry `{n}` has no place in this optimizer's state")));
    if problems.is_empty() { Ok(states) } else { Err(problems) }
}

fn is_finite(storage: &Storage) -> bool {
    with_elements!(Storage, storage, v => v.iter().all(|x| crate::tensor::Element::to_f64(*x).is_finite()))
}

/// The tensors and the schema, or why they cannot be read.
fn open(bytes: &[u8]) -> std::result::Result<(SafeTensors<'_>, Schema), String> {
    let (tensors, metadata) = open_safetensors(bytes)?;
    let text = metadata.metadata().as_ref().and_then(|m| m.get("orthant")).ok_or(
        "it has no `orthant` metadata: not a checkpoint of this optimizer, or its header is damaged",
    )?;
    let schema = serde_json::from_str(text).map_err(|e| format!("the header's schema is damaged: {e}"))?;
    Ok((tensors, schema))
}

/// Whether the header is as it was written.
fn header_damage(bytes: &[u8], schema: &Schema) -> Option<&'static str> {
    let mut blank = header(bytes).to_vec();
    let Some((start, end)) = digest_position(bytes) else {
        return Some("the header is damaged: its digest is not in its place");
    };
    blank[start - 8..end - 8].copy_from_slice(NO_DIGEST.as_bytes());
    (hex(&blank) != schema.header_digest).then_some("the header is damaged: its digest does not match")
}

/// Entries whose digest does not match, by name, with what is wrong.
fn damage(tensors: &SafeTensors<'_>, schema: &Schema) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    for name in tensors.names() {
        let problem = match (schema.digests.get(name), tensors.tensor(name)) {
            (Some(digest), Ok(view)) if *digest == hex(view.data()) => continue,
            (Some(_), Ok(_)) => format!("entry `{name}` is damaged: its digest does not match"),
            _ => format!("entry `{name}` has no digest"),
        };
        out.insert(name.to_owned(), problem);
    }
    for name in schema.digests.keys().filter(|name| tensors.tensor(name).is_err()) {
        out.insert(name.clone(), format!("entry `{name}` has a digest and no data"));
    }
    out
}
