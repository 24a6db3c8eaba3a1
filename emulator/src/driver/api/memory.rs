//! Device memory and pinned host memory.

use crate::driver::raw::{In, Out, allocate_host};
use crate::driver::state::{Block, Pinned};
use crate::driver::work::{End, Work};
use crate::driver::{Answer, Call, Refusal, abi, codes};
use crate::memory::AllocateError;
use std::ffi::c_uint;

api! {
    fn cuMemAlloc_v2(address: Out<u64>, bytes: usize) Context |call| {
        call.capture_allows()?;
        address.given()?;
        address.set(allocate(call, bytes, None)?)
    }

    fn cuMemAllocPitch_v2(
        address: Out<u64>,
        pitch: Out<usize>,
        width: usize,
        height: usize,
        element: c_uint,
    ) Context |call| {
        call.capture_allows()?;
        if address.is_null() || pitch.is_null() || ![4, 8, 16].contains(&element) {
            return Err(codes::INVALID_VALUE.into());
        }
        let row = width.checked_next_multiple_of(512).ok_or(Refusal::from(codes::INVALID_VALUE))?;
        let bytes = row.checked_mul(height).ok_or(Refusal::from(codes::OUT_OF_MEMORY))?;
        address.set(allocate(call, bytes, None)?)?;
        pitch.set(row)
    }

    fn cuMemFree_v2(address: u64) Init |call| {
        if address == 0 {
            return Ok(());
        }
        let block = block_to_free(call, address)?;
        call.capture_allows()?;
        // What still works on it comes first, as on a card.
        _ = call.wait_for_context(block.context);
        call.free_now(address).map_err(|failure| Refusal::new(failure.code, failure.text))?;
        call.finish(block.context)
    }

    fn cuMemAllocAsync(address: Out<u64>, bytes: usize, stream: u64) Context |call| {
        address.given()?;
        let stream = allocating_stream(call, stream)?;
        let device = device_of_stream(call, stream)?;
        let pool = call.devices[device].pool;
        address.set(allocate(call, bytes, Some(pool))?)
    }

    fn cuMemAllocFromPoolAsync(address: Out<u64>, bytes: usize, pool: u64, stream: u64) Context |call| {
        address.given()?;
        allocating_stream(call, stream)?;
        if call.pools.get(pool).is_none() {
            return Err(codes::INVALID_VALUE.into());
        }
        address.set(allocate(call, bytes, Some(pool))?)
    }

    fn cuMemFreeAsync(address: u64, stream: u64) Init |call| {
        if address == 0 {
            return Ok(());
        }
        let block = block_to_free(call, address)?;
        let context = if call.context == 0 { block.context } else { call.context };
        let thread = call.thread;
        let stream = call.stream_of(context, stream, thread)?;
        if let Some(block) = call.blocks.get_mut(&address) {
            block.leaving = true;
        }
        match call.submit(stream, Work::Free(address)) {
            Ok(_) => Ok(()),
            Err(refusal) => {
                // On a context that an error has ended it is given back all the same; on any other it stays.
                if call.healthy(block.context).is_err() {
                    _ = call.free_now(address);
                } else if let Some(block) = call.blocks.get_mut(&address) {
                    block.leaving = false;
                }
                Err(refusal)
            }
        }
    }

    fn cuMemGetInfo_v2(free: Out<usize>, total: Out<usize>) Context |call| {
        let device = call.context(call.context)?.device;
        let info = call.devices[device].memory.info();
        free.set(info.free as usize)?;
        total.set(info.total as usize)
    }

    fn cuMemGetAddressRange_v2(base: Out<u64>, size: Out<usize>, address: u64) Context |call| {
        let (start, block) = call.memory_at(address).ok_or_else(|| Refusal {
            code: codes::NOT_FOUND,
            ..nothing_at(call, address)
        })?;
        base.set_if(start);
        size.set_if(block.size as usize);
        Ok(())
    }

    fn cuMemAllocHost_v2(address: Out<usize>, bytes: usize) Context |call| {
        pin(call, address, bytes, 0)
    }

    fn cuMemHostAlloc(address: Out<usize>, bytes: usize, flags: c_uint) Context |call| {
        use abi::host_alloc::{DEVICEMAP, PORTABLE, WRITECOMBINED};
        if flags & !(PORTABLE | DEVICEMAP | WRITECOMBINED) != 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        not_mapped(flags & DEVICEMAP)?;
        pin(call, address, bytes, flags)
    }

    fn cuMemFreeHost(address: usize) Init |call| {
        let Some(pinned) = call.pinned.get(&address).copied().filter(|pinned| !pinned.registered) else {
            let text = format!("no pinned memory begins at {address:#x}");
            return Err(Refusal::new(codes::INVALID_VALUE, text));
        };
        call.capture_allows()?;
        // Copies that are under way must not find it gone.
        _ = call.wait_for_context(pinned.context);
        call.wait_for_pinned(|at, _| at == address);
        call.unpin(address);
        call.finish(pinned.context)
    }

    fn cuMemHostRegister_v2(address: usize, bytes: usize, flags: c_uint) Context |call| {
        use abi::host_register::{DEVICEMAP, PORTABLE, READ_ONLY};
        call.capture_allows()?;
        if address == 0 || bytes == 0 || flags & !(PORTABLE | DEVICEMAP | READ_ONLY) != 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        not_mapped(flags & DEVICEMAP)?;
        let end = address.checked_add(bytes).ok_or(Refusal::from(codes::INVALID_VALUE))?;
        let before = call.pinned.range(..end).next_back();
        if before.is_some_and(|(&at, pinned)| at + pinned.bytes > address) {
            return Err(codes::HOST_MEMORY_ALREADY_REGISTERED.into());
        }
        let pinned = Pinned { context: call.context, bytes, flags, registered: true };
        call.pinned.insert(address, pinned);
        Ok(())
    }

    fn cuMemHostUnregister(address: usize) Init |call| {
        let Some(pinned) = call.pinned.get(&address).copied().filter(|pinned| pinned.registered) else {
            return Err(codes::HOST_MEMORY_NOT_REGISTERED.into());
        };
        call.capture_allows()?;
        _ = call.wait_for_context(pinned.context);
        call.wait_for_pinned(|at, _| at == address);
        call.unpin(address);
        call.finish(pinned.context)
    }

    fn cuMemHostGetFlags(flags: Out<c_uint>, address: usize) Context |call| {
        let (_, pinned) = call.pinned_at(address, 1).ok_or(Refusal::from(codes::INVALID_VALUE))?;
        flags.set(pinned.flags)
    }

    fn cuMemHostGetDevicePointer_v2(_pointer: Out<u64>, _address: usize, _flags: c_uint) Context |_call| {
        not_mapped(1)
    }

    fn cuPointerGetAttribute(data: usize, attribute: u32, address: u64) Init |call| {
        match pointer_attribute(call, data, attribute, address)? {
            true => Ok(()),
            false => Err(nothing_at(call, address)),
        }
    }

    fn cuPointerGetAttributes(
        count: c_uint,
        attributes: In<u32>,
        data: In<usize>,
        address: u64,
    ) Init |call| {
        // Of a pointer that is not known everything is zero; that is no error here.
        for index in 0..count as usize {
            let (attribute, to) = (attributes.at(index)?, data.at(index)?);
            if !pointer_attribute(call, to, attribute, address)? {
                zero(to, attribute)?;
            }
        }
        Ok(())
    }

    fn cuPointerSetAttribute(value: In<u32>, attribute: u32, address: u64) Init |call| {
        let value = value.get()?;
        if attribute != abi::pointer_attribute::SYNC_MEMOPS {
            return Err(codes::INVALID_VALUE.into());
        }
        call.memory_at(address).ok_or_else(|| nothing_at(call, address))?;
        match value {
            0 => Ok(()),
            _ => Err(Refusal::new(codes::NOT_SUPPORTED, "copies that always wait (SYNC_MEMOPS)")),
        }
    }
}

