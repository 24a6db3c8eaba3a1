//! A million mutated and random texts: no panic, positions inside the text, and sound modules where they are accepted.

use super::{FIXTURES, HEADER, check::check, kernel};
use orthant_gpu::ptx::parse;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

const INPUTS: u64 = 1_000_000;

/// splitmix64
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

/// Words that open every path of the grammar, and values at the edges.
const WORDS: &[&str] = &[
    ".version",
    "8.8",
    ".target",
    "sm_80",
    ".address_size",
    "64",
    ".file",
    ".loc",
    ".section",
    ".debug_str",
    ".visible",
    ".extern",
    ".weak",
    ".entry",
    ".func",
    ".param",
    ".ptr",
    ".align",
    ".maxntid",
    ".reqntid",
    ".minnctapersm",
    ".noreturn",
    ".pragma",
    "\"nounroll\"",
    ".reg",
    ".global",
    ".shared",
    ".const",
    ".local",
    ".b8",
    ".b16",
    ".b32",
    ".b64",
    ".b128",
    ".u8",
    ".s32",
    ".u64",
    ".f32",
    ".f64",
    ".pred",
    ".v2",
    ".v4",
    ".attribute",
    "(",
    ")",
    "{",
    "}",
    "[",
    "]",
    "<",
    ">",
    "@",
    "!",
    "|",
    "+",
    "-",
    "=",
    ",",
    ";",
    ":",
    "_",
    "generic",
    "function_name",
    "inlined_at",
    ".branchtargets",
    ".calltargets",
    ".callprototype",
    "%r",
    "%r1",
    "%p1",
    "%rd1",
    "%f1",
    "%tid",
    ".x",
    "%laneid",
    "a",
    "b",
    "k",
    "L",
    "mov",
    "bra",
    "call",
    "ld",
    "st",
    "ret",
    ".uni",
    ".shared::cta",
    "0",
    "1",
    "2",
    "10",
    "4294967295",
    "4294967296",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "0x",
    "0xff",
    "0xFF00",
    "0b101",
    "017",
    "0f3F800000",
    "0d3FF0000000000000",
    "1.5",
    "1e999",
    "0f3F",
    "//",
    "/*",
    "*/",
    "\"",
    "\n",
    "\r\n",
    "\u{3b1}",
    "\0",
    "%",
    "$",
    ".",
    "::",
    "WARP_SZ",
    "%envreg3",
    "1048576",
    "1099511627776",
    "65536",
];

/// Splits a text so that joining the pieces gives it back: words, numbers, single other characters.
fn pieces(text: &str) -> Vec<&str> {
    let word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '$' | '%' | '.' | ':');
    let (mut all, mut start) = (Vec::new(), 0);
    let mut last = None;
    for (at, c) in text.char_indices() {
        let kind = if word(c) {
            0
        } else if c.is_whitespace() {
            1
        } else {
            2 + at
        };
        if last.is_some_and(|last| last != kind) {
            all.push(&text[start..at]);
            start = at;
        }
        last = Some(kind);
    }
    all.push(&text[start..]);
    all
}

/// Small modules that parse: every function of the fixtures that stands alone, and a few that show rare syntax.
fn seeds() -> Vec<String> {
    let mut seeds = vec![
        kernel("@%p1 bra L; { .reg .b32 t; mov.u32 t, %tid.x; L: ld.u32 %r1, [%rd1+-4]; } L: ret;"),
        kernel("{ .param .b32 x; st.param.b32 [x+0], %r1; call.uni twice, (x); } mov.b64 {%r1, _}, %rd1;"),
        kernel(
            "T: .branchtargets A, B; A: brx.idx %r1, T; B: setp.lt.s32 %p1|%p2, %r1, -1, !%p3; .pragma \"x\";",
        ),
        format!(
            "{HEADER}.const .s16 m[][2] = {{ {{-1, 2}}, {{3, -32768}} }}; .global .u64 q[2] = {{m, generic(m)+4}};\n\
             .global .u8 b[2] = {{0xFF(m), 0xFF00(generic(m)+8)}}; .global .v4 .f32 v = {{1.0, -0f3F800000, 0.5, 2e1}};"
        ),
        format!(
            "{}.file 1 \"a.cu\", 17, 123\n.section .debug_str {{ s0: .b8 104,105,0 s1: .b8 0 }}",
            kernel(".loc 1 10 3\nret;\n.loc 1 5 2, function_name s0+2, inlined_at 1 10 3\nret;\n")
        ),
        format!(
            "{HEADER}.extern .func (.param .b32 r) f(.param .b64 a);\n.entry k(.param .u64 .ptr .global .align 16 a,\n\
             .param .align 8 .b8 s[12]) .maxntid 256, 2 .minnctapersm 2 {{ .reg .b64 %rd<3>; .local .b8 l[8];\n\
             P: .callprototype (.param .b32 _) _ (.param .b64 _); call (s), %rd1, (a), P; }}"
        ),
    ];
    for (_, text) in FIXTURES {
        let at = text.find("\n.visible .entry").unwrap();
        let head: String =
            text[..at].lines().filter(|line| line.starts_with('.') && !line.contains(".func")).collect();
        let tail = &text[text.find("\t.file").unwrap()..];
        for part in text.split("// .globl").skip(1) {
            let end = part.find("\n}\n").unwrap() + 3;
            let start = part.find(".visible").unwrap();
            let seed =
                format!("{}\n{}{tail}", head.replace(".global", "\n.global"), &part[start.min(end)..end]);
            if parse(&seed).is_ok() {
                seeds.push(seed);
            }
        }
    }
    seeds
}

