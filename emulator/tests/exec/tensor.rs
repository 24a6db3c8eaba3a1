//! Matrix instructions against the tables of the PTX ISA (sections on `mma.m16n8k8`, `mma.m16n8k16`, `ldmatrix`,
//! `movmatrix`): where an element lies is written down here a second time, as the tables say it.

use crate::features::kernel;
use crate::machine::{Machine, fixture, noise};
use half::{bf16, f16};
use orthant_gpu::exec::{Counters, FaultKind};
use orthant_gpu::gpu::Arg;

#[derive(Debug, Clone, Copy, PartialEq)]
enum Format {
    F16,
    Bf16,
}

const FORMATS: [Format; 2] = [Format::F16, Format::Bf16];

impl Format {
    fn bits(self, value: f32) -> u16 {
        match self {
            Format::F16 => f16::from_f32(value).to_bits(),
            Format::Bf16 => bf16::from_f32(value).to_bits(),
        }
    }
}

/// Factors of `K` columns and rows, and the addend.
#[derive(Clone)]
struct Factors<const K: usize> {
    a: [[f32; K]; 16],
    b: [[f32; 8]; K],
    c: [[f32; 8]; 16],
}

impl<const K: usize> Factors<K> {
    const ZERO: Self = Factors { a: [[0.0; K]; 16], b: [[0.0; 8]; K], c: [[0.0; 8]; 16] };

    fn random(seed: u64, value: impl Fn(u64) -> f32) -> Self {
        let mut noise = noise(seed);
        let mut next = || value(noise.next().unwrap());
        let mut f = Self::ZERO;
        f.a.iter_mut().flatten().for_each(|x| *x = next());
        f.b.iter_mut().flatten().for_each(|x| *x = next());
        f.c.iter_mut().flatten().for_each(|x| *x = next());
        f
    }
}

/// Row and column of element `i` of a lane's part of the first factor.
fn place_a(k: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    match k {
        16 => {
            let row = if i < 2 || (4..6).contains(&i) { group } else { group + 8 };
            (row, if i < 4 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 })
        }
        _ => (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1)),
    }
}

fn place_b(k: usize, lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    match k {
        16 => (if i < 2 { thread * 2 + (i & 1) } else { thread * 2 + (i & 1) + 8 }, group),
        _ => (thread * 2 + i, group),
    }
}

fn place_c(lane: usize, i: usize) -> (usize, usize) {
    let (group, thread) = (lane >> 2, lane % 4);
    (if i < 2 { group } else { group + 8 }, thread * 2 + (i & 1))
}

/// Runs one `mma`.
fn multiply<const K: usize>(format: Format, f: &Factors<K>) -> [[f32; 8]; 16] {
    let (a, b) = (K / 4, K / 8);
    let name = if format == Format::F16 { "f16" } else { "bf16" };
    let list = |first: usize, count: usize| {
        (first..first + count).map(|r| format!("%r{r}")).collect::<Vec<_>>().join(", ")
    };
    let mut body = "mul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd3, %rd1, %rd3;\n".to_string();
    (0..a + b).for_each(|i| body += &format!("ld.global.u32 %r{}, [%rd3+{}];\n", 10 + i, 128 * i));
    (0..4).for_each(|i| body += &format!("ld.global.f32 %f{i}, [%rd3+{}];\n", 128 * (a + b + i)));
    body += &format!(
        "mma.sync.aligned.m16n8k{K}.row.col.f32.{name}.{name}.f32 {{%f4, %f5, %f6, %f7}}, {{{}}}, {{{}}}, \
         {{%f0, %f1, %f2, %f3}};\n",
        list(10, a),
        list(10 + a, b)
    );
    (0..4).for_each(|i| body += &format!("st.global.f32 [%rd2+{}], %f{};\n", 128 * i, 4 + i));
    let mut input = Vec::new();
    let pair = |at: &dyn Fn(usize) -> f32, i: usize| {
        u32::from(format.bits(at(2 * i + 1))) << 16 | u32::from(format.bits(at(2 * i)))
    };
    for i in 0..a {
        input.extend((0..32).map(|lane| {
            let at = |i| place_a(K, lane, i);
            pair(&|i| f.a[at(i).0][at(i).1], i)
        }));
    }
    for i in 0..b {
        input.extend((0..32).map(|lane| {
            let at = |i| place_b(K, lane, i);
            pair(&|i| f.b[at(i).0][at(i).1], i)
        }));
    }
    for i in 0..4 {
        let at = |lane| place_c(lane, i);
        input.extend((0..32).map(|lane| f.c[at(lane).0][at(lane).1].to_bits()));
    }
    let m = Machine::plain(&kernel("", &(body + "ret;")));
    let (out, at) = (m.put(&[0u32; 128]), m.put(&input));
    let counters = m.ok("k", 1, 32, 0, &[Arg::U64(out), Arg::U64(at), Arg::U32(0)]);
    assert_eq!(counters.tensor_flops, 2 * 16 * 8 * K as u64);
    assert_eq!(counters.instructions["tensor"].warp, 1);
    let got: Vec<f32> = m.get(out, 128);
    let mut d = [[f32::NAN; 8]; 16];
    for (at, value) in got.into_iter().enumerate() {
        let (row, column) = place_c(at % 32, at / 32);
        d[row][column] = value;
    }
    d
}

