//! Tensor files: safetensors in and out, checked on the way in and atomic on the way out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Metadata, TensorView};

use crate::error::{Error, Result};
use crate::plan::check_name;
use crate::tensor::{Dtype, Storage, Tensor};

/// Largest header accepted: about a million tensors.
const MAX_HEADER: u64 = 64 << 20;

/// The tensors of a safetensors file, by name.
///
/// # Errors
/// Unreadable or malformed files, names twice, names and element types that parameters cannot have; all listed.
pub fn read_tensors(path: impl AsRef<Path>) -> Result<BTreeMap<String, Tensor>> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(Error::io(path, "cannot be read"))?;
    let (tensors, _) = open_safetensors(&bytes).map_err(|e| problem(path, e))?;
    let mut problems = vec![];
    let mut out = BTreeMap::new();
    for (name, view) in tensors.iter() {
        let tensor = check_name(name).and_then(|()| match dtype_of(view.dtype()) {
            Some(dtype) => Tensor::from_storage(Storage::from_le_bytes(dtype, view.data())?, view.shape()),
            None => Err(Error::parameter(
                name,
                format!("it holds {:?}; f64, f32, bf16 and f16 are supported", view.dtype()),
            )),
        });
        match tensor {
            Ok(tensor) => drop(out.insert(name.to_owned(), tensor)),
            Err(e) => problems.push(e.to_string()),
        }
    }
    problems.sort_unstable();
    if problems.is_empty() { Ok(out) } else { Err(Error::File { path: path.to_owned(), problems }) }
}

/// Writes tensors to a safetensors file, atomically.
///
/// # Errors
/// Names that [`read_tensors`] would refuse, and what the file system refuses; the previous file is intact then.
pub fn write_tensors<'a>(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (&'a str, &'a Tensor)>,
) -> Result<()> {
    let path = path.as_ref();
    let copies: Vec<(String, &[usize], Storage)> =
        tensors.into_iter().map(|(name, t)| (name.to_owned(), t.shape(), t.to_storage())).collect();
    let mut seen = std::collections::HashSet::new();
    for (name, _, _) in &copies {
        check_name(name)?;
        if !seen.insert(name) {
            return Err(problem(path, format!("cannot be written: `{name}` was given twice")));
        }
    }
    let views: Vec<Raw<'_>> = copies.iter().map(|(n, s, t)| raw(n.clone(), s, t)).collect();
    write_atomically(path, &serialise(path, &views, None)?)
}

/// The crate's dtype for a safetensors dtype, if it has one.
fn dtype_of(dtype: safetensors::Dtype) -> Option<Dtype> {
    match dtype {
        safetensors::Dtype::F64 => Some(Dtype::F64),
        safetensors::Dtype::F32 => Some(Dtype::F32),
        safetensors::Dtype::BF16 => Some(Dtype::Bf16),
        safetensors::Dtype::F16 => Some(Dtype::F16),
        _ => None,
    }
}

pub(crate) fn stored_dtype(dtype: Dtype) -> safetensors::Dtype {
    match dtype {
        Dtype::F64 => safetensors::Dtype::F64,
        Dtype::F32 => safetensors::Dtype::F32,
        Dtype::Bf16 => safetensors::Dtype::BF16,
        Dtype::F16 => safetensors::Dtype::F16,
    }
}

/// A tensor to be written: name, type, shape, little-endian bytes.
pub(crate) type Raw<'a> = (String, safetensors::Dtype, &'a [usize], &'a [u8]);

/// As it is written.
fn raw<'a>(name: String, shape: &'a [usize], storage: &'a Storage) -> Raw<'a> {
    (name, stored_dtype(storage.dtype()), shape, storage.as_le_bytes())
}

