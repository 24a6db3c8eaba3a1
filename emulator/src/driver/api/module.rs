//! Modules and libraries: PTX only. Machine code is refused as a card refuses code for another card.

use crate::driver::abi::jit_option;
use crate::driver::raw::{In, Out, Text, image, write_text};
use crate::driver::state::{Function, Module};
use crate::driver::work::Code;
use crate::driver::{Answer, Call, Refusal, codes};
use crate::exec::LoadErrorKind;
use crate::exec::image::load;
use crate::exec::text::Program;
use std::collections::BTreeMap;
use std::ffi::c_uint;
use std::sync::Arc;

api! {
    fn cuModuleLoad(module: Out<u64>, file: Text) Context |call| {
        module.given()?;
        let path = file.get()?;
        let bytes = std::fs::read(&path)
            .map_err(|e| Refusal::new(codes::FILE_NOT_FOUND, format!("{path}: {e}")))?;
        let handle = load_image(call, &bytes, false)?;
        module.set(handle)
    }

    fn cuModuleLoadData(module: Out<u64>, data: usize) Context |call| {
        module.given()?;
        let handle = load_image(call, &image(data)?, false)?;
        module.set(handle)
    }

    fn cuModuleLoadDataEx(
        module: Out<u64>,
        data: usize,
        count: c_uint,
        options: In<u32>,
        values: Out<usize>,
    ) Context |call| {
        module.given()?;
        let log = Log::of(count, options, values)?;
        let loaded = load_image(call, &image(data)?, false);
        log.write(loaded.as_ref().err())?;
        module.set(loaded?)
    }

    fn cuModuleLoadFatBinary(_module: Out<u64>, _data: usize) Context |_call| {
        Err(Refusal::new(codes::NO_BINARY_FOR_GPU, "a fat binary: this card runs PTX text only"))
    }

    fn cuModuleUnload(module: u64) Init |call| {
        let found = call.modules.get(module).filter(|module| !module.library);
        let context = found.ok_or(Refusal::from(codes::INVALID_HANDLE))?.context;
        _ = call.wait_for_context(context);
        call.unload(module);
        call.finish(context)
    }

    fn cuModuleGetLoadingMode(mode: Out<u32>) Init |_call| {
        mode.set(crate::driver::abi::module_loading::EAGER_LOADING)
    }

    fn cuModuleGetFunction(function: Out<u64>, module: u64, name: Text) Init |call| {
        let handle = kernel(call, module, &name.get()?)?;
        function.set(handle)
    }

    fn cuModuleGetFunctionCount(count: Out<c_uint>, module: u64) Init |call| {
        let module = call.modules.get(module).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        count.set(module.code.image.kernels.len() as c_uint)
    }

    fn cuModuleGetGlobal_v2(address: Out<u64>, bytes: Out<usize>, module: u64, name: Text) Init |call| {
        global(call, address, bytes, module, &name.get()?)
    }

    fn cuLibraryLoadData(
        library: Out<u64>,
        data: usize,
        options: In<u32>,
        values: Out<usize>,
        count: c_uint,
        library_options: In<u32>,
        _library_values: In<usize>,
        library_count: c_uint,
    ) Context |call| {
        library.given()?;
        known_options(library_options, library_count)?;
        let log = Log::of(count, options, values)?;
        let loaded = load_image(call, &image(data)?, true);
        log.write(loaded.as_ref().err())?;
        library.set(loaded?)
    }

    fn cuLibraryLoadFromFile(
        library: Out<u64>,
        file: Text,
        options: In<u32>,
        values: Out<usize>,
        count: c_uint,
        library_options: In<u32>,
        _library_values: In<usize>,
        library_count: c_uint,
    ) Context |call| {
        library.given()?;
        known_options(library_options, library_count)?;
        let path = file.get()?;
        let bytes = std::fs::read(&path)
            .map_err(|e| Refusal::new(codes::FILE_NOT_FOUND, format!("{path}: {e}")))?;
        let log = Log::of(count, options, values)?;
        let loaded = load_image(call, &bytes, true);
        log.write(loaded.as_ref().err())?;
        library.set(loaded?)
    }

    fn cuLibraryUnload(library: u64) Init |call| {
        let found = call.modules.get(library).filter(|module| module.library);
        let context = found.ok_or(Refusal::from(codes::INVALID_HANDLE))?.context;
        _ = call.wait_for_context(context);
        call.unload(library);
        call.finish(context)
    }

    fn cuLibraryGetKernel(function: Out<u64>, library: u64, name: Text) Init |call| {
        let handle = kernel(call, library, &name.get()?)?;
        function.set(handle)
    }

    fn cuLibraryGetKernelCount(count: Out<c_uint>, library: u64) Init |call| {
        let module = call.modules.get(library).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        count.set(module.code.image.kernels.len() as c_uint)
    }

    fn cuLibraryGetModule(module: Out<u64>, library: u64) Init |call| {
        call.modules.get(library).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        module.set(library)
    }

    fn cuLibraryGetGlobal(address: Out<u64>, bytes: Out<usize>, library: u64, name: Text) Init |call| {
        global(call, address, bytes, library, &name.get()?)
    }

    fn cuKernelGetFunction(function: Out<u64>, kernel: u64) Init |call| {
        call.functions.get(kernel).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        function.set(kernel)
    }

    fn cuKernelGetLibrary(library: Out<u64>, kernel: u64) Init |call| {
        let function = call.functions.get(kernel).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        library.set(function.module)
    }
}

