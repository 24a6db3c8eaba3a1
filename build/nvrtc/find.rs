//! Where NVRTC is: named by the user, installed, cached, or fetched.

use std::error::Error as StdError;
use std::ffi::OsString;
use std::fmt::{self, Display, Formatter};
use std::path::{Path, PathBuf};
use std::{env, fs};

use super::fetch::{self, Unfetched, WHEEL};

/// Every environment variable that [`find`] reads, for `cargo::rerun-if-env-changed`.
pub const VARIABLES: [&str; 7] =
    ["ORTHANT_NVRTC", "CUDA_PATH", "CUDA_HOME", "VIRTUAL_ENV", "CONDA_PREFIX", "XDG_CACHE_HOME", "HOME"];

pub(super) const CACHE_FOLDER: &str = "nvrtc-12.9.86";
pub(super) const MAJORS: std::ops::RangeInclusive<u32> = 12..=13;
const REMEDIES: &str = "Remedies: set ORTHANT_NVRTC to libnvrtc.so or its folder; or install the wheel into the active \
     Python environment (pip install nvidia-cuda-nvrtc-cu12==12.9.86); or build without the GPU backend \
     (--no-default-features)";

/// Why there is no compiler.
#[derive(Debug)]
pub enum Error {
    /// `ORTHANT_NVRTC` is set, but names no NVRTC.
    Override(PathBuf),
    /// Found nowhere, and not fetched.
    Missing {
        /// Every folder that was looked at.
        looked_in: Vec<PathBuf>,
        /// Why it was not fetched either.
        reason: String,
    },
    /// The fetched wheel is not the pinned one; nothing of it was unpacked.
    Hash {
        /// File name of the wheel.
        wheel: String,
        /// The pinned sha256.
        expected: String,
        /// The sha256 of what was fetched.
        found: String,
    },
    /// The library cannot be opened.
    Load {
        /// The library.
        library: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The library is older or newer than what Orthant knows how to use.
    Version {
        /// The library.
        library: PathBuf,
        /// Its major and minor version.
        found: (i32, i32),
    },
}

impl Display for Error {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Override(path) => write!(
                f,
                "ORTHANT_NVRTC is `{}`, which is neither libnvrtc.so (12.0 to 13.x) nor a folder that holds it and \
                 libnvrtc-builtins.so",
                path.display()
            )?,
            Self::Missing { looked_in, reason } => {
                let folders: Vec<_> = looked_in.iter().map(|p| p.display().to_string()).collect();
                let folders = folders.join(", ");
                write!(
                    f,
                    "NVRTC (12.0 to 13.x), which compiles the CUDA kernels, was not found, and {reason}. \
                     Looked in: {folders}"
                )?;
            }
            Self::Hash { wheel, expected, found } => write!(
                f,
                "the fetched {wheel} is not the pinned {WHEEL}: its sha256 is {found}, expected {expected}; \
                 nothing was unpacked"
            )?,
            Self::Load { library, reason } => {
                write!(f, "{} cannot be loaded as NVRTC: {reason}", library.display())?;
            }
            Self::Version { library, found: (major, minor) } => {
                write!(f, "{} is NVRTC {major}.{minor}; 12.0 to 13.x is supported", library.display())?;
            }
        }
        write!(f, ". {REMEDIES}")
    }
}

impl StdError for Error {}

/// Where [`find`] looks. A value, so that tests need not change the process's environment.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// `ORTHANT_NVRTC`: the library or its folder. Set and wrong is an error.
    pub orthant_nvrtc: Option<PathBuf>,
    /// `CUDA_PATH`, then `CUDA_HOME`: roots of CUDA toolkits.
    pub toolkits: Vec<PathBuf>,
    /// Where `usr` and `opt` are looked for: `/`, or nothing.
    pub root: Option<PathBuf>,
    /// `VIRTUAL_ENV`, then `CONDA_PREFIX`: roots of Python environments.
    pub python_environments: Vec<PathBuf>,
    /// The user's folder of caches.
    pub cache: Option<PathBuf>,
    /// The Python whose pip fetches: a program and its first arguments.
    pub python: Vec<OsString>,
}

impl Places {
    /// What this process's environment says.
    pub fn of_process() -> Self {
        Self::of_environment(|name| env::var_os(name))
    }

