//! Single products of Newton-Schulz iterations: `X X^T`, `b G + c G G`, `Q X`.

use orthant::Error;
use orthant::algorithm::NsDtype;
use orthant::cuda::{self, Context, ProductBatch, Stream};
use orthant::schedule::{Kind, Place, Product};

use super::card::{CACHE, Counts};
use super::cublas::{Cublas, Gemm, shapes};
use super::model::fill;
use super::replay::{Replay, by_turns};
use super::work::{Tensor, Work, WorkRow};
use super::{Numbers, Shape};
use crate::cli::noise::Noise;

/// Multiplications in f64 that are worth their time.
const CHECKED: usize = 1 << 25;
/// Copies of the operands that take turns where one is too small to leave the cache.
const MOST_SETS: usize = if cfg!(test) { 2 } else { 16 };
/// Products in a graph.
const LAUNCHES: usize = 20;

fn product(kernel: &str) -> Product {
    let plain = |kind, a, b, result| Product {
        phase: 0,
        kind,
        a,
        b,
        alpha: 1.0,
        added: [None, None],
        gamma: 0.0,
        result: Some(result),
        guard: None,
    };
    match kernel {
        "gram" => plain(Kind::Gram, Place::Input, Place::Input, Place::Square(0)),
        "square" => Product {
            alpha: 2.0315,
            added: [Some((-4.775, Place::Square(0))), None],
            ..plain(Kind::Square, Place::Square(0), Place::Square(0), Place::Square(1))
        },
        _ => plain(Kind::Long, Place::Square(0), Place::Input, Place::Long(0)),
    }
}

pub fn row(
    kernel: &'static str,
    shape: Shape,
    dtype: NsDtype,
    context: &Context,
    cublas: &Option<Result<Cublas, String>>,
) -> orthant::Result<WorkRow> {
    let of = product(kernel);
    let (rows, columns, batch) = (shape.rows, shape.columns, shape.batch);
    let extents = of.extents(rows, columns);
    let short = rows.min(columns);
    let elements = if kernel == "square" { short * short } else { rows * columns } * batch;
    let name = if dtype == NsDtype::F16 { "f16" } else { "bf16" };
    let work = Work {
        kernel,
        shape: shape.to_string(),
        method: "product",
        dtype: name,
        elements,
        tensors: batch,
        types: ["none"; 3],
    };
    let mut tensor = Tensor {
        ideal_flops: batch as u64 * extents.ideal_flops(),
        tensor_flops: batch as u64 * extents.executed_flops(),
        ..Tensor::default()
    };
    context.make_current()?;
    let stream = Stream::new(context)?;
    let ours = ProductBatch::new(&stream, &of, dtype, (rows, columns), batch)?;
    if extents.m * extents.n * extents.k <= CHECKED {
        tensor.error = Some(error(&ours, &of, shape, &stream)?);
    }
    let numbers = if cuda::counters().is_some() {
        counted(&ours, elements, &mut tensor, &stream)?
    } else {
        // Every operand once, every result once.
        let results = extents.m * extents.n + if kernel == "long" { short * short } else { 0 };
        let bytes_per_element = 2.0 * (elements + results * batch) as f64 / elements as f64;
        let new = || ProductBatch::new(&stream, &of, dtype, (rows, columns), batch);
        let numbers = timed(kernel, ours, &new, shape, dtype, (context, &stream), cublas, &mut tensor)?;
        Numbers { bytes_per_element, ..numbers }
    };
    Ok(WorkRow { work, numbers: Ok((numbers, tensor)) })
}

fn counted(
    ours: &ProductBatch,
    elements: usize,
    tensor: &mut Tensor,
    stream: &Stream,
) -> orthant::Result<Numbers> {
    let before = Counts::now();
    ours.launch(stream)?;
    stream.synchronize()?;
    let counts = Counts::now().since(&before);
    tensor.tensor_flops = counts.tensor_flops;
    tensor.bank_conflicts = Some(counts.bank_conflicts);
    Ok(counts.numbers(elements))
}

