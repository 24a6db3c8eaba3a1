//! `cp.async`: copies from global to shared memory that a thread starts and later waits for.

use super::barrier::is_predicate;
use super::counters::Class;
use super::fault::{FaultKind, Stop};
use super::flight::Flight;
use super::lower::{AddressOf, LoadResult, Lower};
use super::program::{Flow, Op, Source};
use super::spaces::{Doing, addresses};
use super::warp::{Lanes, lanes};
use crate::memory::{Access, LaneBytes, WARP, Width, sectors};
use crate::ptx::{Operand, RegClass, Space};

/// How many bytes come from the source; the rest are zeros.
#[derive(Debug, Clone, Copy)]
enum Amount {
    All,
    /// The `src-size` operand.
    Bytes(Source),
    /// None where the `ignore-src` operand holds.
    NoneIf(Source),
}

/// One `cp.async`.
struct Form {
    to: AddressOf,
    from: AddressOf,
    width: Width,
    amount: Amount,
}

/// `cp.async` and what belongs to it.
pub(crate) fn lower(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    if !l.has("async") || ["bulk", "mbarrier", "reduce"].iter().any(|name| l.has(name)) {
        return Err(l.unsupported("not built yet"));
    }
    if l.has("commit_group") {
        return act(|l, mask| l.commit(mask));
    }
    if l.has("wait_all") {
        return act(|l, mask| l.wait(mask, None));
    }
    if l.has("wait_group") {
        let Operand::Int(pending) = l.operand(0)? else {
            return Err(l.error("the number of groups must be a constant"));
        };
        let pending = u32::try_from(pending).map_err(|_| l.error("no such number of groups"))?;
        return act(move |l, mask| l.wait(mask, Some(pending)));
    }
    let form = form(l)?;
    act(move |l, mask| l.copy(&form, mask))
}

