//! The emulator's own functions, beside the driver's: what tells it from a card, settings, faults to order, the report.
//! The library's Rust side ([`crate::preload`]) calls these.

#![allow(unsafe_code, reason = "exported names")]

use crate::driver::config::Settings;
use crate::driver::raw::{Text, write_text};
use crate::driver::state::State;
use crate::driver::{Call, Needs, Refusal, codes, entry};
use std::ffi::{c_char, c_int};

/// What `orthant_emulated` answers.
static WHAT: &std::ffi::CStr = c"orthant-emulator";

/// Nobody who finds this symbol in a driver has a card before him.
// SAFETY: the name is this library's own.
#[unsafe(no_mangle)]
pub extern "C" fn orthant_emulated() -> *const c_char {
    WHAT.as_ptr()
}

/// Begins anew with other settings, `NAME=VALUE` in a line each, on top of the environment's. All handles are void.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn orthant_emulator_configure(settings: Text) -> u32 {
    entry("orthant_emulator_configure", Needs::Nothing, |call| {
        let wrong = |error: String| Refusal::new(codes::INVALID_VALUE, error);
        let mut new = Settings::of_environment().map_err(wrong)?;
        new.set_all(&settings.get()?).map_err(wrong)?;
        restart(call, new);
        Ok(())
    })
}

/// The `nth` call of `name` (`*`: any) from now on fails with `code`.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn orthant_emulator_inject(name: Text, nth: u64, code: u32) -> u32 {
    entry("orthant_emulator_inject", Needs::Nothing, |call| {
        let name = name.get()?;
        if nth == 0 || codes::find(code).is_none() || code == codes::SUCCESS {
            return Err(Refusal::new(codes::INVALID_VALUE, "calls count from 1, and the code is an error"));
        }
        let added = call.settings.plan.add(&name, nth, code);
        added.map_err(|error| Refusal::new(codes::INVALID_VALUE, error))
    })
}

/// Takes back all faults that were ordered and have not happened, and forgets those that have.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn orthant_emulator_forget_faults() -> u32 {
    entry("orthant_emulator_forget_faults", Needs::Nothing, |call| {
        call.settings.plan = Default::default();
        call.settings.flips.clear();
        call.journal.forget_ordered();
        Ok(())
    })
}

/// The device is lost: whatever needs it answers `code` from now on.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn orthant_emulator_lose_device(device: c_int, code: u32) -> u32 {
    entry("orthant_emulator_lose_device", Needs::Init, |call| {
        codes::find(code).filter(|code| code.code != 0).ok_or(Refusal::from(codes::INVALID_VALUE))?;
        call.device(device)?.lost = Some(code);
        Ok(())
    })
}

/// Flips a bit of device memory, unseen by every check.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn orthant_emulator_flip_bit(address: u64, bit: u32) -> u32 {
    entry("orthant_emulator_flip_bit", Needs::Init, |call| {
        let device = call.device_of(address).ok_or(Refusal::from(codes::INVALID_VALUE))?;
        let flipped = call.devices[device].memory.flip_bit(address, bit);
        flipped.map_err(|error| Refusal::new(codes::INVALID_VALUE, error.to_string()))
    })
}

/// Writes the report, JSON with a NUL behind it, into `size` bytes at `to`; how many bytes it needs.
// SAFETY: as above.
#[unsafe(no_mangle)]
pub extern "C" fn orthant_emulator_report(to: usize, size: usize) -> usize {
    let report = crate::driver::lock().report();
    write_text(to, size, &report);
    report.len() + 1
}

fn restart(call: &mut Call, settings: Settings) {
    let pinned: Vec<usize> = call.pinned.keys().copied().collect();
    pinned.into_iter().for_each(|address| call.unpin(address));
    let generation = call.generation + 1;
    **call = State { generation, ..State::new(settings) };
}