/// Any mistake about which element lies where gives other numbers: all of them are different, and sums of integers are exact.
fn exact<const K: usize>(format: Format) {
    let f = Factors::<K>::random(K as u64, |z| (z % 255) as f32 - 127.0);
    let d = multiply(format, &f);
    for (row, d) in d.iter().enumerate() {
        for (column, &value) in d.iter().enumerate() {
            let products = (0..K).map(|k| f.a[row][k] as i64 * f.b[k][column] as i64);
            let want = products.sum::<i64>() + f.c[row][column] as i64;
            assert_eq!(value, want as f32, "{format:?} k{K} row {row} column {column}");
        }
    }
}

#[test]
fn every_element_of_a_product() {
    for format in FORMATS {
        exact::<16>(format);
        exact::<8>(format);
    }
}

/// `1.0 * first + ...` for the first row, the same in all columns.
fn dot(format: Format, terms: &[(f32, f32)], c: f32) -> f32 {
    let mut f = Factors::<16>::ZERO;
    for (k, &(a, b)) in terms.iter().enumerate() {
        (f.a[5][k], f.b[k]) = (a, [b; 8]);
    }
    f.c[5] = [c; 8];
    let row = multiply(format, &f)[5];
    assert!(row.iter().all(|x| x.to_bits() == row[0].to_bits()));
    row[0]
}

#[test]
fn one_rounding_towards_zero() {
    let e = f32::EPSILON;
    for format in FORMATS {
        let dot = |terms: &[(f32, f32)], c| dot(format, terms, c);
        // 1 + 3/4 of the last place: to nearest it would be 1 + e.
        assert_eq!(dot(&[(0.75, e), (1.0, 1.0)], 0.0), 1.0);
        assert_eq!(dot(&[(-0.75, e), (-1.0, 1.0)], 0.0), -1.0);
        // 1 - e/8 lies below 1, and so does what it is cut to.
        assert_eq!(dot(&[(1.0, 1.0), (-0.125, e)], 0.0), 1.0 - e / 2.0);
        // Sums that an f32 would lose on the way.
        assert_eq!(dot(&[(0.5, e), (0.5, e)], 1.0), 1.0 + e);
        assert_eq!(dot(&[(1.0, 1.0), (0.25, e), (-1.0, 1.0)], 0.0), e / 4.0);
        assert_eq!(dot(&[(4096.0, 4096.0), (1.0, 1.0), (-4096.0, 4096.0)], 0.0), 1.0);
        assert_eq!(dot(&[(4096.0, 4096.0), (1.0, 1.0)], -16_777_216.0), 1.0);
        // The addend is an f32 in full.
        assert_eq!(dot(&[(0.0, 1.0)], 1.0 + e), 1.0 + e);
        assert_eq!(dot(&[(0.0, -1.0)], -0.0).to_bits(), 0);
    }
}

