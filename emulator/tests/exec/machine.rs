//! What the tests share.

use orthant_gpu::exec::{Card, Counters, Fault};
use orthant_gpu::gpu::{Arg, Error, Gpu, ModuleHandle, Options};
use std::path::Path;

pub struct Machine {
    pub gpu: Gpu,
    pub module: ModuleHandle,
}

pub fn fixture(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/ptx/fixtures").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

pub trait Plain: Copy {
    fn bytes(self) -> Vec<u8>;
    fn of(bytes: &[u8]) -> Self;
    const SIZE: usize;
}

macro_rules! plain {
    ($($ty:ty)*) => {$(
        impl Plain for $ty {
            fn bytes(self) -> Vec<u8> { self.to_le_bytes().into() }
            fn of(bytes: &[u8]) -> Self { <$ty>::from_le_bytes(bytes.try_into().unwrap()) }
            const SIZE: usize = size_of::<$ty>();
        }
    )*};
}
plain!(u8 i8 u16 i16 u32 i32 u64 i64 f32 f64);

impl Machine {
    pub fn new(ptx: &str, options: Options) -> Machine {
        let mut gpu = Gpu::new(Card::sm_80(), options);
        let module = gpu.load_module(ptx).unwrap_or_else(|e| panic!("{e}"));
        Machine { gpu, module }
    }

    pub fn plain(ptx: &str) -> Machine {
        Machine::new(ptx, Options::default())
    }

    pub fn put<T: Plain>(&self, values: &[T]) -> u64 {
        let at = self.gpu.alloc((values.len() * T::SIZE).max(1) as u64).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.bytes()).collect();
        self.gpu.copy_in(at, &bytes).unwrap();
        at
    }

    pub fn empty(&self, bytes: usize) -> u64 {
        self.gpu.alloc(bytes as u64).unwrap()
    }

    pub fn get<T: Plain>(&self, at: u64, count: usize) -> Vec<T> {
        let mut bytes = vec![0; count * T::SIZE];
        self.gpu.copy_out(&mut bytes, at).unwrap();
        bytes.chunks_exact(T::SIZE).map(T::of).collect()
    }

    pub fn run(
        &self,
        kernel: &str,
        grid: u32,
        block: u32,
        shared: u32,
        args: &[Arg],
    ) -> Result<Counters, Error> {
        self.gpu.launch(self.module, kernel, [grid, 1, 1], [block, 1, 1], shared, args)
    }

    pub fn ok(&self, kernel: &str, grid: u32, block: u32, shared: u32, args: &[Arg]) -> Counters {
        self.run(kernel, grid, block, shared, args).unwrap_or_else(|e| panic!("{kernel}: {e}"))
    }

    pub fn fault(&self, kernel: &str, grid: u32, block: u32, shared: u32, args: &[Arg]) -> Box<Fault> {
        match self.run(kernel, grid, block, shared, args) {
            Err(Error::Fault(fault)) => fault,
            Err(e) => panic!("{kernel}: {e}"),
            Ok(_) => panic!("{kernel}: nothing was reported"),
        }
    }
}

/// Every schedule that a test tries: seeds and host threads.
pub fn schedules() -> impl Iterator<Item = Options> {
    let seeds = [0, 1, 2, 3, 0xdead_beef];
    let threads = [1, 2, 5];
    seeds.into_iter().flat_map(move |seed| {
        threads.into_iter().map(move |threads| Options { seed, threads, ..Options::default() })
    })
}

/// Deterministic noise.
pub fn noise(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    std::iter::repeat_with(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    })
}

pub fn floats(seed: u64, count: usize) -> Vec<f32> {
    noise(seed).take(count).map(|z| (z >> 40) as f32 / (1 << 22) as f32 - 2.0).collect()
}
