//! Copies and memsets. Those without a stream go through the legacy stream; those that touch host memory wait.

use super::memory::device_end;
use crate::driver::abi::{CUDA_MEMCPY2D, CUDA_MEMCPY3D, memory_type};
use crate::driver::capture::Submitted;
use crate::driver::raw::{Host, In};
use crate::driver::work::{Copy, End, Fill, Side, Work};
use crate::driver::{Answer, Call, Refusal, codes};
use std::ffi::{c_uchar, c_uint, c_ushort};

/// When a copy has to be done.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum When {
    /// Before the call returns, if host memory is involved.
    Now,
    /// Whenever its stream gets to it.
    Later,
}

api! {
    fn cuMemcpyHtoD_v2(to: u64, from: Host, bytes: usize) Context |call| {
        let copy = Copy::linear(device_end(call, to, bytes)?, host_end(from, bytes)?, bytes);
        submit(call, 0, copy, When::Now)
    }

    fn cuMemcpyDtoH_v2(to: Host, from: u64, bytes: usize) Context |call| {
        let copy = Copy::linear(host_end(to, bytes)?, device_end(call, from, bytes)?, bytes);
        submit(call, 0, copy, When::Now)
    }

    fn cuMemcpyDtoD_v2(to: u64, from: u64, bytes: usize) Context |call| {
        let copy = Copy::linear(device_end(call, to, bytes)?, device_end(call, from, bytes)?, bytes);
        submit(call, 0, copy, When::Now)
    }

    fn cuMemcpy(to: u64, from: u64, bytes: usize) Context |call| {
        let copy = Copy::linear(any_end(call, to, bytes)?, any_end(call, from, bytes)?, bytes);
        submit(call, 0, copy, When::Now)
    }

    fn cuMemcpyPeer(to: u64, to_context: u64, from: u64, from_context: u64, bytes: usize) Context |call| {
        call.context(to_context)?;
        call.context(from_context)?;
        let copy = Copy::linear(device_end(call, to, bytes)?, device_end(call, from, bytes)?, bytes);
        submit(call, 0, copy, When::Now)
    }

    fn cuMemcpyHtoDAsync_v2(to: u64, from: Host, bytes: usize, stream: u64) Context |call| {
        let copy = Copy::linear(device_end(call, to, bytes)?, host_end(from, bytes)?, bytes);
        submit(call, stream, copy, When::Later)
    }

    fn cuMemcpyDtoHAsync_v2(to: Host, from: u64, bytes: usize, stream: u64) Context |call| {
        let copy = Copy::linear(host_end(to, bytes)?, device_end(call, from, bytes)?, bytes);
        submit(call, stream, copy, When::Later)
    }

    fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) Context |call| {
        let copy = Copy::linear(device_end(call, to, bytes)?, device_end(call, from, bytes)?, bytes);
        submit(call, stream, copy, When::Later)
    }

    fn cuMemcpyAsync(to: u64, from: u64, bytes: usize, stream: u64) Context |call| {
        let copy = Copy::linear(any_end(call, to, bytes)?, any_end(call, from, bytes)?, bytes);
        submit(call, stream, copy, When::Later)
    }

    fn cuMemcpyPeerAsync(
        to: u64,
        to_context: u64,
        from: u64,
        from_context: u64,
        bytes: usize,
        stream: u64,
    ) Context |call| {
        call.context(to_context)?;
        call.context(from_context)?;
        let copy = Copy::linear(device_end(call, to, bytes)?, device_end(call, from, bytes)?, bytes);
        submit(call, stream, copy, When::Later)
    }

    fn cuMemcpy2D_v2(copy: In<CUDA_MEMCPY2D>) Context |call| {
        let copy = two_dimensional(call, copy.get()?)?;
        submit(call, 0, copy, When::Now)
    }

    fn cuMemcpy2DUnaligned_v2(copy: In<CUDA_MEMCPY2D>) Context |call| {
        let copy = two_dimensional(call, copy.get()?)?;
        submit(call, 0, copy, When::Now)
    }

    fn cuMemcpy2DAsync_v2(copy: In<CUDA_MEMCPY2D>, stream: u64) Context |call| {
        let copy = two_dimensional(call, copy.get()?)?;
        submit(call, stream, copy, When::Later)
    }

    fn cuMemcpy3D_v2(copy: In<CUDA_MEMCPY3D>) Context |call| {
        let copy = three_dimensional(call, copy.get()?)?;
        submit(call, 0, copy, When::Now)
    }

    fn cuMemcpy3DAsync_v2(copy: In<CUDA_MEMCPY3D>, stream: u64) Context |call| {
        let copy = three_dimensional(call, copy.get()?)?;
        submit(call, stream, copy, When::Later)
    }

    fn cuMemsetD8_v2(to: u64, value: c_uchar, count: usize) Context |call| {
        memset(call, 0, Area { to, pitch: 0, width: count, rows: 1 }, value.into(), 1)
    }

    fn cuMemsetD16_v2(to: u64, value: c_ushort, count: usize) Context |call| {
        memset(call, 0, Area { to, pitch: 0, width: count, rows: 1 }, value.into(), 2)
    }

    fn cuMemsetD32_v2(to: u64, value: c_uint, count: usize) Context |call| {
        memset(call, 0, Area { to, pitch: 0, width: count, rows: 1 }, value, 4)
    }

    fn cuMemsetD2D8_v2(to: u64, pitch: usize, value: c_uchar, width: usize, rows: usize) Context |call| {
        memset(call, 0, Area { to, pitch, width, rows }, value.into(), 1)
    }

    fn cuMemsetD2D16_v2(to: u64, pitch: usize, value: c_ushort, width: usize, rows: usize) Context |call| {
        memset(call, 0, Area { to, pitch, width, rows }, value.into(), 2)
    }

    fn cuMemsetD2D32_v2(to: u64, pitch: usize, value: c_uint, width: usize, rows: usize) Context |call| {
        memset(call, 0, Area { to, pitch, width, rows }, value, 4)
    }

    fn cuMemsetD8Async(to: u64, value: c_uchar, count: usize, stream: u64) Context |call| {
        memset(call, stream, Area { to, pitch: 0, width: count, rows: 1 }, value.into(), 1)
    }

    fn cuMemsetD16Async(to: u64, value: c_ushort, count: usize, stream: u64) Context |call| {
        memset(call, stream, Area { to, pitch: 0, width: count, rows: 1 }, value.into(), 2)
    }

    fn cuMemsetD32Async(to: u64, value: c_uint, count: usize, stream: u64) Context |call| {
        memset(call, stream, Area { to, pitch: 0, width: count, rows: 1 }, value, 4)
    }

    fn cuMemsetD2D8Async(
        to: u64,
        pitch: usize,
        value: c_uchar,
        width: usize,
        rows: usize,
        stream: u64,
    ) Context |call| {
        memset(call, stream, Area { to, pitch, width, rows }, value.into(), 1)
    }

    fn cuMemsetD2D16Async(
        to: u64,
        pitch: usize,
        value: c_ushort,
        width: usize,
        rows: usize,
        stream: u64,
    ) Context |call| {
        memset(call, stream, Area { to, pitch, width, rows }, value.into(), 2)
    }

    fn cuMemsetD2D32Async(
        to: u64,
        pitch: usize,
        value: c_uint,
        width: usize,
        rows: usize,
        stream: u64,
    ) Context |call| {
        memset(call, stream, Area { to, pitch, width, rows }, value, 4)
    }
}

