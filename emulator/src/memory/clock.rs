//! Happens-before, at the precision of threads.
//!
//! Every warp has a time of its own. An access is stamped with its thread and the warp's time; the time advances at
//! each synchronisation in which any of the warp's lanes takes part, so a stamp says between which synchronisations the
//! access lies. What a thread knows of the others is a [`Clock`]: for each warp the time before which all accesses are
//! ordered before whatever the thread does next. Lanes that always synchronise together share one clock (`common`);
//! what single lanes learn from an acquire or a partial `__syncwarp` is kept beside it until the warp meets again.
//!
//! The rules are those of the PTX memory model's causality order, as far as kernels can use it: barriers, warp
//! barriers, release patterns (a release operation, or a fence and then a strong write) observed by acquire patterns
//! (an acquire operation, or a strong read and then a fence), release sequences through read-modify-writes, scopes.
//! Both are cumulative. (That a strong write is ordered before what follows a read that observed it is a matter of the one
//! location, and not of clocks: see `history`.) In particular a fence covers what *its own thread* did or knew at that time:
//! `__threadfence(); __syncthreads(); if (thread == 0) atomicAdd(...)` does not publish the other threads' writes,
//! `__syncthreads(); if (thread == 0) { __threadfence(); atomicAdd(...); }` does.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::counters::lanes;
use super::knowledge::{Clock, join_into};
use super::{Scope, WARP};

/// Bits of an epoch that hold the warp's time; the rest number the warps of all launches.
const TIME_BITS: u32 = 28;
const LAST_TIME: u32 = (1 << TIME_BITS) - 1;

/// A warp and its time in one word. Warps are numbered from 1 across all launches, so 0 is no epoch.
pub(super) fn epoch(agent: u64, time: u32) -> u64 {
    agent << TIME_BITS | u64::from(time)
}

pub(super) fn agent_of(epoch: u64) -> u64 {
    epoch >> TIME_BITS
}

pub(super) fn time_of(epoch: u64) -> u32 {
    (epoch & u64::from(LAST_TIME)) as u32
}

/// A launch as the checks see it. Obtained from [`begin_launch`](super::DeviceMemory::begin_launch); cheap to clone.
#[derive(Clone, Debug)]
pub struct Launch {
    pub(super) inner: Arc<LaunchInner>,
}

#[derive(Debug)]
pub(super) struct LaunchInner {
    pub(super) id: u64,
    /// Number of the launch's first warp.
    pub(super) base: u64,
    pub(super) warps_per_block: u32,
    pub(super) threads_per_block: u32,
    /// Number after that of its last warp.
    pub(super) end: u64,
    /// Warps below this number finished before the launch began.
    pub(super) floor: u64,
    /// And so did these: sorted, apart from each other and from the floor.
    pub(super) also: Vec<Range<u64>>,
}

impl LaunchInner {
    pub(super) fn owns(&self, agent: u64) -> bool {
        (self.base..self.end).contains(&agent)
    }

    /// If the warp finished before the launch began: the number from which that is not known.
    #[inline]
    pub(super) fn known_until(&self, agent: u64) -> Option<u64> {
        if agent < self.floor {
            return Some(self.floor);
        }
        if self.also.is_empty() {
            return None;
        }
        let position = self.also.partition_point(|range| range.end <= agent);
        self.also.get(position).filter(|range| range.contains(&agent)).map(|range| range.end)
    }
}

impl Launch {
    /// Number of the launch, from 0.
    pub fn id(&self) -> u64 {
        self.inner.id
    }
}

/// A fence that a lane has executed: what it knew then. Made into a clock only if a strong write follows.
#[derive(Clone, Debug)]
struct Fence {
    common: Arc<Clock>,
    extra: Option<Arc<Clock>>,
    time: u32,
}

/// What single lanes know beyond their warp.
#[derive(Clone, Debug, Default)]
struct LaneClock {
    extra: Option<Arc<Clock>>,
    /// Last fence of at least GPU scope, and of any scope.
    fence_gpu: Option<Fence>,
    fence_cta: Option<Fence>,
    /// What relaxed reads have observed and a later fence would acquire: releases of other blocks, of the own block.
    pending_gpu: Option<Arc<Clock>>,
    pending_cta: Option<Arc<Clock>>,
}

#[derive(Clone, Debug)]
struct WarpClock {
    time: u32,
    present: u32,
    exited: u32,
    common: Arc<Clock>,
    lanes: Option<Box<[LaneClock; WARP]>>,
}

impl WarpClock {
    fn advance(&mut self) {
        // Saturating: 2^28 synchronisations of one warp are beyond any launch that finishes here.
        self.time = (self.time + 1).min(LAST_TIME);
    }

