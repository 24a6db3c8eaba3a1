//! How many registers a kernel needs: an estimate. Only ptxas knows, and it reorders, rematerialises and spills.
//!
//! A register is live from its first to its last place in the text; where it is alive at the head of a loop and its last
//! place is in the loop, to the loop's end. The most that are live at once, in units of 32 bits, is what a function
//! needs; at a call, what is live across it and what the greediest function needs. For the test fixtures that is from a
//! half to one and a half times what ptxas 12.9 says for sm_80, mostly within a tenth.

use crate::ptx::{Address, Base, Body, Bounds, Instruction, Module, Operand, Reg, RegClass};
use std::collections::BTreeMap;

/// What ptxas gives a thread at least (a kernel that does next to nothing has no use for fewer) and at most.
const LEAST: u32 = 16;
const MOST: u32 = 255;

/// Registers of the file of a multiprocessor, for the limits that launch bounds imply; all cards have as many.
const FILE: u32 = 64 << 10;

fn weight(class: RegClass) -> u32 {
    match class {
        RegClass::Pred => 0,
        RegClass::B16 | RegClass::B32 => 1,
        RegClass::B64 => 2,
        RegClass::B128 => 4,
    }
}

fn registers(operand: &Operand, found: &mut Vec<Reg>) {
    let base = |address: &Address| match address.base {
        Base::Reg(reg) => Some(reg),
        _ => None,
    };
    match operand {
        Operand::Reg(reg) | Operand::Not(reg) => found.push(*reg),
        Operand::Pair(a, b) => found.extend([*a, *b].into_iter().flatten()),
        Operand::Address(address) => found.extend(base(address)),
        Operand::Tensor(parts) => {
            found.extend(base(&parts.0));
            parts.1.iter().for_each(|part| registers(part, found));
        }
        Operand::Vector(parts) | Operand::List(parts) => {
            parts.iter().for_each(|part| registers(part, found));
        }
        _ => {}
    }
}

/// Where an instruction may jump to.
fn targets(body: &Body, instruction: &Instruction) -> Vec<usize> {
    let of = |operand: &Operand| match operand {
        Operand::Label(target) => vec![*target as usize],
        Operand::BranchTable(table) => {
            let table = body.branch_tables.get(*table as usize);
            table.map_or(Vec::new(), |table| table.iter().map(|&target| target as usize).collect())
        }
        _ => Vec::new(),
    };
    instruction.operands.iter().flat_map(of).collect()
}

/// Units live behind each instruction.
fn pressure(body: &Body) -> Vec<u32> {
    let mut ranges: BTreeMap<Reg, (usize, usize)> = BTreeMap::new();
    let mut loops = Vec::new();
    let mut found = Vec::new();
    for (at, instruction) in body.instructions.iter().enumerate() {
        found.clear();
        instruction.operands.iter().for_each(|operand| registers(operand, &mut found));
        for &reg in found.iter().filter(|reg| weight(reg.class) > 0) {
            ranges.entry(reg).or_insert((at, at)).1 = at;
        }
        let back = targets(body, instruction).into_iter().filter(|&target| target <= at);
        loops.extend(back.map(|target| (target, at)));
    }
    // Inner loops end first: what they extend into an outer one that one extends further.
    loops.sort_by_key(|&(head, end)| (end, head));
    let mut changes = vec![0i64; body.instructions.len() + 2];
    for (reg, (start, mut end)) in ranges {
        for &(head, last) in &loops {
            if start < head && (head..=last).contains(&end) {
                end = last;
            }
        }
        changes[start] += i64::from(weight(reg.class));
        // What is only written still needs a place.
        changes[end.max(start + 1)] -= i64::from(weight(reg.class));
    }
    let mut live = 0;
    let sums = changes.iter().map(|change| {
        live += change;
        u32::try_from(live).unwrap_or(0)
    });
    sums.take(body.instructions.len()).collect()
}

/// The limit that directives imply.
fn limit(bounds: &Bounds) -> u32 {
    let threads = bounds.reqntid.or(bounds.maxntid).map(|n| {
        let threads = n.iter().fold(1u32, |all, &n| all.saturating_mul(n.max(1)));
        threads.max(1).next_multiple_of(32)
    });
    let by_threads = threads.map_or(MOST, |threads| {
        FILE / threads.saturating_mul(bounds.minnctapersm.unwrap_or(1).max(1)) / 8 * 8
    });
    by_threads.min(bounds.maxnreg.unwrap_or(MOST))
}