fn host_end(at: Host, bytes: usize) -> Answer<End> {
    if at.0.is_null() && bytes > 0 {
        return Err(codes::INVALID_VALUE.into());
    }
    Ok(End::Host(at.address()))
}

/// Device memory if the address is one of a device's, else host memory.
fn any_end(call: &Call, address: u64, bytes: usize) -> Answer<End> {
    match call.block_at(address) {
        Some(_) => device_end(call, address, bytes),
        None if call.device_of(address).is_some() => device_end(call, address, bytes),
        None => host_end(Host(address as *const _), bytes),
    }
}

/// Submits a copy, and waits for it if it must be done when the call returns.
pub(super) fn submit(call: &mut Call, stream: u64, copy: Copy, when: When) -> Answer {
    let stream = call.stream(stream)?;
    // Not always the current one: a failure belongs to where the copy ran.
    let context = call.streams.get(stream).map_or(0, |s| s.context);
    if when == When::Now {
        call.capture_allows()?;
        call.no_implicit_order(stream)?;
    }
    if copy.size.contains(&0) {
        return Ok(());
    }
    let touches_host = |end: &End| matches!(end, End::Host(_));
    // What goes to pageable memory is there when the call returns, asynchronous or not.
    let waits = call.pageable(&copy.to, copy.size)
        || when == When::Now && (touches_host(&copy.to.end) || touches_host(&copy.from.end));
    if let Submitted::Queued(record) = call.submit(stream, Work::Copy(Box::new(copy)))?
        && waits
    {
        call.wait(&record)?;
        return call.finish(context);
    }
    Ok(())
}

/// One end of a copy of several dimensions: where it begins, and its pitches.
struct Corner {
    kind: u32,
    host: usize,
    device: u64,
    x: usize,
    y: usize,
    z: usize,
    pitch: usize,
    height: usize,
}

/// What the device attribute says.
const MAX_PITCH: usize = i32::MAX as usize;

