//! Loads the software GPU (package `orthant-emulator`) in the place of a driver.
//!
//! Its library's SONAME is `libcuda.so`: loaded from its own path before anyone asks for a driver, it is what cudarc
//! finds under that name, whatever the loader's path holds.
#![allow(unsafe_code, reason = "a C library, opened at run time")]

use std::ffi::{CString, c_char};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use crate::device::EmulatedCard;

/// Environment variable that names the library, or its folder.
const LIBRARY_VARIABLE: &str = "ORTHANT_EMULATOR";
const FILE_NAME: &str = "liborthant_gpu.so";

/// Writes the report into so many bytes and returns how many it needs, with NUL at the end.
type Report = extern "C" fn(*mut u8, usize) -> usize;

/// Of the library that this process has loaded.
static REPORT: OnceLock<Report> = OnceLock::new();

/// What the software GPU has counted since it was loaded, as the JSON of its report: calls of the driver by name, and for
/// each kernel launches, instructions, memory traffic, passes over the banks of shared memory (`shared_accesses`, of them
/// `shared.bank_conflicts`) and operations of tensor cores (`tensor_flops`). `None` where this process has not opened it.
pub fn counters() -> Option<String> {
    let report = REPORT.get()?;
    let mut bytes = vec![];
    loop {
        let size = report(bytes.as_mut_ptr(), bytes.len());
        if size <= bytes.len() {
            bytes.truncate(size.saturating_sub(1));
            return String::from_utf8(bytes).ok();
        }
        // It may grow while another thread works.
        bytes.resize(size + 256, 0);
    }
}

/// Where the library is: what the environment names, else beside the program or where cargo builds it.
fn locate() -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(LIBRARY_VARIABLE).filter(|named| !named.is_empty()) {
        let named = PathBuf::from(named);
        let file = if named.is_dir() { named.join(FILE_NAME) } else { named };
        if file.is_file() {
            return Ok(file);
        }
        return Err(format!("{LIBRARY_VARIABLE} names {}, which is no file", file.display()));
    }
    let program = std::env::current_exe().map_err(|e| format!("this program's own path: {e}"))?;
    let folder = program.parent().unwrap_or(Path::new("."));
    // Programs lie in target/PROFILE; tests and examples in folders below it, libraries in its deps/.
    let folders = [Some(folder), folder.parent()].into_iter().flatten();
    // deps/ first: `cargo test` renews only that copy.
    let files = folders.flat_map(|folder| [folder.join("deps").join(FILE_NAME), folder.join(FILE_NAME)]);
    let files: Vec<PathBuf> = files.collect();
    files.iter().find(|file| file.is_file()).cloned().ok_or_else(|| {
        let files: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        format!(
            "the software GPU's library was not found (looked for {}); `cargo build -p orthant-emulator` makes it, \
             with the same profile, and {LIBRARY_VARIABLE} may name it",
            files.join(", ")
        )
    })
}

/// Loads it and makes it play this card. The library stays loaded for as long as the process lives.
pub(super) fn preload(card: EmulatedCard) -> Result<(), String> {
    let path = locate()?;
    let failed = |e: libloading::Error| format!("{}: {e}", path.display());
    // A bare name would be looked for on the loader's path.
    let absolute = std::path::absolute(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    // SAFETY: the software GPU's initialisers do nothing but what Rust's runtime does.
    let library = unsafe { Library::open(Some(&absolute), RTLD_NOW | RTLD_LOCAL) }.map_err(failed)?;
    // SAFETY: the symbol has this type in the software GPU; another library does not have it.
    let configure =
        unsafe { library.get::<extern "C" fn(*const c_char) -> u32>(b"orthant_emulator_configure\0") }
            .map_err(|_| format!("{} is not the software GPU's library", path.display()))?;
    // The environment may describe the card in more detail.
    let described = std::env::var("ORTHANT_EMULATOR_CARD").unwrap_or_default();
    let card = card.to_string();
    let card = if described.split(',').next() == Some(card.as_str()) { described } else { card };
    let settings = CString::new(format!("CARD={card}\n")).map_err(|e| e.to_string())?;
    match configure(settings.as_ptr()) {
        0 => {}
        code => return Err(format!("{}: its settings were refused (error {code})", path.display())),
    }
    // SAFETY: as above. An older library may lack it; then there are no counters.
    if let Ok(report) = unsafe { library.get::<Report>(b"orthant_emulator_report\0") } {
        REPORT.get_or_init(|| *report);
    }
    // The library is linked to stay; the handle may go.
    drop(library);
    Ok(())
}
