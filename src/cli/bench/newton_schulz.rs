//! Newton-Schulz: a whole step of Muon on one matrix or a batch.

use orthant::algorithm::{Constraint, Estimator, NewtonSchulz, Norm, NsDtype, NsMethod, Scale};
use orthant::cuda::{self, Context, DeviceBuffer, Stream};
use orthant::{
    Algorithm, Device, Dtype, Error, Group, Optimizer, Parameter, Precision, Tensor as HostTensor,
};

use super::card::{CACHE, Counts};
use super::cublas::{Cublas, Gemm, shapes};
use super::model::{Model, Planned, fill};
use super::replay::{Replay, by_turns};
use super::work::{Tensor, Work, WorkRow};
use super::{Numbers, Shape};
use crate::cli::noise::Noise;
use crate::cli::singular::singular_values;

pub const KERNEL: &str = "newton-schulz";
/// Elements of a matrix, and rows or columns, up to which its direction is computed in f64 too.
const CHECKED: (usize, usize) = (1 << 16, 128);
const MOST_SETS: usize = if cfg!(test) { 2 } else { 16 };

pub const VARIANTS: [(NsMethod, NsDtype); 4] = [
    (NsMethod::Standard, NsDtype::Bf16),
    (NsMethod::Standard, NsDtype::F16),
    (NsMethod::Gram, NsDtype::Bf16),
    (NsMethod::Gram, NsDtype::F16),
];

pub fn name<T: PartialEq>(all: &[(&'static str, T)], wanted: &T) -> &'static str {
    all.iter().find(|(_, value)| value == wanted).map_or("", |(name, _)| name)
}

pub fn row(
    shape: Shape,
    (method, dtype): (NsMethod, NsDtype),
    context: &Context,
    cublas: &Option<Result<Cublas, String>>,
) -> orthant::Result<WorkRow> {
    let muon = Algorithm::muon().ns_method(method).ns_dtype(dtype);
    let group = || vec![Group::new("all", muon.clone()).lr(0.02).params(["*"])];
    let dimensions = match shape.batch {
        1 => vec![shape.rows, shape.columns],
        batch => vec![batch, shape.rows, shape.columns],
    };
    let tensors = [("x".to_owned(), dimensions)];
    let planned = Planned::new(group(), &tensors)?;
    let work = Work {
        kernel: KERNEL,
        shape: shape.to_string(),
        method: name(&NsMethod::ALL, &method),
        dtype: name(&NsDtype::ALL, &dtype),
        elements: planned.elements,
        tensors: 1,
        types: ["bf16", "bf16", "f32"],
    };
    context.make_current()?;
    let stream = Stream::new(context)?;
    let model = || Model::new(group(), &tensors, context, &stream);
    let mut tensor =
        Tensor { ideal_flops: planned.flops.0, tensor_flops: planned.flops.1, ..Tensor::default() };
    if shape.rows * shape.columns <= CHECKED.0 && shape.rows.min(shape.columns) <= CHECKED.1 {
        let (error, sigma_max) = accuracy(shape, method, dtype, context)?;
        (tensor.error, tensor.sigma_max) = (Some(error), Some(sigma_max));
    }
    if cuda::counters().is_some() {
        let numbers = counted(model()?, &mut tensor, &stream)?;
        return Ok(WorkRow { work, numbers: Ok((numbers, tensor)) });
    }
    let theirs = cublas.as_ref().map(|cublas| {
        let cublas = cublas.as_ref().map_err(Clone::clone)?;
        plain_products(shape, dtype == NsDtype::F16, cublas, context, &stream)
    });
    let beside = theirs.as_ref().and_then(|theirs| theirs.as_ref().ok()).map(|(replay, _)| replay);
    let (numbers, ns) = timed(&model, &planned, context, &stream, beside)?;
    let version = |cublas: &Cublas| cublas.version.clone();
    let version = cublas.as_ref().and_then(|cublas| cublas.as_ref().ok()).map(version).unwrap_or_default();
    tensor.cublas = theirs.map(|theirs| theirs.map(|_| (ns.unwrap_or(f64::NAN), version)));
    Ok(WorkRow { work, numbers: Ok((numbers, tensor)) })
}

/// A step's counts: momentum is there from the beginning, and nothing depends on its being zero.
pub fn counted(mut model: Model, tensor: &mut Tensor, stream: &Stream) -> orthant::Result<Numbers> {
    let before = Counts::now();
    model.optimizer.step_on(stream)?;
    stream.synchronize()?;
    let counts = Counts::now().since(&before);
    tensor.tensor_flops = counts.tensor_flops;
    tensor.bank_conflicts = Some(counts.bank_conflicts);
    let elements = model.optimizer.plan().parameters.iter().map(|p| p.numel()).sum();
    Ok(counts.numbers(elements))
}

/// Steps between events, as many models by turns as do not fit the cache; and the time of what is `beside` them.
pub fn timed(
    model: &dyn Fn() -> orthant::Result<Model>,
    planned: &Planned,
    context: &Context,
    stream: &Stream,
    beside: Option<&Replay>,
) -> orthant::Result<(Numbers, Option<f64>)> {
    let mut models = vec![model()?];
    let wanted = (3 * CACHE).div_ceil(models[0].footprint().max(1)) as usize;
    while models.len() < wanted.min(MOST_SETS) {
        models.push(model()?);
    }
    let count = models.len();
    let mut host = vec![];
    let mut works: Vec<super::replay::Work<'_>> = vec![Box::new(|i: usize| {
        let began = std::time::Instant::now();
        models[i % count].optimizer.step_on(stream)?;
        host.push(began.elapsed().as_nanos() as f64);
        Ok(())
    })];
    if let Some(replay) = beside {
        works.push(Box::new(|_| replay.launch(stream)));
    }
    let times = by_turns(context, stream, &mut works)?;
    drop(works);
    models.iter_mut().try_for_each(|model| model.optimizer.status().map(drop))?;
    let bytes = planned.plan.step_bytes(&super::model::options());
    let numbers = Numbers {
        bytes_per_element: bytes as f64 / planned.elements.max(1) as f64,
        launches: Some(planned.launches),
        ns: times.first().copied(),
        host_ns: Some(super::median(host)),
        beyond_cache: Some(count >= wanted),
        ..Numbers::default()
    };
    Ok((numbers, times.get(1).copied()))
}