#[test]
fn subnormals_count() {
    let least = f32::from_bits(1);
    // bf16's subnormals, and their products with what brings them into f32's range; f16's are 2^-24 apart.
    assert_eq!(dot(Format::Bf16, &[(f32::from_bits(1 << 16), 1.0)], 0.0), f32::from_bits(1 << 16));
    assert_eq!(dot(Format::F16, &[(2f32.powi(-24), 2f32.powi(-24))], 0.0), 2f32.powi(-48));
    assert_eq!(dot(Format::F16, &[(2f32.powi(-24) * 3.0, 1024.0)], 0.0), 3.0 * 2f32.powi(-14));
    assert_eq!(dot(Format::Bf16, &[(0.0, 1.0)], least), least);
    // 2^-150 is half of the least: cut off, alone and from another.
    let (a, b) = (2f32.powi(-75), 2f32.powi(-75));
    assert_eq!(dot(Format::Bf16, &[(a, b)], 0.0), 0.0);
    assert_eq!(dot(Format::Bf16, &[(a, b), (a, b)], 0.0), least);
    assert_eq!(dot(Format::Bf16, &[(a, b), (a, b), (a, b)], least), f32::from_bits(2));
    assert_eq!(dot(Format::Bf16, &[(-a, b), (a, 0.0)], 0.0).to_bits(), 1 << 31);
}

#[test]
fn infinities_and_nans() {
    let inf = f32::INFINITY;
    for format in FORMATS {
        let dot = |terms: &[(f32, f32)], c| dot(format, terms, c);
        assert_eq!(dot(&[(inf, 2.0), (1.0, 1.0)], 1.0), inf);
        assert_eq!(dot(&[(inf, -2.0)], 1.0), -inf);
        assert_eq!(dot(&[(1.0, 1.0)], -inf), -inf);
        for (terms, c) in [
            (vec![(inf, 0.0)], 0.0),
            (vec![(inf, 1.0), (inf, -1.0)], 0.0),
            (vec![(inf, 1.0)], -inf),
            (vec![(f32::NAN, 1.0)], 0.0),
            (vec![(1.0, f32::NAN)], 0.0),
            (vec![(1.0, 1.0)], -f32::NAN),
        ] {
            assert_eq!(dot(&terms, c).to_bits(), 0x7fff_ffff, "{terms:?} {c}");
        }
    }
    // An element touches its own row and column only.
    let mut f = Factors::<16>::ZERO;
    f.a[3][2] = f32::NAN;
    let d = multiply(Format::F16, &f);
    assert!((0..16).all(|row| d[row].iter().all(|x| x.is_nan() == (row == 3))));
    f.a[3][2] = 0.0;
    f.b[7][4] = inf;
    let d = multiply(Format::F16, &f);
    assert!((0..8).all(|n| d.iter().all(|row| row[n].is_nan() == (n == 4))));
    // What no f32 holds is infinite; what one holds when cut is not.
    let big = 2f32.powi(64);
    assert_eq!(dot(Format::Bf16, &[(big, big)], 0.0), inf);
    assert_eq!(dot(Format::Bf16, &[(big, -big)], 0.0), -inf);
    assert_eq!(dot(Format::Bf16, &[(2f32.powi(51), 2f32.powi(52)), (1.0, 1.0)], f32::MAX), f32::MAX);
    assert_eq!(dot(Format::Bf16, &[(big, big)], -f32::MAX), 2f32.powi(104));
}

