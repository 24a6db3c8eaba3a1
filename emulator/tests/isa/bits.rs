//! Bit operations: against loops over bits as the ISA's pseudocode has them.

use crate::harness::{P, Rng, op, pairs};

fn words(n: usize) -> Vec<u32> {
    let mut rng = Rng(31);
    (0..n).map(|_| rng.integer(32) as u32).collect()
}

fn doubles(n: usize) -> Vec<u64> {
    let mut rng = Rng(32);
    (0..n).map(|_| rng.integer(64)).collect()
}

/// Bits from the lowest.
fn bits(x: u64, width: u32) -> Vec<bool> {
    (0..width).map(|at| x >> at & 1 != 0).collect()
}

fn number(bits: impl IntoIterator<Item = bool>) -> u64 {
    bits.into_iter().enumerate().fold(0, |x, (at, bit)| x | u64::from(bit) << at)
}

#[test]
fn counting() {
    let count = |x: u64, width| bits(x, width).into_iter().filter(|&b| b).count() as u32;
    let leading = |x: u64, width| bits(x, width).into_iter().rev().take_while(|&b| !b).count() as u32;
    op("popc.b32 %r0, %r1;").check(words(3000).into_iter().map(|a| (a,)), |(a,)| count(a.into(), 32));
    op("popc.b64 %r0, %d1;").check(doubles(3000).into_iter().map(|a| (a,)), |(a,)| count(a, 64));
    op("clz.b32 %r0, %r1;").check(words(3000).into_iter().map(|a| (a,)), |(a,)| leading(a.into(), 32));
    op("clz.b64 %r0, %d1;").check(doubles(3000).into_iter().map(|a| (a,)), |(a,)| leading(a, 64));
    let reverse = |x: u64, width| number(bits(x, width).into_iter().rev());
    op("brev.b32 %r0, %r1;")
        .check(words(3000).into_iter().map(|a| (a,)), |(a,)| reverse(a.into(), 32) as u32);
    op("brev.b64 %d0, %d1;").check(doubles(3000).into_iter().map(|a| (a,)), |(a,)| reverse(a, 64));
}

#[test]
fn finding() {
    let find = |x: u64, width: u32, signed: bool, shift: bool| {
        let bits = bits(x, width);
        let negative = signed && bits[width as usize - 1];
        match bits.iter().rposition(|&b| b != negative) {
            Some(at) if shift => width - 1 - at as u32,
            Some(at) => at as u32,
            None => u32::MAX,
        }
    };
    for (modifier, shift) in [("", false), (".shiftamt", true)] {
        for (sign, signed) in [("u", false), ("s", true)] {
            let inputs = words(3000).into_iter().map(|a| (a,));
            op(&format!("bfind{modifier}.{sign}32 %r0, %r1;"))
                .check(inputs, |(a,)| find(a.into(), 32, signed, shift));
            let inputs = doubles(3000).into_iter().map(|a| (a,));
            op(&format!("bfind{modifier}.{sign}64 %r0, %d1;"))
                .check(inputs, |(a,)| find(a, 64, signed, shift));
        }
    }
}

#[test]
fn nth_set_bit() {
    let mut rng = Rng(33);
    let inputs: Vec<(u32, u32, i32)> = (0..20_000)
        .map(|_| (rng.integer(32) as u32, (rng.next() % 34) as u32, (rng.next() % 71) as i32 - 35))
        .chain([(u32::MAX, 31, i32::MIN), (u32::MAX, 0, i32::MAX), (1, u32::MAX, 0), (1, u32::MAX, 1)])
        .collect();
    op("fns.b32 %r0, %r1, %r2, %r3;").check(inputs, |(mask, base, offset)| {
        let set: Vec<u32> = (0..32).filter(|&at| mask >> at & 1 != 0).collect();
        let n = offset.unsigned_abs() as usize;
        let found = match offset {
            0 => set.iter().find(|&&at| at == base),
            1.. => set.iter().filter(|&&at| at >= base).nth(n - 1),
            _ => set.iter().rev().filter(|&&at| at <= base && base < 32).nth(n - 1),
        };
        found.copied().unwrap_or(u32::MAX)
    });
}