    /// What an environment says; `variable` is asked for [`VARIABLES`] only. An empty value counts as unset.
    pub fn of_environment(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let folder = |name| variable(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let xdg = folder("XDG_CACHE_HOME").filter(|p| p.is_absolute());
        Self {
            orthant_nvrtc: folder("ORTHANT_NVRTC"),
            toolkits: ["CUDA_PATH", "CUDA_HOME"].into_iter().filter_map(folder).collect(),
            root: Some(PathBuf::from("/")),
            python_environments: ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(folder).collect(),
            cache: xdg.or_else(|| folder("HOME").map(|home| home.join(".cache"))),
            python: vec!["python3".into()],
        }
    }

    /// The folder that a fetched NVRTC lies in.
    pub fn cache_folder(&self) -> Option<PathBuf> {
        self.cache.as_ref().map(|cache| cache.join("orthant").join(CACHE_FOLDER))
    }

    /// Folders that may hold NVRTC, best first, each with where it is known from.
    fn folders(&self) -> Vec<(PathBuf, &'static str)> {
        let arch = env::consts::ARCH;
        let targets = if arch == "aarch64" { "targets/sbsa-linux/lib" } else { "targets/x86_64-linux/lib" };
        let mut folders = Vec::new();
        for toolkit in &self.toolkits {
            for lib in ["lib64", "lib", targets, "bin"] {
                folders.push((toolkit.join(lib), "CUDA_PATH or CUDA_HOME"));
            }
        }
        if let Some(root) = &self.root {
            let usual = "one of the usual folders";
            folders.push((root.join("usr/local/cuda/lib64"), usual));
            let mut versions = children(&root.join("usr/local"), "cuda-");
            versions.sort_by_key(|p| std::cmp::Reverse(numbers(file_name(p).trim_start_matches("cuda-"))));
            folders.extend(versions.into_iter().map(|p| (p.join("lib64"), usual)));
            let system = format!("usr/lib/{arch}-linux-gnu");
            for lib in ["opt/cuda/lib64", system.as_str(), "usr/lib64"] {
                folders.push((root.join(lib), usual));
            }
        }
        for environment in &self.python_environments {
            let mut pythons = children(&environment.join("lib"), "python3");
            pythons.sort();
            for packages in pythons.into_iter().map(|p| p.join("site-packages/nvidia")) {
                folders.push((packages.join("cuda_nvrtc/lib"), "the active Python environment"));
                folders.push((packages.join("cu13/lib"), "the active Python environment"));
            }
            folders.push((environment.join("lib"), "the active Python environment"));
            folders.push((environment.join(targets), "the active Python environment"));
        }
        folders.extend(self.cache_folder().map(|p| (p, "the user's cache folder")));
        folders
    }
}

/// A library to load.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The library file.
    pub library: PathBuf,
    /// Where it came from, in words.
    pub origin: String,
}

impl Display for Found {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} (from {})", self.library.display(), self.origin)
    }
}

/// Looks for NVRTC in `ORTHANT_NVRTC`, CUDA toolkits, the usual folders, the active Python environment and the
/// user's cache folder, in this order; if it is in none of them and `fetch` allows it, fetches [`WHEEL`] with pip
/// into the cache folder.
pub fn find(places: &Places, fetch: bool) -> Result<Found, Error> {
    if let Some(path) = &places.orthant_nvrtc {
        let library = if path.is_dir() {
            // The folder itself, a toolkit's, or that of `pip install --target`.
            let inside = ["", "lib64", "lib", "nvidia/cuda_nvrtc/lib", "nvidia/cu13/lib"];
            inside.iter().find_map(|lib| library_in(&path.join(lib)))
        } else {
            Some(path.clone()).filter(|p| p.is_file())
        };
        let found = library.map(|library| Found { library, origin: "ORTHANT_NVRTC".into() });
        return found.ok_or_else(|| Error::Override(path.clone()));
    }
    let folders = places.folders();
    for (folder, origin) in &folders {
        if let Some(library) = library_in(folder) {
            return Ok(Found { library, origin: (*origin).into() });
        }
    }
    let reason = if fetch {
        match fetch::fetch(places) {
            Ok(library) => return Ok(Found { library, origin: format!("pip, which fetched {WHEEL}") }),
            Err(Unfetched::Hash(error)) => return Err(error),
            Err(Unfetched::Other(reason)) => format!("pip could not fetch {WHEEL}: {reason}"),
        }
    } else {
        "fetching it is switched off (feature `fetch-nvrtc`)".into()
    };
    Err(Error::Missing { looked_in: folders.into_iter().map(|(folder, _)| folder).collect(), reason })
}

pub(super) fn file_name(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or_default()
}

/// Entries of a folder whose names start so; none if the folder cannot be read.
pub(super) fn children(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| file_name(path).starts_with(prefix)).collect()
}

/// `.12.9.86` as numbers; anything else but digits and dots is not a version.
fn numbers(text: &str) -> Option<Vec<u32>> {
    text.split('.').filter(|part| !part.is_empty()).map(|part| part.parse().ok()).collect()
}

/// Version in a file name such as `libnvrtc.so.12`, of the link's target where it says more; may be empty.
/// `libnvrtc.alt.so` (a build for another purpose) and static libraries have none.
fn version_of(path: &Path, stem: &str) -> Option<Vec<u32>> {
    let target = fs::canonicalize(path).ok()?;
    let target = file_name(&target).strip_prefix(stem).and_then(numbers);
    let own = file_name(path).strip_prefix(stem).and_then(numbers)?;
    Some(target.filter(|t| t.len() > own.len()).unwrap_or(own))
}

/// The newest supported NVRTC of a folder that also holds its builtins.
pub(super) fn library_in(folder: &Path) -> Option<PathBuf> {
    let versioned = children(folder, "libnvrtc.so")
        .into_iter()
        .filter_map(|path| version_of(&path, "libnvrtc.so").map(|version| (version, path)));
    versioned
        .filter(|(version, _)| version.first().is_none_or(|major| MAJORS.contains(major)))
        .filter(|(_, path)| !builtins_of(path).is_empty())
        .max()
        .map(|(_, path)| path)
}

/// The builtins beside a library, those of other major versions left out.
pub(super) fn builtins_of(library: &Path) -> Vec<PathBuf> {
    let major = version_of(library, "libnvrtc.so").and_then(|version| version.first().copied());
    let real = fs::canonicalize(library).unwrap_or_else(|_| library.to_path_buf());
    let mut files = Vec::new();
    for folder in [library, &real].into_iter().filter_map(Path::parent) {
        files.extend(children(folder, "libnvrtc-builtins.so").into_iter().filter(|file| {
            let own = version_of(file, "libnvrtc-builtins.so").and_then(|version| version.first().copied());
            own.is_none() || major.is_none() || own == major
        }));
    }
    files.sort();
    files.dedup();
    files
}