    fn lane(&mut self, lane: usize) -> &mut LaneClock {
        &mut self.lanes.get_or_insert_with(Box::default)[lane % WARP]
    }
}

/// A meeting point: what the threads that arrived had done and knew. One for each barrier (or mbarrier phase).
#[derive(Clone, Debug, Default)]
pub struct Join {
    clock: Clock,
    any: bool,
}

/// A point in the life of a warp, between two of its synchronisations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

/// The clocks of one block's warps. The executor makes one for each block it runs and tells it of every
/// synchronisation; the memories consult it on every access.
///
/// Warp indices out of range are taken modulo the number of warps. More warps than the block's threads need may be asked
/// of [`begin_launch`](super::DeviceMemory::begin_launch) (by a larger thread count): they can stand for asynchronous
/// engines.
#[derive(Debug)]
pub struct BlockClock {
    launch: Launch,
    block: u64,
    key: u64,
    warps: Vec<WarpClock>,
}

impl BlockClock {
    /// The clocks of `block` (linear index in the grid) of `launch`.
    pub fn new(launch: &Launch, block: u64) -> Self {
        let inner = &launch.inner;
        let common = Arc::<Clock>::default();
        let warps = (0..inner.warps_per_block.max(1))
            .map(|warp| {
                let threads = inner.threads_per_block.saturating_sub(warp * WARP as u32).min(WARP as u32);
                let present = ((1u64 << threads) - 1) as u32;
                WarpClock { time: 0, present, exited: 0, common: common.clone(), lanes: None }
            })
            .collect::<Vec<_>>();
        let key = inner.base + block.wrapping_mul(warps.len() as u64);
        Self { launch: launch.clone(), block, key, warps }
    }

    /// The launch.
    pub fn launch(&self) -> &Launch {
        &self.launch
    }

    /// Linear index of the block in the grid.
    pub fn block(&self) -> u64 {
        self.block
    }

    /// Tells that lanes of a warp have ended. An ended lane counts as present at every later synchronisation of its warp,
    /// as on hardware.
    pub fn exit(&mut self, warp: usize, mask: u32) {
        let warp = self.index(warp);
        self.warps[warp].exited |= mask;
    }

    /// `__syncwarp(mask)`, and whatever else synchronises exactly these lanes of one warp.
    pub fn sync_warp(&mut self, warp: usize, mask: u32) {
        let warp = self.index(warp);
        let mut join = Join::default();
        self.arrive(&mut join, warp, mask);
        self.depart(&join, warp, mask);
    }

    /// A barrier at which the given lanes of the given warps have all arrived and from which all go on.
    pub fn barrier(&mut self, participants: &[(usize, u32)]) {
        let mut join = Join::default();
        for &(warp, mask) in participants {
            self.arrive(&mut join, warp, mask);
        }
        let shared = Arc::new(join.clock.clone());
        for &(warp, mask) in participants {
            self.depart_shared(&join, &shared, warp, mask);
        }
    }

    /// One half of a barrier: what these lanes did is ordered before all that later [`depart`](Self::depart)s from
    /// `join`. `bar.arrive` is this half alone.
    pub fn arrive(&mut self, join: &mut Join, warp: usize, mask: u32) {
        let (index, key) = (self.index(warp), self.key);
        let warp = &mut self.warps[index];
        let mask = mask | warp.exited;
        join.any = true;
        join.clock.join(&warp.common);
        if let Some(clocks) = &warp.lanes {
            for lane in lanes(mask) {
                if let Some(extra) = &clocks[lane].extra {
                    join.clock.join(extra);
                }
            }
        }
        if mask & warp.present == warp.present {
            join.clock.raise(key, index, warp.time + 1);
        } else {
            join.clock.raise_lanes(key, index, mask, warp.time + 1);
        }
        warp.advance();
    }

    /// The other half: these lanes go on and know all that arrived at `join`.
    pub fn depart(&mut self, join: &Join, warp: usize, mask: u32) {
        let shared = Arc::new(join.clock.clone());
        self.depart_shared(join, &shared, warp, mask);
    }

    fn depart_shared(&mut self, join: &Join, shared: &Arc<Clock>, warp: usize, mask: u32) {
        if !join.any {
            return;
        }
        let index = self.index(warp);
        let warp = &mut self.warps[index];
        let mask = mask | warp.exited;
        if mask & warp.present == warp.present {
            // All lanes know the same again. Nothing is lost where the join has the warp's own arrival in it;
            // otherwise (a wait without arrival) what the warp knew is kept.
            let mut clock = shared.clone();
            if !clock.covers(&warp.common) {
                Arc::make_mut(&mut clock).join(&warp.common);
            }
            warp.common = clock;
            if let Some(clocks) = &mut warp.lanes {
                for lane in clocks.iter_mut() {
                    if lane.extra.as_ref().is_some_and(|extra| warp.common.covers(extra)) {
                        lane.extra = None;
                    }
                }
                let idle = |lane: &LaneClock| {
                    lane.extra.is_none()
                        && lane.fence_cta.is_none()
                        && lane.pending_gpu.is_none()
                        && lane.pending_cta.is_none()
                };
                if clocks.iter().all(idle) {
                    warp.lanes = None;
                }
            }
        } else {
            for lane in lanes(mask) {
                join_into(&mut warp.lane(lane).extra, shared);
            }
        }
    }

