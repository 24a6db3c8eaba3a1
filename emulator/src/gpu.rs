//! A card to call from Rust: memory, modules, launches.
//!
//! ```
//! use orthant_gpu::gpu::{Arg, Gpu, Options};
//! use orthant_gpu::exec::Card;
//!
//! let ptx = ".version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry set(.param .u64 out, .param .u32 value) {
//!     .reg .b32 %r<3>;
//!     .reg .b64 %rd<4>;
//!     ld.param.u64 %rd1, [out];
//!     ld.param.u32 %r1, [value];
//!     mov.u32 %r2, %tid.x;
//!     mul.wide.u32 %rd2, %r2, 4;
//!     add.s64 %rd3, %rd1, %rd2;
//!     st.global.u32 [%rd3], %r1;
//!     ret;
//! }";
//! let mut gpu = Gpu::new(Card::sm_80(), Options::default());
//! let module = gpu.load_module(ptx)?;
//! let out = gpu.alloc(4 * 40)?;
//! let counters = gpu.launch(module, "set", [1, 1, 1], [40, 1, 1], 0, &[Arg::U64(out), Arg::U32(7)])?;
//! assert_eq!(counters.global_stores.bytes, 160);
//! let mut bytes = [0; 160];
//! gpu.copy_out(&mut bytes, out)?;
//! assert!(bytes.chunks(4).all(|b| b == [7, 0, 0, 0]));
//! # Ok::<(), orthant_gpu::gpu::Error>(())
//! ```

use crate::exec::env::Env;
use crate::exec::image::{Image, load};
use crate::exec::program::Kernel;
use crate::exec::text::Program;
use crate::exec::{Bad, Card, Counters, Fault, Landing, LoadError, launch};
use crate::memory::{
    After, AllocateError, AllocationInfo, Checks, DeviceMemory, HostError, Launch, MemoryConfig,
};
use crate::ptx;
use std::fmt;
use std::io::Write;
use std::sync::{Mutex, PoisonError};

/// How long a group of lanes may go first: so many turns of a loop, fewer if it makes strong accesses or sleeps. High,
/// so that lanes that leave a long loop early still meet the others behind it.
const PATIENCE: u64 = 1 << 16;

/// How to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Which checks run.
    pub checks: Checks,
    /// Chooses among the legal orders of warps and blocks; 0 is the plain order, and the fastest.
    pub seed: u64,
    /// When asynchronous copies land.
    pub landing: Landing,
    /// Host threads; 0: one for each core.
    pub threads: usize,
    /// Instructions that a warp may execute: an endless loop is reported rather than run.
    pub warp_limit: u64,
    /// Bytes of stack a thread has where calls may nest without end.
    pub stack_bytes: usize,
    /// Calls that may nest.
    pub call_depth: u32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            checks: Checks::ALL,
            seed: 0,
            landing: Landing::default(),
            threads: 0,
            warp_limit: 1 << 30,
            stack_bytes: 16 << 10,
            call_depth: 512,
        }
    }
}

/// A loaded module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModuleHandle(usize);