/// Graphs of products, cuBLAS's by turns with ours.
#[expect(clippy::too_many_arguments, reason = "a row in two halves")]
fn timed(
    kernel: &str,
    ours: ProductBatch,
    new: &dyn Fn() -> orthant::Result<ProductBatch>,
    shape: Shape,
    dtype: NsDtype,
    (context, stream): (&Context, &Stream),
    cublas: &Option<Result<Cublas, String>>,
    tensor: &mut Tensor,
) -> orthant::Result<Numbers> {
    let wanted = (3 * CACHE).div_ceil(ours.memory().bytes().max(1) as u64) as usize;
    let mut sets = vec![ours];
    while sets.len() < wanted.min(MOST_SETS) {
        sets.push(new()?);
    }
    let stored = if dtype == NsDtype::F16 { orthant::Dtype::F16 } else { orthant::Dtype::Bf16 };
    sets.iter().zip(1..).try_for_each(|(set, seed)| fill(set.memory(), stored, 1.0, seed, stream))?;
    let count = sets.len();
    let replay =
        Replay::capture(context, |stream| (0..LAUNCHES).try_for_each(|i| sets[i % count].launch(stream)))?;
    // The same memory is as good as any for cuBLAS: nothing there matters but that it is random.
    let theirs = cublas.as_ref().map(|cublas| {
        let cublas = cublas.as_ref().map_err(Clone::clone)?;
        let pointers: Vec<[u64; 3]> = sets.iter().map(|set| operands(kernel, set, shape)).collect();
        let gemm = Gemm { half: dtype == NsDtype::F16, batch: shape.batch, ..gemm(kernel, shape) };
        let give = |i: usize| -> Result<(), String> {
            let [a, b, c] = pointers[i % count];
            cublas.multiply(gemm, a, b, c)
        };
        // Kernels are loaded at their first use, which a capture would refuse.
        cublas.set_stream(stream)?;
        give(0)?;
        let said = |e: Error| e.to_string();
        stream.synchronize().map_err(said)?;
        let captured = Replay::capture(context, |stream| {
            let all = cublas.set_stream(stream).and_then(|()| (0..LAUNCHES).try_for_each(give));
            all.map_err(Error::Step)
        });
        Ok((captured.map_err(said)?, cublas.version.clone()))
    });
    let mut works: Vec<super::replay::Work<'_>> = vec![Box::new(|_| replay.launch(stream))];
    if let Some(Ok((theirs, _))) = &theirs {
        works.push(Box::new(|_| theirs.launch(stream)));
    }
    let times = by_turns(context, stream, &mut works)?;
    drop(works);
    let each = |i: usize| times.get(i).map(|ns| ns / LAUNCHES as f64);
    tensor.cublas = theirs.map(|theirs| theirs.map(|(_, version)| (each(1).unwrap_or(f64::NAN), version)));
    Ok(Numbers { launches: Some(1), ns: each(0), beyond_cache: Some(count >= wanted), ..Numbers::default() })
}

fn gemm(kernel: &str, shape: Shape) -> Gemm {
    match kernel {
        "gram" => shapes::gram(shape.rows, shape.columns),
        // What is added is what the result held before: half of it, so that it stays bounded.
        "square" => Gemm { alpha: 1e-3, beta: 0.5, ..shapes::square(shape.rows, shape.columns) },
        _ => shapes::long(shape.rows, shape.columns),
    }
}

/// Dense operands and a result in the memory of a batch, which is padded and so has room for them.
fn operands(kernel: &str, set: &ProductBatch, shape: Shape) -> [u64; 3] {
    let short = shape.rows.min(shape.columns);
    let (long, square) = (2 * shape.batch * shape.rows * shape.columns, 2 * shape.batch * short * short);
    let begin = set.memory().address();
    let after = |bytes: usize| begin + bytes.next_multiple_of(256).min(set.memory().bytes()) as u64;
    match kernel {
        "gram" => [begin, begin, after(long)],
        "square" => [begin, begin, after(square)],
        // X, Q, result; of a tall X, whose operands stand in the other order, Q, X.
        _ if shape.rows <= shape.columns => [begin, after(long), after(long + square)],
        _ => [after(long), begin, after(long + square)],
    }
}

