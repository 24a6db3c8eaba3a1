//! Contexts.

use crate::driver::raw::{In, Out};
use crate::driver::{Answer, Call, Refusal, abi, codes, current};
use std::ffi::{c_int, c_uint};

api! {
    fn cuCtxCreate_v2(context: Out<u64>, flags: c_uint, device: c_int) Init |call| {
        create(call, context, flags, device)
    }

    fn cuCtxCreate_v3(
        context: Out<u64>,
        affinity: In<u8>,
        count: c_int,
        flags: c_uint,
        device: c_int,
    ) Init |call| {
        if !affinity.is_null() || count != 0 {
            return Err(Refusal::new(codes::NOT_SUPPORTED, "execution affinity"));
        }
        create(call, context, flags, device)
    }

    fn cuCtxCreate_v4(
        context: Out<u64>,
        params: In<abi::CUctxCreateParams>,
        flags: c_uint,
        device: c_int,
    ) Init |call| {
        if !params.is_null() {
            let params = params.get()?;
            if !params.exec_affinity_params.is_null() || !params.cig_params.is_null() {
                return Err(Refusal::new(codes::NOT_SUPPORTED, "execution affinity and graphics contexts"));
            }
        }
        create(call, context, flags, device)
    }

    fn cuCtxDestroy_v2(context: u64) Init |call| {
        if call.context(context)?.primary {
            return Err(Refusal::new(codes::INVALID_CONTEXT, "primary contexts are released, not destroyed"));
        }
        call.end_context(context);
        current(|stack| {
            if stack.last() == Some(&context) {
                stack.pop();
            }
        });
        Ok(())
    }

    fn cuCtxPushCurrent_v2(context: u64) Init |call| {
        call.context(context)?;
        current(|stack| stack.push(context));
        Ok(())
    }

    fn cuCtxPopCurrent_v2(context: Out<u64>) Init |_call| {
        let popped = current(Vec::pop);
        context.set_if(popped.unwrap_or(0));
        popped.map(drop).ok_or_else(|| codes::INVALID_CONTEXT.into())
    }

    fn cuCtxSetCurrent(context: u64) Init |call| {
        if context != 0 {
            call.context(context)?;
        }
        current(|stack| {
            stack.pop();
            if context != 0 {
                stack.push(context);
            }
        });
        Ok(())
    }

    fn cuCtxGetCurrent(context: Out<u64>) Init |call| {
        context.set(call.context)
    }

    fn cuCtxGetDevice(device: Out<c_int>) Init |call| {
        device.set(call.context(call.context)?.device as c_int)
    }

    fn cuCtxGetFlags(flags: Out<c_uint>) Init |call| {
        flags.set(call.context(call.context)?.flags)
    }

    fn cuCtxSetFlags(flags: c_uint) Context |call| {
        if flags & !abi::context_flag::FLAGS_MASK != 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        let handle = call.context;
        if let Some(context) = call.contexts.get_mut(handle) {
            context.flags = flags;
        }
        Ok(())
    }

    fn cuCtxGetId(context: u64, id: Out<u64>) Init |call| {
        let context = if context == 0 { call.context } else { context };
        call.context(context)?;
        id.set(context & 0xffff_ffff)
    }

    fn cuCtxGetApiVersion(context: u64, version: Out<c_uint>) Init |call| {
        let context = if context == 0 { call.context } else { context };
        call.context(context)?;
        version.set(3020)
    }

    fn cuCtxSynchronize() Context |call| {
        let context = call.context;
        call.capture_allows()?;
        call.wait_for_context(context)?;
        call.finish(context)
    }

    fn cuCtxGetLimit(value: Out<usize>, limit: u32) Context |call| {
        let limits = &call.context(call.context)?.limits;
        value.set(*limits.get(&limit).ok_or(Refusal::from(codes::UNSUPPORTED_LIMIT))?)
    }

    fn cuCtxSetLimit(limit: u32, value: usize) Context |call| {
        if limit == abi::limit::STACK_SIZE && value > MOST_STACK {
            return Err(Refusal::new(codes::INVALID_VALUE, format!("a thread has at most {MOST_STACK} bytes of stack")));
        }
        let handle = call.context;
        let slot = call.contexts.get_mut(handle).and_then(|context| context.limits.get_mut(&limit));
        *slot.ok_or(Refusal::from(codes::UNSUPPORTED_LIMIT))? = value;
        if limit == abi::limit::STACK_SIZE
            && let Some(context) = call.contexts.get_mut(handle)
        {
            context.stack_bytes = Some(value.max(1 << 10));
        }
        Ok(())
    }

    fn cuCtxGetCacheConfig(config: Out<u32>) Context |call| {
        config.set(call.context(call.context)?.cache_config)
    }

    fn cuCtxSetCacheConfig(config: u32) Context |call| {
        if config > abi::function_cache::EQUAL {
            return Err(codes::INVALID_VALUE.into());
        }
        let handle = call.context;
        if let Some(context) = call.contexts.get_mut(handle) {
            context.cache_config = config;
        }
        Ok(())
    }

    fn cuCtxGetSharedMemConfig(config: Out<u32>) Context |call| {
        config.set(call.context(call.context)?.shared_config)
    }

    fn cuCtxSetSharedMemConfig(config: u32) Context |call| {
        let handle = call.context;
        if config > 2 {
            return Err(codes::INVALID_VALUE.into());
        }
        if let Some(context) = call.contexts.get_mut(handle) {
            context.shared_config = config;
        }
        Ok(())
    }

    fn cuCtxGetStreamPriorityRange(least: Out<c_int>, greatest: Out<c_int>) Context |_call| {
        least.set_if(0);
        greatest.set_if(-5);
        Ok(())
    }

    fn cuCtxEnablePeerAccess(peer: u64, _flags: c_uint) Context |call| {
        call.context(peer)?;
        Err(Refusal::new(codes::PEER_ACCESS_UNSUPPORTED, "cards reach each other's memory by copies only"))
    }
}

/// Local memory of a thread, by the table of compute capabilities.
const MOST_STACK: usize = 512 << 10;

fn create(call: &mut Call, context: Out<u64>, flags: c_uint, device: c_int) -> Answer {
    let lost = call.device(device)?.lost;
    if let Some(code) = lost {
        return Err(code.into());
    }
    if context.is_null() || flags & !abi::context_flag::FLAGS_MASK != 0 {
        return Err(codes::INVALID_VALUE.into());
    }
    let handle = call.new_context(device as usize, false, flags);
    context.set(handle)?;
    current(|stack| stack.push(handle));
    Ok(())
}
