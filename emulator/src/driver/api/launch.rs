//! Launches.

use super::function::{dynamic_limit, found, kernel_of};
use crate::driver::abi::{self, CUlaunchAttribute, CUlaunchConfig, launch_attribute};
use crate::driver::raw::{Callback, Calls, In, read_host};
use crate::driver::work::{Launch, Work};
use crate::driver::{Answer, Call, Refusal, codes};
use crate::exec::Bad;
use std::ffi::c_uint;

api! {
    fn cuLaunchKernel(
        function: u64,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: u64,
        params: In<usize>,
        extra: In<usize>,
    ) Context |call| {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared };
        launch(call, function, shape, stream, params, extra, false)
    }

    fn cuLaunchCooperativeKernel(
        function: u64,
        grid_x: c_uint,
        grid_y: c_uint,
        grid_z: c_uint,
        block_x: c_uint,
        block_y: c_uint,
        block_z: c_uint,
        shared: c_uint,
        stream: u64,
        params: In<usize>,
    ) Context |call| {
        let shape = Shape { grid: [grid_x, grid_y, grid_z], block: [block_x, block_y, block_z], shared };
        launch(call, function, shape, stream, params, In::null(), true)
    }

    fn cuLaunchKernelEx(config: In<CUlaunchConfig>, function: u64, params: In<usize>, extra: In<usize>) Context |call| {
        let config = config.get()?;
        let shape = Shape {
            grid: [config.grid_dim_x, config.grid_dim_y, config.grid_dim_z],
            block: [config.block_dim_x, config.block_dim_y, config.block_dim_z],
            shared: config.shared_mem_bytes,
        };
        let mut cooperative = false;
        for attribute in In::<CUlaunchAttribute>::from(config.attrs).list(config.num_attrs as usize)? {
            match attribute.id {
                launch_attribute::COOPERATIVE => cooperative = attribute.word(0) != 0,
                launch_attribute::CLUSTER_DIMENSION => {
                    if [0, 1, 2].iter().any(|&axis| attribute.word(axis) > 1) {
                        return Err(Refusal::new(codes::NOT_SUPPORTED, "clusters are not built yet"));
                    }
                }
                // The work before it in the stream ends first: the strictest of the orders that this allows.
                launch_attribute::PROGRAMMATIC_STREAM_SERIALIZATION => {}
                launch_attribute::IGNORE
                | launch_attribute::ACCESS_POLICY_WINDOW
                | launch_attribute::SYNCHRONIZATION_POLICY
                | launch_attribute::CLUSTER_SCHEDULING_POLICY_PREFERENCE
                | launch_attribute::PRIORITY
                | launch_attribute::PREFERRED_SHARED_MEMORY_CARVEOUT => {}
                other => {
                    return Err(Refusal::new(codes::NOT_SUPPORTED, format!("launch attribute {other}")));
                }
            }
        }
        launch(call, function, shape, config.h_stream as u64, params, extra, cooperative)
    }

    fn cuLaunchHostFunc(stream: u64, function: usize, data: usize) Context |call| {
        let stream = call.stream(stream)?;
        if function == 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        call.submit(stream, Work::Call(Callback { function, data, calls: Calls::Function })).map(drop)
    }

    fn cuStreamAddCallback(stream: u64, function: usize, data: usize, flags: c_uint) Context |call| {
        let handle = stream;
        let stream = call.stream(stream)?;
        if function == 0 || flags != 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        call.not_captured(stream)?;
        call.submit(stream, Work::Call(Callback { function, data, calls: Calls::Callback(handle) })).map(drop)
    }
}

/// Blocks, threads, dynamic shared memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub shared: u32,
}

fn launch(
    call: &mut Call,
    function: u64,
    shape: Shape,
    stream: u64,
    params: In<usize>,
    extra: In<usize>,
    cooperative: bool,
) -> Answer {
    let stream = call.stream(stream)?;
    let work = prepare(call, function, shape, params, extra, cooperative)?;
    let owner = call.streams.get(stream).map_or(0, |s| s.context);
    if found(call, function)?.context != owner {
        return Err(Refusal::new(codes::INVALID_HANDLE, "kernel and stream belong to different contexts"));
    }
    call.submit(stream, Work::Launch(Box::new(work))).map(drop)
}

