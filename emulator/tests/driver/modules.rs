//! Modules and libraries: what loads, what is refused and how that is said, kernels and variables by name, unloading.

use crate::harness::*;
use crate::tools::*;
use cudarc::driver::sys::{self, CUmodule, CUresult, cudaError_enum::*};
use std::ffi::{CStr, CString, c_char, c_void};
use std::ptr::null_mut;

const HEAD: &str = ".version 8.0\n.target sm_80\n.address_size 64\n";

/// Variables with contents, and kernels that read and change them.
const VARIABLES: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .global .align 4 .u32 counter = 41;
.visible .global .align 4 .b8 blank[12];
.visible .const .align 4 .b32 table[3] = {7, 8, 9};
.visible .entry bump()
{
    .reg .b32 %r<2>;
    ld.global.u32 %r1, [counter];
    add.u32 %r1, %r1, 1;
    st.global.u32 [counter], %r1;
    ret;
}
.visible .entry look(.param .u64 to)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [to];
    ld.const.u32 %r1, [table+4];
    st.global.u32 [%rd1], %r1;
    ret;
}
";

fn load(image: &[u8]) -> Result<CUmodule, CUresult> {
    let mut module = null_mut();
    match unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) } {
        CUDA_SUCCESS => Ok(module),
        error => Err(error),
    }
}

fn text(ptx: &str) -> Vec<u8> {
    CString::new(ptx).unwrap().into_bytes_with_nul()
}