#[test]
fn fields() {
    let mut rng = Rng(34);
    let mut places = Vec::new();
    for _ in 0..8000 {
        places.push((rng.integer(64), rng.integer(64), rng.next() as u32 % 300, rng.next() as u32 % 300));
        places.push((rng.integer(64), rng.integer(64), rng.next() as u32 % 70, rng.next() as u32 % 70));
    }
    let extract = |a: u64, pos: u32, len: u32, width: u32, signed: bool| {
        let (a, pos, len) = (bits(a, width), (pos & 255) as usize, (len & 255) as usize);
        let top = width as usize - 1;
        let sign = signed && len != 0 && a[(pos + len - 1).min(top)];
        number((0..=top).map(|i| if i < len && pos + i <= top { a[pos + i] } else { sign }))
    };
    let insert = |a: u64, b: u64, pos: u32, len: u32, width: u32| {
        let (a, mut f) = (bits(a, width), bits(b, width));
        let (pos, len) = ((pos & 255) as usize, (len & 255) as usize);
        (0..len).filter(|i| pos + i < width as usize).for_each(|i| f[pos + i] = a[i]);
        number(f)
    };
    for (sign, signed) in [("u", false), ("s", true)] {
        let inputs = places.iter().map(|&(a, _, pos, len)| (a as u32, pos, len));
        op(&format!("bfe.{sign}32 %r0, %r1, %r2, %r3;"))
            .check(inputs, |(a, pos, len)| extract(a.into(), pos, len, 32, signed) as u32);
        let inputs = places.iter().map(|&(a, _, pos, len)| (a, pos, len));
        op(&format!("bfe.{sign}64 %d0, %d1, %r2, %r3;"))
            .check(inputs, |(a, pos, len)| extract(a, pos, len, 64, signed));
    }
    let inputs = places.iter().map(|&(a, b, pos, len)| (a as u32, b as u32, pos, len));
    op("bfi.b32 %r0, %r1, %r2, %r3, %r4;")
        .check(inputs, |(a, b, pos, len)| insert(a.into(), b.into(), pos, len, 32) as u32);
    op("bfi.b64 %d0, %d1, %d2, %r3, %r4;")
        .check(places.iter().copied(), |(a, b, pos, len)| insert(a, b, pos, len, 64));
}

#[test]
fn extension_and_masks() {
    let counts: Vec<u32> = (0..=70).chain([255, 256, 1 << 31, u32::MAX]).collect();
    let count = |n: u32, clamp: bool| if clamp { n.min(32) } else { n % 32 };
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        for (ty, signed) in [("u32", false), ("s32", true)] {
            op(&format!("szext.{mode}.{ty} %r0, %r1, %r2;")).check(pairs(&words(200), &counts), |(a, n)| {
                let n = count(n, clamp) as usize;
                let a = bits(a.into(), 32);
                let sign = signed && n > 0 && a[n - 1];
                number((0..32).map(|i| if i < n { a[i] } else { sign })) as u32
            });
        }
        op(&format!("bmsk.{mode}.b32 %r0, %r1, %r2;")).check(pairs(&counts, &counts), |(a, b)| {
            let (a, b) = (count(a, clamp), count(b, clamp));
            number((0..32).map(|i| i >= a && i < a + b)) as u32
        });
    }
}

