//! What orders work: streams, events, the host. Operations form a graph; whatever has nothing left to wait for may run.

use std::ops::Range;
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::Instant;

use super::work::Work;

/// Launches that are known to have ended, for each device: sorted ranges of launch numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Known(Vec<Vec<Range<u64>>>);

impl Known {
    /// Takes in one launch.
    pub fn add(&mut self, device: usize, launch: u64) {
        self.join_ranges(device, std::slice::from_ref(&(launch..launch + 1)));
    }

    /// Takes in all that `other` knows.
    pub fn join(&mut self, other: &Known) {
        for (device, ranges) in other.0.iter().enumerate() {
            self.join_ranges(device, ranges);
        }
    }

    fn join_ranges(&mut self, device: usize, ranges: &[Range<u64>]) {
        if self.0.len() <= device {
            self.0.resize(device + 1, Vec::new());
        }
        let mine = &mut self.0[device];
        if mine.as_slice() == ranges {
            return;
        }
        // The usual case first: one more at the end.
        if let ([new], Some(last)) = (ranges, mine.last_mut())
            && last.start <= new.start
            && new.start <= last.end
        {
            last.end = last.end.max(new.end);
            return;
        }
        let mut all: Vec<Range<u64>> = mine.iter().chain(ranges).cloned().collect();
        all.sort_by_key(|range| range.start);
        mine.clear();
        for range in all {
            match mine.last_mut() {
                Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
                _ => mine.push(range),
            }
        }
    }

    /// The same as the memory takes it: all launches below a number, and ranges of later ones.
    pub fn on(&self, device: usize) -> (u64, &[Range<u64>]) {
        match self.0.get(device).map(Vec::as_slice) {
            Some([first, rest @ ..]) if first.start == 0 => (first.end, rest),
            Some(ranges) => (0, ranges),
            None => (0, &[]),
        }
    }
}

/// How an operation ended.
#[derive(Debug)]
pub(crate) struct Done {
    /// What is ordered before whatever waits for it.
    pub known: Known,
    pub at: Instant,
}

/// An operation as those see it that wait for it.
#[derive(Debug, Default)]
pub(crate) struct Record(OnceLock<Done>);

impl Record {
    pub fn done(&self) -> Option<&Done> {
        self.0.get()
    }

    pub fn finish(&self, known: Known) {
        _ = self.0.set(Done { known, at: Instant::now() });
    }
}

/// An operation that has not run.
pub(crate) struct Pending {
    pub number: u64,
    pub context: u64,
    pub device: usize,
    pub work: Work,
    /// What the host knew when it asked for it, and then what those knew that it waited for.
    pub known: Known,
    pub waits_for: Vec<Arc<Record>>,
    pub record: Arc<Record>,
    /// A host function that is being called.
    pub running: bool,
}

impl Pending {
    pub fn ready(&self) -> bool {
        !self.running && self.waits_for.iter().all(|record| record.done().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_launches_merge_into_ranges() {
        let mut a = Known::default();
        [0, 1, 2, 5, 7, 6, 1].into_iter().for_each(|launch| a.add(0, launch));
        assert_eq!(a.on(0), (3, std::slice::from_ref(&(5..8))));
        let mut b = Known::default();
        [3, 4].into_iter().for_each(|launch| b.add(0, launch));
        assert_eq!(b.on(0), (0, std::slice::from_ref(&(3..5))));
        b.add(1, 0);
        a.join(&b);
        assert_eq!((a.on(0), a.on(1), a.on(2)), ((8, &[][..]), (1, &[][..]), (0, &[][..])));
    }
}