fn act(
    run: impl Fn(&mut Lanes<'_>, u32) -> Result<(), Stop> + Send + Sync + 'static,
) -> LoadResult<(Op, Class)> {
    Ok((Op::Act(Box::new(move |l, mask| run(l, mask).map(|()| Flow::Next))), Class::Copy))
}

fn form(l: &mut Lower<'_>) -> LoadResult<Form> {
    let cached = l.pick(&["ca", "cg"])? == "ca";
    l.pick(&["shared", "shared::cta"])?;
    l.pick(&["global"])?;
    let mut count = l.operands().len();
    if l.has("L2::cache_hint") {
        l.source(count.max(1) - 1, RegClass::B64)?;
        count -= 1;
    }
    l.ignore(|name| matches!(name, "L2::64B" | "L2::128B" | "L2::256B"));
    let width = match l.operand(2)? {
        Operand::Int(bytes @ (4 | 8)) if cached => Width::from_bytes(bytes as usize),
        Operand::Int(16) => Some(Width::B16),
        _ => None,
    };
    let width = width.ok_or_else(|| l.error("the size must be 4, 8 or 16, with .cg 16"))?;
    let amount = match count {
        0..=3 => Amount::All,
        4 if is_predicate(&l.operand(3)?) => Amount::NoneIf(l.predicate(3)?),
        4 => Amount::Bytes(l.source(3, RegClass::B32)?),
        _ => return Err(l.error("too many operands")),
    };
    Ok(Form { to: l.address(0)?, from: l.address(1)?, width, amount })
}

impl Lanes<'_> {
    fn copy(&mut self, form: &Form, mask: u32) -> Result<(), Stop> {
        let (to, from) = (addresses(self, form.to), addresses(self, form.from));
        let sizes = self.sizes(form, mask)?;
        let width = form.width.bytes() as u64;
        let read = lanes(mask).filter(|&lane| sizes[lane] > 0).fold(0, |read, lane| read | 1 << lane);
        // Part of an aligned piece may be aligned to less; the piece must be all the same.
        if let Some(lane) = lanes(read).find(|&lane| from[lane] % width != 0) {
            let detail = format!("{width}-byte asynchronous copy from global {:#x}", from[lane]);
            return Err(self.fault(FaultKind::Misaligned, lane, detail));
        }
        let bytes = sizes.iter().map(|&size| u64::from(size)).sum();
        if read != 0 {
            let touched = sectors(&from, read, form.width).sectors;
            self.tally.loads.count_parts(form.width.bytes(), read.count_ones(), bytes, touched);
        }
        let access = Access::weak(&to, mask, form.width, self.source);
        self.count(&access, Space::Shared, &Doing::Store);
        self.shared_is_settled(&access, "store")?;
        let block = &mut *self.block;
        let result = block.shared.claim(&mut block.clock, self.warp.index, &access);
        result.map_err(|fault| self.env.memory_fault(&fault))?;
        let now = self.block.clock.moment(self.warp.index);
        let (width, source) = (form.width, self.source);
        let flight = Flight {
            lanes: mask,
            group: 0,
            from,
            to,
            sizes,
            width,
            source,
            started: now,
            read: now,
            landed: false,
        };
        self.take_off(flight)
    }

    /// Bytes that each lane reads.
    fn sizes(&self, form: &Form, mask: u32) -> Result<[u8; WARP], Stop> {
        let width = form.width.bytes() as u64;
        let mut sizes = [0; WARP];
        for lane in lanes(mask) {
            let size = match form.amount {
                Amount::All => width,
                Amount::Bytes(source) => self.frame.value(source, lane),
                Amount::NoneIf(source) if self.frame.value(source, lane) != 0 => 0,
                Amount::NoneIf(_) => width,
            };
            if size > width {
                let detail = format!("{size} bytes are to be read for a copy of {width}");
                return Err(self.fault(FaultKind::CopySize, lane, detail));
            }
            sizes[lane] = size as u8;
        }
        Ok(sizes)
    }

    /// Reads the first `sizes` bytes at the addresses into the block's scratch space, zeros behind them.
    pub fn fetch(
        &mut self,
        from: &[u64; WARP],
        sizes: &[u8; WARP],
        mask: u32,
        width: Width,
        source: u32,
    ) -> Result<(), Stop> {
        let of = |wanted: &dyn Fn(usize) -> bool| {
            lanes(mask).filter(|&lane| wanted(lane)).fold(0, |mask, lane| mask | 1 << lane)
        };
        let size = |lane: usize| usize::from(sizes[lane]);
        let read = of(&|lane| size(lane) > 0);
        let whole = of(&|lane| size(lane) == width.bytes());
        if whole != mask {
            self.block.bytes = LaneBytes::default();
        }
        if read == whole {
            return self.load_global(from, read, width, source);
        }
        // Piece by piece, the largest first: so all are aligned.
        let mut fetched = LaneBytes::default();
        for piece in [Width::B16, Width::B8, Width::B4, Width::B2, Width::B1] {
            let bytes = piece.bytes();
            let mask = of(&|lane| size(lane) & bytes != 0);
            let before = |lane: usize| size(lane) & !(2 * bytes - 1);
            let at = std::array::from_fn(|lane| from[lane].wrapping_add(before(lane) as u64));
            self.load_global(&at, mask, piece, source)?;
            for lane in lanes(mask) {
                let start = lane * width.bytes() + before(lane);
                fetched.0[start..start + bytes].copy_from_slice(self.block.bytes.lane(piece, lane));
            }
        }
        self.block.bytes = fetched;
        Ok(())
    }

    fn load_global(&mut self, at: &[u64; WARP], mask: u32, width: Width, source: u32) -> Result<(), Stop> {
        let access = Access::weak(at, mask, width, source);
        let block = &mut *self.block;
        let (cache, clock) = (&mut block.cache, &mut block.clock);
        let result = self.env.memory.load(cache, clock, self.warp.index, &access, &mut block.bytes);
        result.map_err(|fault| self.env.memory_fault(&fault))
    }
}