/// Every nibble at every place; every named mode with every control.
#[test]
fn permutation() {
    let byte = |a: u32, b: u32, nibble: u32| {
        let bytes = [a.to_le_bytes(), b.to_le_bytes()].concat();
        let byte = bytes[(nibble & 7) as usize];
        match nibble >> 3 & 1 {
            0 => byte,
            _ => (byte >> 7) * 255,
        }
    };
    let mut rng = Rng(35);
    let inputs: Vec<(u32, u32, u32)> = (0..=0xffff)
        .map(|selector| (rng.next() as u32, rng.next() as u32, selector | (rng.next() as u32) << 16))
        .collect();
    op("prmt.b32 %r0, %r1, %r2, %r3;")
        .check(inputs, |(a, b, c)| u32::from_le_bytes([0, 4, 8, 12].map(|at| byte(a, b, c >> at & 15))));
    // The ISA's tables, highest byte first.
    let modes: [(&str, [[u32; 4]; 4]); 6] = [
        ("f4e", [[3, 2, 1, 0], [4, 3, 2, 1], [5, 4, 3, 2], [6, 5, 4, 3]]),
        ("b4e", [[5, 6, 7, 0], [6, 7, 0, 1], [7, 0, 1, 2], [0, 1, 2, 3]]),
        ("rc8", [[0; 4], [1; 4], [2; 4], [3; 4]]),
        ("ecl", [[3, 2, 1, 0], [3, 2, 1, 1], [3, 2, 2, 2], [3, 3, 3, 3]]),
        ("ecr", [[0, 0, 0, 0], [1, 1, 1, 0], [2, 2, 1, 0], [3, 2, 1, 0]]),
        ("rc16", [[1, 0, 1, 0], [3, 2, 3, 2], [1, 0, 1, 0], [3, 2, 3, 2]]),
    ];
    for (mode, table) in modes {
        let inputs: Vec<(u32, u32, u32)> =
            (0..400).map(|c| (rng.next() as u32, rng.next() as u32, c)).collect();
        op(&format!("prmt.b32.{mode} %r0, %r1, %r2, %r3;")).check(inputs, |(a, b, c)| {
            let [d3, d2, d1, d0] = table[(c % 4) as usize].map(|place| byte(a, b, place));
            u32::from_le_bytes([d0, d1, d2, d3])
        });
    }
}

#[test]
fn all_tables_of_lop3() {
    let inputs: Vec<(u32, u32, u32)> = words(96).chunks(3).map(|c| (c[0], c[1], c[2])).collect();
    for table in 0..256_u64 {
        let want = |a: u32, b: u32, c: u32| {
            number((0..32).map(|i| {
                let row = (a >> i & 1) << 2 | (b >> i & 1) << 1 | (c >> i & 1);
                table >> row & 1 != 0
            })) as u32
        };
        let text = format!("%r1, %r2, %r3, {table}");
        op(&format!("lop3.b32 %r0, {text};")).check(inputs.iter().copied(), |(a, b, c)| want(a, b, c));
        for (name, and) in [("or", false), ("and", true)] {
            for q in [false, true] {
                let op = op(&format!("lop3.{name}.b32 %r0|%p0, {text}, %p4;"));
                let mut regs = op.registers();
                regs.pred[4] = if q { u32::MAX } else { 0 };
                for (lane, &(a, b, c)) in inputs.iter().enumerate() {
                    (regs.b32[1][lane], regs.b32[2][lane], regs.b32[3][lane]) = (a, b, c);
                }
                op.execute(&mut regs, u32::MAX);
                for (lane, &(a, b, c)) in inputs.iter().enumerate() {
                    let (some, p) = (want(a, b, c) != 0, regs.pred[0] >> lane & 1 != 0);
                    assert_eq!(regs.b32[0][lane], want(a, b, c));
                    assert_eq!(p, if and { some && q } else { some || q }, "{table} {name}");
                }
            }
        }
    }
}

