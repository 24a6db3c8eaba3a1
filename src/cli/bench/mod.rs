//! `orthant bench`: what a step of each kernel costs on a device.
//!
//! On the software GPU everything is counted and nothing is timed; on a card and on the CPU a whole step is timed beside a
//! copy of the same bytes, by turns in one run, and bytes are those that the planner counts. What is not measured is absent.
//! Tensor cores' work, on cards only, has rows of its own: single products, Newton-Schulz iterations, whole steps of models.

#[cfg(feature = "cuda")]
mod card;
#[cfg(feature = "cuda")]
mod cublas;
mod host;
#[cfg(feature = "cuda")]
mod model;
#[cfg(feature = "cuda")]
mod newton_schulz;
mod parts;
#[cfg(feature = "cuda")]
mod products;
#[cfg(feature = "cuda")]
mod replay;
#[cfg(feature = "cuda")]
mod sets;
#[cfg(feature = "cuda")]
mod shapes;
mod subjects;
#[cfg_attr(not(feature = "cuda"), allow(dead_code, reason = "there are no such rows"))]
mod work;

use std::time::{Duration, Instant};

use comfy_table::{Table, presets};
use orthant::{Device, Driver, Error};
use serde_json::{Map, Value, json};

use super::{Common, info, print, progress};
use parts::{Parts, Shape};
use subjects::{Subject, lengths};
use work::WorkRow;

#[derive(clap::Args)]
pub struct Options {
    /// Kernels, of: elementwise (sign-sgd, signum, lion, sgd, adamw, adagrad, nsgd, extrapolated, mvr, scan, clip,
    /// accumulate), gram (X X^T), square (b G + c G G), long (Q X), newton-schulz [default: all, if nothing else is asked for]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    kernels: Vec<String>,
    /// Elements of all tensors together [default: 2^20 on the software GPU, 10^8 on a card, 2^22 on the CPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    elements: Option<u64>,
    /// Tensors that they are divided into [default: 1, and many in a second row]
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    tensors: Option<u64>,
    /// Shapes of the matrices that are multiplied and orthogonalised: [BATCHx]ROWSxCOLUMNS [default: a list]
    #[arg(long, value_name = "SHAPES", value_delimiter = ',')]
    shapes: Vec<Shape>,
    /// Whole steps on the parameters of models: gpt2-124m, llama-1b, llama-7b, moe-experts, cnn-126 [default: by device]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    set: Vec<String>,
    /// Seconds of each part (elementwise, products, Newton-Schulz, sets) after which no row is begun: a run has to end
    #[arg(long, value_name = "S", default_value_t = 50)]
    seconds: u64,
    /// Fewer elements and shapes, one division
    #[arg(long)]
    quick: bool,
}

/// What is known of a row; `None` is not measured.
#[derive(Debug, Clone, Default, PartialEq)]
struct Numbers {
    bytes_per_element: f64,
    launches: Option<u64>,
    sector_efficiency: Option<f64>,
    instructions_per_element: Option<f64>,
    ns: Option<f64>,
    copy_ns: Option<f64>,
    host_ns: Option<f64>,
    /// Whether the buffers, all that take turns, are three times what a second-level cache holds.
    beyond_cache: Option<bool>,
}

struct Row {
    subject: Subject,
    elements: usize,
    tensors: usize,
    /// Or why it was left out.
    numbers: Result<Numbers, String>,
}

pub fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let device = common.device()?;
    let parts = Parts::new(options, device)?;
    let sizes = sizes(options, device)?;
    let driver = if device == Device::Cpu { None } else { Some(Driver::open(device)?) };
    let budget = Duration::from_secs(options.seconds);
    let rows = elementwise(&parts.subjects, &sizes, device, budget, common)?;
    let works = parts.work(device, budget, common)?;
    if common.json {
        print(&json_of(device, driver.as_ref(), &rows, &works)?);
    } else if !common.quiet {
        print(&text(device, driver.as_ref(), &rows, &works));
    }
    Ok(())
}

