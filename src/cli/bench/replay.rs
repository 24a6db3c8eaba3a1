//! Work captured as a graph, and the time that the card needs for it.
#![allow(unsafe_code, reason = "capture is a matter of the driver's C functions")]

use cudarc::driver::sys;
use orthant::cuda::{Context, Event, Stream};
use orthant::{Error, Result};

/// A graph of the benchmark's own.
pub struct Replay {
    exec: sys::CUgraphExec,
}

/// The code is a number: newer drivers have codes that cudarc's enumeration lacks.
fn check(call: &str, result: sys::CUresult) -> Result<()> {
    match result as u32 {
        0 => Ok(()),
        code => Err(Error::Step(format!("{call}: the driver answers with error {code}"))),
    }
}

impl Replay {
    /// What `work` gives to the stream it is called with. The context is the thread's current one.
    pub fn capture(context: &Context, work: impl FnOnce(&Stream) -> Result<()>) -> Result<Self> {
        let stream = Stream::new(context)?;
        let raw = stream.as_raw().cast();
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream is alive, and so are the places for results; the driver was probed before.
        check("cuStreamBeginCapture_v2", unsafe { sys::cuStreamBeginCapture_v2(raw, mode) })?;
        let given = work(&stream);
        let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: as above. The capture has to end, whatever became of the work.
        let ended = check("cuStreamEndCapture", unsafe { sys::cuStreamEndCapture(raw, &mut graph) });
        given.and(ended)?;
        // SAFETY: the graph was made above and is destroyed once.
        let (made, destroyed) = unsafe {
            let made = sys::cuGraphInstantiateWithFlags(&mut exec, graph, 0);
            (made, sys::cuGraphDestroy(graph))
        };
        check("cuGraphInstantiateWithFlags", made)?;
        let this = Self { exec };
        check("cuGraphDestroy", destroyed)?;
        Ok(this)
    }

    pub fn launch(&self, stream: &Stream) -> Result<()> {
        // SAFETY: both are alive.
        check("cuGraphLaunch", unsafe { sys::cuGraphLaunch(self.exec, stream.as_raw().cast()) })
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        // SAFETY: it was made by `capture`. Nobody is left to tell of an error.
        let _ = unsafe { sys::cuGraphExecDestroy(self.exec) };
    }
}

/// Work that is timed: the i-th piece of it, given to the stream.
pub type Work<'a> = Box<dyn FnMut(usize) -> Result<()> + 'a>;

const SAMPLES: usize = 7;
/// Nanoseconds that a sample should take, and pieces of work in it at most.
const SAMPLE: f64 = 20e6;
const MOST: usize = 20;

/// Median nanoseconds of a piece of each work, by turns.
pub fn by_turns(context: &Context, stream: &Stream, works: &mut [Work<'_>]) -> Result<Vec<f64>> {
    let (start, end) = (Event::new(context, true)?, Event::new(context, true)?);
    let sample = |work: &mut Work<'_>, pieces: usize, busy: bool| -> Result<f64> {
        if busy {
            // Keeps the card busy while the first is given: no interval begins on an idle one.
            work(pieces)?;
        }
        start.record(stream)?;
        (0..pieces).try_for_each(&mut *work)?;
        end.record(stream)?;
        end.synchronize()?;
        Ok(f64::from(start.elapsed_ms(&end)?) * 1e6 / pieces as f64)
    };
    let mut pieces = vec![];
    for work in works.iter_mut() {
        work(0)?;
        let ns = sample(work, 1, true)?;
        pieces.push(((SAMPLE / ns.max(1.0)) as usize).clamp(1, MOST));
    }
    let mut times = vec![vec![]; works.len()];
    for _ in 0..SAMPLES {
        for ((work, &pieces), times) in works.iter_mut().zip(&pieces).zip(&mut times) {
            times.push(sample(work, pieces, pieces > 1)?);
        }
    }
    Ok(times.into_iter().map(super::median).collect())
}