/// A safetensors file in memory; `metadata` is one key.
pub(crate) fn serialise(
    path: &Path,
    tensors: &[Raw<'_>],
    metadata: Option<(&str, String)>,
) -> Result<Vec<u8>> {
    let broken = |e: safetensors::SafeTensorError| problem(path, format!("cannot be written: {e}"));
    let views = tensors
        .iter()
        .map(|(name, dtype, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(*dtype, shape.to_vec(), bytes).map_err(broken)?))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = metadata.map(|(key, value)| [(key.to_owned(), value)].into());
    safetensors::serialize(views, metadata).map_err(broken)
}

pub(crate) fn problem(path: &Path, problem: impl Into<String>) -> Error {
    Error::File { path: path.to_owned(), problems: vec![problem.into()] }
}

/// The JSON bytes of the header. The caller has checked the length.
pub(crate) fn header(bytes: &[u8]) -> &[u8] {
    let length = header_length(bytes).unwrap_or(0);
    bytes.get(8..8 + length).unwrap_or_default()
}

fn header_length(bytes: &[u8]) -> Option<usize> {
    let length = u64::from_le_bytes(*bytes.first_chunk::<8>()?);
    (length <= MAX_HEADER && length <= bytes.len() as u64 - 8).then_some(length as usize)
}

/// The tensors and the header, or why they cannot be read.
pub(crate) fn open_safetensors(bytes: &[u8]) -> std::result::Result<(SafeTensors<'_>, Metadata), String> {
    if bytes.len() < 8 {
        return Err(format!("it has {} bytes, less than the length of a header", bytes.len()));
    }
    header_length(bytes).ok_or("the header length is beyond the file or the limit of 64 MiB")?;
    let damaged = |e: String| format!("the header is damaged or this is no safetensors file: {e}");
    check_unique_keys(header(bytes)).map_err(damaged)?;
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| damaged(e.to_string()))?;
    let tensors = SafeTensors::deserialize(bytes).map_err(|e| damaged(e.to_string()))?;
    Ok((tensors, metadata))
}

/// The format forbids a name twice, and parsers that take the last one can be fooled.
fn check_unique_keys(header: &[u8]) -> std::result::Result<(), String> {
    struct Keys;
    impl<'de> serde::de::Visitor<'de> for Keys {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a JSON object")
        }
        fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
            let mut seen = std::collections::HashSet::new();
            while let Some((key, _)) = map.next_entry::<String, serde::de::IgnoredAny>()? {
                if let Some(twice) = seen.replace(key) {
                    return Err(serde::de::Error::custom(format!("`{twice}` stands there twice")));
                }
            }
            Ok(())
        }
    }
    let mut parser = serde_json::Deserializer::from_slice(header);
    serde::Deserializer::deserialize_map(&mut parser, Keys).map_err(|e| e.to_string())
}

/// Writes a file so that a crash, a kill or a full disk at any moment leaves the old content or the new one: a sibling
/// temporary file is written and synced, renamed over the target, and the folder is synced.
///
/// The temporary file has one fixed name and is locked while in use, so that a leftover of a killed process is reused
/// rather than collected, and a second writer is refused rather than mixed in.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let name = path
        .file_name()
        .ok_or_else(|| problem(path, "the path names no file"))?
        .to_string_lossy()
        .into_owned();
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    let temporary = folder.join(format!(".{name}.orthant-tmp"));
    let mut file = lock_temporary(&temporary)?;
    let written = (|| {
        file.set_len(0).map_err(Error::io(&temporary, "cannot be emptied"))?;
        file.write_all(bytes).map_err(Error::io(&temporary, "cannot be written"))?;
        file.sync_all().map_err(Error::io(&temporary, "cannot be synced"))?;
        std::fs::rename(&temporary, path).map_err(Error::io(path, "cannot be replaced"))
    })();
    if written.is_err() {
        // Best effort: the first error is what the caller needs to see.
        let _ = std::fs::remove_file(&temporary);
    }
    written?;
    File::open(&folder).and_then(|f| f.sync_all()).map_err(Error::io(&folder, "cannot be synced"))
}

fn lock_temporary(temporary: &Path) -> Result<File> {
    loop {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(temporary)
            .map_err(Error::io(temporary, "cannot be created"))?;
        file.try_lock().map_err(|e| match e {
            std::fs::TryLockError::WouldBlock => {
                problem(temporary, "another process is writing it at this moment")
            }
            std::fs::TryLockError::Error(e) => Error::io(temporary, "cannot be locked")(e),
        })?;
        // Another process may have renamed the file away between opening and locking: then the lock is on its
        // finished file, and the next round makes a new one.
        if is_same_file(&file, temporary) {
            return Ok(file);
        }
    }
}

#[cfg(unix)]
fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let identity = |m: std::fs::Metadata| (m.dev(), m.ino());
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(named)) => identity(open) == identity(named),
        _ => false,
    }
}

#[cfg(not(unix))]
fn is_same_file(_: &File, path: &Path) -> bool {
    path.exists()
}
