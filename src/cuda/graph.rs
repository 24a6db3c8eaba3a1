//! Graphs that are captured once and launched for every step.

use super::api::{self, Answer, CUstream};
use super::context::{Context, Handle};
use super::stream::{Event, Stream};
use crate::error::Result;

/// A second stream of a capture: a branch of its graph.
pub(crate) struct Side {
    stream: Stream,
    forked: Event,
    joined: Event,
}

impl Side {
    /// Begins the branch behind what `of` has been given, gives it its work, and returns.
    pub fn branch(&self, of: CUstream, work: impl FnOnce(CUstream) -> Answer<()>) -> Answer<()> {
        api::record_event(self.forked.raw(), of)?;
        api::wait_event(self.stream.raw(), self.forked.raw())?;
        work(self.stream.raw())?;
        api::record_event(self.joined.raw(), self.stream.raw())
    }

    /// What follows in `of` comes behind the branch too.
    pub fn join(&self, of: CUstream) -> Answer<()> {
        api::wait_event(of, self.joined.raw())
    }
}

/// An executable graph.
#[derive(Debug)]
pub(crate) struct Graph {
    context: Context,
    raw: Handle<api::CUgraphExec>,
}

impl Graph {
    /// What `work` gives to a stream, as a graph. The stream is ours: no caller's is touched.
    pub fn capture(
        context: &Context,
        during: &str,
        work: impl FnOnce(CUstream, &Side) -> Answer<()>,
    ) -> Result<Self> {
        let stream = Stream::new(context)?;
        let side = Side {
            stream: Stream::new(context)?,
            forked: Event::new(context, false)?,
            joined: Event::new(context, false)?,
        };
        let raw = context.run(during, || {
            api::begin_capture(stream.raw())?;
            let given = work(stream.raw(), &side);
            // The capture has to end, whatever became of the work.
            let ended = api::end_capture(stream.raw());
            let graph = match (given, ended) {
                (Ok(()), ended) => ended?,
                (Err(fault), ended) => {
                    if let Ok(graph) = ended
                        && !graph.is_null()
                    {
                        let _ = api::destroy_graph(graph);
                    }
                    return Err(fault);
                }
            };
            let exec = api::instantiate(graph);
            let destroyed = api::destroy_graph(graph);
            match (exec, destroyed) {
                (Ok(exec), Err(fault)) => {
                    let _ = api::destroy_exec(exec);
                    Err(fault)
                }
                (exec, _) => exec,
            }
        })?;
        Ok(Self { context: context.clone(), raw: Handle(raw) })
    }

    pub fn raw(&self) -> api::CUgraphExec {
        self.raw.0
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        self.context.give_back(|| api::destroy_exec(self.raw.0));
    }
}
