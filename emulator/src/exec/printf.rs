//! `vprintf`, which `printf` of device code becomes: C's conversions, as the host's C library writes them.

use super::counters::Class;
use super::fault::{FaultKind, Stop};
use super::lower::{LoadResult, Lower};
use super::program::{Flow, Op};
use super::spaces::{Doing, Touch, space_of};
use super::warp::{Lanes, lanes};
use crate::memory::{Order, Scope, WARP, Width};
use crate::ptx::Space;

mod number;
#[cfg(test)]
mod tests;

/// Bytes of a format or text that are looked at, and the greatest width and precision.
const MOST: usize = 1 << 15;

/// Where arguments come from: the buffer has each at its natural alignment.
trait Arguments<E> {
    /// The next one of so many bytes, 4 or 8.
    fn next(&mut self, bytes: usize) -> Result<u64, E>;
    /// At most so many bytes of the text at an address, without the zero it ends in.
    fn text(&mut self, at: u64, most: usize) -> Result<Vec<u8>, E>;
}

/// `%-08.3lld`, taken apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Spec {
    left: bool,
    plus: bool,
    space: bool,
    alternate: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    /// Bytes of an integer.
    bytes: usize,
    conversion: u8,
}

impl Spec {
    /// Puts `digits` behind a sign or prefix, and fills up to the width.
    fn padded(&self, prefix: &str, digits: &str, zeros: bool) -> Vec<u8> {
        let fill = self.width.saturating_sub(prefix.len() + digits.len());
        let (spaces, zeros) = if zeros && !self.left { (0, fill) } else { (fill, 0) };
        let (before, after) = if self.left { (0, spaces) } else { (spaces, 0) };
        let text = [&" ".repeat(before), prefix, &"0".repeat(zeros), digits, &" ".repeat(after)];
        text.concat().into_bytes()
    }

    fn sign(&self, negative: bool) -> &'static str {
        match (negative, self.plus, self.space) {
            (true, ..) => "-",
            (_, true, _) => "+",
            (_, _, true) => " ",
            _ => "",
        }
    }
}

/// A number or `*` at the front of `rest`.
fn amount<E>(rest: &mut &[u8], from: &mut impl Arguments<E>, used: &mut u32) -> Result<Option<i64>, E> {
    if let Some(after) = rest.strip_prefix(b"*") {
        *rest = after;
        *used += 1;
        return Ok(Some(i64::from(from.next(4)? as i32)));
    }
    let digits = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    let (number, after) = rest.split_at(digits);
    *rest = after;
    let value = number.iter().fold(0i64, |n, b| (n * 10 + i64::from(b - b'0')).min(MOST as i64));
    Ok((digits > 0).then_some(value))
}

/// What follows a `%`; none if it is no conversion that is known.
fn spec<E>(rest: &mut &[u8], from: &mut impl Arguments<E>, used: &mut u32) -> Result<Option<Spec>, E> {
    let mut spec = Spec { bytes: 4, ..Spec::default() };
    while let Some((&flag, after)) = rest.split_first() {
        match flag {
            b'-' => spec.left = true,
            b'+' => spec.plus = true,
            b' ' => spec.space = true,
            b'#' => spec.alternate = true,
            b'0' => spec.zeros = true,
            _ => break,
        }
        *rest = after;
    }
    let width = amount(rest, from, used)?.unwrap_or(0);
    spec.left |= width < 0;
    spec.width = (width.unsigned_abs() as usize).min(MOST);
    if let Some(after) = rest.strip_prefix(b".") {
        *rest = after;
        let precision = amount(rest, from, used)?.unwrap_or(0);
        // A negative precision is as good as none.
        spec.precision = usize::try_from(precision).ok().map(|p| p.min(MOST));
    }
    let lengths: [(&[u8], usize); 8] =
        [(b"hh", 1), (b"h", 2), (b"ll", 8), (b"l", 8), (b"j", 8), (b"z", 8), (b"t", 8), (b"L", 8)];
    if let Some((name, bytes)) = lengths.into_iter().find(|(name, _)| rest.starts_with(name)) {
        (*rest, spec.bytes) = (&rest[name.len()..], bytes);
    }
    let Some((&conversion, after)) = rest.split_first() else { return Ok(None) };
    spec.conversion = conversion;
    let known = b"diuoxXcspfFeEgGaA".contains(&conversion);
    if known {
        *rest = after;
    }
    Ok(known.then_some(spec))
}

