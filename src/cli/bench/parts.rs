//! What a run of `orthant bench` consists of.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use orthant::{Device, Error};

use super::subjects::{self, Subject, select};
use super::work::WorkRow;
use super::{Common, Options};

/// So many matrices of a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    pub batch: usize,
    pub rows: usize,
    pub columns: usize,
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "it must be ROWSxCOLUMNS or BATCHxROWSxCOLUMNS, numbers from 1 to 65536".to_owned();
        let sides: Result<Vec<usize>, _> = text.split('x').map(str::parse).collect();
        let sides = sides.map_err(|_| wrong())?;
        if sides.iter().any(|side| !(1..=65_536).contains(side)) {
            return Err(wrong());
        }
        match sides[..] {
            [rows, columns] => Ok(Self { batch: 1, rows, columns }),
            [batch, rows, columns] => Ok(Self { batch, rows, columns }),
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.batch > 1 {
            write!(f, "{}x", self.batch)?;
        }
        write!(f, "{}x{}", self.rows, self.columns)
    }
}

pub const PRODUCTS: [&str; 3] = ["gram", "square", "long"];
const NEWTON_SCHULZ: &str = "newton-schulz";

/// Sides that are multiples of a tile and such that are not, tall, wide, batches.
const SMALL: [&str; 4] = ["128x512", "192x192", "300x72", "3x64x200"];
const QUICK_SMALL: [&str; 2] = ["64x200", "2x96x40"];
const LARGE: [&str; 8] = [
    "768x768",
    "24x1024x1024",
    "1024x4096",
    "8x1024x4096",
    "2048x8192",
    "4096x4096",
    "4096x11008",
    "8192x8192",
];
const QUICK_LARGE: [&str; 2] = ["768x768", "1024x4096"];

/// What is measured.
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "tensor cores are a card's"))]
pub struct Parts {
    pub subjects: Vec<Subject>,
    products: Vec<&'static str>,
    newton_schulz: bool,
    shapes: Vec<Shape>,
    sets: Vec<String>,
}

impl Parts {
    /// Whatever is named; all, if nothing is.
    pub fn new(options: &Options, device: Device) -> orthant::Result<Self> {
        let named: Vec<&str> = options.kernels.iter().map(String::as_str).collect();
        let elementwise = [vec![subjects::ALL], subjects::names()].concat();
        let tensor = [PRODUCTS.as_slice(), &[NEWTON_SCHULZ]].concat();
        if let Some(kernel) = named.iter().find(|k| !elementwise.contains(k) && !tensor.contains(k)) {
            let legal = [subjects::names(), vec![subjects::ALL], tensor].concat().join(", ");
            return Err(Error::Config(format!("--kernels: there is no `{kernel}`; legal: {legal}")));
        }
        let sized = options.elements.is_some() || options.tensors.is_some();
        let everything = named.is_empty() && !sized && options.shapes.is_empty() && options.set.is_empty();
        let on_card = device != Device::Cpu;
        // Without names, an option that concerns one part is about that part.
        let of_shapes = named.is_empty() && !options.shapes.is_empty() || everything && on_card;
        let products: Vec<&str> =
            PRODUCTS.into_iter().filter(|product| of_shapes || named.contains(product)).collect();
        let newton_schulz = of_shapes || named.contains(&NEWTON_SCHULZ);
        let subjects = match everything || named.is_empty() && sized {
            true => select(&[subjects::ALL]),
            false => select(&named),
        };
        let sets =
            if everything && on_card { default_sets(device, options.quick) } else { options.set.clone() };
        if !on_card && (newton_schulz || !products.is_empty() || !sets.is_empty()) {
            let reason = "--kernels, --shapes, --set: tensor cores are a card's; name a card with --device, \
                          or `emulated` to count";
            return Err(Error::Config(reason.into()));
        }
        let shapes = if options.shapes.is_empty() {
            default_shapes(device, options.quick)
        } else {
            options.shapes.clone()
        };
        Ok(Self { subjects, products, newton_schulz, shapes, sets })
    }