/// Refuses options of libraries that mean something.
fn known_options(options: In<u32>, count: c_uint) -> Answer {
    for index in 0..count as usize {
        if options.at(index)? != crate::driver::abi::library_option::BINARY_IS_PRESERVED {
            return Err(Refusal::new(codes::NOT_SUPPORTED, "host function tables of libraries"));
        }
    }
    Ok(())
}

/// Where a caller wants to read what went wrong.
#[derive(Default)]
struct Log {
    info: (usize, usize),
    error: (usize, usize),
    /// Where the sizes written go.
    sizes: [Option<usize>; 2],
    values: Option<Out<usize>>,
}

impl Log {
    /// Takes the options that mean something here; the others tune a compiler that is not there.
    fn of(count: c_uint, options: In<u32>, values: Out<usize>) -> Answer<Log> {
        let mut log = Log::default();
        for index in 0..count as usize {
            let value = || values.get_at(index);
            match options.at(index)? {
                jit_option::INFO_LOG_BUFFER => log.info.0 = value()?,
                jit_option::INFO_LOG_BUFFER_SIZE_BYTES => {
                    log.info.1 = value()? as u32 as usize;
                    log.sizes[0] = Some(index);
                }
                jit_option::ERROR_LOG_BUFFER => log.error.0 = value()?,
                jit_option::ERROR_LOG_BUFFER_SIZE_BYTES => {
                    log.error.1 = value()? as u32 as usize;
                    log.sizes[1] = Some(index);
                }
                jit_option::GLOBAL_SYMBOL_NAMES..=jit_option::GLOBAL_SYMBOL_COUNT => {
                    return Err(Refusal::new(codes::NOT_SUPPORTED, "symbols given at load"));
                }
                // Milliseconds, as a float: there is no compiler that takes any.
                jit_option::WALL_TIME => values.set_at(index, 0)?,
                // The others tune the compiler.
                option if option <= jit_option::BINARY_LOADER_THREAD_COUNT => {}
                option => return Err(Refusal::new(codes::INVALID_VALUE, format!("JIT option {option}"))),
            }
        }
        log.values = (count > 0).then_some(values);
        Ok(log)
    }

    fn write(&self, error: Option<&Refusal>) -> Answer {
        let text = error.map_or("", |error| &error.text);
        write_text(self.info.0, self.info.1, "");
        write_text(self.error.0, self.error.1, text);
        // What is written, without the NUL for which there must be room.
        let written = text.len().min(self.error.1.saturating_sub(1));
        for (slot, written) in self.sizes.iter().zip([0, written]) {
            if let (Some(index), Some(values)) = (slot, self.values) {
                values.set_at(*index, written)?;
            }
        }
        Ok(())
    }
}

