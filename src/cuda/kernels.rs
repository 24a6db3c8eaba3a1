//! The compiled kernels on a card.

use super::api::{self, Answer, Argument, CUfunction, CUmodule, CUstream};
use super::context::{Context, Handle};
use crate::error::{Error, Result};
use crate::images::{IMAGES, Image};

/// Bytes of shared memory of a product's stages: as in `kernels/product.cuh`.
const PRODUCT_SHARED: u32 = 3 * 32 * 1024;

/// Threads of a block of `prepare`, a parameter each: as in `kernels/elementwise.cu`.
const PREPARERS: u32 = 128;

/// A kernel with what a launch needs to know.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    function: Handle<CUfunction>,
    pub threads: u32,
    /// Bytes of shared memory that a launch asks for, beside what the kernel has by itself.
    shared: u32,
    /// Blocks that are resident at once on the whole card.
    pub resident: u32,
}

impl Kernel {
    /// Launches enough blocks for `blocks` pieces of work, and no more than fit where the kernel deals its work out itself.
    pub fn launch(&self, stream: CUstream, blocks: u32, arguments: &mut [Argument]) -> Answer<()> {
        if blocks == 0 {
            return Ok(());
        }
        api::launch(self.function.0, blocks, self.threads, self.shared, stream, arguments)
    }
}

/// A loaded image.
#[derive(Debug)]
struct Module(Handle<CUmodule>);

impl Drop for Module {
    fn drop(&mut self) {
        let _ = api::unload_module(self.0.0);
    }
}

/// All kernels.
#[derive(Debug)]
pub(crate) struct Kernels {
    pub prepare: Kernel,
    pub elementwise: Kernel,
    pub elementwise_measured: Kernel,
    pub measure: Kernel,
    pub adopt: Kernel,
    pub norms: Kernel,
    pub radii: Kernel,
    pub scan: Kernel,
    pub gather: Kernel,
    pub decide: Kernel,
    pub accumulate: Kernel,
    pub look: Kernel,
    pub pack: Kernel,
    pub lengths: Kernel,
    pub divide: Kernel,
    /// Of bf16 and of f16.
    pub product: [Kernel; 2],
    /// What was loaded: architecture and whether it is machine code.
    pub loaded: (&'static str, bool),
    _modules: Vec<Module>,
}

impl Kernels {
    /// Loads them into the current context.
    pub fn load(context: &Context) -> Result<Self> {
        let (elementwise, loaded) = load(context, "elementwise")?;
        let (scan, _) = load(context, "scan")?;
        let (accumulate, _) = load(context, "accumulate")?;
        let (pack, _) = load(context, "pack")?;
        let (lines, _) = load(context, "lines")?;
        let (product, _) = load(context, "sm80_product")?;
        let sharing = |module: &Module, name: &str, threads: u32, shared: u32| {
            let found = api::function(module.0.0, name).and_then(|function| {
                if shared > 0 {
                    api::allow_shared_memory(function, shared)?;
                }
                let blocks = api::blocks_per_multiprocessor(function, threads, shared)?;
                let resident = blocks * context.info().multiprocessors;
                Ok(Kernel { function: Handle(function), threads, shared, resident })
            });
            found.map_err(|fault| context.error("loading the kernels", fault))
        };
        let of = |module: &Module, name: &str, threads: u32| sharing(module, name, threads, 0);
        let tiles = |name: &str| sharing(&product, name, 128, PRODUCT_SHARED);
        Ok(Self {
            prepare: of(&elementwise, "prepare", PREPARERS)?,
            elementwise: of(&elementwise, "elementwise", 128)?,
            elementwise_measured: of(&elementwise, "elementwise_measured", 128)?,
            measure: of(&elementwise, "measure", 256)?,
            adopt: of(&elementwise, "adopt", 128)?,
            norms: of(&elementwise, "norms", 128)?,
            radii: of(&elementwise, "radii", 256)?,
            scan: of(&scan, "scan", 128)?,
            gather: of(&scan, "gather", 256)?,
            decide: of(&scan, "decide", 1024)?,
            accumulate: of(&accumulate, "accumulate", 128)?,
            look: of(&pack, "look", 128)?,
            pack: of(&pack, "pack", 128)?,
            lengths: of(&lines, "lengths", 256)?,
            divide: of(&lines, "divide", 256)?,
            product: [tiles("product_bf16")?, tiles("product_f16")?],
            loaded,
            _modules: vec![elementwise, scan, accumulate, pack, lines, product],
        })
    }
}

/// Loads the best image of a source that the card takes: its own machine code, else PTX that the driver compiles.
fn load(context: &Context, stem: &str) -> Result<(Module, (&'static str, bool))> {
    let mut refusals = vec![];
    for image in candidates(stem, context.info().compute_capability) {
        // PTX is a C string; and what the program holds need not be aligned.
        let mut bytes = image.bytes.to_vec();
        bytes.push(0);
        match api::load_module(&bytes) {
            Ok(module) => {
                return Ok((Module(Handle(module)), (image.architecture, image.machine_code)));
            }
            Err((fault, _)) if fault.is_sticky() || !fault.refuses_image() => {
                return Err(context.error("loading the kernels", fault));
            }
            Err((fault, log)) => {
                let log = if log.is_empty() { String::new() } else { format!(" ({})", log.trim()) };
                refusals.push(format!("{}: {} {}{log}", image.architecture, fault.name(), fault.meaning()));
            }
        }
    }
    let (major, minor) = context.info().compute_capability;
    let reason = if refusals.is_empty() {
        format!("it has compute capability {major}.{minor}, and kernels need 8.0 or newer")
    } else {
        format!("no image of the kernels `{stem}` is taken: {}", refusals.join("; "))
    };
    Err(Error::Device { device: context.device().to_string(), reason })
}

/// The images of a source that a card of this compute capability could take, best first.
fn candidates(stem: &str, (major, minor): (u32, u32)) -> Vec<&'static Image> {
    // Code for sm_90a is for 9.0 alone; code for sm_80 for 8.x; PTX for compute_80 for all that came after.
    let wanted: &[&str] = match (major, minor) {
        (9, 0) => &["sm_90a", "compute_90a", "compute_80"],
        (8, _) => &["sm_80", "compute_80"],
        (..=7, _) => &[],
        _ => &["compute_80"],
    };
    let forced = std::env::var("ORTHANT_PTX").is_ok_and(|v| v == "1");
    let find = |architecture: &&str| {
        IMAGES
            .iter()
            .find(|i| i.stem == stem && i.architecture == *architecture && !(forced && i.machine_code))
    };
    wanted.iter().filter_map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_card_has_its_image() {
        let names = |capability| -> Vec<&str> {
            candidates("elementwise", capability).iter().map(|image| image.architecture).collect()
        };
        assert_eq!(names((9, 0)), ["sm_90a", "compute_90a", "compute_80"]);
        assert_eq!(names((8, 6)), ["sm_80", "compute_80"]);
        // An `a` image is never forward compatible.
        assert_eq!(names((10, 0)), ["compute_80"]);
        assert_eq!(names((12, 1)), ["compute_80"]);
        assert!(names((7, 5)).is_empty());
    }
}