/// Why an address is refused.
pub(super) fn nothing_at(call: &Call, address: u64) -> Refusal {
    let near = call.device_of(address).and_then(|device| call.devices[device].memory.nearest(address, 1));
    let near = near.map_or(String::new(), |near| format!(": {near}"));
    Refusal::new(codes::INVALID_VALUE, format!("no device memory at {address:#x}{near}"))
}

/// A stretch of device memory that is allocated now.
pub(super) fn device_end(call: &Call, address: u64, bytes: usize) -> Answer<End> {
    if bytes == 0 {
        // Nothing will be touched, and nothing is at many an empty buffer's address.
        return Ok(End::Device(0, address));
    }
    let device = call.device_of(address).ok_or_else(|| nothing_at(call, address))?;
    match call.devices[device].memory.check_range(address, bytes) {
        Ok(()) => Ok(End::Device(device, address)),
        Err(error) => {
            let text = format!("{bytes} bytes at {address:#x}: {error}");
            Err(Refusal::new(codes::INVALID_VALUE, text))
        }
    }
}

fn allocate(call: &mut Call, bytes: usize, pool: Option<u64>) -> Answer<u64> {
    let context = call.context;
    let device = match pool.and_then(|pool| call.pools.get(pool)) {
        Some(pool) => pool.device,
        None => call.context(context)?.device,
    };
    let base = call.allocate(device, bytes as u64).map_err(|error| {
        let code = match error {
            AllocateError::OutOfMemory { .. } => codes::OUT_OF_MEMORY,
            _ => codes::INVALID_VALUE,
        };
        Refusal::new(code, error.to_string())
    })?;
    let number = call.journal.calls;
    let block = Block { context, device, size: bytes as u64, pool, leaving: false, call: number };
    call.blocks.insert(base, block);
    if let Some(pool) = pool.and_then(|pool| call.pools.get_mut(pool)) {
        pool.used += bytes as u64;
        pool.used_high = pool.used_high.max(pool.used);
    }
    Ok(base)
}