#[test]
fn logic() {
    type Binary = fn(u64, u64) -> u64;
    let operations: [(&str, Binary); 3] =
        [("and", |a, b| a & b), ("or", |a, b| a | b), ("xor", |a, b| a ^ b)];
    let inputs: Vec<(u64, u64)> = doubles(2000).chunks(2).map(|c| (c[0], c[1])).collect();
    for (name, f) in operations {
        op(&format!("{name}.b64 %d0, %d1, %d2;")).check(inputs.iter().copied(), |(a, b)| f(a, b));
        let narrow = inputs.iter().map(|&(a, b)| (a as u32, b as u32));
        op(&format!("{name}.b32 %r0, %r1, %r2;")).check(narrow, |(a, b)| f(a.into(), b.into()) as u32);
        let narrow = inputs.iter().map(|&(a, b)| (a as u16, b as u16));
        op(&format!("{name}.b16 %h0, %h1, %h2;")).check(narrow, |(a, b)| f(a.into(), b.into()) as u16);
        let both = pairs(&[P(false), P(true)], &[P(false), P(true)]);
        op(&format!("{name}.pred %p0, %p1, %p2;")).check(both, |(a, b)| P(f(a.0.into(), b.0.into()) != 0));
    }
    let ones = || doubles(2000).into_iter().chain([0]);
    op("not.b64 %d0, %d1;").check(ones().map(|a| (a,)), |(a,)| u64::MAX - a);
    op("not.b32 %r0, %r1;").check(ones().map(|a| (a as u32,)), |(a,)| u32::MAX - a);
    op("not.b16 %h0, %h1;").check(ones().map(|a| (a as u16,)), |(a,)| u16::MAX - a);
    op("not.pred %p0, %p1;").check([(P(true),), (P(false),)], |(a,)| P(!a.0));
    op("cnot.b64 %d0, %d1;").check(ones().map(|a| (a,)), |(a,)| u64::from(a == 0));
    op("cnot.b32 %r0, %r1;").check(ones().map(|a| (a as u32,)), |(a,)| u32::from(a == 0));
    op("cnot.b16 %h0, %h1;").check(ones().map(|a| (a as u16,)), |(a,)| u16::from(a == 0));
}

#[test]
fn shifts() {
    let counts: Vec<u32> = (0..=70).chain([255, 256, 1 << 31, u32::MAX]).collect();
    // A shift of the 128-bit extension, by no more than that holds.
    let left = |x: u64, n: u32| (u128::from(x) << n.min(127)) as u64;
    let right = |x: i128, n: u32| (x >> n.min(127)) as u64;
    let inputs = pairs(&doubles(100), &counts);
    let wide = || inputs.iter().copied();
    let word = || wide().map(|(a, n)| (a as u32, n));
    let half = || wide().map(|(a, n)| (a as u16, n));
    op("shl.b64 %d0, %d1, %r2;").check(wide(), |(a, n)| left(a, n));
    op("shl.b32 %r0, %r1, %r2;").check(word(), |(a, n)| left(a.into(), n) as u32);
    op("shl.b16 %h0, %h1, %r2;").check(half(), |(a, n)| left(a.into(), n) as u16);
    for ty in ["b", "u"] {
        op(&format!("shr.{ty}64 %d0, %d1, %r2;")).check(wide(), |(a, n)| right(a.into(), n));
        op(&format!("shr.{ty}32 %r0, %r1, %r2;")).check(word(), |(a, n)| right(a.into(), n) as u32);
        op(&format!("shr.{ty}16 %h0, %h1, %r2;")).check(half(), |(a, n)| right(a.into(), n) as u16);
    }
    op("shr.s64 %d0, %d1, %r2;").check(wide(), |(a, n)| right((a as i64).into(), n));
    op("shr.s32 %r0, %r1, %r2;").check(word(), |(a, n)| right((a as i32).into(), n) as u32);
    op("shr.s16 %h0, %h1, %r2;").check(half(), |(a, n)| right((a as i16).into(), n) as u16);
    let funnel: Vec<(u32, u32, u32)> = inputs.iter().map(|&(a, n)| (a as u32, (a >> 32) as u32, n)).collect();
    for (mode, clamp) in [("clamp", true), ("wrap", false)] {
        let count = |n: u32| if clamp { n.min(32) } else { n % 32 };
        let both = |a: u32, b: u32| bits(u64::from(a) | u64::from(b) << 32, 64);
        op(&format!("shf.l.{mode}.b32 %r0, %r1, %r2, %r3;")).check(funnel.iter().copied(), |(a, b, n)| {
            number(both(a, b)[(32 - count(n)) as usize..].iter().copied().take(32)) as u32
        });
        op(&format!("shf.r.{mode}.b32 %r0, %r1, %r2, %r3;")).check(funnel.iter().copied(), |(a, b, n)| {
            number(both(a, b)[count(n) as usize..].iter().copied().take(32)) as u32
        });
    }
}