/// Writes `format` with its arguments to `out`; returns how many arguments were used.
fn format<E>(out: &mut Vec<u8>, format: &[u8], from: &mut impl Arguments<E>) -> Result<u32, E> {
    let (mut rest, mut used) = (format, 0);
    while let Some(at) = rest.iter().position(|&b| b == b'%') {
        out.extend(&rest[..at]);
        let start = &rest[at..];
        rest = &start[1..];
        if let Some(after) = rest.strip_prefix(b"%") {
            out.push(b'%');
            rest = after;
            continue;
        }
        let Some(spec) = spec(&mut rest, from, &mut used)? else {
            // It stands as it is; what follows the part that was understood comes next.
            out.extend(&start[..start.len() - rest.len()]);
            continue;
        };
        used += 1;
        match spec.conversion {
            b's' => {
                let most = spec.precision.unwrap_or(MOST);
                let text = match from.next(8)? {
                    // As the C library has it, nothing rather than a part of it.
                    0 if most < 6 => Vec::new(),
                    0 => b"(null)".to_vec(),
                    at => from.text(at, most)?,
                };
                put(out, &spec, &text);
            }
            b'c' => put(out, &spec, &[from.next(4)? as u8]),
            b'p' => match from.next(8)? {
                0 => put(out, &spec, b"(nil)"),
                at => out.extend(spec.padded("0x", &format!("{at:x}"), false)),
            },
            b'd' | b'i' | b'u' | b'o' | b'x' | b'X' => {
                out.extend(number::integer(&spec, from.next(spec.bytes.max(4))?));
            }
            _ => out.extend(number::float(&spec, f64::from_bits(from.next(8)?))),
        }
    }
    out.extend(rest);
    Ok(used)
}

/// A text, filled up to the width.
fn put(out: &mut Vec<u8>, spec: &Spec, text: &[u8]) {
    let fill = vec![b' '; spec.width.saturating_sub(text.len())];
    let parts = if spec.left { [text, &fill] } else { [&fill, text] };
    parts.into_iter().for_each(|part| out.extend(part));
}

/// One lane's argument buffer.
struct Buffer<'a, 'b> {
    l: &'a mut Lanes<'b>,
    lane: usize,
    at: u64,
}

impl Buffer<'_, '_> {
    fn load(&mut self, at: u64, width: Width) -> Result<u64, Stop> {
        let touch = Touch { space: None, width, order: Order::Weak, scope: Scope::Cta };
        self.l.touch(touch, &mut [at; WARP], 1 << self.lane, Doing::Load)?;
        let mut wide = [0; 8];
        wide[..width.bytes().min(8)].copy_from_slice(self.l.block.bytes.lane(width, self.lane));
        Ok(u64::from_le_bytes(wide))
    }
}

impl Arguments<Stop> for Buffer<'_, '_> {
    fn next(&mut self, bytes: usize) -> Result<u64, Stop> {
        if self.at == 0 {
            let detail = "vprintf: the format asks for an argument, there is none";
            return Err(self.l.fault(FaultKind::OutOfBounds, self.lane, detail));
        }
        // At the end of all addresses there is nothing to read: the load says so.
        let at = self.at.checked_next_multiple_of(bytes as u64).unwrap_or(self.at);
        self.at = at.wrapping_add(bytes as u64);
        self.load(at, if bytes == 8 { Width::B8 } else { Width::B4 })
    }

    fn text(&mut self, at: u64, most: usize) -> Result<Vec<u8>, Stop> {
        let mut bytes = Vec::new();
        while bytes.len() < most.min(MOST) {
            let at = at.wrapping_add(bytes.len() as u64);
            // Texts in global memory are read as the host reads them: that is when they are printed.
            let byte = if space_of(at).0 == Space::Global {
                let mut byte = [0];
                if self.l.env.memory.read(at, &mut byte).is_err() {
                    let detail = format!("vprintf: a text at {at:#x}");
                    return Err(self.l.fault(FaultKind::OutOfBounds, self.lane, detail));
                }
                byte[0]
            } else {
                self.load(at, Width::B1)? as u8
            };
            if byte == 0 {
                break;
            }
            bytes.push(byte);
        }
        Ok(bytes)
    }
}

/// A call of `vprintf(format, arguments)`: lanes print one after the other, into the text of their block.
pub(crate) fn vprintf(
    l: &Lower<'_>,
    arguments: &[(usize, usize)],
    results: &[(usize, usize)],
) -> LoadResult<(Op, Class)> {
    let (&[(format_at, 8), (buffer_at, 8)], &[(result_at, 4)]) = (arguments, results) else {
        return Err(l.error("vprintf takes two pointers and returns a 32-bit integer"));
    };
    let run = Op::Act(Box::new(move |l, mask| {
        for lane in lanes(mask) {
            let argument = |at| {
                let bytes: [u8; 8] = l.frame.arguments.get(lane, at, 8)?.try_into().ok()?;
                Some(u64::from_le_bytes(bytes))
            };
            let (text, buffer) = (argument(format_at).unwrap_or(0), argument(buffer_at).unwrap_or(0));
            let count = if text == 0 {
                -1
            } else {
                let mut out = Vec::new();
                let mut from = Buffer { l: &mut *l, lane, at: buffer };
                let text = from.text(text, MOST)?;
                let used = format(&mut out, &text, &mut from)?;
                l.block.printed.extend(out);
                used as i32
            };
            if let Some(result) = l.frame.arguments.get_mut(lane, result_at, 4) {
                result.copy_from_slice(&count.to_le_bytes());
            }
        }
        Ok(Flow::Next)
    }));
    Ok((run, Class::Control))
}