    /// `fence.acq_rel` or `fence.sc` (`__threadfence_block`, `__threadfence`, `__threadfence_system`) by some lanes.
    pub fn fence(&mut self, warp: usize, mask: u32, scope: Scope) {
        let index = self.index(warp);
        let warp = &mut self.warps[index];
        let (common, time) = (warp.common.clone(), warp.time);
        for lane in lanes(mask) {
            let clock = warp.lane(lane);
            if let Some(pending) = clock.pending_cta.take() {
                join_into(&mut clock.extra, &pending);
            }
            if scope.wide()
                && let Some(pending) = clock.pending_gpu.take()
            {
                join_into(&mut clock.extra, &pending);
            }
            let fence = Fence { common: common.clone(), extra: clock.extra.clone(), time };
            if scope.wide() {
                clock.fence_gpu = Some(fence.clone());
            }
            clock.fence_cta = Some(fence);
        }
        warp.advance();
    }

    /// The warp's present moment: what its threads do now happens then.
    pub fn moment(&self, warp: usize) -> Moment {
        Moment(self.view(warp).epoch)
    }

    /// Whether what `other`, a lane of the moment's warp, did then is ordered before what `lane` of `warp` does now.
    pub fn knows(&self, warp: usize, lane: usize, moment: Moment, other: usize) -> bool {
        self.view(warp).knows(lane, moment.0, other)
    }

    fn index(&self, warp: usize) -> usize {
        warp % self.warps.len()
    }

    /// The clock as of a fence, with the lane's own accesses up to it.
    fn publish(&self, index: usize, lane: usize, fence: &Fence) -> Arc<Clock> {
        let mut clock = (*fence.common).clone();
        if let Some(extra) = &fence.extra {
            clock.join(extra);
        }
        clock.raise_lanes(self.key, index, 1 << lane, fence.time + 1);
        Arc::new(clock)
    }

    /// Whether a strong access must go through [`SyncVar`]s although its location has none yet.
    pub(super) fn releases(&self, warp: usize, mask: u32, release: bool) -> bool {
        let fenced = |clocks: &[LaneClock; WARP]| lanes(mask).any(|lane| clocks[lane].fence_cta.is_some());
        release || self.warps[self.index(warp)].lanes.as_deref().is_some_and(fenced)
    }

    /// A strong read by one lane of the location that `var` stands for.
    pub(super) fn observe(&mut self, var: &SyncVar, warp: usize, lane: usize, acquire: bool, scope: Scope) {
        let (index, key) = (self.index(warp), self.key);
        let clock = self.warps[index].lane(lane);
        let own = var.local.get(&key);
        let wide = var.wide.as_ref().filter(|_| scope.wide());
        if acquire {
            own.into_iter().chain(wide).for_each(|c| join_into(&mut clock.extra, c));
        } else {
            own.into_iter().for_each(|c| join_into(&mut clock.pending_cta, c));
            wide.into_iter().for_each(|c| join_into(&mut clock.pending_gpu, c));
        }
    }

    /// A strong write by one lane; `rmw`: as part of a read-modify-write, which continues release sequences.
    /// The caller [`advance`](Self::advance)s the warp's time after the instruction if it released.
    pub(super) fn announce(
        &self,
        var: &mut SyncVar,
        warp: usize,
        lane: usize,
        release: bool,
        scope: Scope,
        rmw: bool,
    ) {
        let index = self.index(warp);
        let warp = &self.warps[index];
        let clock = warp.lanes.as_deref().map(|clocks| &clocks[lane % WARP]);
        let thread = (self.key + index as u64, lane);
        if !rmw {
            var.wide = None;
            var.local.clear();
        }
        let (gpu, cta) = if release {
            let extra = clock.and_then(|c| c.extra.clone());
            let now = Fence { common: warp.common.clone(), extra, time: warp.time };
            let now = self.publish(index, lane, &now);
            var.remember(thread, &now, scope.wide());
            (Some(now.clone()), Some(now))
        } else {
            // A release by this thread to this location, or its last fence, still covers its later strong writes.
            let (mut gpu, mut cta) = var.recall(thread);
            if let Some(fence) = clock.and_then(|c| c.fence_cta.as_ref()) {
                join_into(&mut cta, &self.publish(index, lane, fence));
            }
            if let Some(fence) = clock.and_then(|c| c.fence_gpu.as_ref()) {
                join_into(&mut gpu, &self.publish(index, lane, fence));
            }
            (gpu, cta)
        };
        if let Some(gpu) = gpu.filter(|_| scope.wide()) {
            join_into(&mut var.wide, &gpu);
        }
        if let Some(cta) = cta {
            let mut slot = var.local.remove(&self.key);
            join_into(&mut slot, &cta);
            var.local.extend(slot.map(|clock| (self.key, clock)));
        }
    }