#[test]
fn symmetric() {
    let spread = |z: u64| {
        let value = (z >> 40) as f32 / (1 << 23) as f32 - 1.0;
        value * 2f32.powi((z % 21) as i32 - 10)
    };
    for format in FORMATS {
        let f = Factors::<16>::random(7, spread);
        let d = multiply(format, &f);
        let mut negated = f.clone();
        negated.a.iter_mut().flatten().chain(negated.c.iter_mut().flatten()).for_each(|x| *x = -*x);
        let mut scaled = f.clone();
        scaled.b.iter_mut().flatten().chain(scaled.c.iter_mut().flatten()).for_each(|x| *x *= 0.125);
        let (negated, scaled) = (multiply(format, &negated), multiply(format, &scaled));
        for (row, column) in (0..16).flat_map(|row| (0..8).map(move |column| (row, column))) {
            assert_eq!(negated[row][column], -d[row][column]);
            if format == Format::Bf16 {
                // Scaling f16 would make subnormals.
                assert_eq!(scaled[row][column], d[row][column] * 0.125);
            }
        }
        // Factors exchanged, an 8x8 corner of it: the transpose.
        let mut swapped = Factors::<16>::ZERO;
        for (i, k) in (0..8).flat_map(|i| (0..16).map(move |k| (i, k))) {
            (swapped.a[i][k], swapped.b[k][i]) = (f.b[k][i], f.a[i][k]);
        }
        (0..8).for_each(|i| (0..8).for_each(|j| swapped.c[i][j] = f.c[j][i]));
        let swapped = multiply(format, &swapped);
        (0..8).for_each(|i| (0..8).for_each(|j| assert_eq!(swapped[i][j], d[j][i], "{i} {j}")));
    }
}

/// The value of each element is its place: matrix, row, column.
fn element(matrix: usize, row: usize, column: usize) -> u16 {
    (matrix << 8 | row << 4 | column) as u16
}

/// A kernel that puts 32 rows of 16 bytes to the offsets in `in[128..160]`, loads matrices from there and stores what
/// each lane got. Lanes whose address is not asked for pass one that is none.
fn load_matrices(count: usize, trans: bool, generic: bool, offsets: &[u32; 32]) -> (Vec<u32>, Counters) {
    let list = (0..count).map(|i| format!("%r{}", 20 + i)).collect::<Vec<_>>().join(", ");
    let mut body = "mul.wide.u32 %rd3, %r1, 16;\nadd.s64 %rd3, %rd1, %rd3;\n\
        ld.global.v4.u32 {%r10, %r11, %r12, %r13}, [%rd3];\n\
        mul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd3, %rd1, %rd3;\nld.global.u32 %r2, [%rd3+512];\n\
        mov.u32 %r3, buffer;\nadd.u32 %r3, %r3, %r2;\n\
        st.shared.v4.u32 [%r3], {%r10, %r11, %r12, %r13};\nbar.sync 0;\n"
        .to_string();
    body += &format!("setp.ge.u32 %p1, %r1, {};\n@%p1 mov.u32 %r3, 0xfffffff1;\n", 8 * count);
    body += "cvt.u64.u32 %rd4, %r3;\ncvta.shared.u64 %rd4, %rd4;\n";
    let trans = if trans { ".trans" } else { "" };
    let (space, base) = if generic { ("", "%rd4") } else { (".shared", "%r3") };
    body += &format!("ldmatrix.sync.aligned.m8n8.x{count}{trans}{space}.b16 {{{list}}}, [{base}];\n");
    (0..count).for_each(|i| body += &format!("st.global.u32 [%rd2+{}], %r{};\n", 128 * i, 20 + i));
    let m = Machine::plain(&kernel(".shared .align 16 .b8 buffer[8192];", &(body + "ret;")));
    let mut input = Vec::new();
    for lane in 0..32 {
        input.extend((0..4).map(|word| {
            let at = |column| u32::from(element(lane / 8, lane % 8, column));
            at(2 * word + 1) << 16 | at(2 * word)
        }));
    }
    input.extend(offsets);
    let (out, at) = (m.put(&[0u32; 128]), m.put(&input));
    let counters = m.ok("k", 1, 32, 0, &[Arg::U64(out), Arg::U64(at), Arg::U32(0)]);
    (m.get(out, 32 * count), counters)
}

