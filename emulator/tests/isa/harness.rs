//! Runs one instruction, written as PTX, on lanes of inputs.
//!
//! The text may use `%p0` to `%p7` (predicates), `%h` (16 bits), `%r` (32), `%d` (64) and `%q` (128). By custom
//! register 0 of a class is the target and sources start at 1. `%b0` to `%b7` are declared as 8-bit registers and
//! live behind the 16-bit ones.

use orthant_gpu::isa::{Class, DecodeError, Decoded, Execute, LANES, Registers, decode};
use orthant_gpu::ptx;

/// A decoded instruction.
pub struct Op {
    text: String,
    run: Execute,
    pub class: Class,
    counts: [u32; 5],
}

fn source(text: &str) -> String {
    format!(
        ".version 8.6\n.target sm_90a\n.address_size 64\n.visible .entry k()\n{{\n\
         .reg .pred %p<8>;\n.reg .b16 %h<8>;\n.reg .b32 %r<8>;\n.reg .b64 %d<8>;\n.reg .b128 %q<8>; .reg .b8 %b<8>;\n\
         {text}\nret;\n}}\n"
    )
}

/// What decoding `text` gives.
pub fn decoded(text: &str) -> Result<(Decoded, [u32; 5]), DecodeError> {
    let module = ptx::parse(&source(text)).unwrap_or_else(|e| panic!("{text}: {e}"));
    let body = module.functions[0].body.as_ref().expect("a body");
    decode(&module, body, &body.instructions[0]).map(|decoded| (decoded, body.registers))
}

/// Decodes `text`, which must be one of this module's instructions.
pub fn op(text: &str) -> Op {
    match decoded(text) {
        Ok((Decoded::Alu { run, class }, counts)) => Op { text: text.into(), run, class, counts },
        Ok(_) => panic!("{text}: not an instruction of this module"),
        Err(e) => panic!("{text}: {e}"),
    }
}

/// A register's value in one lane.
pub trait Lane: Copy + PartialEq + std::fmt::LowerHex + Default {
    fn set(regs: &mut Registers, index: usize, lane: usize, value: Self);
    fn get(regs: &Registers, index: usize, lane: usize) -> Self;
}

macro_rules! lane {
    ($($ty:ty, $word:ty, $file:ident;)*) => {$(
        impl Lane for $ty {
            fn set(regs: &mut Registers, index: usize, lane: usize, value: Self) {
                regs.$file[index][lane] = value as $word;
            }
            fn get(regs: &Registers, index: usize, lane: usize) -> Self {
                regs.$file[index][lane] as $ty
            }
        }
    )*};
}

lane! {
    u16, u16, b16; i16, u16, b16; u32, u32, b32; i32, u32, b32; u64, u64, b64; i64, u64, b64; u128, u128, b128;
}

/// A predicate's value in one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct P(pub bool);

impl std::fmt::LowerHex for P {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Lane for P {
    fn set(regs: &mut Registers, index: usize, lane: usize, value: Self) {
        regs.pred[index] = regs.pred[index] & !(1 << lane) | u32::from(value.0) << lane;
    }
    fn get(regs: &Registers, index: usize, lane: usize) -> Self {
        P(regs.pred[index] >> lane & 1 != 0)
    }
}

/// Sources of one execution of an instruction, in registers 1, 2, ... of their classes.
pub trait Inputs: Copy {
    fn set(self, regs: &mut Registers, lane: usize);
    fn show(&self) -> String;
}

macro_rules! inputs {
    ($($name:ident)*) => {
        impl<$($name: Lane),*> Inputs for ($($name,)*) {
            #[allow(non_snake_case, unused_assignments)]
            fn set(self, regs: &mut Registers, lane: usize) {
                let ($($name,)*) = self;
                let mut index = 1;
                $(<$name as Lane>::set(regs, index, lane, $name); index += 1;)*
            }
            #[allow(non_snake_case)]
            fn show(&self) -> String {
                let ($($name,)*) = self;
                [$(format!("{:#x}", $name)),*].join(" ")
            }
        }
    };
}

inputs! { A }
inputs! { A B }
inputs! { A B C }
inputs! { A B C D }

impl Op {
    pub fn registers(&self) -> Registers {
        Registers::new(self.counts)
    }