fn load_image(call: &mut Call, bytes: &[u8], library: bool) -> Answer<u64> {
    call.capture_allows()?;
    if bytes.starts_with(b"\x7fELF") || bytes.starts_with(&[0x50, 0xed, 0x55, 0xba]) {
        return Err(Refusal::new(codes::NO_BINARY_FOR_GPU, "machine code: this card runs PTX text only"));
    }
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    let newest = call.settings.newest_ptx();
    let too_new = |(major, minor): (u32, u32)| {
        let text =
            format!("PTX {major}.{minor}: this driver knows PTX up to {}.{}", newest / 10, newest % 10);
        (major * 10 + minor > newest).then(|| Refusal::new(codes::UNSUPPORTED_PTX_VERSION, text))
    };
    let program = Program::of(text).map_err(|error| {
        // Text of a later time may well have what is not understood; the version is then to blame.
        let newer = version_of(text).and_then(too_new);
        newer.unwrap_or_else(|| Refusal::new(codes::INVALID_PTX, format!("PTX {error}")))
    })?;
    let module = &program.module;
    if let Some(refusal) = too_new(module.version) {
        return Err(refusal);
    }
    let index = call.context(call.context)?.device;
    let device = &mut call.devices[index];
    if !device.card.runs(module.target.arch, module.target.suffix) {
        let suffix = module.target.suffix.map_or(String::new(), String::from);
        let text = format!("code for sm_{}{suffix} does not run on {}", module.target.arch, device.card.name);
        return Err(Refusal::new(codes::INVALID_PTX, text));
    }
    let image = load(&program, &device.memory).map_err(|e| {
        let code = match e.kind {
            LoadErrorKind::Invalid => codes::INVALID_PTX,
            LoadErrorKind::Unsupported => codes::NOT_SUPPORTED,
            LoadErrorKind::OutOfMemory => codes::OUT_OF_MEMORY,
        };
        Refusal::new(code, format!("PTX {e}"))
    })?;
    let most = device.card.shared_per_block as usize;
    if let Some(kernel) = image.kernels.values().find(|kernel| kernel.static_shared > most) {
        let text =
            format!("{}: {} bytes of shared memory, at most {most}", kernel.name, kernel.static_shared);
        image.owned.iter().for_each(|&base| _ = device.memory.free(base));
        return Err(Refusal::new(codes::INVALID_PTX, text));
    }
    let code = Arc::new(Code { image, device: index });
    let context = call.context;
    Ok(call.modules.insert(Module { context, code, functions: BTreeMap::new(), library }))
}

/// What a text says of its version, understood or not.
fn version_of(text: &[u8]) -> Option<(u32, u32)> {
    let text = String::from_utf8_lossy(text);
    let rest = text.lines().find_map(|line| line.trim_start().strip_prefix(".version"))?;
    let (major, minor) = rest.split_whitespace().next()?.split_once('.')?;
    Some((major.parse().ok().filter(|&major| major < 1000)?, minor.parse().ok().filter(|&minor| minor < 10)?))
}

/// The handle of a kernel: one and the same whenever it is asked for.
fn kernel(call: &mut Call, handle: u64, name: &str) -> Answer<u64> {
    let module = call.modules.get(handle).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
    if let Some(&function) = module.functions.get(name) {
        return Ok(function);
    }
    let (context, code) = (module.context, module.code.clone());
    let Some(kernel) = code.image.kernels.get(name) else {
        let known: Vec<&str> = code.image.kernels.keys().map(String::as_str).collect();
        let text = format!("there is no kernel {name}; there are {}", known.join(", "));
        return Err(Refusal::new(codes::NOT_FOUND, text));
    };
    let kernel: Arc<str> = kernel.name.as_str().into();
    let function = Function { context, module: handle, code, kernel, max_dynamic: None, carveout: -1 };
    let function = call.functions.insert(function);
    if let Some(module) = call.modules.get_mut(handle) {
        module.functions.insert(name.into(), function);
    }
    Ok(function)
}

fn global(call: &Call, address: Out<u64>, bytes: Out<usize>, module: u64, name: &str) -> Answer {
    let module = call.modules.get(module).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
    let Some(&(at, size)) = module.code.image.globals.get(name) else {
        return Err(Refusal::new(codes::NOT_FOUND, format!("there is no variable {name}")));
    };
    address.set_if(at);
    bytes.set_if(size as usize);
    Ok(())
}