/// Registers of 32 bits that a thread of a kernel needs, about: `bodies` has its own body first, then those of all
/// functions it may reach.
pub(super) fn estimate(module: &Module, bodies: &[&Body], bounds: &Bounds) -> u32 {
    let Some((own, callees)) = bodies.split_first() else { return LEAST };
    let greediest = callees.iter().flat_map(|body| pressure(body)).max().unwrap_or(0);
    let live = pressure(own);
    let needed = live.iter().zip(&own.instructions).map(|(&live, instruction)| {
        let call = module.text(instruction.opcode) == "call";
        if call { live + greediest } else { live }
    });
    // A limit below the least is a mistake that ptxas corrects upwards too.
    needed.max().unwrap_or(0).min(limit(bounds)).clamp(LEAST, MOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ptx::parse;

    fn of(outside: &str, directives: &str, body: &str) -> u32 {
        let text = format!(
            ".version 8.0\n.target sm_80\n.address_size 64\n{outside}\n\
             .visible .entry k(.param .u64 out)\n{directives}\n{{\n.reg .pred %p<9>;\n.reg .b16 %h<99>;\n\
             .reg .b32 %r<400>;\n.reg .b64 %rd<99>;\n.reg .b128 %q<99>;\n{body}\nret;\n}}\n"
        );
        let module = parse(&text).unwrap();
        let kernel = module.functions.iter().position(|f| f.entry).unwrap();
        let mut functions: Vec<_> = module.functions.iter().collect();
        let kernel = functions.remove(kernel);
        let bodies: Vec<&Body> =
            std::iter::once(kernel).chain(functions).filter_map(|f| f.body.as_ref()).collect();
        estimate(&module, &bodies, &kernel.bounds)
    }

    /// Loads so many registers, then adds them up.
    fn together(count: usize, class: &str, ty: &str) -> String {
        let loads: String =
            (1..=count).map(|i| format!("ld.global.{ty} %{class}{i}, [%rd0+{}];\n", 16 * i)).collect();
        let uses: String = (1..=count).map(|i| format!("st.global.{ty} [%rd0], %{class}{i};\n")).collect();
        format!("ld.param.u64 %rd0, [out];\n{loads}{uses}")
    }

    #[test]
    fn by_width() {
        // The address is live as well: two more.
        assert_eq!(of("", "", &together(50, "r", "b32")), 52);
        assert_eq!(of("", "", &together(50, "h", "b16")), 52);
        assert_eq!(of("", "", &together(30, "rd", "b64")), 62);
        assert_eq!(of("", "", &together(20, "q", "b128")), 82);
        assert_eq!(of("", "", "setp.eq.u32 %p1, %r1, 0;"), 16);
        assert_eq!(of("", "", &together(390, "r", "b32")), 255);
    }

    #[test]
    fn one_after_the_other_is_one() {
        let one = |i: usize| format!("ld.global.b32 %r{i}, [%rd0];\nst.global.b32 [%rd0], %r{i};\n");
        let body: String = (1..=100).map(one).collect();
        assert_eq!(of("", "", &format!("ld.param.u64 %rd0, [out];\n{body}")), 16);
    }

    #[test]
    fn loops_keep_what_they_read() {
        // 40 values are read early in a loop in which 30 others are live later: they are needed again.
        let load = |i: usize| format!("ld.global.b32 %r{i}, [%rd0];\n");
        let store = |i: usize| format!("st.global.b32 [%rd0], %r{i};\n");
        let all = |range: std::ops::RangeInclusive<usize>, f: &dyn Fn(usize) -> String| -> String {
            range.map(f).collect()
        };
        let head = format!("ld.param.u64 %rd0, [out];\n{}", all(1..=40, &load));
        let inside = format!("{}{}{}", all(1..=40, &store), all(51..=80, &load), all(51..=80, &store));
        assert_eq!(of("", "", &format!("{head}{inside}")), 42);
        assert_eq!(of("", "", &format!("{head}L: {inside}@%p1 bra L;")), 72);
        let table = format!("{head}L: {inside}T: .branchtargets L, E;\nbrx.idx %r0, T;\nE:");
        assert_eq!(of("", "", &table), 72);
    }

    #[test]
    fn calls_need_both() {
        let callee = |name: &str, count: usize| {
            let body = together(count, "r", "b32").replace("ld.param.u64 %rd0, [out]", "mov.u64 %rd0, 0");
            format!(".func {name}()\n{{\n.reg .b32 %r<99>;\n.reg .b64 %rd<9>;\n{body}ret;\n}}\n")
        };
        let outside = format!("{}{}", callee("small", 10), callee("big", 40));
        let (before, after) = together(20, "r", "b32")
            .split_once("st.")
            .map(|(a, b)| (a.to_string(), format!("st.{b}")))
            .unwrap();
        // 22 live across, 42 in `big`.
        assert_eq!(of(&outside, "", &format!("{before}call small;\n{after}")), 64);
        assert_eq!(of(&outside, "", &format!("{before}{after}")), 22);
    }

    #[test]
    fn directives_limit() {
        let many = together(200, "r", "b32");
        assert_eq!(of("", "", &many), 202);
        assert_eq!(of("", ".maxnreg 40", &many), 40);
        assert_eq!(of("", ".maxnreg 8", &many), 16);
        assert_eq!(of("", ".maxntid 1024, 1, 1", &many), 64);
        assert_eq!(of("", ".maxntid 256, 1, 1\n.minnctapersm 3", &many), 80);
        assert_eq!(of("", ".maxntid 8, 8, 4\n.minnctapersm 8", &many), 32);
        assert_eq!(of("", ".reqntid 100, 1, 1\n.minnctapersm 4", &many), 128);
        assert_eq!(of("", ".maxntid 64, 1, 1", &many), 202);
    }
}
