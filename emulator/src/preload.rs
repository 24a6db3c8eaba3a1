//! Loads the emulated driver into this process, before anything asks for a driver, and speaks to it.
//!
//! The library's SONAME is `libcuda.so`: once it is loaded from its own path, whoever opens `libcuda.so` by name gets it,
//! whatever else the loader's path holds.
//!
//! ```no_run
//! use orthant_gpu::preload::Emulator;
//!
//! let emulator = Emulator::preload(None)?;
//! emulator.configure(&[("CARD", "sm_90a"), ("SEED", "7")])?;
//! // ... use the CUDA driver API, through cudarc or anything else that opens `libcuda.so` ...
//! println!("{}", emulator.report());
//! # Ok::<(), orthant_gpu::preload::Error>(())
//! ```
#![allow(unsafe_code, reason = "a C library, opened at run time")]

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW, Symbol};
use std::ffi::{CString, c_char, c_int};
use std::fmt;
use std::path::{Path, PathBuf};

/// File name of the library.
pub const FILE_NAME: &str = "liborthant_gpu.so";
/// Environment variable that names the library.
pub const VARIABLE: &str = "ORTHANT_EMULATOR";

/// Why there is no emulator, or why it refused.
#[derive(Debug)]
pub enum Error {
    /// Found nowhere.
    NotFound {
        /// Every file that was looked for.
        looked_for: Vec<PathBuf>,
    },
    /// It cannot be loaded.
    Load {
        /// The library.
        library: PathBuf,
        /// The loader's words.
        reason: String,
    },
    /// The process has another driver already.
    OtherDriver,
    /// It answered with a `CUresult`.
    Refused {
        /// What was asked for.
        what: String,
        /// The code.
        code: u32,
        /// What it says about it.
        reason: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::NotFound { looked_for } => {
                let files: Vec<_> = looked_for.iter().map(|path| path.display().to_string()).collect();
                write!(
                    f,
                    "the emulated driver was not found: `cargo build -p orthant-emulator` makes it, {VARIABLE} names it; \
                     looked for {}",
                    files.join(", ")
                )
            }
            Error::Load { library, reason } => write!(f, "{} cannot be loaded: {reason}", library.display()),
            Error::OtherDriver => {
                f.write_str("this process has loaded another libcuda.so; the emulated driver must come first")
            }
            Error::Refused { what, code, reason } => write!(f, "{what}: error {code}: {reason}"),
        }
    }
}

impl std::error::Error for Error {}

/// Where the library is: what the environment names, else beside the program or in the folders around it that cargo
/// builds into.
pub fn locate() -> Result<PathBuf, Error> {
    if let Some(named) = std::env::var_os(VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        let file = if named.is_dir() { named.join(FILE_NAME) } else { named };
        return if file.is_file() { Ok(file) } else { Err(Error::NotFound { looked_for: vec![file] }) };
    }
    let mut looked_for = Vec::new();
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(Path::new("."));
    // Programs lie in target/PROFILE, tests in deps/ below it and examples in examples/. deps/ comes first: `cargo test`
    // renews only that copy.
    for folder in [Some(folder), folder.parent()].into_iter().flatten() {
        for file in [folder.join("deps").join(FILE_NAME), folder.join(FILE_NAME)] {
            if file.is_file() {
                return Ok(file);
            }
            looked_for.push(file);
        }
    }
    Err(Error::NotFound { looked_for })
}

/// The emulated driver, loaded. It stays loaded for as long as the process lives.
#[derive(Debug)]
pub struct Emulator {
    library: Library,
}

impl Emulator {
    /// Loads `library`, or the one that [`locate`] finds.
    pub fn preload(library: Option<&Path>) -> Result<Emulator, Error> {
        let path = match library {
            Some(path) => path.to_path_buf(),
            None => locate()?,
        };
        let failed = |reason: String| Error::Load { library: path.clone(), reason };
        // A bare name would be looked for on the loader's path.
        let absolute = std::path::absolute(&path).map_err(|e| failed(e.to_string()))?;
        // SAFETY: the library's initialisers do nothing but what Rust's runtime does.
        let library = unsafe { Library::open(Some(&absolute), RTLD_NOW | RTLD_LOCAL) }
            .map_err(|e| failed(e.to_string()))?;
        let emulator = Emulator { library };
        let own = emulator.address(c"orthant_emulated")?;
        // SAFETY: as above; if another library answers to the name it has been loaded before, or is a driver, which is
        // made for being loaded.
        let by_name = unsafe { Library::open(Some("libcuda.so"), RTLD_NOW | RTLD_LOCAL) };
        let by_name = by_name.map_err(|e| failed(e.to_string())).map(|library| Emulator { library })?;
        match by_name.address(c"orthant_emulated") {
            Ok(found) if found == own => Ok(emulator),
            _ => Err(Error::OtherDriver),
        }
    }

