//! rustacuda, which links `libcuda.so` when it is built: a kernel of the PTX file that is given, on a stream.

#[macro_use]
extern crate rustacuda;

use rustacuda::memory::DeviceBuffer;
use rustacuda::prelude::*;
use std::error::Error;
use std::ffi::CString;

fn main() -> Result<(), Box<dyn Error>> {
    rustacuda::init(CudaFlags::empty())?;
    let device = Device::get_device(0)?;
    let _context = Context::create_and_push(ContextFlags::MAP_HOST | ContextFlags::SCHED_AUTO, device)?;
    let ptx = std::fs::read_to_string(std::env::args().nth(1).ok_or("no PTX file")?)?;
    let module = Module::load_from_string(&CString::new(ptx)?)?;
    let stream = Stream::new(StreamFlags::NON_BLOCKING, None)?;
    let angles: Vec<f32> = (0..1000).map(|i| i as f32 / 100.0).collect();
    let mut x = DeviceBuffer::from_slice(&angles)?;
    let mut out = DeviceBuffer::from_slice(&[0.0f32; 1000])?;
    // SAFETY: the arguments are those that the kernel takes, and the buffers live until the stream is synchronised.
    unsafe {
        launch!(module.sin_kernel<<<8, 128, 0, stream>>>(out.as_device_ptr(), x.as_device_ptr(), 1000i32))?;
    }
    stream.synchronize()?;
    let mut found = [0.0f32; 1000];
    out.copy_to(&mut found)?;
    for (angle, sine) in angles.iter().zip(found) {
        assert!((angle.sin() - sine).abs() < 1e-6, "sin {angle} is not {sine}");
    }
    println!("ok");
    Ok(())
}
