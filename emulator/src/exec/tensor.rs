//! Instructions of whole warps on matrices: `mma`, `ldmatrix`, `movmatrix`.

use super::counters::Class;
use super::fault::{FaultKind, Stop};
use super::load_store::blend;
use super::lower::{LoadResult, Lower};
use super::program::{Flow, Op, Source};
use super::spaces::addresses;
use super::warp::Lanes;
use crate::isa::matrix::{Element, Fragment, multiply, transpose};
use crate::memory::WARP;
use crate::ptx::{Operand, Space};

impl Lower<'_> {
    /// Operand `at` as so many 32-bit registers; a constant may stand for one that is only read.
    fn fragments<const N: usize>(&self, at: usize, read: bool) -> LoadResult<[Source; N]> {
        let parts = match self.operand(at)? {
            Operand::Vector(parts) => parts.to_vec(),
            operand => vec![operand],
        };
        let parts = parts.iter().map(|part| self.any(part)).collect::<LoadResult<Vec<_>>>()?;
        let fits = |part: &Source| match part {
            Source::B32(_) => true,
            Source::Constant(_) => read,
            _ => false,
        };
        let wrong = || self.error(format!("operand {} must be {N} registers of 32 bits", at + 1));
        <[Source; N]>::try_from(parts).ok().filter(|parts| parts.iter().all(fits)).ok_or_else(wrong)
    }
}

impl Lanes<'_> {
    /// Whether the whole warp is here; if it never can be, that is a fault.
    fn whole(&self, mask: u32) -> Result<bool, Stop> {
        if mask == u32::MAX || self.warp.live == u32::MAX {
            return Ok(mask == u32::MAX);
        }
        let (missing, why) = match !self.warp.exists {
            0 => (!self.warp.live, "have exited"),
            missing => (missing, "do not exist: the block is no multiple of 32 threads"),
        };
        let detail = format!("it takes all 32 lanes of a warp, lanes {missing:#010x} {why}");
        Err(self.fault(FaultKind::MissingLanes, mask.trailing_zeros() as usize % WARP, detail))
    }

    fn fragment(&self, source: Source) -> Fragment {
        match source {
            Source::B32(reg) => self.frame.regs.b32.get(reg).copied().unwrap_or_default(),
            Source::Constant(value) => [value as u32; WARP],
            _ => [0; WARP],
        }
    }

    fn set_fragment(&mut self, target: Source, value: &Fragment) {
        if let Source::B32(reg) = target {
            blend(self.frame.regs.b32.get_mut(reg), value, u32::MAX);
        }
    }
}

/// An instruction that the whole warp executes.
fn warp_wide(
    class: Class,
    act: impl Fn(&mut Lanes<'_>) -> Result<(), Stop> + Send + Sync + 'static,
) -> LoadResult<(Op, Class)> {
    let run = Op::Act(Box::new(move |l, mask| match l.whole(mask)? {
        true => act(l).map(|()| Flow::Next),
        false => Ok(Flow::Gather),
    }));
    Ok((run, class))
}

/// `mma.sync.aligned.m16n8k16.row.col.f32.TYPE.TYPE.f32 d, a, b, c`, and k8.
pub(crate) fn mma(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    let mut types = [l.last()?, l.last()?, l.last()?, l.last()?];
    types.reverse();
    let element = match types {
        ["f32", "f16", "f16", "f32"] => Element::F16,
        ["f32", "bf16", "bf16", "f32"] => Element::Bf16,
        _ => return Err(l.unsupported("only f32 += f16 * f16 and f32 += bf16 * bf16 are built yet")),
    };
    for name in ["sync", "aligned", "row", "col"] {
        if !l.has(name) {
            return Err(l.error(format!(".{name} is missing")));
        }
    }
    match l.pick_of(&[("m16n8k16", 16), ("m16n8k8", 8)]) {
        Some(16) => product::<4, 2>(l, element, 16),
        Some(k) => product::<2, 1>(l, element, k),
        None => Err(l.unsupported("the shapes m16n8k16 and m16n8k8 are built")),
    }
}

fn product<const A: usize, const B: usize>(
    l: &Lower<'_>,
    element: Element,
    k: u64,
) -> LoadResult<(Op, Class)> {
    let d = l.fragments::<4>(0, false)?;
    let (a, b, c) = (l.fragments::<A>(1, true)?, l.fragments::<B>(2, true)?, l.fragments::<4>(3, true)?);
    warp_wide(Class::Tensor, move |l| {
        l.tally.tensor_flops += 2 * 16 * 8 * k;
        let (a, b, c) = (a.map(|r| l.fragment(r)), b.map(|r| l.fragment(r)), c.map(|r| l.fragment(r)));
        let products = multiply(element, &a, &b, &c);
        d.iter().zip(&products).for_each(|(&target, value)| l.set_fragment(target, value));
        Ok(())
    })
}

/// `movmatrix.sync.aligned.m8n8.trans.b16 d, a`
pub(crate) fn movmatrix(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    for name in ["sync", "aligned", "m8n8", "trans", "b16"] {
        if !l.has(name) {
            return Err(l.error(format!(".{name} is missing")));
        }
    }
    let ([d], [a]) = (l.fragments::<1>(0, false)?, l.fragments::<1>(1, true)?);
    warp_wide(Class::Warp, move |l| {
        let turned = transpose(&l.fragment(a));
        l.set_fragment(d, &turned);
        Ok(())
    })
}

/// `ldmatrix.sync.aligned.m8n8.num{.trans}{.shared}.b16 r, [p]`: lane i has the address of row i.
pub(crate) fn ldmatrix(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    for name in ["sync", "aligned", "b16"] {
        if !l.has(name) {
            return Err(l.error(format!(".{name} is missing")));
        }
    }
    if !l.has("m8n8") {
        return Err(l.unsupported("only m8n8 matrices are built"));
    }
    match l.pick(&["x1", "x2", "x4"])? {
        "x1" => matrices::<1>(l),
        "x2" => matrices::<2>(l),
        _ => matrices::<4>(l),
    }
}

fn matrices<const N: usize>(l: &mut Lower<'_>) -> LoadResult<(Op, Class)> {
    let trans = l.has("trans");
    let space = l.space()?;
    if !matches!(space, None | Some(Space::Shared)) {
        return Err(l.error("matrices are loaded from shared memory"));
    }
    let targets = l.fragments::<N>(0, false)?;
    let address = l.address(1)?;
    // Other lanes' addresses are ignored.
    let rows = u32::MAX >> (32 - 8 * N);
    warp_wide(Class::Load, move |l| {
        let mut at = addresses(l, address);
        if space.is_none() {
            l.to_shared(&mut at, rows)?;
        }
        l.load_rows(&at, rows)?;
        // The rows of a matrix, one behind the other, are a fragment.
        let words = l.block.bytes.0.as_chunks::<4>().0;
        let loaded: [Fragment; N] =
            std::array::from_fn(|i| std::array::from_fn(|lane| u32::from_le_bytes(words[i * WARP + lane])));
        for (&target, matrix) in targets.iter().zip(&loaded) {
            l.set_fragment(target, &if trans { transpose(matrix) } else { *matrix });
        }
        Ok(())
    })
}
