//! Stream capture: work is written down as a graph instead of being run. What cannot be written down is an error, and
//! ends the capture.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::abi::capture_mode::{GLOBAL, RELAXED, THREAD_LOCAL};
use super::abi::stream_flag::NON_BLOCKING;
use super::graph::{Node, Task};
use super::order::Record;
use super::state::State;
use super::work::Work;
use super::{Answer, Refusal, codes};

/// A capture under way.
pub(crate) struct Capture {
    pub context: u64,
    /// Where it was begun.
    pub origin: u64,
    pub mode: u32,
    /// Who began it.
    pub thread: u64,
    /// Something was done that cannot be captured.
    pub invalid: bool,
    /// What has been captured.
    pub graph: u64,
    /// Lists of nodes that callers were given pointers to, by stream: they live until the stream's next.
    pub told: BTreeMap<u64, Vec<u64>>,
}

/// Why nothing can wait for an event.
const ENDED: &str = "the event was last recorded in a capture, which has ended";

/// What became of work that was submitted.
pub(crate) enum Submitted {
    Queued(Arc<Record>),
    Captured,
}

impl State {
    pub fn begin_capture(&mut self, stream: u64, mode: u32, thread: u64) -> Answer {
        if mode > RELAXED {
            return Err(codes::INVALID_VALUE.into());
        }
        let found = self.streams.get(stream).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let context = found.context;
        if self.context(context)?.legacy == stream {
            return Err(Refusal::new(
                codes::STREAM_CAPTURE_UNSUPPORTED,
                "the legacy stream cannot be captured",
            ));
        }
        if found.capture.is_some() {
            return Err(Refusal::new(codes::ILLEGAL_STATE, "the stream is being captured already"));
        }
        self.operations += 1;
        let id = self.operations;
        let graph = self.new_graph(context, Vec::new());
        let capture =
            Capture { context, origin: stream, mode, thread, invalid: false, graph, told: BTreeMap::new() };
        self.captures.insert(id, capture);
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.capture = Some((id, Vec::new()));
        }
        Ok(())
    }

    /// Ends a capture; the graph's handle.
    pub fn end_capture(&mut self, stream: u64, thread: u64) -> Answer<u64> {
        let found = self.streams.get(stream).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let Some((id, ends)) = found.capture.clone() else {
            return Err(Refusal::new(codes::ILLEGAL_STATE, "the stream is not being captured"));
        };
        let Some(capture) = self.captures.get(&id) else { return Err(codes::ILLEGAL_STATE.into()) };
        if capture.origin != stream {
            return Err(Refusal::new(codes::STREAM_CAPTURE_UNMATCHED, "the capture began in another stream"));
        }
        if capture.mode != RELAXED && capture.thread != thread {
            return Err(Refusal::new(codes::STREAM_CAPTURE_WRONG_THREAD, "another thread began the capture"));
        }
        // Everything that other streams did must lie before what this one did last.
        let graph = capture.graph;
        let nodes = &self.graph(graph)?.nodes;
        let mut joined = vec![false; nodes.len()];
        let mut left = ends;
        while let Some(index) = left.pop() {
            if !std::mem::replace(&mut joined[index], true) {
                left.extend(&nodes[index].after);
            }
        }
        let forked = self
            .streams
            .iter()
            .filter(|&(other, s)| other != stream && s.capture.as_ref().is_some_and(|(own, _)| *own == id));
        let unjoined = forked
            .flat_map(|(_, s)| s.capture.iter().flat_map(|(_, ends)| ends))
            .any(|&index| !joined[index]);
        if capture.invalid {
            self.drop_capture(id);
            return Err(Refusal::new(
                codes::STREAM_CAPTURE_INVALIDATED,
                "an earlier error ended the capture",
            ));
        }
        if unjoined {
            self.drop_capture(id);
            return Err(Refusal::new(
                codes::STREAM_CAPTURE_UNJOINED,
                "work of another stream was captured and this stream does not wait for it",
            ));
        }
        self.release_capture(id);
        Ok(graph)
    }

    /// Ends a capture without a graph.
    pub fn drop_capture(&mut self, id: u64) {
        if let Some(capture) = self.release_capture(id) {
            _ = self.destroy_graph(capture.graph);
        }
    }

    fn release_capture(&mut self, id: u64) -> Option<Capture> {
        for (_, stream) in self.streams.iter_mut() {
            stream.capture.take_if(|(own, _)| *own == id);
        }
        self.captures.remove(&id)
    }

    /// Ends some captures without their graphs.
    pub fn drop_captures(&mut self, which: impl Fn(&Capture) -> bool) {
        let found: Vec<u64> = self.captures.iter().filter(|(_, c)| which(c)).map(|(&id, _)| id).collect();
        found.into_iter().for_each(|id| self.drop_capture(id));
    }

    /// The graph under construction and the nodes that a stream's next one comes after.
    pub fn captured_so_far(&self, stream: u64) -> Option<(u64, Vec<u64>)> {
        let (id, after) = self.streams.get(stream)?.capture.as_ref()?;
        let graph = self.captures.get(id)?.graph;
        let handles = &self.graphs.get(graph)?.handles;
        Some((graph, after.iter().filter_map(|&index| handles.get(index).copied()).collect()))
    }

    /// Says what a stream's next node comes after: instead of what it was to come after, or besides.
    pub fn set_dependencies(&mut self, stream: u64, nodes: &[u64], instead: bool) -> Answer {
        let found = self.streams.get(stream).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let Some((id, mut after)) = found.capture.clone() else {
            return Err(Refusal::new(codes::ILLEGAL_STATE, "the stream is not being captured"));
        };
        self.live_capture(id)?;
        let graph = self.captures.get(&id).map_or(0, |capture| capture.graph);
        if instead {
            after.clear();
        }
        for &node in nodes {
            let index = self.node_of(graph, node)?;
            if !after.contains(&index) {
                after.push(index);
            }
        }
        self.set_capture(stream, id, after);
        Ok(())
    }

    /// Marks a capture as failed and answers with the error.
    pub fn invalidate<T>(&mut self, id: u64, code: u32, text: &str) -> Answer<T> {
        if let Some(capture) = self.captures.get_mut(&id) {
            capture.invalid = true;
        }
        Err(Refusal::new(code, text))
    }

    /// Submits work to a stream: into its capture if there is one, else into its queue.
    pub fn submit(&mut self, stream: u64, mut work: Work) -> Answer<Submitted> {
        let found = self.streams.get(stream).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let context = found.context;
        self.healthy(context)?;
        if let Some((id, after)) = found.capture.clone() {
            self.live_capture(id)?;
            if matches!(work, Work::Free(_)) {
                return self.invalidate(
                    id,
                    codes::NOT_SUPPORTED,
                    "allocation nodes in graphs are not supported",
                );
            }
            self.capture_task(stream, id, after, Task::Work(work))?;
            return Ok(Submitted::Captured);
        }
        self.no_implicit_order(stream)?;
        if let Work::Copy(copy) = &mut work
            && self.pageable(&copy.from, copy.size)
        {
            copy.stage();
        }
        self.enqueue(stream, work).map(Submitted::Queued)
    }

    pub fn live_capture(&self, id: u64) -> Answer {
        match self.captures.get(&id) {
            Some(capture) if !capture.invalid => Ok(()),
            _ => Err(Refusal::new(codes::STREAM_CAPTURE_INVALIDATED, "an earlier error ended the capture")),
        }
    }

    /// The capture of a blocking stream that the use of this one would wait for, if this is the legacy stream.
    pub fn implied_capture(&self, stream: u64) -> Option<u64> {
        let context = self.streams.get(stream)?.context;
        if self.contexts.get(context)?.legacy != stream {
            return None;
        }
        self.streams.iter().find_map(|(_, s)| {
            s.capture
                .as_ref()
                .filter(|_| s.context == context && s.flags & NON_BLOCKING == 0)
                .map(|(id, _)| *id)
        })
    }

    /// The legacy stream waits for all blocking ones, which it cannot while one is being captured.
    pub fn no_implicit_order(&mut self, stream: u64) -> Answer {
        match self.implied_capture(stream) {
            None => Ok(()),
            Some(id) => self.invalidate(
                id,
                codes::STREAM_CAPTURE_IMPLICIT,
                "the legacy stream would wait for a stream that is being captured",
            ),
        }
    }

    /// Refuses what a capture forbids to its thread, or to all: allocation, synchronisation.
    pub fn not_while_capturing(&mut self, thread: u64, mode: u32) -> Answer {
        if mode == RELAXED {
            return Ok(());
        }
        let forbids = |capture: &Capture| match capture.mode {
            GLOBAL => mode == GLOBAL || capture.thread == thread,
            THREAD_LOCAL => capture.thread == thread,
            _ => false,
        };
        let found = self.captures.iter().find(|(_, capture)| forbids(capture)).map(|(&id, _)| id);
        match found {
            None => Ok(()),
            Some(id) => self.invalidate(
                id,
                codes::STREAM_CAPTURE_UNSUPPORTED,
                "allocation and synchronisation are not permitted while a stream is being captured",
            ),
        }
    }

    /// Refuses to wait for, or ask about, a stream that is being captured.
    pub fn not_captured(&mut self, stream: u64) -> Answer {
        match self.streams.get(stream).and_then(|s| s.capture.as_ref()).map(|(id, _)| *id) {
            None => self.no_implicit_order(stream),
            Some(id) => self.invalidate(
                id,
                codes::STREAM_CAPTURE_UNSUPPORTED,
                "the stream is being captured: it cannot be waited for",
            ),
        }
    }

    pub fn record_event(&mut self, event: u64, stream: u64, external: bool) -> Answer {
        let found = self.streams.get(stream).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let context = found.context;
        let own = self.events.get(event).ok_or(Refusal::from(codes::INVALID_HANDLE))?.context;
        if own != context {
            return Err(Refusal::new(codes::INVALID_HANDLE, "event and stream belong to different contexts"));
        }
        if let Some((id, after)) = found.capture.clone() {
            self.live_capture(id)?;
            if external {
                return self.capture_task(stream, id, after, Task::Record(event));
            }
            if let Some(event) = self.events.get_mut(event) {
                event.captured = Some((id, after));
            }
            return Ok(());
        }
        if let Submitted::Queued(record) = self.submit(stream, Work::Nothing)?
            && let Some(event) = self.events.get_mut(event)
        {
            (event.record, event.captured) = (Some(record), None);
        }
        Ok(())
    }

    pub fn wait_event(&mut self, stream: u64, event: u64, external: bool) -> Answer {
        let found = self.streams.get(stream).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let (context, own) = (found.context, found.capture.clone());
        self.healthy(context)?;
        let event_of = self.events.get(event).ok_or(Refusal::from(codes::INVALID_HANDLE))?;
        let (record, captured) = (event_of.record.clone(), event_of.captured.clone());
        let ended = captured.as_ref().is_some_and(|(id, _)| !self.captures.contains_key(id));
        match (own, captured) {
            (Some((id, after)), _) if external => self.capture_task(stream, id, after, Task::Wait(event)),
            // The manual names no code for an event whose capture has ended; this one's text fits.
            (Some((id, _)), Some(_)) if ended => self.invalidate(id, codes::CAPTURED_EVENT, ENDED),
            (None, Some(_)) if ended => Err(Refusal::new(codes::CAPTURED_EVENT, ENDED)),
            (Some((id, mut after)), Some((other, before))) if id == other => {
                self.live_capture(id)?;
                before.into_iter().for_each(|node| {
                    if !after.contains(&node) {
                        after.push(node);
                    }
                });
                self.set_capture(stream, id, after);
                Ok(())
            }
            (Some((id, _)), Some(_)) => {
                self.invalidate(id, codes::STREAM_CAPTURE_MERGE, "the event belongs to another capture")
            }
            (None, Some((id, before))) => {
                self.live_capture(id)?;
                let joins = |s: &super::state::Stream| s.context;
                if self.streams.get(stream).map(joins) != self.captures.get(&id).map(|c| c.context) {
                    return Err(Refusal::new(codes::NOT_SUPPORTED, "a capture across contexts"));
                }
                if self.context(context)?.legacy == stream {
                    let text = "the legacy stream cannot take part in a capture";
                    return self.invalidate(id, codes::STREAM_CAPTURE_IMPLICIT, text);
                }
                self.set_capture(stream, id, before);
                Ok(())
            }
            (Some((id, _)), None) if record.is_some() => self.invalidate(
                id,
                codes::STREAM_CAPTURE_ISOLATION,
                "the event was recorded outside the capture",
            ),
            (Some(_), None) => Ok(()),
            (None, None) => {
                let Some(record) = record else { return Ok(()) };
                self.no_implicit_order(stream)?;
                let mut waits = self.predecessors(stream)?;
                waits.push(record);
                let record = self.add(context, Work::Nothing, waits)?;
                if let Some(stream) = self.streams.get_mut(stream) {
                    stream.tail = Some(record);
                }
                self.drift();
                Ok(())
            }
        }
    }

    fn capture_task(&mut self, stream: u64, id: u64, after: Vec<usize>, task: Task) -> Answer {
        self.live_capture(id)?;
        let graph = self.captures.get(&id).map_or(0, |capture| capture.graph);
        let node = self.graph(graph)?.nodes.len();
        self.push_node(graph, Node { task, after });
        self.set_capture(stream, id, vec![node]);
        Ok(())
    }

    fn set_capture(&mut self, stream: u64, id: u64, after: Vec<usize>) {
        if let Some(stream) = self.streams.get_mut(stream) {
            stream.capture = Some((id, after));
        }
    }
}