/// An argument of a kernel.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs)]
pub enum Arg {
    U8(u8),
    U16(u16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    /// A structure, as its bytes.
    Bytes(Vec<u8>),
}

impl Arg {
    fn bytes(&self) -> Vec<u8> {
        match self {
            Arg::U8(v) => vec![*v],
            Arg::U16(v) => v.to_le_bytes().into(),
            Arg::U32(v) => v.to_le_bytes().into(),
            Arg::I32(v) => v.to_le_bytes().into(),
            Arg::U64(v) => v.to_le_bytes().into(),
            Arg::I64(v) => v.to_le_bytes().into(),
            Arg::F32(v) => v.to_le_bytes().into(),
            Arg::F64(v) => v.to_le_bytes().into(),
            Arg::Bytes(v) => v.clone(),
        }
    }
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// The PTX was refused by the parser.
    Parse(ptx::Error),
    /// The module asks for what is not supported.
    Load(LoadError),
    /// The module was built for another card.
    Target(String),
    /// No such module, kernel or variable.
    NotFound(String),
    /// The launch asks for what the card or the kernel does not allow.
    Launch(String),
    /// Allocation failed.
    Allocate(AllocateError),
    /// A copy failed.
    Host(HostError),
    /// A check fired while a kernel ran.
    Fault(Box<Fault>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Parse(e) => write!(f, "{e}"),
            Error::Load(e) => write!(f, "{e}"),
            Error::Target(e) | Error::NotFound(e) | Error::Launch(e) => f.write_str(e),
            Error::Allocate(e) => write!(f, "{e}"),
            Error::Host(e) => write!(f, "{e:?}"),
            Error::Fault(e) => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for Error {}

macro_rules! from {
    ($($variant:ident $ty:ty,)*) => {$(
        impl From<$ty> for Error {
            fn from(e: $ty) -> Error {
                Error::$variant(e)
            }
        }
    )*};
}

from! {
    Parse ptx::Error,
    Load LoadError,
    Allocate AllocateError,
    Host HostError,
    Fault Box<Fault>,
}

/// A software GPU.
pub struct Gpu {
    card: Card,
    options: Options,
    memory: DeviceMemory,
    modules: Vec<Image>,
}

impl Gpu {
    /// A card with nothing on it.
    pub fn new(card: Card, options: Options) -> Gpu {
        let (limit, checks) = (card.memory_bytes, options.checks);
        let config = MemoryConfig { limit, checks, ..MemoryConfig::default() };
        let memory = DeviceMemory::new(config);
        Gpu { card, options, memory, modules: Vec::new() }
    }

    /// The card.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Its memory.
    pub fn memory(&self) -> &DeviceMemory {
        &self.memory
    }

    /// Another seed for the launches to come.
    pub fn set_seed(&mut self, seed: u64) {
        self.options.seed = seed;
    }

    /// Loads PTX.
    pub fn load_module(&mut self, text: &str) -> Result<ModuleHandle, Error> {
        let program = Program::of(text.as_bytes())?;
        let module = &program.module;
        if !self.card.runs(module.target.arch, module.target.suffix) {
            let suffix = module.target.suffix.map_or(String::new(), String::from);
            let target = format!("sm_{}{suffix}", module.target.arch);
            return Err(Error::Target(format!("code for {target} does not run on {}", self.card.name)));
        }
        let image = load(&program, &self.memory)?;
        self.modules.push(image);
        Ok(ModuleHandle(self.modules.len() - 1))
    }

    /// Address and size of a module's variable.
    pub fn global(&self, module: ModuleHandle, name: &str) -> Result<(u64, u64), Error> {
        let image = self.image(module)?;
        image.globals.get(name).copied().ok_or_else(|| Error::NotFound(format!("no variable {name}")))
    }

    /// Allocates device memory; its bytes are uninitialised.
    pub fn alloc(&self, bytes: u64) -> Result<u64, Error> {
        Ok(self.memory.allocate(bytes)?)
    }

    /// Frees it.
    pub fn free(&self, address: u64) -> Result<(), Error> {
        Ok(self.memory.free(address)?)
    }

    /// Host to device.
    pub fn copy_in(&self, to: u64, bytes: &[u8]) -> Result<(), Error> {
        Ok(self.memory.write(to, bytes)?)
    }

    /// Device to host.
    pub fn copy_out(&self, bytes: &mut [u8], from: u64) -> Result<(), Error> {
        Ok(self.memory.read(from, bytes)?)
    }

    /// Fills with a byte.
    pub fn memset(&self, to: u64, byte: u8, count: usize) -> Result<(), Error> {
        Ok(self.memory.fill(to, &[byte], count)?)
    }

    /// What is still allocated, modules' variables aside.
    pub fn leaks(&self) -> Vec<AllocationInfo> {
        let mut leaks = self.memory.leaks();
        leaks.retain(|leak| !self.modules.iter().any(|module| module.owned.contains(&leak.base)));
        leaks
    }

    fn image(&self, module: ModuleHandle) -> Result<&Image, Error> {
        self.modules.get(module.0).ok_or_else(|| Error::NotFound("no such module".into()))
    }

    /// Runs a kernel to its end. A check that fires stops it.
    pub fn launch(
        &self,
        module: ModuleHandle,
        kernel: &str,
        grid: [u32; 3],
        block: [u32; 3],
        dynamic_shared: u32,
        args: &[Arg],
    ) -> Result<Counters, Error> {
        let image = self.image(module)?;
        let kernel =
            image.kernels.get(kernel).ok_or_else(|| Error::NotFound(format!("no kernel {kernel}")))?;
        let refuse = |what: String| Err(Error::Launch(format!("{}: {what}", kernel.name)));
        if let Err(Bad::Shape(what) | Bad::Resources(what)) = kernel.check_shape(grid, block) {
            return refuse(what);
        }
        let shared = kernel.static_shared as u64 + u64::from(dynamic_shared);
        if shared > self.card.shared_per_block_optin.into() {
            let most = self.card.shared_per_block_optin;
            return refuse(format!("{shared} bytes of shared memory, the card has {most} for a block"));
        }
        if args.len() != kernel.params.len() {
            return refuse(format!("{} arguments, it takes {}", args.len(), kernel.params.len()));
        }
        let mut params = vec![0; kernel.param_bytes];
        for (index, (arg, &(offset, size))) in args.iter().zip(&kernel.params).enumerate() {
            let bytes = arg.bytes();
            let Some(slot) =
                params.get_mut(offset..offset + bytes.len()).filter(|slot| slot.len() as u64 == size)
            else {
                return refuse(format!("argument {index} has {} bytes, it takes {size}", bytes.len()));
            };
            slot.copy_from_slice(&bytes);
        }
        let blocks = grid.iter().map(|&n| u64::from(n)).product();
        let start = Start {
            card: &self.card,
            memory: &self.memory,
            image,
            options: &self.options,
            launch: self.memory.begin_launch(blocks, block.iter().product(), After::Everything),
            grid,
            block,
            dynamic_shared,
            grid_workspace: 0,
        };
        Ok(start.run(kernel, params)?)
    }
}

/// A launch, checked and ready to run.
pub(crate) struct Start<'a> {
    pub card: &'a Card,
    pub memory: &'a DeviceMemory,
    pub image: &'a Image,
    pub options: &'a Options,
    pub launch: Launch,
    pub grid: [u32; 3],
    pub block: [u32; 3],
    pub dynamic_shared: u32,
    /// Where the blocks of a cooperative launch meet: its address, else 0.
    pub grid_workspace: u64,
}

impl Start<'_> {
    /// Runs the kernel, one of the image's, to its end.
    pub fn run(self, kernel: &Kernel, params: Vec<u8>) -> Result<Counters, Box<Fault>> {
        let options = self.options;
        let printed = Mutex::new(Vec::new());
        let env = Env {
            kernel,
            card: self.card,
            memory: self.memory,
            checks: options.checks,
            constants: &self.image.constants,
            launch: self.launch,
            params,
            grid: self.grid,
            block: self.block,
            dynamic_shared: self.dynamic_shared,
            seed: options.seed,
            landing: options.landing,
            patience: PATIENCE,
            warp_limit: options.warp_limit,
            stack_bytes: options.stack_bytes,
            call_depth: options.call_depth,
            grid_workspace: self.grid_workspace,
            printed: &printed,
        };
        let threads = match options.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let result = launch::run(&env, threads);
        // As with a real card, a closed standard output is not the kernel's fault.
        let mut out = std::io::stdout();
        _ = out.write_all(&printed.into_inner().unwrap_or_else(PoisonError::into_inner));
        _ = out.flush();
        result
    }
}