fn side(call: &Call, corner: Corner, size: [usize; 3]) -> Answer<Side> {
    let wrong = |what: &str| Refusal::new(codes::INVALID_VALUE, what);
    let [width, height, depth] = size;
    let pitch = if corner.pitch == 0 { width } else { corner.pitch };
    if pitch > MAX_PITCH {
        return Err(wrong("the pitch is greater than CU_DEVICE_ATTRIBUTE_MAX_PITCH"));
    }
    if (height > 1 || depth > 1) && pitch < corner.x.saturating_add(width) {
        return Err(wrong("the pitch is less than the width"));
    }
    // `cuda.h`: the height of the slices may be 0 if there is but one.
    if depth > 1 && corner.height < corner.y.saturating_add(height) {
        return Err(wrong("the height of the slices is less than that of the copy"));
    }
    let rows = if corner.height == 0 { height } else { corner.height };
    let offset = || {
        let slice = pitch.checked_mul(rows)?;
        let offset =
            corner.z.checked_mul(slice)?.checked_add(corner.y.checked_mul(pitch)?)?.checked_add(corner.x)?;
        Some((slice, offset))
    };
    let (slice, offset) = offset().ok_or_else(|| wrong("the sizes overflow"))?;
    let side = |end| Side { end, pitch, slice };
    let extent = side(End::Host(0)).extent(size).ok_or_else(|| wrong("the sizes overflow"))?;
    let end = match corner.kind {
        memory_type::HOST => host_end(Host(corner.host.wrapping_add(offset) as *const _), extent)?,
        memory_type::DEVICE => device_end(call, corner.device.wrapping_add(offset as u64), extent)?,
        memory_type::UNIFIED => any_end(call, corner.device.wrapping_add(offset as u64), extent)?,
        kind => return Err(Refusal::new(codes::NOT_SUPPORTED, format!("copies of memory type {kind}"))),
    };
    Ok(side(end))
}

fn two_dimensional(call: &Call, copy: CUDA_MEMCPY2D) -> Answer<Copy> {
    let size = [copy.width_in_bytes, copy.height, 1];
    let to = Corner {
        kind: copy.dst_memory_type,
        host: copy.dst_host as usize,
        device: copy.dst_device,
        x: copy.dst_x_in_bytes,
        y: copy.dst_y,
        z: 0,
        pitch: copy.dst_pitch,
        height: 0,
    };
    let from = Corner {
        kind: copy.src_memory_type,
        host: copy.src_host as usize,
        device: copy.src_device,
        x: copy.src_x_in_bytes,
        y: copy.src_y,
        z: 0,
        pitch: copy.src_pitch,
        height: 0,
    };
    Ok(Copy { to: side(call, to, size)?, from: side(call, from, size)?, size })
}

pub(super) fn three_dimensional(call: &Call, copy: CUDA_MEMCPY3D) -> Answer<Copy> {
    if copy.src_lod != 0 || copy.dst_lod != 0 {
        return Err(Refusal::new(codes::INVALID_VALUE, "a level of detail, which must be 0"));
    }
    let size = [copy.width_in_bytes, copy.height, copy.depth];
    let to = Corner {
        kind: copy.dst_memory_type,
        host: copy.dst_host as usize,
        device: copy.dst_device,
        x: copy.dst_x_in_bytes,
        y: copy.dst_y,
        z: copy.dst_z,
        pitch: copy.dst_pitch,
        height: copy.dst_height,
    };
    let from = Corner {
        kind: copy.src_memory_type,
        host: copy.src_host as usize,
        device: copy.src_device,
        x: copy.src_x_in_bytes,
        y: copy.src_y,
        z: copy.src_z,
        pitch: copy.src_pitch,
        height: copy.src_height,
    };
    Ok(Copy { to: side(call, to, size)?, from: side(call, from, size)?, size })
}

/// What a memset fills: elements of a row, rows.
pub(super) struct Area {
    pub to: u64,
    pub pitch: usize,
    pub width: usize,
    pub rows: usize,
}

pub(super) fn fill(call: &Call, area: &Area, value: u32, element: usize) -> Answer<Fill> {
    let wrong = |what: &str| Refusal::new(codes::INVALID_VALUE, what);
    let row = area.width.checked_mul(element).ok_or_else(|| wrong("the sizes overflow"))?;
    if area.rows > 1 && area.pitch < row {
        return Err(wrong("the pitch is less than the width"));
    }
    if !area.to.is_multiple_of(element as u64) || area.rows > 1 && !area.pitch.is_multiple_of(element) {
        return Err(wrong("address and pitch are multiples of the element's size"));
    }
    let mut fill = Fill {
        device: 0,
        address: area.to,
        pitch: area.pitch,
        pattern: value.to_le_bytes(),
        element,
        width: area.width,
        rows: area.rows,
    };
    let bytes = fill.bytes().ok_or_else(|| wrong("the sizes overflow"))?;
    if let End::Device(device, _) = device_end(call, area.to, bytes)? {
        fill.device = device;
    }
    Ok(fill)
}

fn memset(call: &mut Call, stream: u64, area: Area, value: u32, element: usize) -> Answer {
    let stream = call.stream(stream)?;
    let fill = fill(call, &area, value, element)?;
    if fill.width == 0 || fill.rows == 0 {
        return Ok(());
    }
    call.submit(stream, Work::Fill(fill)).map(drop)
}
