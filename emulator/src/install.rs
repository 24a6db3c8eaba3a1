//! Puts the library where foreign programs find it, as it is or as an older driver's.

use std::collections::BTreeMap;
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
    hide(&mut bytes, without)?;
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

/// Renames symbols in the library's tables of names, so that nobody finds them: the hash table still leads to an entry,
/// whose name is then another one. The library itself has no need of the names (`build.rs`).
fn hide(bytes: &mut [u8], symbols: &[String]) -> Result<(), String> {
    let mut places: BTreeMap<&[u8], Vec<usize>> = BTreeMap::new();
    for symbol in symbols {
        if !symbol.starts_with("cu") {
            return Err(format!("`{symbol}` is no symbol of the driver"));
        }
        places.insert(symbol.as_bytes(), Vec::new());
    }
    let mut start = 0;
    for name in bytes.split(|&byte| byte == 0) {
        if name.starts_with(b"cu")
            && let Some(places) = places.get_mut(name)
        {
            places.push(start);
        }
        start += name.len() + 1;
    }
    for symbol in symbols {
        if places.get(symbol.as_bytes()).is_none_or(Vec::is_empty) {
            return Err(format!("the library has no symbol `{symbol}`"));
        }
    }
    places.into_values().flatten().for_each(|at| bytes[at] = b'x');
    Ok(())
}