fn elementwise(
    subjects: &[Subject],
    sizes: &[(usize, usize)],
    device: Device,
    budget: Duration,
    common: &Common,
) -> anyhow::Result<Vec<Row>> {
    if subjects.is_empty() {
        return Ok(vec![]);
    }
    let measure = measurer(device)?;
    let end = Instant::now() + budget;
    let bar = progress(subjects.len() * sizes.len(), "rows", common);
    let mut rows = vec![];
    for &(elements, tensors) in sizes {
        let lengths = lengths(elements, tensors);
        for subject in subjects {
            let numbers = measured(end, || measure(subject, &lengths))?;
            rows.push(Row { subject: *subject, elements, tensors, numbers });
            bar.inc(1);
        }
    }
    bar.finish();
    Ok(rows)
}

/// What a row came to, or why it was left out: no time, or no memory, in which the others may well fit.
fn measured<T>(
    end: Instant,
    measure: impl FnOnce() -> orthant::Result<T>,
) -> orthant::Result<Result<T, String>> {
    if Instant::now() > end {
        return Ok(Err("not begun within --seconds".into()));
    }
    match measure() {
        Ok(row) => Ok(Ok(row)),
        Err(e @ Error::OutOfMemory { .. }) => Ok(Err(e.to_string())),
        Err(Error::Driver { code: 2, call, .. }) => Ok(Err(format!("{call}: out of memory"))),
        Err(e) => Err(e),
    }
}

/// Elements and tensors of the rows.
fn sizes(options: &Options, device: Device) -> orthant::Result<Vec<(usize, usize)>> {
    let (elements, quick, many) = match device {
        Device::Cuda(_) => (100_000_000, 1 << 24, 10_000),
        Device::Cpu => (1 << 22, 1 << 18, 1),
        _ => (1 << 20, 1 << 16, 1024),
    };
    let elements = options.elements.map_or(if options.quick { quick } else { elements }, |n| n as usize);
    if let Some(tensors) = options.tensors {
        if tensors as usize > elements {
            return Err(Error::Config(format!(
                "--tensors {tensors}: there are {elements} elements for them"
            )));
        }
        return Ok(vec![(elements, tensors as usize)]);
    }
    let divided = many > 1 && !options.quick && options.elements.is_none();
    Ok(if divided { vec![(elements, 1), (elements, many)] } else { vec![(elements, 1)] })
}

type Measurer = Box<dyn Fn(&Subject, &[usize]) -> orthant::Result<Numbers>>;

fn measurer(device: Device) -> orthant::Result<Measurer> {
    if device == Device::Cpu {
        return Ok(Box::new(host::measure));
    }
    #[cfg(feature = "cuda")]
    {
        let context = orthant::cuda::Context::open(device)?;
        Ok(Box::new(move |subject, lengths| card::measure(subject, lengths, &context)))
    }
    #[cfg(not(feature = "cuda"))]
    Err(Driver::open(device).err().unwrap_or(Error::NoGradients))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

fn state(subject: &Subject) -> &'static str {
    subject.state.map_or("none", |dtype| dtype.name())
}

/// What a row is, before its numbers.
fn head(row: &Row) -> Map<String, Value> {
    let subject = &row.subject;
    let mut object = Map::new();
    object.insert("kernel".into(), subject.kernel.into());
    object.insert("elements".into(), row.elements.into());
    object.insert("tensors".into(), row.tensors.into());
    object.insert("param".into(), subject.param.name().into());
    object.insert("grad".into(), subject.grad.name().into());
    object.insert("state".into(), state(subject).into());
    if subject.master {
        object.insert("master".into(), "f32".into());
    }
    if let Some(micro) = subject.micro {
        object.insert("micro_grad".into(), micro.name().into());
    }
    object
}

