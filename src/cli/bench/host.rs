//! Rows on the CPU: its steps beside a copy of as many bytes by as many threads.

use std::hint::black_box;
use std::time::Instant;

use orthant::{Device, Dtype, Optimizer, Parameter, Storage, Tensor};
use rayon::prelude::*;

use super::subjects::Subject;
use super::{Numbers, median};
use crate::cli::noise::Noise;

const SAMPLES: usize = 7;

pub fn measure(subject: &Subject, lengths: &[usize]) -> orthant::Result<Numbers> {
    let tensors = |dtype: Dtype, seed: u64, spoilt: bool| -> orthant::Result<Vec<Tensor>> {
        let mut noise = Noise(seed);
        let one = |(i, n): (usize, &usize)| {
            let mut storage = noise.storage(dtype, *n);
            if let (Storage::Bf16(v), true, 0) = (&mut storage, spoilt, i) {
                v.iter_mut().take(1).for_each(|x| *x = half::bf16::INFINITY);
            }
            Tensor::from_storage(storage, &[*n])
        };
        lengths.iter().enumerate().map(one).collect()
    };
    let (data, grads) = (tensors(subject.param, 1, false)?, tensors(subject.grad, 2, subject.is_refused())?);
    let needs_previous = subject.group().algorithm().needs_previous_gradient();
    let previous = if needs_previous { Some(tensors(subject.grad, 3, false)?) } else { None };
    let micro = subject.micro.map(|dtype| tensors(dtype, 4, false)).transpose()?;
    let parameters = data.into_iter().enumerate().map(|(i, data)| {
        let mut parameter = Parameter::new(format!("p{i}"), data).grad(grads[i].clone());
        if let Some(previous) = &previous {
            parameter = parameter.prev_grad(previous[i].clone());
        }
        if let Some(micro) = &micro {
            parameter = parameter.micro_grad(micro[i].clone());
        }
        parameter
    });
    let builder = Optimizer::builder(Device::Cpu).group(subject.group()).options(subject.options());
    let mut optimizer = builder.register(parameters)?;
    let bytes = subject.bytes(lengths)?;
    let half = bytes.div_ceil(2) as usize;
    let (source, mut target) = (vec![1u8; half], vec![2u8; half]);
    let (mut own, mut copy) = (vec![], vec![]);
    for turn in 0..=SAMPLES {
        let began = Instant::now();
        match subject.micro {
            Some(_) => optimizer.accumulate(0.25, false)?,
            None => drop(optimizer.step()?),
        }
        own.push(began.elapsed().as_nanos() as f64);
        let began = Instant::now();
        let chunk = 1 << 20;
        let pairs = target.par_chunks_mut(chunk).zip(source.par_chunks(chunk));
        pairs.for_each(|(to, from)| to.copy_from_slice(from));
        black_box(&mut target);
        copy.push(began.elapsed().as_nanos() as f64);
        if turn == 0 {
            // Memory is touched for the first time.
            (own, copy) = (vec![], vec![]);
        }
    }
    Ok(Numbers {
        bytes_per_element: bytes as f64 / lengths.iter().sum::<usize>().max(1) as f64,
        ns: Some(median(own)),
        copy_ns: Some(median(copy)),
        ..Numbers::default()
    })
}