#[test]
fn every_element_of_loaded_matrices() {
    let offsets = std::array::from_fn(|lane| ((lane * 13 + 5) % 32 * 48) as u32);
    for count in [1, 2, 4] {
        for (trans, generic) in [(false, false), (true, false), (false, true), (true, true)] {
            let (got, _) = load_matrices(count, trans, generic, &offsets);
            for (at, &word) in got.iter().enumerate() {
                let (matrix, lane) = (at / 32, at % 32);
                for half in 0..2 {
                    let (row, column) = (lane / 4, 2 * (lane % 4) + half);
                    let (row, column) = if trans { (column, row) } else { (row, column) };
                    let want = element(matrix, row, column);
                    assert_eq!((word >> (16 * half)) as u16, want, "x{count} {trans} {at} {half}");
                }
            }
        }
    }
}

#[test]
fn every_element_of_a_transposed_register() {
    let body = "mul.wide.u32 %rd3, %r1, 4;\nadd.s64 %rd3, %rd1, %rd3;\nld.global.u32 %r10, [%rd3];\n\
        movmatrix.sync.aligned.m8n8.trans.b16 %r11, %r10;\nst.global.u32 [%rd2], %r11;\nret;";
    let m = Machine::plain(&kernel("", body));
    let at = |lane: usize, half: usize| (lane / 4, 2 * (lane % 4) + half);
    let word = |lane: usize, turned: bool| {
        let halves = [0, 1].map(|half| at(lane, half)).map(|(row, column)| match turned {
            true => u32::from(element(0, column, row)),
            false => u32::from(element(0, row, column)),
        });
        halves[1] << 16 | halves[0]
    };
    let input: Vec<u32> = (0..32).map(|lane| word(lane, false)).collect();
    let (out, from) = (m.put(&[0u32; 32]), m.put(&input));
    m.ok("k", 1, 32, 0, &[Arg::U64(out), Arg::U64(from), Arg::U32(0)]);
    let want: Vec<u32> = (0..32).map(|lane| word(lane, true)).collect();
    assert_eq!(m.get::<u32>(out, 32), want);
}

/// Eight rows of 16 bytes are one pass if they meet all 32 banks.
#[test]
fn bank_conflicts_of_matrices() {
    let linear = |pitch: usize| std::array::from_fn(|lane| (lane * pitch) as u32);
    // Rows of 128 bytes, their 16-byte pieces exchanged by the row: eight rows of one column.
    let swizzled = std::array::from_fn(|lane| (lane * 128 + (3 ^ (lane % 8)) * 16) as u32);
    // The same for rows of 64 bytes, of which two share all banks.
    let narrow = std::array::from_fn(|lane| (lane * 64 + (1 ^ (lane / 2 % 4)) * 16) as u32);
    for (name, offsets, conflicts) in [
        ("side by side", linear(16), 0),
        ("rows of 64 bytes", linear(64), 4 * 3),
        ("rows of 128 bytes", linear(128), 4 * 7),
        ("padded by 16 bytes", linear(144), 0),
        ("padded to 80 bytes", linear(80), 0),
        ("swizzled", swizzled, 0),
        ("narrow rows swizzled", narrow, 0),
    ] {
        let (_, counters) = load_matrices(4, false, false, &offsets);
        // The stores of the rows meet the same banks as their loads.
        assert_eq!(counters.shared.bank_conflicts, 2 * conflicts, "{name}");
        assert_eq!(counters.shared_accesses, 2 * (4 + conflicts), "{name}");
        assert_eq!((counters.shared.load_bytes, counters.shared.store_bytes), (512, 512));
        let (_, counters) = load_matrices(1, true, false, &offsets);
        assert_eq!(counters.shared_accesses, 4 + conflicts + 1 + conflicts / 4, "{name}");
    }
}

/// The toy of the parser's fixtures was never meant to run: half of its lanes copy what the other half copy.
#[test]
fn fixture_of_the_parser() {
    let m = Machine::plain(&fixture("mma.sm_80.ptx"));
    let (a, b, c) = (m.put(&[0u16; 256]), m.put(&[0u16; 128]), m.empty(4 * 128));
    let args = [Arg::U64(a), Arg::U64(b), Arg::U64(c), Arg::I32(16)];
    let fault = m.fault("mma_16x8", 1, 32, 0, &args);
    assert_eq!((fault.kind, fault.place.line), (FaultKind::Race, 15), "{fault}");
}