fn json_of(
    device: Device,
    driver: Option<&Driver>,
    rows: &[Row],
    works: &[WorkRow],
) -> orthant::Result<String> {
    let (mut measured, mut left_out) = (vec![], vec![]);
    for row in rows {
        let mut object = head(row);
        let numbers = match &row.numbers {
            Ok(numbers) => numbers,
            Err(reason) => {
                object.insert("reason".into(), reason.as_str().into());
                left_out.push(object);
                continue;
            }
        };
        object.insert("device".into(), device.to_string().into());
        object.insert("bytes_per_element".into(), numbers.bytes_per_element.into());
        let optional = [
            ("sector_efficiency", numbers.sector_efficiency),
            ("instructions_per_element", numbers.instructions_per_element),
            ("ns", numbers.ns),
            ("copy_ns", numbers.copy_ns),
            ("share_of_copy", share(numbers)),
            ("host_ns", numbers.host_ns),
        ];
        if let Some(launches) = numbers.launches {
            object.insert("launches".into(), launches.into());
        }
        if let Some(beyond) = numbers.beyond_cache {
            object.insert("beyond_cache".into(), beyond.into());
        }
        let optional = optional.into_iter().filter_map(|(key, value)| Some((key, value?)));
        object.extend(optional.map(|(key, value)| (key.to_owned(), value.into())));
        measured.push(object);
    }
    for work in works {
        match work.json(device) {
            Ok(object) => measured.push(object),
            Err(object) => left_out.push(object),
        }
    }
    let ordinal = if let Device::Cuda(ordinal) = device { ordinal as usize } else { 0 };
    let card = driver.and_then(|driver| driver.devices.get(ordinal)).map(info::card_json);
    let object = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "device": device.to_string(),
        "driver": driver.map(info::driver_json),
        "card": card,
        "kernels": kernel_image(device)?,
        "threads": std::thread::available_parallelism().map_or(1, usize::from),
        "rows": measured,
        "left_out": left_out,
    });
    Ok(object.to_string())
}

/// Which of the embedded images the card runs.
fn kernel_image(device: Device) -> orthant::Result<Value> {
    #[cfg(feature = "cuda")]
    if device != Device::Cpu {
        let (architecture, machine_code) = orthant::cuda::Context::open(device)?.kernel_image()?;
        return Ok(json!({ "architecture": architecture, "machine_code": machine_code }));
    }
    let _ = device;
    Ok(Value::Null)
}

fn share(numbers: &Numbers) -> Option<f64> {
    Some(numbers.copy_ns? / numbers.ns?)
}

fn text(device: Device, driver: Option<&Driver>, rows: &[Row], works: &[WorkRow]) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.set_header([
        "kernel",
        "elements",
        "tensors",
        "param/grad/state",
        "bytes",
        "launches",
        "sectors",
        "lane instr.",
        "ns",
        "copy ns",
        "of copy",
        "host ns",
    ]);
    let mut notes = String::new();
    for row in rows {
        let subject = &row.subject;
        let master = if subject.master { " + f32 master" } else { "" };
        let micro = subject.micro.map_or(String::new(), |dtype| format!(" + {dtype}"));
        let types = format!("{}/{}{micro}/{}{master}", subject.param, subject.grad, state(subject));
        let numbers = match &row.numbers {
            Ok(numbers) => numbers,
            Err(reason) => {
                notes.push_str(&format!(
                    "\nleft out: {} {types}, {} elements in {} tensors: {reason}",
                    subject.kernel, row.elements, row.tensors
                ));
                continue;
            }
        };
        if numbers.beyond_cache == Some(false) {
            notes.push_str(&format!("\n{} {types}: part of its buffers stays in the cache", subject.kernel));
        }
        let shown = |value: Option<f64>, digits: usize| {
            value.map_or("not measured".to_owned(), |value| format!("{value:.digits$}"))
        };
        table.add_row([
            subject.kernel.to_owned(),
            row.elements.to_string(),
            row.tensors.to_string(),
            types,
            format!("{:.2}", numbers.bytes_per_element),
            shown(numbers.launches.map(|n| n as f64), 0),
            shown(numbers.sector_efficiency, 3),
            shown(numbers.instructions_per_element, 1),
            shown(numbers.ns, 0),
            shown(numbers.copy_ns, 0),
            shown(share(numbers), 2),
            shown(numbers.host_ns, 0),
        ]);
    }
    let driver = driver.map_or(String::new(), |driver| {
        let kind = if driver.emulated { ", the software GPU: counted, not timed" } else { "" };
        format!(", driver {} (CUDA {}.{}{kind})", driver.path.display(), driver.version.0, driver.version.1)
    });
    let mut out = format!("device {device}{driver}");
    if !rows.is_empty() {
        let legend = "bytes, lane instructions: of an element; sectors: bytes asked for over bytes moved";
        out.push_str(&format!("\n{table}\n{legend}{notes}"));
    }
    if !works.is_empty() {
        out.push_str(&format!("\n{}", work::text(works)));
    }
    out
}

/// The software GPU's counters are the whole process's: tests that read them take turns.
#[cfg(all(test, feature = "cuda"))]
fn turn() -> std::sync::MutexGuard<'static, ()> {
    static TURN: std::sync::Mutex<()> = std::sync::Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