    pub fn execute(&self, regs: &mut Registers, mask: u32) {
        (self.run)(regs, mask);
    }

    /// Runs the instruction on every input; `want` says what register 0 must then hold. Sources are the registers 1,
    /// 2, 3, ... in the order of the inputs, whatever their classes. Every warp runs with a mask of its own, and the
    /// lanes outside it must keep what they held.
    pub fn check<D: Lane, I: Inputs>(&self, inputs: impl IntoIterator<Item = I>, want: impl Fn(I) -> D) {
        self.check_by(inputs, |input, got: D| {
            let want = want(input);
            (got == want).then_some(()).ok_or_else(|| format!("{want:#x} is wanted"))
        });
    }

    /// As `check`, where `verdict` judges the result.
    pub fn check_by<D: Lane, I: Inputs>(
        &self,
        inputs: impl IntoIterator<Item = I>,
        verdict: impl Fn(I, D) -> Result<(), String>,
    ) {
        let mut regs = self.registers();
        let mut inputs = inputs.into_iter();
        let mut warp: Vec<I> = Vec::new();
        let mut rng = Rng(7);
        let mut count = 0;
        loop {
            warp.clear();
            warp.extend(inputs.by_ref().take(LANES));
            let Some(&last) = warp.last() else { break };
            count += warp.len();
            for lane in 0..LANES {
                warp.get(lane).copied().unwrap_or(last).set(&mut regs, lane);
                D::set(&mut regs, 0, lane, D::default());
            }
            let before = regs.clone();
            let mask = match count / LANES % 4 {
                0 => rng.next() as u32,
                _ => u32::MAX,
            };
            self.execute(&mut regs, mask);
            self.lanes(&regs, &before, mask, &warp, &verdict);
            if mask != u32::MAX {
                self.execute(&mut regs, !mask);
                self.lanes(&regs, &before, u32::MAX, &warp, &verdict);
            }
        }
        assert!(count > 0, "{}: no inputs", self.text);
    }

    fn lanes<D: Lane, I: Inputs>(
        &self,
        regs: &Registers,
        before: &Registers,
        mask: u32,
        warp: &[I],
        verdict: &impl Fn(I, D) -> Result<(), String>,
    ) {
        for (lane, &input) in warp.iter().enumerate() {
            let got = D::get(regs, 0, lane);
            if mask >> lane & 1 == 0 {
                assert!(got == D::get(before, 0, lane), "{}: lane {lane} is not in {mask:#x}", self.text);
            } else if let Err(why) = verdict(input, got) {
                panic!("{}: {} gives {got:#x}, {why}", self.text, input.show());
            }
        }
    }
}

/// Random numbers from a fixed seed (splitmix64).
pub struct Rng(pub u64);

impl Rng {
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// An integer of `bits` bits, small and extreme ones as likely as any.
    pub fn integer(&mut self, bits: u32) -> u64 {
        let (x, how) = (self.next(), self.next());
        let all = u64::MAX >> (64 - bits);
        let x = match how % 8 {
            0 => x % 4,
            1 => all - x % 4,
            2 => (1 << (bits - 1)) + x % 4 - 2,
            3 => x >> (how >> 8 & 63),
            4 => !(x >> (how >> 8 & 63)),
            5 => x & x.rotate_left(17) & x.rotate_left(31),
            _ => x,
        };
        x & all
    }
}

/// All pairs.
pub fn pairs<A: Copy, B: Copy>(a: &[A], b: &[B]) -> Vec<(A, B)> {
    a.iter().flat_map(|&a| b.iter().map(move |&b| (a, b))).collect()
}

/// All triples.
pub fn triples<A: Copy>(values: &[A]) -> Vec<(A, A, A)> {
    pairs(&pairs(values, values), values).into_iter().map(|((a, b), c)| (a, b, c)).collect()
}
