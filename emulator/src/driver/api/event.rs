//! Events.

use crate::driver::abi::{event_flag, event_record};
use crate::driver::raw::Out;
use crate::driver::state::Event;
use crate::driver::{Answer, Call, Refusal, codes};
use std::ffi::{c_float, c_uint};

api! {
    fn cuEventCreate(event: Out<u64>, flags: c_uint) Context |call| {
        use event_flag::{BLOCKING_SYNC, DISABLE_TIMING, INTERPROCESS};
        if event.is_null() || flags & !(BLOCKING_SYNC | DISABLE_TIMING | INTERPROCESS) != 0 {
            return Err(codes::INVALID_VALUE.into());
        }
        if flags & INTERPROCESS != 0 {
            return Err(Refusal::new(codes::NOT_SUPPORTED, "events across processes"));
        }
        let context = call.context;
        let handle = call.events.insert(Event { context, flags, record: None, captured: None });
        event.set(handle)
    }

    fn cuEventDestroy_v2(event: u64) Init |call| {
        let event = call.events.remove(event).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        call.finish(event.context)
    }

    fn cuEventRecord(event: u64, stream: u64) Context |call| {
        let stream = call.stream(stream)?;
        call.record_event(event, stream, false)
    }

    fn cuEventRecordWithFlags(event: u64, stream: u64, flags: c_uint) Context |call| {
        let stream = call.stream(stream)?;
        if flags > event_record::EXTERNAL {
            return Err(codes::INVALID_VALUE.into());
        }
        call.record_event(event, stream, flags == event_record::EXTERNAL)
    }

    fn cuEventQuery(event: u64) Init |call| {
        let context = usable(call, event)?;
        // Asking counts among what a capture forbids: programs that watch events from another thread know it well.
        call.capture_allows()?;
        let record = call.events.get(event).and_then(|event| event.record.clone());
        let done = record.is_none_or(|record| call.ask(&record));
        call.finish(context)?;
        if done { Ok(()) } else { Err(codes::NOT_READY.into()) }
    }

    fn cuEventSynchronize(event: u64) Init |call| {
        let context = usable(call, event)?;
        call.capture_allows()?;
        if let Some(record) = call.events.get(event).and_then(|event| event.record.clone()) {
            call.wait(&record)?;
        }
        call.finish(context)
    }

    fn cuEventElapsedTime(milliseconds: Out<c_float>, start: u64, end: u64) Init |call| {
        elapsed(call, milliseconds, start, end)
    }

    fn cuEventElapsedTime_v2(milliseconds: Out<c_float>, start: u64, end: u64) Init |call| {
        elapsed(call, milliseconds, start, end)
    }
}

/// The context of an event that may be waited for.
fn usable(call: &mut Call, event: u64) -> Answer<u64> {
    let found = call.events.get(event).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
    let context = found.context;
    call.healthy(context)?;
    match found.captured {
        Some((id, _)) => {
            call.invalidate(id, codes::CAPTURED_EVENT, "the event was last recorded in a capture")
        }
        None => Ok(context),
    }
}

/// Time that the emulator took: it says nothing about any card.
fn elapsed(call: &mut Call, milliseconds: Out<c_float>, start: u64, end: u64) -> Answer {
    let mut times = Vec::new();
    for event in [start, end] {
        usable(call, event)?;
        let Some(found) = call.events.get(event) else { return Err(codes::INVALID_HANDLE.into()) };
        let record = found.record.clone().filter(|_| found.flags & event_flag::DISABLE_TIMING == 0);
        let record = record.ok_or_else(|| {
            Refusal::new(codes::INVALID_HANDLE, "an event without timing, or that was never recorded")
        })?;
        if !call.ask(&record) {
            return Err(codes::NOT_READY.into());
        }
        times.extend(record.done().map(|done| done.at));
    }
    match times[..] {
        [start, end] => {
            let sign = if end < start { -1.0 } else { 1.0 };
            let apart = end.max(start).duration_since(end.min(start)).as_secs_f32();
            milliseconds.set(sign * apart * 1e3)
        }
        _ => Err(codes::NOT_READY.into()),
    }
}