fn block_to_free(call: &Call, address: u64) -> Answer<Block> {
    let known = call.blocks.get(&address).copied().filter(|block| !block.leaving);
    known.ok_or_else(|| {
        let text = match call.block_at(address) {
            Some((base, block)) if block.leaving => format!("{base:#x} is being freed already"),
            Some((base, _)) => format!("{address:#x} lies inside the allocation at {base:#x}"),
            None => nothing_at(call, address).text,
        };
        Refusal::new(codes::INVALID_VALUE, text)
    })
}

/// A stream that memory may be allocated on: not one that is being captured.
fn allocating_stream(call: &mut Call, stream: u64) -> Answer<u64> {
    let stream = call.stream(stream)?;
    match call.streams.get(stream).and_then(|s| s.capture.as_ref()).map(|(id, _)| *id) {
        None => Ok(stream),
        Some(id) => call.invalidate(id, codes::NOT_SUPPORTED, "allocation nodes in graphs are not supported"),
    }
}

fn device_of_stream(call: &Call, stream: u64) -> Answer<usize> {
    let context = call.streams.get(stream).map_or(0, |stream| stream.context);
    Ok(call.context(context)?.device)
}

fn pin(call: &mut Call, address: Out<usize>, bytes: usize, flags: u32) -> Answer {
    call.capture_allows()?;
    if bytes == 0 || address.is_null() {
        return Err(codes::INVALID_VALUE.into());
    }
    let at = allocate_host(bytes).ok_or(Refusal::from(codes::OUT_OF_MEMORY))?;
    let pinned = Pinned { context: call.context, bytes, flags, registered: false };
    call.pinned.insert(at, pinned);
    address.set(at)
}

