//! Puts the library where foreign programs find it, as it is or as an older driver's.

use std::fs;
use std::path::{Path, PathBuf};

/// The names that programs ask the loader for.
const NAMES: [&str; 2] = ["libcuda.so.1", "libcuda.so"];
/// What tells the emulator's file from a driver's.
const MARK: &[u8] = b"\0orthant_emulated\0";

/// Writes `libcuda.so.1` and `libcuda.so` to `dir`, without some of its symbols. Another driver's files are not
/// replaced, nor is anything written into a folder that cargo builds into: it puts those on the library path of all that
/// it runs.
pub fn install(library: &Path, dir: &Path, without: &[String]) -> Result<Vec<PathBuf>, String> {
    let shown = |path: &Path, error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut bytes = fs::read(library).map_err(|e| shown(library, &e))?;
    if !contains(&bytes, MARK) {
        return Err(shown(library, &"this is not the emulated driver"));
    }
    for symbol in without {
        hide(&mut bytes, symbol)?;
    }
    let files: Vec<PathBuf> = NAMES.iter().map(|name| dir.join(name)).collect();
    for file in &files {
        match fs::read(file) {
            Ok(found) if !contains(&found, MARK) => {
                return Err(shown(file, &"another driver is there; it is not replaced"));
            }
            _ => {}
        }
    }
    if dir.join(".fingerprint").exists() || dir.join("../.fingerprint").exists() {
        return Err(shown(dir, &"cargo builds here, and would give this driver to all that it runs"));
    }
    fs::create_dir_all(dir).map_err(|e| shown(dir, &e))?;
    for file in &files {
        // Written beside and renamed: a program that uses the old file keeps it.
        let new = file.with_extension("new");
        fs::write(&new, &bytes).and_then(|()| fs::rename(&new, file)).map_err(|e| shown(file, &e))?;
    }
    Ok(files)
}

fn contains(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Renames a symbol in the library's tables of names, so that nobody finds it: the hash table still leads to its entry,
/// whose name is then another one.
fn hide(bytes: &mut [u8], symbol: &str) -> Result<(), String> {
    if !symbol.starts_with("cu") {
        return Err(format!("`{symbol}` is no symbol of the driver"));
    }
    let name = [b"\0", symbol.as_bytes(), b"\0"].concat();
    let places: Vec<usize> =
        bytes.windows(name.len()).enumerate().filter(|(_, w)| *w == name).map(|(at, _)| at + 1).collect();
    if places.is_empty() {
        return Err(format!("the library has no symbol `{symbol}`"));
    }
    places.into_iter().for_each(|at| bytes[at] = b'x');
    Ok(())
}