/// The distance of the first matrix's result from the product in f64 of what was multiplied, in Frobenius's norm.
fn error(batch: &ProductBatch, product: &Product, shape: Shape, stream: &Stream) -> orthant::Result<f64> {
    let (rows, columns) = (shape.rows, shape.columns);
    let short = rows.min(columns);
    let mut noise = Noise(7);
    let mut give = |place: Place| -> orthant::Result<Vec<f64>> {
        let square = matches!(place, Place::Square(_));
        let (r, c) = if square { (short, short) } else { (rows, columns) };
        let mut values = noise.gaussian(r * c);
        if square {
            for (i, j) in (0..r).flat_map(|i| (0..i).map(move |j| (i, j))) {
                values[i * r + j] = values[j * r + i];
            }
        }
        let scale = 1.0 / (r.max(c) as f64).sqrt();
        let values: Vec<f32> = values.iter().map(|v| (v * scale) as f32).collect();
        batch.write(stream, 0, place, &values)?;
        Ok(batch.read(stream, 0, place)?.into_iter().map(f64::from).collect())
    };
    let a = give(product.a)?;
    let b = if product.b == product.a { a.clone() } else { give(product.b)? };
    batch.launch(stream)?;
    let Some(result) = product.result else { return Ok(f64::NAN) };
    let found = batch.read(stream, 0, result)?;
    let e = batch.extents();
    let tall = rows > columns;
    // Which element of the left and right operand stands at (i, t) and (t, j).
    let (left, right, k) = match product.kind {
        Kind::Gram => (&a, &b, e.k),
        Kind::Square => (&a, &b, short),
        Kind::Long if tall => (&b, &a, short),
        Kind::Long => (&a, &b, short),
    };
    let at_left = |i: usize, t: usize| match product.kind {
        Kind::Gram if tall => left[t * columns + i],
        Kind::Gram => left[i * columns + t],
        _ => left[i * short + t],
    };
    let at_right = |t: usize, j: usize| match product.kind {
        Kind::Gram if tall => right[t * columns + j],
        Kind::Gram => right[j * columns + t],
        Kind::Square => right[t * short + j],
        Kind::Long => right[t * e.n + j],
    };
    let (mut off, mut all) = (0.0, 0.0);
    for (i, j) in (0..e.m).flat_map(|i| (0..e.n).map(move |j| (i, j))) {
        let sum: f64 = (0..k).map(|t| at_left(i, t) * at_right(t, j)).sum();
        let added = product.added[0].map_or(0.0, |(factor, _)| factor * a[i * short + j]);
        let wanted = product.alpha * sum + added;
        off += (f64::from(found[i * e.n + j]) - wanted).powi(2);
        all += wanted * wanted;
    }
    Ok((off / all).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::parts::PRODUCTS;

    /// Every form of a product, odd shapes and batches among them.
    #[test]
    fn products_are_those_of_f64_and_execute_what_is_planned() {
        let _turn = crate::cli::bench::turn();
        let context = Context::open("emulated".parse().expect("a device")).expect("the software GPU");
        for (rows, columns, batch) in
            [(64, 200, 1), (200, 64, 2), (129, 129, 1), (5, 9, 3), (9, 5, 1), (1, 1, 1)]
        {
            for (kernel, dtype, most) in PRODUCTS
                .iter()
                .flat_map(|kernel| [(kernel, NsDtype::F16, 6e-4), (kernel, NsDtype::Bf16, 5e-3)])
            {
                let shape = Shape { batch, rows, columns };
                let of = product(kernel).extents(rows, columns);
                let row = row(kernel, shape, dtype, &context, &None).expect("a row");
                let (numbers, tensor) = row.numbers.expect("counted");
                assert_eq!(tensor.tensor_flops, batch as u64 * of.executed_flops(), "{kernel} {shape}");
                assert_eq!(numbers.launches, Some(1));
                assert_eq!(tensor.bank_conflicts, Some(0), "{kernel} {shape}");
                let error = tensor.error.expect("small");
                assert!(error > 0.0 && error < most, "{kernel} {shape} {dtype:?}: {error}");
            }
        }
    }

    /// On the software GPU for the code alone: what comes out are no times.
    #[test]
    fn products_can_be_timed() {
        let _turn = crate::cli::bench::turn();
        let context = Context::open("emulated".parse().expect("a device")).expect("the software GPU");
        context.make_current().expect("current");
        let stream = Stream::new(&context).expect("a stream");
        let shape = Shape { batch: 1, rows: 8, columns: 24 };
        for kernel in PRODUCTS {
            let new = || ProductBatch::new(&stream, &product(kernel), NsDtype::F16, (8, 24), 1);
            let (mut tensor, none) = (Tensor::default(), Some(Err("cuBLAS: not found".to_owned())));
            let ours = new().expect("memory");
            let found =
                timed(kernel, ours, &new, shape, NsDtype::F16, (&context, &stream), &none, &mut tensor);
            assert!(found.expect("timed").ns > Some(0.0));
            assert_eq!(tensor.cublas, Some(Err("cuBLAS: not found".into())));
        }
    }

    #[test]
    fn cublas_has_room_for_its_operands() {
        let _turn = crate::cli::bench::turn();
        let context = Context::open("emulated".parse().expect("a device")).expect("the software GPU");
        let stream = Stream::new(&context).expect("a stream");
        for (rows, columns, batch) in [(64, 200, 1), (200, 64, 3), (129, 129, 2), (64, 64, 5)] {
            let shape = Shape { batch, rows, columns };
            for kernel in PRODUCTS {
                let set = ProductBatch::new(&stream, &product(kernel), NsDtype::F16, (rows, columns), batch)
                    .expect("memory");
                let [a, b, c] = operands(kernel, &set, shape);
                let g = gemm(kernel, shape);
                let end = set.memory().address() + set.memory().bytes() as u64;
                for (at, elements) in [(a, g.m * g.k), (b, g.k * g.n), (c, g.m * g.n)] {
                    assert!(at + 2 * (batch * elements) as u64 <= end, "{kernel} {shape}");
                }
            }
        }
    }
}