/// Loads with log buffers of `room` bytes: result, error log, the size that was written back.
fn load_with_log(image: &[u8], room: usize) -> (CUresult, String, usize) {
    use sys::CUjit_option::*;
    let (mut info, mut errors, mut module) = ([1 as c_char; 64], vec![1 as c_char; room + 1], null_mut());
    let mut options = [
        CU_JIT_OPTIMIZATION_LEVEL,
        CU_JIT_INFO_LOG_BUFFER,
        CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES,
        CU_JIT_ERROR_LOG_BUFFER,
        CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values: [*mut c_void; 5] =
        [4 as _, info.as_mut_ptr().cast(), 64 as _, errors.as_mut_ptr().cast(), room as _];
    let result = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            image.as_ptr().cast(),
            5,
            options.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    assert_eq!((info[0], values[2] as usize), (0, 0));
    // Nothing is written beyond the buffer.
    assert_eq!(errors[room], 1);
    errors[room] = 0;
    let log = if room == 0 { "" } else { unsafe { CStr::from_ptr(errors.as_ptr()) }.to_str().unwrap() };
    (result, log.into(), values[4] as usize)
}

fn variable(module: CUmodule, name: &str) -> Result<(u64, usize), CUresult> {
    let (mut address, mut size, name) = (0, 0, CString::new(name).unwrap());
    match unsafe { sys::cuModuleGetGlobal_v2(&mut address, &mut size, module, name.as_ptr()) } {
        CUDA_SUCCESS => Ok((address, size)),
        error => Err(error),
    }
}

#[test]
fn machine_code_is_for_another_card() {
    let session = session(&[]);
    let mut cubin = b"\x7fELF\x02\x01\x01".to_vec();
    cubin.extend([0; 57]);
    let mut fat = vec![0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0];
    fat.extend([0; 56]);
    for image in [cubin, fat] {
        assert_eq!(load(&image), Err(CUDA_ERROR_NO_BINARY_FOR_GPU));
        assert!(session.last_error().contains("PTX text only"), "{}", session.last_error());
        assert_eq!(load_with_log(&image, 100).0, CUDA_ERROR_NO_BINARY_FOR_GPU);
    }
    let mut module = null_mut();
    fails(
        unsafe { sys::cuModuleLoadFatBinary(&mut module, [0u8; 64].as_ptr().cast()) },
        CUDA_ERROR_NO_BINARY_FOR_GPU,
    );
    fails(unsafe { sys::cuModuleLoadData(&mut module, std::ptr::null()) }, CUDA_ERROR_INVALID_VALUE);
    fails(
        unsafe { sys::cuModuleLoadData(null_mut(), text(KERNELS).as_ptr().cast()) },
        CUDA_ERROR_INVALID_VALUE,
    );
    assert_eq!(session.report()["living"]["modules"], 0);
}

#[test]
fn what_is_no_ptx_is_refused_with_its_position_in_the_log() {
    let session = session(&[]);
    for (ptx, place) in [
        ("garbage", "1:1"),
        ("", ""),
        (
            &format!(
                "{HEAD}.visible .entry k()\n{{\n    .reg .b32 %r<2>;\n    mov.u32 %r1, %nothing;\n    ret;\n}}\n"
            ),
            "7:",
        ),
        (&format!("{HEAD}.visible .entry k()\n{{\n    ret;\n"), ""),
    ] {
        assert_eq!(load(&text(ptx)), Err(CUDA_ERROR_INVALID_PTX), "{ptx}");
        let (result, log, size) = load_with_log(&text(ptx), 400);
        fails(result, CUDA_ERROR_INVALID_PTX);
        assert!(log.contains(place) && log.len() > 5, "{log}");
        assert_eq!(size, log.len());
        assert!(session.last_error().contains(&log));
        // A log that is too small is cut, and ends in NUL all the same.
        for room in [10, 1, 0] {
            let (result, cut, size) = load_with_log(&text(ptx), room);
            fails(result, CUDA_ERROR_INVALID_PTX);
            assert_eq!((cut.as_str(), size), (&log[..room.saturating_sub(1)], room.saturating_sub(1)));
        }
    }
    let (result, log, size) = load_with_log(&text(KERNELS), 100);
    ok(result);
    assert_eq!((log.as_str(), size), ("", 0));
}

#[test]
fn instructions_that_are_not_built_are_named() {
    let session = session(&[]);
    let ptx = format!(
        "{HEAD}.visible .entry k()
{{
    .reg .f32 %f<9>;
    .reg .b32 %r<9>;
    wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {{%f1}}, {{%r1}}, {{%r2}}, {{%f2}};
    ret;
}}
"
    );
    let (result, log, _) = load_with_log(&text(&ptx), 500);
    fails(result, CUDA_ERROR_NOT_SUPPORTED);
    assert!(log.contains("wmma") && log.contains('8'), "{log}");
    assert_eq!(
        (&session.report()["living"]["modules"], &session.report()["memory_used"]),
        (&0.into(), &0.into())
    );
}

#[test]
fn ptx_for_another_driver_or_card_is_refused() {
    let with = |version: &str, target: &str| {
        text(&format!(
            ".version {version}\n.target {target}\n.address_size 64\n.visible .entry k() {{ ret; }}\n"
        ))
    };
    {
        // The PTX manual's table of releases: CUDA 12.4 reads up to 8.4.
        let session = session(&[("DRIVER", "12.4")]);
        assert!(load(&with("8.4", "sm_80")).is_ok());
        for newer in ["8.5", "9.0"] {
            assert_eq!(load(&with(newer, "sm_80")), Err(CUDA_ERROR_UNSUPPORTED_PTX_VERSION));
            assert!(session.last_error().contains(newer) && session.last_error().contains("8.4"));
        }
    }
    {
        // It is the version that is to blame, whatever else is new in the text.
        let _session = session(&[("DRIVER", "12.0")]);
        let image = text(".version 9.9\n.target sm_80\n.address_size 64\n.newdirective 1;\n");
        assert_eq!(load(&image), Err(CUDA_ERROR_UNSUPPORTED_PTX_VERSION));
    }
    {
        let session = session(&[("CARD", "sm_80")]);
        for other in ["sm_86", "sm_90", "sm_90a"] {
            assert_eq!(load(&with("8.0", other)), Err(CUDA_ERROR_INVALID_PTX), "{other}");
            assert!(session.last_error().contains(other), "{}", session.last_error());
        }
        assert!(load(&with("8.0", "sm_70")).is_ok());
    }
    let _session = session(&[("CARD", "sm_90a")]);
    for own in ["sm_90a", "sm_90", "sm_80"] {
        assert!(load(&with("8.0", own)).is_ok(), "{own}");
    }
}

#[test]
fn files_are_loaded() {
    let session = session(&[]);
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| CString::new(folder.path().join(name).to_str().unwrap()).unwrap();
    std::fs::write(folder.path().join("good.ptx"), KERNELS).unwrap();
    std::fs::write(folder.path().join("bad.ptx"), "nonsense").unwrap();
    std::fs::write(folder.path().join("empty.ptx"), "").unwrap();
    std::fs::write(folder.path().join("code.cubin"), b"\x7fELF\x02").unwrap();
    let mut module = null_mut();
    ok(unsafe { sys::cuModuleLoad(&mut module, path("good.ptx").as_ptr()) });
    function(module, "add");
    for (name, error) in [
        ("missing.ptx", CUDA_ERROR_FILE_NOT_FOUND),
        ("bad.ptx", CUDA_ERROR_INVALID_PTX),
        ("empty.ptx", CUDA_ERROR_INVALID_PTX),
        ("code.cubin", CUDA_ERROR_NO_BINARY_FOR_GPU),
    ] {
        fails(unsafe { sys::cuModuleLoad(&mut module, path(name).as_ptr()) }, error);
        let mut library = null_mut();
        let result = unsafe {
            sys::cuLibraryLoadFromFile(
                &mut library,
                path(name).as_ptr(),
                null_mut(),
                null_mut(),
                0,
                null_mut(),
                null_mut(),
                0,
            )
        };
        fails(result, error);
    }
    fails(unsafe { sys::cuModuleLoad(&mut module, std::ptr::null()) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(session.report()["living"]["modules"], 1);
}

#[test]
fn kernels_by_name() {
    let session = session(&[]);
    let module = module(KERNELS);
    let add = function(module, "add");
    assert_eq!(function(module, "add"), add);
    assert_ne!(function(module, "scale"), add);
    let mut found = null_mut();
    for wrong in [c"", c"ad", c"add\xff"] {
        fails(unsafe { sys::cuModuleGetFunction(&mut found, module, wrong.as_ptr()) }, CUDA_ERROR_NOT_FOUND);
        assert!(session.last_error().contains("add, bad, scale"), "{}", session.last_error());
    }
    fails(
        unsafe { sys::cuModuleGetFunction(&mut found, module, std::ptr::null()) },
        CUDA_ERROR_INVALID_VALUE,
    );
    fails(unsafe { sys::cuModuleGetFunction(null_mut(), module, c"add".as_ptr()) }, CUDA_ERROR_INVALID_VALUE);
    fails(
        unsafe { sys::cuModuleGetFunction(&mut found, null_mut(), c"add".as_ptr()) },
        CUDA_ERROR_INVALID_HANDLE,
    );
    type Name = unsafe extern "C" fn(*mut *const c_char, sys::CUfunction) -> CUresult;
    let mut name = std::ptr::null();
    ok(unsafe { symbol::<Name>("cuFuncGetName")(&mut name, add) });
    assert_eq!(unsafe { CStr::from_ptr(name) }, c"add");
    let mut owner = null_mut();
    ok(unsafe { sys::cuFuncGetModule(&mut owner, add) });
    assert_eq!(owner, module);
    type Count = unsafe extern "C" fn(*mut u32, CUmodule) -> CUresult;
    let mut count = 0;
    ok(unsafe { symbol::<Count>("cuModuleGetFunctionCount")(&mut count, module) });
    assert_eq!(count, 3);
    type Param = unsafe extern "C" fn(sys::CUfunction, usize, *mut usize, *mut usize) -> CUresult;
    let param = symbol::<Param>("cuFuncGetParamInfo");
    let params = [0, 1, 2].map(|index| {
        let (mut offset, mut size) = (9, 9);
        ok(unsafe { param(add, index, &mut offset, &mut size) });
        (offset, size)
    });
    assert_eq!(params, [(0, 8), (8, 4), (12, 4)]);
    fails(unsafe { param(add, 3, &mut 0, &mut 0) }, CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn variables_have_their_contents_and_the_host_may_change_them() {
    let session = session(&[("MEMORY", "1M")]);
    let module = load(&text(VARIABLES)).unwrap();
    let (counter, size) = variable(module, "counter").unwrap();
    assert_eq!((size, get::<u32>(counter, 1)), (4, vec![41]));
    let (blank, size) = variable(module, "blank").unwrap();
    assert_eq!((size, get::<u8>(blank, 12)), (12, vec![0; 12]));
    let (table, size) = variable(module, "table").unwrap();
    assert_eq!((size, get::<u32>(table, 3)), (12, vec![7, 8, 9]));
    assert_eq!(variable(module, "nothing"), Err(CUDA_ERROR_NOT_FOUND));
    assert!(session.last_error().contains("nothing"));
    // Either answer may be left out.
    ok(unsafe { sys::cuModuleGetGlobal_v2(null_mut(), null_mut(), module, c"table".as_ptr()) });
    put(counter, &[99u32]);
    ok(launch(function(module, "bump"), 1, 1, null_mut(), &[]));
    assert_eq!(get::<u32>(counter, 1), [100]);
    // Constant memory is constant for kernels only.
    let to = alloc(4);
    put(table + 4, &[80u32]);
    ok(launch(function(module, "look"), 1, 1, null_mut(), &[&to]));
    assert_eq!(get::<u32>(to, 1), [80]);
    let mut word = 0u32;
    let beyond = unsafe { sys::cuMemcpyDtoH_v2((&raw mut word).cast(), table + 12, 4) };
    fails(beyond, CUDA_ERROR_INVALID_VALUE);
    // Each load has its own.
    let second = load(&text(VARIABLES)).unwrap();
    let other = variable(second, "counter").unwrap().0;
    assert_eq!((get::<u32>(other, 1), get::<u32>(counter, 1)), (vec![41], vec![100]));
    ok(launch(function(second, "bump"), 1, 1, null_mut(), &[]));
    assert_eq!((get::<u32>(other, 1), get::<u32>(counter, 1)), (vec![42], vec![100]));
    ok(launch(function(module, "bump"), 1, 1, null_mut(), &[]));
    assert_eq!((get::<u32>(other, 1), get::<u32>(counter, 1)), (vec![42], vec![101]));
    fails(unsafe { sys::cuMemFree_v2(other) }, CUDA_ERROR_INVALID_VALUE);
}

#[test]
fn a_variable_that_does_not_fit_is_out_of_memory() {
    let session = session(&[("MEMORY", "64K")]);
    let image =
        text(&format!("{HEAD}.visible .global .b8 small[16];\n.visible .global .b8 large[100000];\n"));
    assert_eq!(load(&image), Err(CUDA_ERROR_OUT_OF_MEMORY));
    assert!(session.last_error().contains("large"), "{}", session.last_error());
    assert_eq!(session.report()["memory_used"], 0);
}

#[test]
fn an_unloaded_module_is_gone() {
    for seed in ["0", "4"] {
        let session = session(&[("SEED", seed)]);
        let module = load(&text(VARIABLES)).unwrap();
        let (counter, bump, s) = (variable(module, "counter").unwrap().0, function(module, "bump"), stream());
        ok(launch(bump, 1, 1, s, &[]));
        ok(unsafe { sys::cuModuleUnload(module) });
        assert_eq!(session.faults(), [""; 0]);
        let mut out = null_mut();
        fails(unsafe { sys::cuModuleUnload(module) }, CUDA_ERROR_INVALID_HANDLE);
        fails(
            unsafe { sys::cuModuleGetFunction(&mut out, module, c"bump".as_ptr()) },
            CUDA_ERROR_INVALID_HANDLE,
        );
        assert_eq!(variable(module, "counter"), Err(CUDA_ERROR_INVALID_HANDLE));
        fails(launch(bump, 1, 1, s, &[]), CUDA_ERROR_INVALID_HANDLE);
        let mut word = 0u32;
        let read = unsafe { sys::cuMemcpyDtoH_v2((&raw mut word).cast(), counter, 4) };
        fails(read, CUDA_ERROR_INVALID_VALUE);
        assert!(session.last_error().contains("free"), "{}", session.last_error());
        let report = session.report();
        assert_eq!((&report["living"]["modules"], &report["memory_used"]), (&0.into(), &0.into()));
    }
}

#[test]
fn libraries_and_their_kernels() {
    let session = session(&[]);
    let image = text(VARIABLES);
    let mut library = null_mut();
    let load = |library: *mut sys::CUlibrary, image: &[u8]| unsafe {
        sys::cuLibraryLoadData(
            library,
            image.as_ptr().cast(),
            null_mut(),
            null_mut(),
            0,
            null_mut(),
            null_mut(),
            0,
        )
    };
    ok(load(&mut library, &image));
    fails(load(null_mut(), &image), CUDA_ERROR_INVALID_VALUE);
    fails(load(&mut null_mut(), &text("x")), CUDA_ERROR_INVALID_PTX);
    assert_eq!(session.report()["living"]["modules"], 1);
    let (mut kernel, mut function, mut module) = (null_mut(), null_mut(), null_mut());
    ok(unsafe { sys::cuLibraryGetKernel(&mut kernel, library, c"bump".as_ptr()) });
    fails(
        unsafe { sys::cuLibraryGetKernel(&mut kernel.clone(), library, c"x".as_ptr()) },
        CUDA_ERROR_NOT_FOUND,
    );
    ok(unsafe { sys::cuKernelGetFunction(&mut function, kernel) });
    ok(unsafe { sys::cuLibraryGetModule(&mut module, library) });
    // A kernel may stand where a function does.
    ok(launch(function, 1, 1, null_mut(), &[]));
    ok(launch(kernel.cast(), 1, 1, null_mut(), &[]));
    let (mut counter, mut size) = (0, 0);
    ok(unsafe { sys::cuLibraryGetGlobal(&mut counter, &mut size, library, c"counter".as_ptr()) });
    assert_eq!((get::<u32>(counter, 1), size), (vec![43], 4));
    assert_eq!(variable(module, "counter"), Ok((counter, 4)));
    type Count = unsafe extern "C" fn(*mut u32, sys::CUlibrary) -> CUresult;
    let mut count = 0;
    ok(unsafe { symbol::<Count>("cuLibraryGetKernelCount")(&mut count, library) });
    assert_eq!(count, 2);
    // Attributes of a kernel are those of its function, on a card.
    use sys::CUfunction_attribute::*;
    let mut value = 0;
    let most = CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    ok(unsafe { sys::cuKernelSetAttribute(most, 1000, kernel, 0) });
    ok(unsafe { sys::cuKernelGetAttribute(&mut value, most, kernel, 0) });
    assert_eq!(value, 1000);
    ok(unsafe { sys::cuFuncGetAttribute(&mut value, CU_FUNC_ATTRIBUTE_CONST_SIZE_BYTES, function) });
    assert_eq!(value, 12);
    fails(unsafe { sys::cuKernelGetAttribute(&mut value, most, kernel, 1) }, CUDA_ERROR_INVALID_DEVICE);
    fails(unsafe { sys::cuKernelSetAttribute(most, 1000, kernel, -1) }, CUDA_ERROR_INVALID_DEVICE);
    fails(unsafe { sys::cuFuncGetAttribute(&mut value, most, null_mut()) }, CUDA_ERROR_INVALID_HANDLE);
    fails(unsafe { sys::cuFuncGetAttribute(null_mut(), most, function) }, CUDA_ERROR_INVALID_VALUE);
    // Each kind of handle is unloaded in its own way.
    fails(unsafe { sys::cuModuleUnload(module) }, CUDA_ERROR_INVALID_HANDLE);
    fails(unsafe { sys::cuLibraryUnload(super::harness::module(KERNELS).cast()) }, CUDA_ERROR_INVALID_HANDLE);
    ok(unsafe { sys::cuLibraryUnload(library) });
    fails(unsafe { sys::cuLibraryUnload(library) }, CUDA_ERROR_INVALID_HANDLE);
    fails(launch(kernel.cast(), 1, 1, null_mut(), &[]), CUDA_ERROR_INVALID_HANDLE);
}

/// What ptxas says: "uses too much shared data", 48 KiB being the most that a kernel may have of its own.
#[test]
fn a_kernel_with_too_much_shared_memory_of_its_own_is_refused() {
    let session = session(&[]);
    let with = |bytes: u32| {
        format!(
            "{HEAD}.visible .entry k()
{{
    .shared .align 4 .b8 mine[{bytes}];
    .reg .b32 %r<2>;
    mov.u32 %r1, 1;
    st.shared.u32 [mine], %r1;
    ret;
}}
"
        )
    };
    assert!(load(&text(&with(49_152))).is_ok());
    assert_eq!(load(&text(&with(49_156))), Err(CUDA_ERROR_INVALID_PTX));
    assert!(session.last_error().contains("49156 bytes of shared memory"), "{}", session.last_error());
}

#[test]
fn options_that_do_not_exist_are_refused_and_the_wall_time_is_told() {
    let _session = session(&[]);
    let text = std::ffi::CString::new(KERNELS).unwrap();
    let load = sys::cuModuleLoadDataEx;
    let mut module = std::ptr::null_mut();
    let mut values = [std::ptr::without_provenance_mut(7); 2];
    let wall_time = sys::CUjit_option_enum::CU_JIT_WALL_TIME;
    let mut options = [wall_time, sys::CUjit_option_enum::CU_JIT_OPTIMIZATION_LEVEL];
    let image = text.as_ptr().cast();
    ok(unsafe { load(&mut module, image, 2, options.as_mut_ptr(), values.as_mut_ptr()) });
    assert!(values[0].is_null() && !values[1].is_null());
    type Load =
        extern "C" fn(*mut sys::CUmodule, *const std::ffi::c_char, u32, *const u32, *mut usize) -> u32;
    let load: Load = crate::tools::symbol("cuModuleLoadDataEx");
    assert_eq!(load(&mut module, text.as_ptr(), 1, &99, &mut 0), 1);
}