    pub(super) fn advance(&mut self, warp: usize) {
        let index = self.index(warp);
        self.warps[index].advance();
    }

    pub(super) fn view(&self, warp: usize) -> View<'_> {
        let index = self.index(warp);
        let agent = self.key + index as u64;
        let warp = &self.warps[index];
        View {
            launch: &self.launch.inner,
            key: self.key,
            epoch: epoch(agent, warp.time),
            agent,
            warp_count: self.warps.len() as u64,
            warp,
        }
    }
}

/// What the releases to one location have published to those who acquire from it.
#[derive(Clone, Debug, Default)]
pub(super) struct SyncVar {
    /// By releases of GPU or system scope, to readers of such scope.
    wide: Option<Arc<Clock>>,
    /// By releases of any scope, to readers in the same block.
    local: BTreeMap<u64, Arc<Clock>>,
    /// The last releases by single threads.
    own: Vec<OwnRelease>,
}

#[derive(Clone, Debug)]
struct OwnRelease {
    thread: (u64, usize),
    wide: Option<Arc<Clock>>,
    any: Arc<Clock>,
}

/// Threads whose own releases a location remembers for their later relaxed stores. More would be quadratic memory for a
/// counter that every block increments; forgetting can only report too much, in a program nobody writes.
const OWN_RELEASES: usize = 32;

impl SyncVar {
    pub(super) fn is_empty(&self) -> bool {
        self.wide.is_none() && self.local.is_empty() && self.own.is_empty()
    }

    fn remember(&mut self, thread: (u64, usize), clock: &Arc<Clock>, wide: bool) {
        // A later clock of the same thread contains the earlier one.
        let position = self.own.iter().position(|own| own.thread == thread);
        let before = position.map(|position| self.own.remove(position)).and_then(|own| own.wide);
        if self.own.len() >= OWN_RELEASES {
            self.own.remove(0);
        }
        let wide = if wide { Some(clock.clone()) } else { before };
        self.own.push(OwnRelease { thread, wide, any: clock.clone() });
    }

    fn recall(&self, thread: (u64, usize)) -> (Option<Arc<Clock>>, Option<Arc<Clock>>) {
        let own = self.own.iter().find(|own| own.thread == thread);
        (own.and_then(|own| own.wide.clone()), own.map(|own| own.any.clone()))
    }
}

/// A warp's knowledge during one instruction.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) launch: &'a LaunchInner,
    pub(super) key: u64,
    pub(super) epoch: u64,
    pub(super) agent: u64,
    warp_count: u64,
    warp: &'a WarpClock,
}

impl View<'_> {
    /// Whether all accesses at `epoch` come from launches that ended before this one began.
    #[inline]
    pub(super) fn ancient(&self, epoch: u64) -> bool {
        self.launch.known_until(agent_of(epoch)).is_some()
    }

    pub(super) fn same_block(&self, epoch: u64) -> bool {
        (self.key..self.key + self.warp_count).contains(&agent_of(epoch))
    }

    /// Whether the whole warp knows all lanes of the stamp's warp up to the stamp.
    pub(super) fn common_knows(&self, epoch: u64) -> bool {
        self.warp.common.knows(agent_of(epoch), None, time_of(epoch))
    }

    /// Whether `lane` knows the access of `other` at `epoch`.
    pub(super) fn knows(&self, lane: usize, epoch: u64, other: usize) -> bool {
        let (agent, time) = (agent_of(epoch), time_of(epoch));
        (agent == self.agent && lane == other)
            || self.warp.common.knows(agent, Some(other), time)
            || self
                .warp
                .lanes
                .as_deref()
                .and_then(|clocks| clocks[lane % WARP].extra.as_ref())
                .is_some_and(|extra| extra.knows(agent, Some(other), time))
    }

    /// The same, launches that have ended included.
    pub(super) fn after(&self, lane: usize, epoch: u64, other: usize) -> bool {
        self.ancient(epoch) || self.knows(lane, epoch, other)
    }
}