    fn symbol<T>(&self, name: &std::ffi::CStr) -> Result<Symbol<T>, Error> {
        // SAFETY: every caller below names one of the library's own functions and gives its type.
        unsafe { self.library.get(name.to_bytes_with_nul()) }
            .map_err(|e| Error::Load { library: PathBuf::from(FILE_NAME), reason: e.to_string() })
    }

    fn address(&self, name: &std::ffi::CStr) -> Result<usize, Error> {
        let symbol: Symbol<extern "C" fn()> = self.symbol(name)?;
        Ok(*symbol as usize)
    }

    /// Begins anew with these settings on top of the environment's; the guide has the names. Every handle of the driver
    /// API that was given out before is void.
    pub fn configure(&self, settings: &[(&str, &str)]) -> Result<(), Error> {
        let lines: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        let function = self.symbol::<extern "C" fn(*const c_char) -> u32>(c"orthant_emulator_configure")?;
        let refused = || Error::Refused {
            what: "settings".into(),
            code: 1,
            reason: "a name or value of several lines, or with a NUL".into(),
        };
        if lines.lines().count() != settings.len() {
            return Err(refused());
        }
        let text = CString::new(lines.as_str()).map_err(|_| refused())?;
        self.answer("settings", function(text.as_ptr()))
    }

    /// Lets the `nth` call from now on of a function (`*`: of any) fail with a `CUresult`.
    pub fn inject(&self, function: &str, nth: u64, code: u32) -> Result<(), Error> {
        let inject =
            self.symbol::<extern "C" fn(*const c_char, u64, u32) -> u32>(c"orthant_emulator_inject")?;
        let name = CString::new(function).unwrap_or_default();
        self.answer("a fault to order", inject(name.as_ptr(), nth, code))
    }

    /// Takes back the faults that have not happened; the report no longer has those that have.
    pub fn forget_faults(&self) -> Result<(), Error> {
        let forget = self.symbol::<extern "C" fn() -> u32>(c"orthant_emulator_forget_faults")?;
        self.answer("forgetting faults", forget())
    }

    /// Loses a card: whatever needs it answers with this `CUresult` from now on.
    pub fn lose_device(&self, device: i32, code: u32) -> Result<(), Error> {
        let lose = self.symbol::<extern "C" fn(c_int, u32) -> u32>(c"orthant_emulator_lose_device")?;
        self.answer("losing a device", lose(device, code))
    }

    /// Flips a bit of device memory, unseen by every check.
    pub fn flip_bit(&self, address: u64, bit: u32) -> Result<(), Error> {
        let flip = self.symbol::<extern "C" fn(u64, u32) -> u32>(c"orthant_emulator_flip_bit")?;
        self.answer("a bit to flip", flip(address, bit))
    }

    /// What happened so far: calls, launches with their counters, faults, what is alive; as JSON.
    pub fn report(&self) -> String {
        let Ok(report) = self.symbol::<extern "C" fn(*mut u8, usize) -> usize>(c"orthant_emulator_report")
        else {
            return String::new();
        };
        let mut bytes = Vec::new();
        // It may grow while another thread works: ask until it fits.
        loop {
            let size = report(bytes.as_mut_ptr(), bytes.len());
            if size <= bytes.len() {
                bytes.truncate(size.saturating_sub(1));
                return String::from_utf8(bytes).unwrap_or_default();
            }
            bytes.resize(size + 256, 0);
        }
    }

    fn answer(&self, what: &str, code: u32) -> Result<(), Error> {
        if code == 0 {
            return Ok(());
        }
        let report: serde_json::Value = serde_json::from_str(&self.report()).unwrap_or_default();
        let reason = report["last_error"].as_str().unwrap_or_default().to_string();
        Err(Error::Refused { what: what.into(), code, reason })
    }
}
