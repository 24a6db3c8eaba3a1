//! Kernels: what they are like, and what a launch of them may ask for.

use crate::driver::abi::function_attribute as a;
use crate::driver::raw::Out;
use crate::driver::state::Function;
use crate::driver::{Answer, Call, Refusal, codes};
use crate::exec::MAX_THREADS;
use crate::exec::program::Kernel;
use std::ffi::{CString, c_char, c_int};

api! {
    fn cuFuncGetAttribute(value: Out<c_int>, attribute: u32, function: u64) Init |call| {
        value.set(get(call, function, attribute)?)
    }

    fn cuFuncSetAttribute(function: u64, attribute: u32, value: c_int) Init |call| {
        set(call, function, attribute, value)
    }

    fn cuKernelGetAttribute(value: Out<c_int>, attribute: u32, kernel: u64, device: c_int) Init |call| {
        call.device(device)?;
        value.set(get(call, kernel, attribute)?)
    }

    fn cuKernelSetAttribute(attribute: u32, value: c_int, kernel: u64, device: c_int) Init |call| {
        call.device(device)?;
        set(call, kernel, attribute, value)
    }

    fn cuFuncSetCacheConfig(function: u64, config: u32) Init |call| {
        found(call, function)?;
        if config > 3 { Err(codes::INVALID_VALUE.into()) } else { Ok(()) }
    }

    fn cuKernelSetCacheConfig(kernel: u64, config: u32, device: c_int) Init |call| {
        call.device(device)?;
        found(call, kernel)?;
        if config > 3 { Err(codes::INVALID_VALUE.into()) } else { Ok(()) }
    }

    fn cuFuncSetSharedMemConfig(function: u64, config: u32) Init |call| {
        found(call, function)?;
        if config > 2 { Err(codes::INVALID_VALUE.into()) } else { Ok(()) }
    }

    fn cuFuncGetModule(module: Out<u64>, function: u64) Init |call| {
        module.set(found(call, function)?.module)
    }

    fn cuFuncGetName(name: Out<*const c_char>, function: u64) Init |call| {
        let text = found(call, function)?.kernel.to_string();
        name.set(call.keep_name(&text))
    }

    fn cuKernelGetName(name: Out<*const c_char>, kernel: u64) Init |call| {
        let text = found(call, kernel)?.kernel.to_string();
        name.set(call.keep_name(&text))
    }

    fn cuFuncGetParamInfo(function: u64, index: usize, offset: Out<usize>, size: Out<usize>) Init |call| {
        param(call, function, index, offset, size)
    }

    fn cuKernelGetParamInfo(kernel: u64, index: usize, offset: Out<usize>, size: Out<usize>) Init |call| {
        param(call, kernel, index, offset, size)
    }

    fn cuFuncIsLoaded(state: Out<u32>, function: u64) Init |call| {
        found(call, function)?;
        state.set(crate::driver::abi::function_loading::LOADED)
    }

    fn cuFuncLoad(function: u64) Init |call| {
        found(call, function).map(drop)
    }
}

/// A function's handle stands for this.
pub(super) fn found(call: &Call, function: u64) -> Answer<&Function> {
    let missing = || Refusal::new(codes::INVALID_HANDLE, format!("{function:#x} is no kernel"));
    call.functions.get(function).ok_or_else(missing)
}

/// And its code is this.
pub(super) fn kernel_of(function: &Function) -> Answer<&Kernel> {
    function.code.image.kernels.get(&*function.kernel).ok_or_else(|| codes::INVALID_HANDLE.into())
}

/// Threads that a block may have: what cards allow and what the kernel is built for. What its registers leave is not
/// looked at: they are an estimate.
pub(super) fn most_threads(kernel: &Kernel) -> u32 {
    let built = kernel.bounds.maxntid.or(kernel.bounds.reqntid).unwrap_or([MAX_THREADS, 1, 1]);
    let built = built.iter().fold(1, |product: u32, &n| product.saturating_mul(n.max(1)));
    built.min(MAX_THREADS)
}

