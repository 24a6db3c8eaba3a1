//! Micro-batches on the card are added up as on the CPU.

use std::sync::Arc;

use orthant::config::Config;
use orthant::cuda::{Context, DeviceBuffer, Stream};
use orthant::{Device, DeviceTensor, Dtype, Optimizer, Parameter, Storage, Tensor};

use crate::device;
use crate::noise::Noise;
use crate::parity::config;

/// Device memory with a tensor `skew` bytes behind its start.
fn put(stream: &Stream, storage: &Storage, skew: usize) -> (DeviceBuffer, DeviceTensor) {
    let bytes = storage.as_le_bytes();
    let buffer = DeviceBuffer::new(stream.context(), bytes.len() + skew + 1).expect("memory");
    buffer.write(stream, skew, bytes).expect("a copy");
    // SAFETY: the buffer outlives the optimizer in the test below.
    #[allow(unsafe_code)]
    let tensor =
        unsafe { DeviceTensor::new(buffer.address() + skew as u64, storage.dtype(), &[storage.len()]) };
    (buffer, tensor.expect("a tensor"))
}

#[test]
fn three_micro_batches_give_the_bits_of_the_cpu() {
    let context = Context::open(device()).expect("a card");
    let stream = Arc::new(Stream::new(&context).expect("a stream"));
    let config = Config::parse(&config("algorithm = \"lion\"\nlr = 0.01", "")).expect("legal");
    for (sum, addend) in [(Dtype::F32, Dtype::Bf16), (Dtype::F32, Dtype::F32), (Dtype::Bf16, Dtype::F16)] {
        let mut noise = Noise(5);
        let lengths = [0, 1, 7, 255, 256, 300, 16_384, 20_001];
        let (mut host, mut card, mut buffers) = (vec![], vec![], vec![]);
        let mut micros = vec![];
        for (i, &n) in lengths.iter().enumerate() {
            let (data, grad, micro) =
                (noise.storage(Dtype::F32, n), noise.storage(sum, n), noise.storage(addend, n));
            let tensor = |s: &Storage| Tensor::from_storage(s.clone(), &[n]).expect("it fits");
            let (g, m) = (tensor(&grad), tensor(&micro));
            micros.push((g.clone(), m.clone()));
            host.push(Parameter::new(format!("p{i}"), tensor(&data)).grad(g).micro_grad(m));
            let skew = [0, 4, 0, 8, 16, 4, 0, 4][i];
            let (a, data) = put(&stream, &data, skew);
            let (b, grad) = put(&stream, &grad, skew);
            let (c, micro) = put(&stream, &micro, skew / 2 * usize::from(addend != Dtype::F32));
            card.push(Parameter::new(format!("p{i}"), data).grad(grad.clone()).micro_grad(micro.clone()));
            buffers.push((a, b, c, grad, micro));
        }
        let builder =
            |device| Optimizer::builder(device).groups(config.groups.clone()).options(config.options);
        let mut reference = builder(Device::Cpu).register(host).expect("legal");
        let mut optimizer = builder(device()).stream(Arc::clone(&stream)).register(card).expect("legal");
        for micro_batch in 0..3 {
            for ((_, m), (_, _, buffer, _, tensor)) in micros.iter().zip(&buffers) {
                let values = noise.storage(addend, m.numel());
                m.assign(&values).expect("it fits");
                let at = (tensor.address() - buffer.address()) as usize;
                buffer
                    .write(&stream, at * usize::from(buffer.address() > 0), values.as_le_bytes())
                    .expect("a copy");
            }
            reference.accumulate(0.3, micro_batch == 0).expect("legal");
            optimizer.accumulate(0.3, micro_batch == 0).expect("legal");
        }
        for (i, ((g, _), (_, buffer, _, tensor, _))) in micros.iter().zip(&buffers).enumerate() {
            let expected = g.to_storage();
            let mut bytes = vec![0; expected.as_le_bytes().len()];
            buffer.read(&stream, (tensor.address() - buffer.address()) as usize, &mut bytes).expect("a copy");
            assert!(expected.as_le_bytes() == bytes, "{sum} {addend}: p{i} of {} elements", lengths[i]);
        }
        assert_eq!(reference.step().expect("finite").micro_batches, 3);
        assert_eq!(optimizer.step().expect("given").micro_batches, 3);
        assert!(optimizer.accumulate(f64::NAN, true).is_err());
        optimizer.synchronize().expect("done");
    }
}
