//! Streams and their capture.

use crate::driver::abi::{capture_mode, capture_status, stream_flag};
use crate::driver::raw::{In, Out};
use crate::driver::{Answer, CAPTURE_MODE, Call, Refusal, codes};
use std::ffi::{c_int, c_uint};

api! {
    fn cuStreamCreate(stream: Out<u64>, flags: c_uint) Context |call| {
        create(call, stream, flags, 0)
    }

    fn cuStreamCreateWithPriority(stream: Out<u64>, flags: c_uint, priority: c_int) Context |call| {
        create(call, stream, flags, priority.clamp(-5, 0))
    }

    fn cuStreamDestroy_v2(stream: u64) Init |call| {
        let found = call.streams.get(stream).filter(|s| !s.built_in).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let (context, capture) = (found.context, found.capture.as_ref().map(|(id, _)| *id));
        if let Some(id) = capture {
            // Without the stream that it began in nobody could end it. The manual is silent about the others: to
            // destroy one before the end is taken for a mistake, which the end reports.
            match call.captures.get_mut(&id) {
                Some(capture) if capture.origin != stream => capture.invalid = true,
                _ => call.drop_capture(id),
            }
        }
        let removed = call.streams.remove(stream);
        if let Some((tail, flags)) = removed.and_then(|s| Some((s.tail?, s.flags))) {
            call.inherit(context, flags, tail)?;
        }
        call.finish(context)
    }

    fn cuStreamSynchronize(stream: u64) Context |call| {
        let stream = call.stream(stream)?;
        call.not_captured(stream)?;
        call.capture_allows()?;
        call.wait_for_stream(stream)?;
        let context = call.streams.get(stream).map_or(0, |s| s.context);
        call.finish(context)
    }

    fn cuStreamQuery(stream: u64) Context |call| {
        let stream = call.stream(stream)?;
        call.not_captured(stream)?;
        let waits = call.predecessors(stream)?;
        let done = waits.iter().all(|record| call.ask(record));
        let context = call.streams.get(stream).map_or(0, |s| s.context);
        call.finish(context)?;
        if done { Ok(()) } else { Err(codes::NOT_READY.into()) }
    }

    fn cuStreamWaitEvent(stream: u64, event: u64, flags: c_uint) Context |call| {
        let stream = call.stream(stream)?;
        if flags > 1 {
            return Err(codes::INVALID_VALUE.into());
        }
        call.wait_event(stream, event, flags == 1)
    }

    fn cuStreamGetFlags(stream: u64, flags: Out<c_uint>) Context |call| {
        let stream = call.stream(stream)?;
        flags.set(call.streams.get(stream).map_or(0, |s| s.flags))
    }

    fn cuStreamGetPriority(stream: u64, priority: Out<c_int>) Context |call| {
        let stream = call.stream(stream)?;
        priority.set(call.streams.get(stream).map_or(0, |s| s.priority))
    }

    fn cuStreamGetId(stream: u64, id: Out<u64>) Context |call| {
        id.set(call.stream(stream)? & 0xffff_ffff)
    }

    fn cuStreamGetCtx(stream: u64, context: Out<u64>) Context |call| {
        let stream = call.stream(stream)?;
        context.set(call.streams.get(stream).map_or(0, |s| s.context))
    }

    fn cuStreamGetDevice(stream: u64, device: Out<c_int>) Context |call| {
        let stream = call.stream(stream)?;
        let context = call.streams.get(stream).map_or(0, |s| s.context);
        device.set(call.context(context)?.device as c_int)
    }

    fn cuStreamBeginCapture(stream: u64) Context |call| {
        let (stream, thread) = (call.stream(stream)?, call.thread);
        call.begin_capture(stream, capture_mode::GLOBAL, thread)
    }

    fn cuStreamBeginCapture_v2(stream: u64, mode: u32) Context |call| {
        let (stream, thread) = (call.stream(stream)?, call.thread);
        call.begin_capture(stream, mode, thread)
    }

    fn cuStreamEndCapture(stream: u64, graph: Out<u64>) Context |call| {
        let (stream, thread) = (call.stream(stream)?, call.thread);
        if graph.is_null() {
            return Err(codes::INVALID_VALUE.into());
        }
        let ended = call.end_capture(stream, thread);
        graph.set_if(ended.as_ref().copied().unwrap_or(0));
        ended.map(drop)
    }

    fn cuStreamIsCapturing(stream: u64, status: Out<u32>) Context |call| {
        let stream = call.stream(stream)?;
        status.set(capture_of(call, stream)?.0)
    }

    fn cuStreamGetCaptureInfo(stream: u64, status: Out<u32>, id: Out<u64>) Context |call| {
        let stream = call.stream(stream)?;
        let (state, number) = capture_of(call, stream)?;
        id.set_if(number);
        status.set(state)
    }

    fn cuStreamGetCaptureInfo_v2(
        stream: u64,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<u64>,
        nodes: Out<usize>,
        count: Out<usize>,
    ) Context |call| {
        capture_info(call, stream, (status, id, graph, nodes, Out::null(), count))
    }

    fn cuStreamGetCaptureInfo_v3(
        stream: u64,
        status: Out<u32>,
        id: Out<u64>,
        graph: Out<u64>,
        nodes: Out<usize>,
        edges: Out<usize>,
        count: Out<usize>,
    ) Context |call| {
        capture_info(call, stream, (status, id, graph, nodes, edges, count))
    }

    fn cuStreamUpdateCaptureDependencies(
        stream: u64,
        nodes: In<u64>,
        count: usize,
        flags: c_uint,
    ) Context |call| {
        update_dependencies(call, stream, nodes, count, flags)
    }

    // Edge data says what part of a node the next one waits for: to wait for all of it is always right.
    fn cuStreamUpdateCaptureDependencies_v2(
        stream: u64,
        nodes: In<u64>,
        _edges: In<u64>,
        count: usize,
        flags: c_uint,
    ) Context |call| {
        update_dependencies(call, stream, nodes, count, flags)
    }

    fn cuThreadExchangeStreamCaptureMode(mode: Out<u32>) Init |_call| {
        let new = mode.get()?;
        if new > capture_mode::RELAXED {
            return Err(codes::INVALID_VALUE.into());
        }
        mode.set(CAPTURE_MODE.replace(new))
    }
}