    /// The rows about tensor cores.
    #[cfg(not(feature = "cuda"))]
    pub fn work(&self, _: Device, _: Duration, _: &Common) -> anyhow::Result<Vec<WorkRow>> {
        Ok(vec![])
    }

    /// The rows about tensor cores.
    #[cfg(feature = "cuda")]
    pub fn work(&self, device: Device, budget: Duration, common: &Common) -> anyhow::Result<Vec<WorkRow>> {
        use orthant::algorithm::{NsDtype, NsMethod};
        use orthant::cuda::{Context, counters};

        use super::work::Work;
        use super::{cublas::Cublas, measured, newton_schulz, products, sets};

        let models = sets::select(&self.sets)?;
        if self.products.is_empty() && !self.newton_schulz && models.is_empty() {
            return Ok(vec![]);
        }
        let context = Context::open(device)?;
        context.make_current()?;
        // The software GPU does not run it, and has no times to compare.
        let cublas = counters().is_none().then(|| Cublas::new(&context));
        let dtype_name = |dtype: NsDtype| newton_schulz::name(&NsDtype::ALL, &dtype);
        type Run<'a> = Box<dyn Fn() -> orthant::Result<WorkRow> + 'a>;
        // Each with what it is called where it is left out; of each part a list.
        let mut lists: [Vec<(Work, Run<'_>)>; 3] = Default::default();
        let (context, cublas) = (&context, &cublas);
        let head = |kernel, shape: String, method, dtype| Work {
            kernel,
            shape,
            method,
            dtype: dtype_name(dtype),
            ..Work::default()
        };
        for &shape in &self.shapes {
            for &kernel in &self.products {
                for dtype in [NsDtype::F16, NsDtype::Bf16] {
                    let run = move || products::row(kernel, shape, dtype, context, cublas);
                    lists[0].push((head(kernel, shape.to_string(), "product", dtype), Box::new(run)));
                }
            }
            for variant in newton_schulz::VARIANTS.into_iter().filter(|_| self.newton_schulz) {
                let method = newton_schulz::name(&NsMethod::ALL, &variant.0);
                let run = move || newton_schulz::row(shape, variant, context, cublas);
                lists[1].push((head(NEWTON_SCHULZ, shape.to_string(), method, variant.1), Box::new(run)));
            }
        }
        for model in models {
            for dtype in sets::DTYPES {
                let run = move || sets::row(model, dtype, context);
                lists[2].push((head(sets::KERNEL, model.name.to_owned(), "auto", dtype), Box::new(run)));
            }
        }
        let bar = super::progress(lists.iter().map(Vec::len).sum(), "rows", common);
        let mut rows = vec![];
        for list in lists {
            let end = std::time::Instant::now() + budget;
            for (work, run) in list {
                rows.push(
                    measured(end, run)?.unwrap_or_else(|reason| WorkRow { work, numbers: Err(reason) }),
                );
                bar.inc(1);
            }
        }
        bar.finish();
        Ok(rows)
    }
}

fn default_shapes(device: Device, quick: bool) -> Vec<Shape> {
    let names: &[&str] = match (device, quick) {
        (Device::Cuda(_), false) => &LARGE,
        (Device::Cuda(_), true) => &QUICK_LARGE,
        (_, false) => &SMALL,
        (_, true) => &QUICK_SMALL,
    };
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// All are planned on the software GPU in no time, but for the small one, which is run.
fn default_sets(device: Device, quick: bool) -> Vec<String> {
    let names: &[&str] = match (device, quick) {
        (Device::Cuda(_), false) => &["gpt2-124m", "llama-1b", "moe-experts", "cnn-126"],
        (_, true) => &["gpt2-124m"],
        _ => &["gpt2-124m", "llama-1b", "llama-7b", "moe-experts", "cnn-126"],
    };
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_are_read_as_they_are_printed() {
        for text in SMALL.iter().chain(&QUICK_SMALL).chain(&LARGE).chain(&QUICK_LARGE) {
            assert_eq!(text.parse::<Shape>().expect("a shape").to_string(), **text);
        }
        for text in ["", "3", "3x", "0x4", "3x4x5x6", "-3x4", "3x70000", "axb"] {
            assert!(text.parse::<Shape>().is_err(), "{text}");
        }
    }
}
