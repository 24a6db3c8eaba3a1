//! `f16` and `bf16` against exact numbers: unary operations on all 65,536 inputs, others on a dense grid.

use crate::exact::{BF16, Dyadic, F16, Format, Mode};
use crate::float::choose;
use crate::harness::{Rng, op, pairs};
use orthant_gpu::isa::Class;

const FORMATS: [(&str, Format); 2] = [("f16", F16), ("bf16", BF16)];

fn all() -> impl Iterator<Item = (u16,)> {
    (0..=u16::MAX).map(|a| (a,))
}

/// Every exponent with few and with many bits, around powers of two, special values: some hundred numbers.
fn grid(format: Format) -> Vec<u16> {
    let mut values = format.specials();
    let mut rng = Rng(21);
    for field in 0..1_u64 << format.exponent {
        let step = if format == BF16 { 6 } else { 1 };
        if field % step != 0 {
            continue;
        }
        for _ in 0..4 {
            values.push(
                (field << format.fraction) | (rng.next() % (1 << format.fraction)) | (rng.next() & 1) << 15,
            );
        }
    }
    values.into_iter().map(|x| x as u16).collect()
}

/// Pairs of the grid, and random pairs whose exponents lie together.
fn grid_pairs(format: Format) -> Vec<(u16, u16)> {
    let mut all = pairs(&grid(format), &grid(format));
    let mut rng = Rng(22);
    for _ in 0..60_000 {
        let (a, b) = (rng.next(), rng.next());
        let field = (a & format.infinity()).wrapping_add((rng.next() % 24) << format.fraction);
        let near = field.wrapping_sub(12 << format.fraction) & format.infinity();
        all.push((a as u16, (b & !format.infinity() | near) as u16));
    }
    all
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Function {
    Add,
    Sub,
    Mul,
    Fma,
}

/// Judges a result; infinities and NaNs are decided in `f64`, where they come out alike.
fn verdict(format: Format, f: Function, operands: [u16; 3], got: u64) -> Result<(), String> {
    let [a, b, c] = operands.map(u64::from);
    let exactly = |want: u64| (got == want).then_some(()).ok_or_else(|| format!("{want:#x} is wanted"));
    let real = |bits: u64| {
        let size = if format.is_nan(bits) {
            f64::NAN
        } else if format.is_finite(bits) {
            if bits & !format.sign() == 0 { 0.0 } else { 1.0 }
        } else {
            f64::INFINITY
        };
        if bits & format.sign() != 0 { -size } else { size }
    };
    let [x, y, z] = [a, b, c].map(real);
    let coarse = match f {
        Function::Add => x + y,
        Function::Sub => x - y,
        Function::Mul => x * y,
        Function::Fma => x * y + z,
    };
    let sign = |negative: bool| if negative { format.sign() } else { 0 };
    if coarse.is_nan() {
        return exactly(format.nan);
    }
    if coarse.is_infinite() {
        return exactly(sign(coarse < 0.0) | format.infinity());
    }
    let [p, q, r] = [a, b, c].map(|bits| {
        format.value(bits & !format.sign()).times(&Dyadic::integer(if bits & format.sign() != 0 {
            -1
        } else {
            1
        }))
    });
    let negative = |bits: u64| bits & format.sign() != 0;
    let zero = |first: bool, second: bool| sign(first && second);
    let (exact, zero) = match f {
        Function::Add => (p.plus(&q), zero(negative(a), negative(b))),
        Function::Sub => (p.plus(&q.times(&Dyadic::integer(-1))), zero(negative(a), !negative(b))),
        Function::Mul => (p.times(&q), sign(negative(a) != negative(b))),
        Function::Fma => (p.times(&q).plus(&r), zero(negative(a) != negative(b), negative(c))),
    };
    format.is_rounded_value(got, &exact, Mode::Nearest, zero)
}

#[test]
fn arithmetic() {
    for (name, format) in FORMATS {
        for (opcode, f) in [("add", Function::Add), ("sub", Function::Sub), ("mul", Function::Mul)] {
            for rounding in ["", ".rn"] {
                let op = op(&format!("{opcode}{rounding}.{name} %h0, %h1, %h2;"));
                assert_eq!(op.class, Class::HalfAlu);
                op.check_by(grid_pairs(format), |(a, b), got: u16| verdict(format, f, [a, b, 0], got.into()));
            }
        }
        let op = op(&format!("fma.rn.{name} %h0, %h1, %h2, %h3;"));
        let grid = grid(format);
        let mut rng = Rng(23);
        let inputs = grid_pairs(format).into_iter().flat_map(|(a, b)| {
            // The third operand near the product, or anything.
            let field = |x: u16| u64::from(x) & format.infinity();
            let bias = ((1_u64 << (format.exponent - 1)) - 1) << format.fraction;
            let spread = (rng.next() % 28) << format.fraction;
            let near = (field(a) + field(b) + spread).wrapping_sub(bias + (14 << format.fraction));
            let near = (rng.next() & !format.infinity() | near & format.infinity()) as u16;
            [(a, b, near), (a, b, grid[rng.next() as usize % grid.len()])]
        });
        op.check_by(inputs.collect::<Vec<_>>(), |(a, b, c), got: u16| {
            verdict(format, Function::Fma, [a, b, c], got.into())
        });
    }
}

/// Halves of a pair do not touch each other, and are computed as single ones are.
#[test]
fn packed_like_single() {
    let mut rng = Rng(24);
    for (name, format) in FORMATS {
        let grid = grid(format);
        let mut pick = || u32::from(grid[rng.next() as usize % grid.len()]);
        let inputs: Vec<(u32, u32, u32)> = (0..5000)
            .map(|_| (pick() | pick() << 16, pick() | pick() << 16, pick() | pick() << 16))
            .collect();
        let f16 = [
            "add.ftz",
            "add.sat",
            "sub.ftz.sat",
            "mul.rn.sat",
            "fma.rn.ftz",
            "fma.rn.sat",
            "fma.rn.ftz.relu",
        ];
        let more = ["neg.ftz", "abs.ftz", "min.ftz", "max.ftz.NaN"];
        let both = ["add", "sub", "mul", "fma.rn", "fma.rn.relu", "neg", "abs", "min", "max", "min.NaN"];
        let last = ["max.xorsign.abs", "min.NaN.xorsign.abs", "tanh.approx"];
        let mut opcodes: Vec<&str> = both.into_iter().chain(last).collect();
        if format == F16 {
            opcodes.extend(f16.into_iter().chain(more).chain(["ex2.approx"]));
        } else {
            opcodes.push("ex2.approx.ftz");
        }
        for opcode in opcodes {
            let sources = match opcode.split('.').next() {
                Some("fma") => 3,
                Some("neg" | "abs" | "tanh" | "ex2") => 1,
                _ => 2,
            };
            let regs =
                |class: char| (0..=sources).map(|i| format!("%{class}{i}")).collect::<Vec<_>>().join(", ");
            let single = op(&format!("{opcode}.{name} {};", regs('h')));
            let packed = op(&format!("{opcode}.{name}x2 {};", regs('r')));
            packed.check(inputs.iter().copied(), |(a, b, c)| {
                let mut regs = single.registers();
                for (index, x) in [a, b, c].into_iter().enumerate() {
                    (regs.b16[index + 1][0], regs.b16[index + 1][1]) = (x as u16, (x >> 16) as u16);
                }
                single.execute(&mut regs, 3);
                u32::from(regs.b16[0][0]) | u32::from(regs.b16[0][1]) << 16
            });
        }
    }
}

/// `.ftz`, `.sat` and `.relu` around operations that are tested above.
#[test]
fn modifiers() {
    let flush = |x: u16| F16.flush(x.into()) as u16;
    let relu = |format: Format, x: u16| match u64::from(x) {
        nan if format.is_nan(nan) => format.nan as u16,
        negative if negative & format.sign() != 0 => 0,
        _ => x,
    };
    for (opcode, sources) in [("add", 2), ("sub", 2), ("mul", 2), ("fma.rn", 3)] {
        let regs = ["%h0", "%h1", "%h2", "%h3"][..=sources].join(", ");
        let plain = op(&format!("{opcode}.f16 {regs};"));
        let run = |a: u16, b: u16| {
            let mut regs = plain.registers();
            (regs.b16[1], regs.b16[2], regs.b16[3]) = ([a; 32], [b; 32], [a ^ b; 32]);
            plain.execute(&mut regs, 1);
            regs.b16[0][0]
        };
        let inputs = || pairs(&grid(F16), &grid(F16)).into_iter().map(|(a, b)| (a, b, a ^ b));
        op(&format!("{opcode}.ftz.f16 {regs};")).check(inputs(), |(a, b, c)| {
            let mut regs = plain.registers();
            (regs.b16[1], regs.b16[2], regs.b16[3]) = ([flush(a); 32], [flush(b); 32], [flush(c); 32]);
            plain.execute(&mut regs, 1);
            flush(regs.b16[0][0])
        });
        op(&format!("{opcode}.sat.f16 {regs};"))
            .check(inputs(), |(a, b, _)| F16.saturate(run(a, b).into()) as u16);
        if sources == 3 {
            op(&format!("{opcode}.relu.f16 {regs};")).check(inputs(), |(a, b, _)| relu(F16, run(a, b)));
        }
    }
    let plain = op("fma.rn.bf16 %h0, %h1, %h2, %h3;");
    let inputs = pairs(&grid(BF16), &grid(BF16)).into_iter().map(|(a, b)| (a, b, a ^ b));
    op("fma.rn.relu.bf16 %h0, %h1, %h2, %h3;").check(inputs, |(a, b, c)| {
        let mut regs = plain.registers();
        (regs.b16[1], regs.b16[2], regs.b16[3]) = ([a; 32], [b; 32], [c; 32]);
        plain.execute(&mut regs, 1);
        relu(BF16, regs.b16[0][0])
    });
}

#[test]
fn signs() {
    for (name, format) in FORMATS {
        let nan = |a: u16, x: u16| if format.is_nan(a.into()) { 0x7fff } else { x };
        op(&format!("neg.{name} %h0, %h1;")).check(all(), |(a,)| nan(a, a ^ 0x8000));
        op(&format!("abs.{name} %h0, %h1;")).check(all(), |(a,)| nan(a, a & 0x7fff));
    }
    let flush = |x: u16| F16.flush(x.into()) as u16;
    let nan = |a: u16, x: u16| if F16.is_nan(a.into()) { 0x7fff } else { x };
    op("neg.ftz.f16 %h0, %h1;").check(all(), |(a,)| nan(a, flush(a) ^ 0x8000));
    op("abs.ftz.f16 %h0, %h1;").check(all(), |(a,)| nan(a, flush(a) & 0x7fff));
}

#[test]
fn minimum_and_maximum() {
    for (name, format) in FORMATS {
        for (opcode, max) in [("min", false), ("max", true)] {
            for (modifiers, nan, xorsign) in [
                ("", false, false),
                (".NaN", true, false),
                (".xorsign.abs", false, true),
                (".NaN.xorsign.abs", true, true),
            ] {
                op(&format!("{opcode}{modifiers}.{name} %h0, %h1, %h2;"))
                    .check(grid_pairs(format), |(a, b)| {
                        choose(format, max, nan, xorsign, a.into(), b.into()) as u16
                    });
            }
        }
    }
    op("min.ftz.f16 %h0, %h1, %h2;").check(grid_pairs(F16), |(a, b)| {
        choose(F16, false, false, false, F16.flush(a.into()), F16.flush(b.into())) as u16
    });
}
