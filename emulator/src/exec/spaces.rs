//! From addresses to bytes: every load, store and atomic comes through here.

use super::env::{ARGUMENTS_AT, LOCAL_WINDOW, PARAM_WINDOW, RETURNS_AT, SHARED_WINDOW};
use super::fault::{FaultKind, Stop};
use super::lower::{AddressOf, Base};
use super::warp::{Lanes, lanes};
use crate::memory::{Access, Order, SECTOR_BYTES, Scope, Update, WARP, Width, bank_passes, sectors};
use crate::ptx::Space;

/// How an instruction touches memory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Touch {
    /// None: generic addresses.
    pub space: Option<Space>,
    pub width: Width,
    pub order: Order,
    pub scope: Scope,
}

/// What it does; the bytes are the block's scratch space.
pub(crate) enum Doing<'a, 'b> {
    Load,
    Store,
    Atomic(&'a mut Update<'b>),
}

impl Doing<'_, '_> {
    fn action(&self) -> &'static str {
        match self {
            Doing::Load => "load",
            Doing::Store => "store",
            Doing::Atomic(_) => "atomic",
        }
    }
}

type Addresses = [u64; WARP];

/// The lanes' addresses.
pub(crate) fn addresses(l: &Lanes<'_>, address: AddressOf) -> Addresses {
    let offset = address.offset;
    match address.base {
        Base::Constant => [offset as u64; WARP],
        Base::Local => [(l.frame.local.0 as u64).wrapping_add(offset as u64); WARP],
        Base::Reg64(reg) => {
            let reg = l.frame.regs.b64.get(reg).unwrap_or(&[0; WARP]);
            std::array::from_fn(|lane| reg[lane].wrapping_add(offset as u64))
        }
        // 32-bit addresses wrap at 32 bits.
        Base::Reg32(reg) => {
            let reg = l.frame.regs.b32.get(reg).unwrap_or(&[0; WARP]);
            std::array::from_fn(|lane| reg[lane].wrapping_add(offset as u32).into())
        }
    }
}

/// The space a generic address leads to, and where that begins.
pub(crate) fn space_of(address: u64) -> (Space, u64) {
    let windows =
        [(SHARED_WINDOW, Space::Shared), (LOCAL_WINDOW, Space::Local), (PARAM_WINDOW, Space::Param)];
    let found = windows.into_iter().find(|(window, _)| window.contains(&address));
    found.map_or((Space::Global, 0), |(window, space)| (space, window.start))
}