fn create(call: &mut Call, stream: Out<u64>, flags: c_uint, priority: c_int) -> Answer {
    if stream.is_null() || flags & !stream_flag::NON_BLOCKING != 0 {
        return Err(codes::INVALID_VALUE.into());
    }
    let context = call.context;
    let handle = call.new_stream(context, flags, priority, false);
    stream.set(handle)
}

/// Status and number of the capture that a stream takes part in. Asking about the legacy stream while a blocking one is
/// being captured is an error that, says the manual, leaves the capture as it is.
fn capture_of(call: &Call, stream: u64) -> Answer<(u32, u64)> {
    if call.implied_capture(stream).is_some() {
        return Err(Refusal::new(codes::STREAM_CAPTURE_IMPLICIT, "a blocking stream is being captured"));
    }
    let id = call.streams.get(stream).and_then(|s| s.capture.as_ref()).map(|(id, _)| *id);
    Ok(match id {
        None => (capture_status::NONE, 0),
        Some(id) if call.live_capture(id).is_ok() => (capture_status::ACTIVE, id),
        Some(id) => (capture_status::INVALIDATED, id),
    })
}

/// Where the later forms want status, number, graph, the last nodes, the edges to the next one, and how many.
type Told = (Out<u32>, Out<u64>, Out<u64>, Out<usize>, Out<usize>, Out<usize>);

/// What the later forms tell. The lists are the driver's, and stay until the stream is asked again or the capture ends.
fn capture_info(call: &mut Call, stream: u64, (status, id, graph, nodes, edges, count): Told) -> Answer {
    let stream = call.stream(stream)?;
    let (state, number) = capture_of(call, stream)?;
    status.set(state)?;
    if state != capture_status::ACTIVE {
        return Ok(());
    }
    id.set_if(number);
    let Some((handle, mut list)) = call.captured_so_far(stream) else { return Ok(()) };
    graph.set_if(handle);
    let known = list.len();
    count.set_if(known);
    // Behind the nodes as many edges of the usual kind, which is eight zero bytes each.
    list.resize(2 * known, 0);
    if let Some(capture) = call.captures.get_mut(&number) {
        nodes.set_if(list.as_ptr() as usize);
        edges.set_if(list[known..].as_ptr() as usize);
        capture.told.insert(stream, list);
    }
    Ok(())
}

fn update_dependencies(call: &mut Call, stream: u64, nodes: In<u64>, count: usize, flags: c_uint) -> Answer {
    let stream = call.stream(stream)?;
    if flags > 1 {
        return Err(codes::INVALID_VALUE.into());
    }
    let nodes = if count == 0 { Vec::new() } else { nodes.list(count)? };
    call.set_dependencies(stream, &nodes, flags == 1)
}
