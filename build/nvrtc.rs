//! NVRTC, NVIDIA's run-time compiler for CUDA C++: found, or fetched once, then loaded and used.
//!
//! A plain module that `build.rs` and tests include by path; its one dependency is `libloading`.
//! [`find`] says which library to take, [`Nvrtc::load`] opens it, [`Nvrtc::compile`] turns a source into PTX
//! and a cubin, [`ptxas_report`] reads what the assembler said. Every failure is a value that names a remedy.
#![allow(dead_code, unused_imports, reason = "each program that includes this file uses a part of it")]

use std::error::Error as StdError;
use std::ffi::CString;
use std::fmt::{self, Display, Formatter};
use std::path::Path;

#[path = "nvrtc/fetch.rs"]
mod fetch;
#[path = "nvrtc/ffi.rs"]
#[allow(unsafe_code, reason = "NVRTC is a C library, opened at run time")]
mod ffi;
#[path = "nvrtc/find.rs"]
mod find;
#[path = "nvrtc/report.rs"]
mod report;

pub use fetch::{WHEEL, WHEEL_SHA256};
pub use find::{Error, Found, Places, VARIABLES, find};
pub use report::{KernelReport, Report, ptxas_report};

use find::{MAJORS, builtins_of};

/// The images that Orthant's kernels are compiled to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// Machine code for A100 and, by compatibility, every 8.x card.
    Sm80Cubin,
    /// Machine code for H100 and H200.
    Sm90aCubin,
    /// PTX that a driver compiles for any card from 8.0 on.
    Compute80Ptx,
    /// PTX with Hopper's own instructions, for the emulator.
    Compute90aPtx,
}

impl ImageKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Sm80Cubin, Self::Sm90aCubin, Self::Compute80Ptx, Self::Compute90aPtx];

    /// The architecture as NVRTC spells it.
    pub fn architecture(self) -> &'static str {
        match self {
            Self::Sm80Cubin => "sm_80",
            Self::Sm90aCubin => "sm_90a",
            Self::Compute80Ptx => "compute_80",
            Self::Compute90aPtx => "compute_90a",
        }
    }

    /// Whether ptxas runs, so that there is a cubin and a report.
    pub fn is_cubin(self) -> bool {
        matches!(self, Self::Sm80Cubin | Self::Sm90aCubin)
    }

    /// The options of every compilation of this kind. No fast math; kernels forbid contraction where it matters
    /// by writing `__fmul_rn` and its like. NVRTC takes ptxas flags only one at a time.
    pub fn options(self) -> Vec<String> {
        let mut options = vec![format!("--gpu-architecture={}", self.architecture())];
        options.extend(["--std=c++17", "-lineinfo"].map(String::from));
        if self.is_cubin() {
            let ptxas = ["-v", "--warn-on-spills", "--warn-on-local-memory-usage"];
            options.extend(ptxas.map(|flag| format!("--ptxas-options={flag}")));
        }
        options
    }
}

/// What a compilation gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// The PTX text.
    pub ptx: String,
    /// The machine code, if the architecture was a real one (`sm_…`).
    pub cubin: Option<Vec<u8>>,
    /// What compiler and assembler said. It holds times, so it differs from run to run; the images do not.
    pub log: String,
}

/// A compilation that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// Name of the source, as given.
    pub source: String,
    /// NVRTC's status.
    pub code: i32,
    /// The status's name, such as `NVRTC_ERROR_COMPILATION`.
    pub name: String,
    /// What compiler and assembler said.
    pub log: String,
}

impl Display for CompileError {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} ({})\n{}", self.source, self.name, self.code, self.log)
    }
}

impl StdError for CompileError {}

/// A loaded NVRTC. Threads may share it and compile at once.
pub struct Nvrtc {
    api: ffi::Api,
    version: (i32, i32),
}

impl Nvrtc {
    /// Opens the library, its builtins first: some releases (13.0) look for those on the loader's path only,
    /// where they mostly are not; what is already open is found by its name.
    pub fn load(library: &Path) -> Result<Self, Error> {
        let load_error = |reason| Error::Load { library: library.to_path_buf(), reason };
        let absolute = std::path::absolute(library).map_err(|e| load_error(e.to_string()))?;
        let builtins = builtins_of(&absolute);
        if builtins.is_empty() {
            return Err(load_error("libnvrtc-builtins.so is not beside it".into()));
        }
        let opened = ffi::Library::open(&absolute, &builtins).map_err(|e| load_error(e.to_string()))?;
        let found = opened.version().map_err(|e| load_error(e.to_string()))?;
        if !u32::try_from(found.0).is_ok_and(|major| MAJORS.contains(&major)) {
            return Err(Error::Version { library: library.to_path_buf(), found });
        }
        let api = opened.api().map_err(|e| load_error(e.to_string()))?;
        Ok(Self { api, version: found })
    }

    /// Major and minor version.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }

    /// Compiles one source. With `-lineinfo` the images name their source file: NVRTC completes a relative `name`
    /// with the current folder, so give an absolute one to images that others will have.
    pub fn compile(
        &self,
        source: &str,
        name: &str,
        options: &[impl AsRef<str>],
    ) -> Result<Compiled, CompileError> {
        let fail = |code, log: &str| CompileError {
            source: name.to_owned(),
            code,
            name: self.api.error_name(code),
            log: log.to_owned(),
        };
        let text = |what, text: &str| {
            CString::new(text).map_err(|_| fail(ffi::INVALID_INPUT, &format!("{what} has a NUL byte")))
        };
        let options: Result<Vec<_>, _> = options.iter().map(|o| text("an option", o.as_ref())).collect();
        let program = self.api.program(&text("the source", source)?, &text("the name", name)?);
        let program = program.map_err(|code| fail(code, ""))?;
        let status = program.compile(&options?);
        let log = program.log().map_err(|code| fail(code, ""))?;
        status.map_err(|code| fail(code, &log))?;
        let ptx = program.ptx().map_err(|code| fail(code, &log))?;
        let cubin = program.cubin().map_err(|code| fail(code, &log))?;
        Ok(Compiled { ptx, cubin: Some(cubin).filter(|bytes| !bytes.is_empty()), log })
    }
}