fn mutate(random: &mut Random, seeds: &[Vec<&str>], out: &mut String) {
    let mut parts = seeds[random.below(seeds.len())].clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(parts.len());
        let length = 1 + random.below(8);
        let end = (at + length).min(parts.len());
        match random.below(7) {
            0 => drop(parts.drain(at..end)),
            1 => {
                let copy = parts[at..end].to_vec();
                parts.splice(at..at, copy);
            }
            2 => {
                let other = &seeds[random.below(seeds.len())];
                let from = random.below(other.len());
                let to = (from + length).min(other.len());
                parts.splice(at..end, other[from..to].iter().copied());
            }
            3 => parts.splice(at..(at + 1).min(end), [random.pick(WORDS)]).for_each(drop),
            4 => parts.splice(at..at, [" ", random.pick(WORDS), " "]).for_each(drop),
            5 => {
                let other = random.below(parts.len());
                if at < parts.len() {
                    parts.swap(at, other);
                }
            }
            _ => parts.truncate(at.max(parts.len() / 2)),
        }
        if parts.is_empty() {
            parts.push(".version");
        }
    }
    parts.iter().for_each(|part| out.push_str(part));
}

fn soup(random: &mut Random, out: &mut String) {
    let inside = random.below(4);
    if inside > 0 {
        out.push_str(HEADER);
    }
    if inside > 1 {
        out.push_str(".global .u32 a[4]; .func b(.param .b32 x); .entry k(.param .u64 p) {\n");
        out.push_str(".reg .pred %p<4>; .reg .b32 %r<8>; .reg .f32 %f<4>; .reg .b64 %rd<4>;\n");
    }
    for _ in 0..random.below(60) {
        out.push_str(random.pick(WORDS));
        out.push_str(random.pick(&["", " ", " ", " "]));
    }
    if inside > 2 {
        out.push_str("; }");
    }
}

/// Input number `index`, which may be no UTF-8.
fn input(index: u64, seeds: &[Vec<&str>]) -> Vec<u8> {
    let mut random = Random(index.wrapping_mul(0xd134_2543_de82_ef95));
    let mut text = String::new();
    let kind = random.below(8);
    match kind {
        0 => soup(&mut random, &mut text),
        1 | 2 => seeds[random.below(seeds.len())].iter().for_each(|part| text.push_str(part)),
        _ => mutate(&mut random, seeds, &mut text),
    }
    let mut bytes = text.into_bytes();
    // Every third text, and every one that is a seed as it stands, gets its bytes changed.
    if matches!(kind, 1 | 2) || random.below(3) == 0 {
        for _ in 0..1 + random.below(3) {
            if bytes.is_empty() {
                break;
            }
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.below(128) as u8,
                2 => drop(bytes.remove(at)),
                _ => bytes.insert(at, random.below(256) as u8),
            }
        }
    }
    bytes
}

#[test]
fn a_million_inputs() {
    let seeds = seeds();
    assert!(seeds.len() >= 16, "{} seeds", seeds.len());
    for seed in &seeds {
        check(&parse(seed).unwrap_or_else(|error| panic!("{error}\n{seed}")), seed);
    }
    let seeds: Vec<Vec<&str>> = seeds.iter().map(|seed| pieces(seed)).collect();
    let (next, accepted, bytes) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    const BATCH: u64 = 1000;
                    let first = next.fetch_add(BATCH, Ordering::Relaxed);
                    if first >= INPUTS {
                        break;
                    }
                    for index in first..first + BATCH {
                        let input = input(index, &seeds);
                        bytes.fetch_add(input.len() as u64, Ordering::Relaxed);
                        let survived = catch_unwind(AssertUnwindSafe(|| one(&input)));
                        let Ok(good) = survived else {
                            panic!("input {index}:\n{}", String::from_utf8_lossy(&input));
                        };
                        accepted.fetch_add(u64::from(good), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (accepted, bytes) = (accepted.into_inner(), bytes.into_inner());
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{INPUTS} inputs, {} MB, {accepted} accepted, {seconds:.1} s on {threads} threads",
        bytes / 1_000_000
    );
    // Mutations that always break the text would test its first error only.
    assert!((INPUTS / 50..INPUTS / 2).contains(&accepted), "{accepted} accepted");
}

/// Parses `input`; says whether it was accepted.
fn one(input: &[u8]) -> bool {
    match orthant_gpu::ptx::parse_bytes(input) {
        Ok(module) => {
            check(&module, std::str::from_utf8(input).unwrap());
            true
        }
        Err(error) => {
            let line =
                input.split(|&c| c == b'\n').nth(error.pos.line as usize - 1).expect("a line of the text");
            assert!((1..=line.len() + 1).contains(&(error.pos.column as usize)), "{error}");
            assert!(error.message.len() < 400 && !error.message.is_empty(), "{error}");
            false
        }
    }
}
