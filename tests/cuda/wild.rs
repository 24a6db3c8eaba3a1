//! A kernel that writes where nothing is: somebody else's bug.
#![allow(unsafe_code, reason = "the driver's own functions")]

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys;
use orthant::cuda::{Context, Stream};

const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry wild()\n{\n.reg .b64 %a;\n.reg .b32 %v;\n\
                   mov.u64 %a, 64;\nmov.u32 %v, 1;\nst.global.u32 [%a], %v;\nret;\n}\n\0";

/// Launches it in the stream.
pub fn store(context: &Context, stream: &Stream) {
    let _ = context;
    let (mut module, mut function) = (null_mut(), null_mut());
    // SAFETY: plain calls with places for their results; the primary context is made current first.
    unsafe {
        let mut of = null_mut();
        assert_eq!(sys::cuStreamGetCtx(stream.as_raw().cast(), &mut of) as u32, 0);
        assert_eq!(sys::cuCtxSetCurrent(of) as u32, 0);
        assert_eq!(sys::cuModuleLoadData(&mut module, PTX.as_ptr().cast::<c_void>()) as u32, 0);
        assert_eq!(sys::cuModuleGetFunction(&mut function, module, c"wild".as_ptr()) as u32, 0);
        let stream = stream.as_raw().cast();
        let launched = sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, stream, null_mut(), null_mut());
        assert_eq!(launched as u32, 0);
    }
}
