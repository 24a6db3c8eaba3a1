//! The driver: looked for, told apart from the software GPU, probed. cudarc panics where there is none, so nothing else in
//! the crate touches cudarc before [`open`] has answered.
#![allow(unsafe_code, reason = "the driver is a C library")]

use std::ffi::{CStr, c_char, c_int};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute, CUresult};

use super::{api, emulated};
use crate::device::Device;
use crate::driver::{DeviceInfo, Driver};
use crate::error::{Error, Result};

/// The oldest driver that loads the embedded images: that of CUDA 12.0.
const OLDEST: (u32, u32) = (12, 0);

/// What a probe calls. cudarc panics at the first call of a symbol that an old driver lacks: these and the rest of the
/// backend's are looked for beforehand.
const SYMBOLS: [&str; 7] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceTotalMem_v2",
];

/// Which driver this process uses. It cannot use two: both answer to the same name.
static CHOSEN: Mutex<Option<Device>> = Mutex::new(None);

/// [`Driver::open`]
pub(crate) fn open(device: Device) -> Result<Driver> {
    let refuse = |reason: String| Error::Device { device: device.to_string(), reason };
    let mut chosen = CHOSEN.lock().unwrap_or_else(PoisonError::into_inner);
    let driver = match (device, *chosen) {
        (Device::Cpu, _) => return Err(refuse("the CPU has no driver".into())),
        (Device::Emulated(card), Some(Device::Emulated(before))) if card == before => probe(true),
        (Device::Cuda(_), Some(Device::Cuda(_))) => probe(false),
        (Device::Emulated(card), None) => emulated::preload(card).and_then(|()| probe(true)),
        (Device::Cuda(_), None) => probe(false),
        (_, Some(before)) => {
            Err(format!("this process uses device `{before}` already, and can have one driver only"))
        }
    };
    let driver = driver.map_err(refuse)?;
    *chosen = Some(device);
    if let Device::Cuda(ordinal) = device
        && ordinal as usize >= driver.devices.len()
    {
        let count = driver.devices.len();
        return Err(refuse(format!("there are {count} cards, numbered from 0")));
    }
    Ok(driver)
}

fn probe(emulated: bool) -> std::result::Result<Driver, String> {
    // SAFETY: opens the library by its usual names and closes it again.
    if !unsafe { sys::is_culib_present() } {
        return Err("no NVIDIA driver was found (libcuda.so, libcuda.so.1 on the loader's path); \
                    use `cpu`, or install the driver"
            .into());
    }
    // SAFETY: it is present, so this does not panic; it opens the library for good.
    let library = unsafe { sys::culib() };
    // SAFETY: only the address is looked at.
    let has = |name: &str| unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_ok();
    let path = path_of(library)?;
    match (has("orthant_emulated"), emulated) {
        (true, false) => {
            return Err(format!(
                "{} is the software GPU, not a card's driver; `emulated` uses it, or take it off the loader's path",
                path.display()
            ));
        }
        (false, true) => {
            return Err(format!(
                "the process has loaded another driver before ({}), which answers in the software GPU's place",
                path.display()
            ));
        }
        _ => {}
    }
    let needed = SYMBOLS.iter().chain(&api::SYMBOLS).chain(&api::STREAM_SYMBOLS);
    let missing: Vec<&str> = needed.copied().filter(|name| !has(name)).collect();
    if !missing.is_empty() {
        return Err(format!(
            "the driver {} lacks {}; it is older than CUDA {}.{}",
            path.display(),
            missing.join(", "),
            OLDEST.0,
            OLDEST.1
        ));
    }
    let mut version = 0;
    // SAFETY: plain calls, with places for their results; all the symbols are there.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    let version = (version as u32 / 1000, version as u32 % 1000 / 10);
    if version < OLDEST {
        return Err(format!(
            "the driver {} supports CUDA {}.{}; {}.{} is needed",
            path.display(),
            version.0,
            version.1,
            OLDEST.0,
            OLDEST.1
        ));
    }
    // SAFETY: as above.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_ERROR_NO_DEVICE => {
            let visible = std::env::var("CUDA_VISIBLE_DEVICES");
            let visible = visible.map_or(String::new(), |v| format!(" (CUDA_VISIBLE_DEVICES is `{v}`)"));
            return Err(format!("the driver {} has no card{visible}", path.display()));
        }
        result => check("cuInit", result)?,
    }
    let mut count = 0;
    // SAFETY: as above.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) })?;
    let devices = (0..count).map(device_info).collect::<std::result::Result<_, _>>()?;
    Ok(Driver { path, version, emulated, devices })
}

fn device_info(ordinal: c_int) -> std::result::Result<DeviceInfo, String> {
    let mut device = 0;
    // SAFETY: here and below: plain calls, with places for their results.
    check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, ordinal) })?;
    let mut name = [0 as c_char; 256];
    check("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr(), 256, device) })?;
    let mut memory = 0;
    check("cuDeviceTotalMem_v2", unsafe { sys::cuDeviceTotalMem_v2(&mut memory, device) })?;
    let attribute = |which| {
        let mut value = 0;
        let result = unsafe { sys::cuDeviceGetAttribute(&mut value, which, device) };
        check("cuDeviceGetAttribute", result).map(|()| value as u32)
    };
    Ok(DeviceInfo {
        // SAFETY: the driver ends the name with NUL within the 256 bytes.
        name: unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned(),
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        memory: memory as u64,
    })
}

fn check(call: &str, result: CUresult) -> std::result::Result<(), String> {
    match result {
        CUresult::CUDA_SUCCESS => Ok(()),
        result => Err(format!("{call} failed: {result:?}")),
    }
}

/// The file that the driver was loaded from.
fn path_of(library: &libloading::Library) -> std::result::Result<PathBuf, String> {
    let failed = |what: &str| format!("the driver that was found is none: {what}");
    // SAFETY: only the address is looked at.
    let symbol = unsafe { library.get::<unsafe extern "C" fn()>(b"cuInit") };
    let symbol = symbol.map_err(|_| failed("it has no cuInit"))?;
    let address = *symbol as *const std::ffi::c_void;
    let mut info = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the address is code of a loaded library, and the structure may be written.
    let info = unsafe {
        if libc::dladdr(address, info.as_mut_ptr()) == 0 {
            return Err(failed("the loader does not know it"));
        }
        info.assume_init()
    };
    if info.dli_fname.is_null() {
        return Err(failed("the loader has no name for it"));
    }
    // SAFETY: the loader's own string, which lives as long as the library.
    let name = unsafe { CStr::from_ptr(info.dli_fname) }.to_string_lossy().into_owned();
    let path = PathBuf::from(name);
    Ok(path.canonicalize().unwrap_or(path))
}