impl Lanes<'_> {
    /// Executes an access of the lanes in `mask`.
    pub fn touch(
        &mut self,
        touch: Touch,
        addresses: &mut Addresses,
        mask: u32,
        mut doing: Doing<'_, '_>,
    ) -> Result<(), Stop> {
        if touch.order != Order::Weak && touch.order != Order::NonCoherent
            || matches!(doing, Doing::Atomic(_))
        {
            self.warp.spin += self.env.patience / 32;
            let first = mask.trailing_zeros() as usize % WARP;
            self.warp.waits_at = Some((addresses[first], self.source, self.warp.clock));
        }
        if let Some(space) = touch.space {
            return self.touch_space(touch, space, addresses, mask, &mut doing);
        }
        // Nearly always all lanes mean the same space; if not, the spaces take turns.
        let mut left = mask;
        while left != 0 {
            let (space, start) = space_of(addresses[left.trailing_zeros() as usize % WARP]);
            let same = lanes(left).filter(|&lane| space_of(addresses[lane]) == (space, start));
            let here = same.fold(0, |mask, lane| mask | 1 << lane);
            lanes(here).for_each(|lane| addresses[lane] -= start);
            if space == Space::Param {
                // Only a kernel's parameters have generic addresses, and functions may be passed them.
                self.load_kernel_param(addresses, here, touch.width, &doing)?;
            } else {
                self.touch_space(touch, space, addresses, here, &mut doing)?;
            }
            left &= !here;
        }
        Ok(())
    }

    fn touch_space(
        &mut self,
        touch: Touch,
        space: Space,
        addresses: &Addresses,
        mask: u32,
        doing: &mut Doing<'_, '_>,
    ) -> Result<(), Stop> {
        let Touch { width, order, scope, .. } = touch;
        let access = Access { addresses, lanes: mask, width, order, scope, source: self.source };
        self.count(&access, space, doing);
        match (space, &*doing) {
            (Space::Shared, _) => self.shared_is_settled(&access, doing.action())?,
            (Space::Global, Doing::Store | Doing::Atomic(_)) => {
                self.global_is_settled(&access, doing.action())?;
            }
            _ => {}
        }
        let (warp, env) = (self.warp.index, self.env);
        let block = &mut *self.block;
        let result = match (space, doing) {
            (Space::Param, Doing::Load) => return self.load_param(addresses, mask, width),
            (Space::Param, Doing::Store) => return self.store_param(addresses, mask, width),
            (Space::Const, Doing::Load) | (Space::Global, Doing::Load) => {
                env.memory.load(&mut block.cache, &mut block.clock, warp, &access, &mut block.bytes)
            }
            (Space::Global, Doing::Store) => {
                self.writable(addresses, mask)?;
                let block = &mut *self.block;
                block.progress += 1;
                env.memory.store(&mut block.cache, &mut block.clock, warp, &access, &block.bytes)
            }
            (Space::Global, Doing::Atomic(update)) => {
                self.writable(addresses, mask)?;
                let block = &mut *self.block;
                let progress = &mut block.progress;
                let mut update = counted(update, progress);
                env.memory.atomic(
                    &mut block.cache,
                    &mut block.clock,
                    warp,
                    &access,
                    &mut block.bytes,
                    &mut update,
                )
            }
            (Space::Shared, Doing::Load) => {
                block.shared.load(&mut block.clock, warp, &access, &mut block.bytes)
            }
            (Space::Shared, Doing::Store) => {
                block.progress += 1;
                block.shared.store(&mut block.clock, warp, &access, &block.bytes)
            }
            (Space::Shared, Doing::Atomic(update)) => {
                let mut update = counted(update, &mut block.progress);
                block.shared.atomic(&mut block.clock, warp, &access, &mut block.bytes, &mut update)
            }
            (Space::Local, Doing::Load) => {
                self.warp.local.load(&mut block.clock, warp, &access, &mut block.bytes)
            }
            (Space::Local, Doing::Store) => {
                self.warp.local.store(&mut block.clock, warp, &access, &block.bytes)
            }
            (Space::Const, _) | (Space::Local | Space::Param, Doing::Atomic(_)) => {
                let lane = mask.trailing_zeros() as usize;
                let detail = format!("{} memory at {:#x}", space.name(), addresses[lane % WARP]);
                return Err(self.fault(FaultKind::WrongSpace, lane, detail));
            }
        };
        result.map_err(|fault| env.memory_fault(&fault))
    }

    /// Generic addresses as offsets in shared memory, which they must lead to.
    pub fn to_shared(&self, addresses: &mut Addresses, mask: u32) -> Result<(), Stop> {
        for lane in lanes(mask) {
            let (space, start) = space_of(addresses[lane]);
            if space != Space::Shared {
                let detail = format!("{:#x} is no address of shared memory", addresses[lane]);
                return Err(self.fault(FaultKind::WrongSpace, lane, detail));
            }
            addresses[lane] -= start;
        }
        Ok(())
    }

    /// Loads the 16 bytes at each of the addresses for the whole warp.
    pub fn load_rows(&mut self, addresses: &Addresses, rows: u32) -> Result<(), Stop> {
        let access = Access::weak(addresses, rows, Width::B16, self.source);
        self.count(&access, Space::Shared, &Doing::Load);
        self.shared_is_settled(&access, "load")?;
        let block = &mut *self.block;
        let result = block.shared.load_together(&mut block.clock, self.warp.index, &access, &mut block.bytes);
        result.map_err(|fault| self.env.memory_fault(&fault))
    }

    /// Refuses writes to constants.
    fn writable(&self, addresses: &Addresses, mask: u32) -> Result<(), Stop> {
        if self.env.constants.is_empty() {
            return Ok(());
        }
        let constant =
            |&lane: &usize| self.env.constants.iter().any(|range| range.contains(&addresses[lane]));
        match lanes(mask).find(constant) {
            None => Ok(()),
            Some(lane) => {
                let detail = format!("{:#x} lies in a .const variable", addresses[lane]);
                Err(self.fault(FaultKind::ReadOnly, lane, detail))
            }
        }
    }

    pub fn count(&mut self, access: &Access<'_>, space: Space, doing: &Doing<'_, '_>) {
        let (width, active) = (access.width.bytes(), access.lanes.count_ones());
        match space {
            Space::Global => {
                let touched = packed(access)
                    .unwrap_or_else(|| sectors(access.addresses, access.lanes, access.width).sectors);
                match doing {
                    Doing::Load => self.tally.loads.count(width, active, touched),
                    Doing::Store => self.tally.stores.count(width, active, touched),
                    Doing::Atomic(_) => self.tally.global_atomics += u64::from(active),
                }
            }
            Space::Shared => {
                let bytes = u64::from(active) * width as u64;
                let passes = bank_passes(access.addresses, access.lanes, access.width);
                self.tally.shared.bank_conflicts += u64::from(passes.conflicts());
                self.tally.shared_accesses += u64::from(passes.taken);
                match doing {
                    Doing::Load => self.tally.shared.load_bytes += bytes,
                    Doing::Store => self.tally.shared.store_bytes += bytes,
                    Doing::Atomic(_) => self.tally.shared_atomics += u64::from(active),
                }
            }
            _ => {}
        }
    }

    /// A kernel's parameters are the launch's; a function's areas are its frame's.
    fn load_param(&mut self, addresses: &Addresses, mask: u32, width: Width) -> Result<(), Stop> {
        let bytes = width.bytes();
        for lane in lanes(mask) {
            let at = addresses[lane];
            let frame = &*self.frame;
            let found = if at >= ARGUMENTS_AT {
                frame.arguments.get(lane, (at - ARGUMENTS_AT) as usize, bytes)
            } else if at >= RETURNS_AT {
                frame.returns.get(lane, (at - RETURNS_AT) as usize, bytes)
            } else if frame.caller.is_some() {
                frame.params.get(lane, at as usize, bytes)
            } else {
                (at as usize).checked_add(bytes).and_then(|end| self.env.params.get(at as usize..end))
            };
            match found {
                Some(found) => self.block.bytes.0[lane * bytes..(lane + 1) * bytes].copy_from_slice(found),
                None => return Err(self.outside_param(lane, at, bytes)),
            }
        }
        Ok(())
    }

    fn load_kernel_param(
        &mut self,
        addresses: &Addresses,
        mask: u32,
        width: Width,
        doing: &Doing<'_, '_>,
    ) -> Result<(), Stop> {
        let bytes = width.bytes();
        if !matches!(doing, Doing::Load) {
            return Err(self.fault(FaultKind::ReadOnly, first(mask), "parameters cannot be written"));
        }
        for lane in lanes(mask) {
            let at = addresses[lane] as usize;
            let Some(found) = at.checked_add(bytes).and_then(|end| self.env.params.get(at..end)) else {
                return Err(self.outside_param(lane, addresses[lane], bytes));
            };
            self.block.bytes.0[lane * bytes..(lane + 1) * bytes].copy_from_slice(found);
        }
        Ok(())
    }

    fn store_param(&mut self, addresses: &Addresses, mask: u32, width: Width) -> Result<(), Stop> {
        let bytes = width.bytes();
        for lane in lanes(mask) {
            let at = addresses[lane];
            let frame = &mut *self.frame;
            let found = if at >= ARGUMENTS_AT {
                frame.arguments.get_mut(lane, (at - ARGUMENTS_AT) as usize, bytes)
            } else if at >= RETURNS_AT {
                frame.returns.get_mut(lane, (at - RETURNS_AT) as usize, bytes)
            } else {
                return Err(self.fault(FaultKind::ReadOnly, lane, "parameters cannot be written"));
            };
            match found {
                Some(found) => found.copy_from_slice(&self.block.bytes.0[lane * bytes..(lane + 1) * bytes]),
                None => return Err(self.outside_param(lane, at, bytes)),
            }
        }
        Ok(())
    }

    fn outside_param(&self, lane: usize, at: u64, bytes: usize) -> Stop {
        let at = at % RETURNS_AT;
        self.fault(FaultKind::OutOfBounds, lane, format!("{bytes} bytes at {at:#x} of the parameter area"))
    }
}

fn first(mask: u32) -> usize {
    mask.trailing_zeros() as usize % WARP
}

/// Sectors of the most usual access: all lanes, one beside the other, from the start of a sector.
fn packed(access: &Access<'_>) -> Option<u32> {
    let (first, width) = (access.addresses[0], access.width.bytes() as u64);
    let expected: Addresses = std::array::from_fn(|lane| first.wrapping_add(lane as u64 * width));
    let whole = access.lanes == u32::MAX && first % SECTOR_BYTES == 0 && *access.addresses == expected;
    whole.then_some((WARP as u64 * width).div_ceil(SECTOR_BYTES) as u32)
}

/// Tells changes from writes that leave everything as it is.
fn counted<'a>(
    update: &'a mut Update<'_>,
    progress: &'a mut u64,
) -> impl FnMut(usize, u128) -> Option<u128> + 'a {
    move |lane, old| {
        let new = update(lane, old);
        *progress += u64::from(new.is_some_and(|new| new != old));
        new
    }
}