/// Checks a launch and takes its arguments.
pub(super) fn prepare(
    call: &Call,
    handle: u64,
    shape: Shape,
    params: In<usize>,
    extra: In<usize>,
    cooperative: bool,
) -> Answer<Launch> {
    let function = found(call, handle)?;
    let kernel = kernel_of(function)?;
    let card = &call.devices[function.code.device].card;
    let named = |what: &str| format!("{}: {what}", kernel.name);
    kernel.check_shape(shape.grid, shape.block).map_err(|bad| match bad {
        Bad::Shape(what) => Refusal::new(codes::INVALID_VALUE, named(&what)),
        Bad::Resources(what) => Refusal::new(codes::LAUNCH_OUT_OF_RESOURCES, named(&what)),
    })?;
    let most = dynamic_limit(call, function)?;
    if shape.shared > most {
        let text = format!(
            "{} bytes of dynamic shared memory, {most} are allowed (more is asked for by \
             CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES)",
            shape.shared
        );
        return Err(Refusal::new(codes::INVALID_VALUE, named(&text)));
    }
    if cooperative {
        let threads = shape.block.iter().product();
        let shared = kernel.static_shared as u32 + shape.shared;
        let resident = card.resident_blocks(threads, shared, kernel.registers);
        let blocks: u64 = shape.grid.iter().map(|&n| u64::from(n)).product();
        if blocks > resident {
            let text = named(&format!("{blocks} blocks that must run together, the card holds {resident}"));
            return Err(Refusal::new(codes::COOPERATIVE_LAUNCH_TOO_LARGE, text));
        }
    }
    let mut bytes = vec![0; kernel.param_bytes];
    match (params.is_null(), extra.is_null()) {
        (_, true) => {
            for (index, &(offset, size)) in kernel.params.iter().enumerate() {
                let at = params.at(index).map_err(|_| {
                    Refusal::new(
                        codes::INVALID_VALUE,
                        named(&format!("{} arguments, none given", kernel.params.len())),
                    )
                })?;
                if at == 0 {
                    return Err(Refusal::new(
                        codes::INVALID_VALUE,
                        named(&format!("argument {index} is null")),
                    ));
                }
                bytes[offset..offset + size as usize].copy_from_slice(&read_host(at, size as usize));
            }
        }
        (true, false) => {
            let (buffer, size) = packed(extra)?;
            let takes = kernel.params.iter().map(|&(at, n)| at + n as usize).max().unwrap_or(0);
            if size != takes {
                // Cards do not take the padding at the end of a structure for an argument, and say so in their way.
                let code = if size > takes { codes::LAUNCH_OUT_OF_RESOURCES } else { codes::INVALID_VALUE };
                return Err(Refusal::new(
                    code,
                    named(&format!("{size} bytes of arguments, it takes {takes}")),
                ));
            }
            bytes[..size].copy_from_slice(&read_host(buffer, size));
        }
        (false, false) => {
            return Err(Refusal::new(codes::INVALID_VALUE, "arguments are given in both forms"));
        }
    }
    Ok(Launch {
        code: function.code.clone(),
        kernel: function.kernel.clone(),
        grid: shape.grid,
        block: shape.block,
        dynamic_shared: shape.shared,
        params: bytes,
        cooperative,
    })
}

/// Arguments in one buffer: its address and size.
fn packed(extra: In<usize>) -> Answer<(usize, usize)> {
    let (mut buffer, mut size) = (0, 0);
    for index in (0..8).step_by(2) {
        match extra.at(index)? {
            abi::CU_LAUNCH_PARAM_END => break,
            abi::CU_LAUNCH_PARAM_BUFFER_POINTER => buffer = extra.at(index + 1)?,
            abi::CU_LAUNCH_PARAM_BUFFER_SIZE => size = In::<usize>::to(extra.at(index + 1)?).get()?,
            _ => return Err(codes::INVALID_VALUE.into()),
        }
    }
    if buffer == 0 && size > 0 { Err(codes::INVALID_VALUE.into()) } else { Ok((buffer, size)) }
}
