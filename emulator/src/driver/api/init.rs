//! `cuInit`, versions, error names, entry points.

use crate::driver::raw::{Out, Text};
use crate::driver::symbols::{PER_THREAD, SYMBOLS, Symbol};
use crate::driver::{Answer, Call, Refusal, abi, codes};
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::sync::LazyLock;

api! {
    fn cuInit(flags: c_uint) Nothing |call| {
        if flags != 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        call.initialise()
    }

    fn cuDriverGetVersion(version: Out<c_int>) Nothing |call| {
        version.set(call.settings.driver as c_int)
    }

    fn cuGetErrorName(error: u32, name: Out<*const c_char>) Nothing |_call| {
        text_of(error, name, 0)
    }

    fn cuGetErrorString(error: u32, text: Out<*const c_char>) Nothing |_call| {
        text_of(error, text, 1)
    }

    fn cuGetProcAddress(symbol: Text, function: Out<*const c_void>, version: c_int, flags: u64) Nothing |call| {
        let name = symbol.get()?;
        let found = proc_address(call, &name, version, flags);
        function.set(found.map_or(std::ptr::null(), |address| address as *const c_void))?;
        version_exists(call, version)?;
        found.map(drop).ok_or_else(|| not_found(&name, version))
    }

    fn cuGetProcAddress_v2(
        symbol: Text,
        function: Out<*const c_void>,
        version: c_int,
        flags: u64,
        status: Out<u32>,
    ) Nothing |call| {
        use abi::proc_address_result::{SUCCESS, SYMBOL_NOT_FOUND, VERSION_NOT_SUFFICIENT};
        let name = symbol.get()?;
        let found = proc_address(call, &name, version, flags);
        function.set(found.map_or(std::ptr::null(), |address| address as *const c_void))?;
        version_exists(call, version)?;
        status.set_if(match found {
            Some(_) => SUCCESS,
            // A driver knows the names of its time, whatever version is asked for.
            None if proc_address(call, &name, call.settings.driver as c_int, flags).is_some() => {
                VERSION_NOT_SUFFICIENT
            }
            None => SYMBOL_NOT_FOUND,
        });
        // With a place for the status, not finding is no error.
        if found.is_some() || !status.is_null() { Ok(()) } else { Err(not_found(&name, version)) }
    }

    fn cuProfilerStart() Context |_call| { Ok(()) }
    fn cuProfilerStop() Context |_call| { Ok(()) }
}

/// Names and texts of all codes as C strings, which live as long as the library.
static TEXTS: LazyLock<Vec<(u32, [CString; 2])>> = LazyLock::new(|| {
    let c = |text: &str| CString::new(text).unwrap_or_default();
    codes::CODES.iter().map(|code| (code.code, [c(code.name), c(code.text)])).collect()
});

fn text_of(error: u32, to: Out<*const c_char>, which: usize) -> Result<(), Refusal> {
    match TEXTS.iter().find(|(code, _)| *code == error) {
        Some((_, texts)) => to.set(texts[which].as_ptr()),
        None => {
            to.set(std::ptr::null())?;
            Err(codes::INVALID_VALUE.into())
        }
    }
}

/// The manual: a version newer than the driver is an invalid value.
fn version_exists(call: &Call, version: c_int) -> Answer {
    if i64::from(version) > i64::from(call.settings.driver) {
        let text = format!("version {version} is newer than this driver's, {}", call.settings.driver);
        return Err(Refusal::new(codes::INVALID_VALUE, text));
    }
    Ok(())
}

fn not_found(name: &str, version: c_int) -> Refusal {
    Refusal::new(codes::NOT_FOUND, format!("there is no {name} for version {version}"))
}

fn proc_address(call: &Call, name: &str, version: c_int, flags: u64) -> Option<usize> {
    let version = u32::try_from(version).ok().filter(|&version| version <= call.settings.driver)?;
    let newest = |table: &'static [Symbol]| {
        table.iter().filter(|s| s.base == name && s.since <= version).max_by_key(|s| s.since)
    };
    let per_thread = flags & u64::from(abi::proc_address_flag::PER_THREAD_DEFAULT_STREAM) != 0;
    let symbol = if per_thread { newest(PER_THREAD).or_else(|| newest(SYMBOLS)) } else { newest(SYMBOLS) };
    let exported = symbol?.exported;
    let missing = |hidden: &String| hidden == exported || hidden == name;
    if call.settings.missing.iter().any(missing) {
        return None;
    }
    super::EXPORTS.get(exported).map(|&(address, _)| address)
}