/// Dynamic shared memory that a launch may ask for.
pub(super) fn dynamic_limit(call: &Call, function: &Function) -> Answer<u32> {
    let kernel = kernel_of(function)?;
    let card = &call.devices[function.code.device].card;
    let free = card.shared_per_block.saturating_sub(kernel.static_shared as u32);
    Ok(function.max_dynamic.unwrap_or(free))
}

fn get(call: &Call, handle: u64, attribute: u32) -> Answer<c_int> {
    let function = found(call, handle)?;
    let kernel = kernel_of(function)?;
    let card = &call.devices[function.code.device].card;
    let (major, minor) = function.code.image.version;
    let value = match attribute {
        a::MAX_THREADS_PER_BLOCK => most_threads(kernel),
        a::SHARED_SIZE_BYTES => kernel.static_shared as u32,
        a::CONST_SIZE_BYTES => function.code.image.constants.iter().map(|r| (r.end - r.start) as u32).sum(),
        a::LOCAL_SIZE_BYTES => kernel.stack_bytes(call.stack_bytes(function.context)) as u32,
        a::NUM_REGS => kernel.registers,
        a::PTX_VERSION => major * 10 + minor,
        a::BINARY_VERSION => card.arch,
        a::MAX_DYNAMIC_SHARED_SIZE_BYTES => dynamic_limit(call, function)?,
        a::PREFERRED_SHARED_MEMORY_CARVEOUT => return Ok(function.carveout),
        a::CACHE_MODE_CA
        | a::CLUSTER_SIZE_MUST_BE_SET
        | a::REQUIRED_CLUSTER_WIDTH..=a::CLUSTER_SCHEDULING_POLICY_PREFERENCE => 0,
        _ => return Err(Refusal::new(codes::INVALID_VALUE, format!("function attribute {attribute}"))),
    };
    Ok(value as c_int)
}

fn set(call: &mut Call, handle: u64, attribute: u32, value: c_int) -> Answer {
    let function = found(call, handle)?;
    let kernel = kernel_of(function)?;
    let card = &call.devices[function.code.device].card;
    let most = card.shared_per_block_optin.saturating_sub(kernel.static_shared as u32);
    let function = call.functions.get_mut(handle).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
    match attribute {
        a::MAX_DYNAMIC_SHARED_SIZE_BYTES => match u32::try_from(value) {
            Ok(bytes) if bytes <= most => function.max_dynamic = Some(bytes),
            _ => {
                let text = format!("{value} bytes of dynamic shared memory: the kernel may have {most}");
                return Err(Refusal::new(codes::INVALID_VALUE, text));
            }
        },
        a::PREFERRED_SHARED_MEMORY_CARVEOUT if (-1..=100).contains(&value) => function.carveout = value,
        a::NON_PORTABLE_CLUSTER_SIZE_ALLOWED | a::REQUIRED_CLUSTER_WIDTH..=a::REQUIRED_CLUSTER_DEPTH => {
            return Err(Refusal::new(codes::NOT_SUPPORTED, "clusters are not built yet"));
        }
        _ => return Err(Refusal::new(codes::INVALID_VALUE, format!("function attribute {attribute}"))),
    }
    Ok(())
}

fn param(call: &Call, handle: u64, index: usize, offset: Out<usize>, size: Out<usize>) -> Answer {
    let kernel = kernel_of(found(call, handle)?)?;
    let &(at, bytes) = kernel.params.get(index).ok_or(Refusal::from(codes::INVALID_VALUE))?;
    offset.set(at)?;
    size.set_if(bytes as usize);
    Ok(())
}

impl crate::driver::State {
    /// A C string that lives as long as the driver.
    fn keep_name(&mut self, name: &str) -> *const c_char {
        let entry = self.names.entry(name.into());
        entry.or_insert_with(|| CString::new(name).unwrap_or_default()).as_ptr()
    }
}