/// The standard iteration by full products: what cuBLAS has for it. No norm, no momentum, no update.
fn plain_products(
    shape: Shape,
    half: bool,
    cublas: &Cublas,
    context: &Context,
    stream: &Stream,
) -> Result<(Replay, [DeviceBuffer; 5]), String> {
    let said = |e: Error| e.to_string();
    let (rows, columns, batch) = (shape.rows, shape.columns, shape.batch);
    let short = rows.min(columns);
    let (long, square) = (2 * batch * rows * columns, 2 * batch * short * short);
    let new = |bytes: usize| DeviceBuffer::new(context, bytes).map_err(said);
    let buffers = [new(long)?, new(long)?, new(long)?, new(square)?, new(square)?];
    let [start, x, next, r, z] = &buffers;
    let stored = if half { Dtype::F16 } else { Dtype::Bf16 };
    // Of norm 1, about, or the iteration would leave its bounds, and a card is faster with infinities.
    fill(start, stored, 1.0 / ((rows * columns) as f64).sqrt(), 11, stream).map_err(said)?;
    let of = |gemm: Gemm, alpha: f64, beta: f64| Gemm {
        alpha: alpha as f32,
        beta: beta as f32,
        half,
        batch,
        ..gemm
    };
    let iterate = |stream: &Stream| -> Result<(), String> {
        let copy =
            |to: &DeviceBuffer, from: &DeviceBuffer| to.copy(stream, 0, from, 0, from.bytes()).map_err(said);
        copy(x, start)?;
        let (mut x, mut next) = (x, next);
        for [a, b, c] in NewtonSchulz::default().schedule() {
            cublas.multiply(
                of(shapes::gram(rows, columns), 1.0, 0.0),
                x.address(),
                x.address(),
                r.address(),
            )?;
            copy(z, r)?;
            cublas.multiply(
                of(shapes::square(rows, columns), c, b),
                r.address(),
                r.address(),
                z.address(),
            )?;
            copy(next, x)?;
            let (left, right) = if rows <= columns { (x, z) } else { (z, x) };
            let gemm = of(shapes::long(rows, columns), 1.0, a);
            cublas.multiply(gemm, left.address(), right.address(), next.address())?;
            (x, next) = (next, x);
        }
        Ok(())
    };
    // Kernels are loaded at their first use, which a capture would refuse.
    cublas.set_stream(stream)?;
    iterate(stream)?;
    stream.synchronize().map_err(said)?;
    let replay = Replay::capture(context, |stream| {
        cublas.set_stream(stream).and_then(|()| iterate(stream)).map_err(Error::Step)
    });
    Ok((replay.map_err(said)?, buffers))
}