fn not_mapped(asked: u32) -> Answer {
    match asked {
        0 => Ok(()),
        _ => Err(Refusal::new(codes::NOT_SUPPORTED, "kernels do not reach host memory: map it by copies")),
    }
}

/// Writes an attribute; whether the pointer is known.
fn pointer_attribute(call: &Call, data: usize, attribute: u32, address: u64) -> Answer<bool> {
    use abi::{memory_type, pointer_attribute as a};
    let block = call.memory_at(address);
    let pinned = call.pinned_at(address as usize, 1);
    let (context, size, base, device) = match (block, pinned) {
        (Some((base, block)), _) => (block.context, block.size, base, Some(block.device)),
        (None, Some((base, pinned))) => (pinned.context, pinned.bytes as u64, base as u64, None),
        _ => return Ok(false),
    };
    let ordinal = match device {
        Some(device) => device,
        None => call.context(context)?.device,
    };
    let value = match attribute {
        a::CONTEXT => context,
        a::MEMORY_TYPE if device.is_some() => memory_type::DEVICE.into(),
        a::MEMORY_TYPE => memory_type::HOST.into(),
        a::DEVICE_POINTER if device.is_some() => address,
        a::HOST_POINTER if device.is_none() => address,
        a::DEVICE_POINTER | a::HOST_POINTER => return Ok(false),
        a::SYNC_MEMOPS | a::IS_MANAGED | a::IS_LEGACY_CUDA_IPC_CAPABLE | a::IS_GPU_DIRECT_RDMA_CAPABLE => 0,
        a::BUFFER_ID => base,
        a::DEVICE_ORDINAL => ordinal as u64,
        a::RANGE_START_ADDR | a::MAPPING_BASE_ADDR => base,
        a::RANGE_SIZE | a::MAPPING_SIZE => size,
        a::MAPPED => u64::from(device.is_some()),
        a::MEMPOOL_HANDLE => block.and_then(|(_, block)| block.pool).unwrap_or(0),
        _ => return Err(unknown_attribute(attribute)),
    };
    put(data, attribute, value)?;
    Ok(true)
}

fn zero(data: usize, attribute: u32) -> Answer {
    // The device of nothing is -2, the rest 0.
    let none = if attribute == abi::pointer_attribute::DEVICE_ORDINAL { -2i64 as u64 } else { 0 };
    put(data, attribute, none)
}

fn unknown_attribute(attribute: u32) -> Refusal {
    Refusal::new(codes::NOT_SUPPORTED, format!("pointer attribute {attribute}"))
}

/// Handles, addresses and sizes have 8 bytes, enumerations 4; of flags, which the manual gives no size, the first is
/// written.
fn put(data: usize, attribute: u32, value: u64) -> Answer {
    use abi::pointer_attribute as a;
    if data == 0 {
        return Err(codes::INVALID_VALUE.into());
    }
    let bytes = value.to_le_bytes();
    let width = match attribute {
        a::MEMORY_TYPE | a::DEVICE_ORDINAL | a::SYNC_MEMOPS => 4,
        a::IS_MANAGED | a::MAPPED | a::IS_LEGACY_CUDA_IPC_CAPABLE | a::IS_GPU_DIRECT_RDMA_CAPABLE => 1,
        a::CONTEXT
        | a::DEVICE_POINTER
        | a::HOST_POINTER
        | a::BUFFER_ID
        | a::RANGE_START_ADDR
        | a::RANGE_SIZE
        | a::MEMPOOL_HANDLE
        | a::MAPPING_SIZE
        | a::MAPPING_BASE_ADDR => 8,
        _ => return Err(unknown_attribute(attribute)),
    };
    crate::driver::raw::write_host(data, &bytes[..width]);
    Ok(())
}