/// Distance of a Gaussian matrix's direction from the polynomial's in f64, and its largest singular value.
fn accuracy(
    shape: Shape,
    method: NsMethod,
    dtype: NsDtype,
    context: &Context,
) -> orthant::Result<(f64, f64)> {
    let (rows, columns) = (shape.rows, shape.columns);
    let values: Vec<f32> = Noise(9).gaussian(rows * columns).iter().map(|v| *v as f32).collect();
    let found = direction(&values, (rows, columns), method, dtype, Some(context))?;
    let wanted = direction(&values, (rows, columns), NsMethod::Standard, NsDtype::F64, None)?;
    let squares: f64 = wanted.iter().map(|v| v * v).sum();
    let off: f64 = found.iter().zip(&wanted).map(|(a, b)| (a - b).powi(2)).sum();
    let largest = singular_values(&found, rows, columns).first().copied().unwrap_or_default();
    Ok(((off / squares).sqrt(), largest))
}

/// Minus what a step of size 1 does to a matrix of zeros.
fn direction(
    values: &[f32],
    (rows, columns): (usize, usize),
    method: NsMethod,
    dtype: NsDtype,
    context: Option<&Context>,
) -> orthant::Result<Vec<f64>> {
    let algorithm = Algorithm::lmo(Estimator::None, Norm::Spectral)
        .constraint(Constraint::None)
        .scale(Scale::None)
        .ns_method(method)
        .ns_dtype(dtype);
    let shape = [rows, columns];
    let builder = match context {
        Some(context) => Optimizer::builder(context.device()).context(context.clone()),
        None => Optimizer::builder(Device::Cpu).precision(Precision::F64),
    };
    let (data, grad) = match context {
        Some(_) => (HostTensor::zeros(Dtype::F32, &shape)?, HostTensor::from_vec(values.to_vec(), &shape)?),
        None => {
            let wide: Vec<f64> = values.iter().map(|v| f64::from(*v)).collect();
            (HostTensor::zeros(Dtype::F64, &shape)?, HostTensor::from_vec(wide, &shape)?)
        }
    };
    let group = Group::new("all", algorithm).lr(1.0).params(["*"]);
    let mut optimizer = builder.group(group).register([Parameter::new("x", data.clone()).grad(grad)])?;
    optimizer.step()?;
    Ok(data.to_vec_f64().into_iter().map(|v| -v).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_executed_is_what_is_planned() {
        let _turn = crate::cli::bench::turn();
        let context = Context::open("emulated".parse().expect("a device")).expect("the software GPU");
        for (batch, rows, columns) in [(1, 40, 136), (2, 72, 24), (1, 33, 33)] {
            for variant in VARIANTS {
                let shape = Shape { batch, rows, columns };
                let muon = Algorithm::muon().ns_method(variant.0).ns_dtype(variant.1);
                let tensors = [("x".to_owned(), vec![batch, rows, columns])];
                let group = Group::new("all", muon).lr(0.02).params(["*"]);
                let planned = Planned::new(vec![group], &tensors).expect("legal");
                let row = row(shape, variant, &context, &None).expect("a row");
                let (numbers, tensor) = row.numbers.expect("counted");
                assert_eq!(tensor.tensor_flops, planned.flops.1, "{shape} {variant:?}");
                assert_eq!((tensor.ideal_flops, tensor.planned), (planned.flops.0, false));
                assert_eq!(numbers.launches, Some(planned.launches), "{shape} {variant:?}");
                let (error, sigma) = (tensor.error.expect("small"), tensor.sigma_max.expect("small"));
                // Small singular values of the square one are what bf16 is worst at.
                let most = if variant.1 == NsDtype::F16 { 3e-2 } else { 0.2 };
                assert!(
                    error > 0.0 && error < most && (0.7..1.6).contains(&sigma),
                    "{shape} {variant:?}: {error} {sigma}"
                );
            }
        }
    }

    /// On the software GPU for the code alone: what comes out are no times.
    #[test]
    fn steps_can_be_timed_beside_a_graph() {
        let _turn = crate::cli::bench::turn();
        let context = Context::open("emulated".parse().expect("a device")).expect("the software GPU");
        context.make_current().expect("current");
        let stream = Stream::new(&context).expect("a stream");
        let tensors = [("x".to_owned(), vec![9, 17])];
        let group = || vec![Group::new("all", Algorithm::muon()).lr(0.02).params(["*"])];
        let planned = Planned::new(group(), &tensors).expect("legal");
        let new = || Model::new(group(), &tensors, &context, &stream);
        let memory = DeviceBuffer::new(&context, 1024).expect("memory");
        let copy = |stream: &Stream| memory.copy(stream, 0, &memory, 512, 512);
        memory.write(&stream, 0, &[0; 1024]).expect("written");
        let beside = Replay::capture(&context, copy).expect("a graph");
        let (numbers, ns) = timed(&new, &planned, &context, &stream, Some(&beside)).expect("steps");
        assert!(numbers.ns > Some(0.0) && numbers.host_ns > Some(0.0) && ns > Some(0.0));
        assert_eq!(numbers.launches, Some(planned.launches));
    }
}
