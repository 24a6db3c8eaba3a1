//! What copies bring along and when they read it: bytes that were never written, memory that is pinned in part.

use crate::copies::flat;
use crate::harness::*;
use cudarc::driver::sys::{self, CUmemorytype, cudaError_enum::*};
use std::ptr::null_mut;

/// `first(u32 *from, u32 *to)`: to[0] = from[0].
const FIRST: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry first(.param .u64 from, .param .u64 to)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<3>;
    ld.param.u64 %rd1, [from];
    ld.param.u64 %rd2, [to];
    ld.global.u32 %r1, [%rd1];
    st.global.u32 [%rd2], %r1;
    ret;
}
";

/// What was never written stays so through copies from card to card, and is found when a kernel reads it.
#[test]
fn copies_of_nothing_written_are_nothing_written() {
    for target in [0, 1] {
        for (read, sound) in [(0, true), (8, true), (4, false), (3000, false), (12, false)] {
            let session = session(&[("DEVICES", "2")]);
            let x = alloc(4096);
            // Bytes 0 to 3 and 8 to 11.
            put(x, &[5u32]);
            put(x + 8, &[6u32]);
            let mut context = null_mut();
            ok(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, target) });
            ok(unsafe { sys::cuCtxSetCurrent(context) });
            let (y, z) = (alloc(4096), alloc(4));
            // It held something before: that is gone.
            ok(unsafe { sys::cuMemsetD8_v2(y, 1, 4096) });
            let shape = rows(x, y);
            match read {
                12 => ok(unsafe { sys::cuMemcpy2D_v2(&shape) }),
                _ => ok(unsafe { sys::cuMemcpyDtoD_v2(y, x, 4096) }),
            }
            let first = function(module(FIRST), "first");
            ok(launch(first, 1, 1, null_mut(), &[&(y + read), &z]));
            let done = unsafe { sys::cuCtxSynchronize() };
            if sound {
                ok(done);
                assert_eq!(get::<u32>(z, 1), [if read == 0 { 5 } else { 6 }]);
            } else {
                fails(done, CUDA_ERROR_LAUNCH_FAILED);
                assert!(session.faults()[0].contains("Uninitialised"), "{:?}", session.faults());
            }
        }
    }
}

/// Rows of 16 bytes, 32 apart.
fn rows(from: u64, to: u64) -> sys::CUDA_MEMCPY2D {
    let mut copy = flat();
    (copy.srcMemoryType, copy.srcDevice, copy.srcPitch) = (CUmemorytype::CU_MEMORYTYPE_DEVICE, from, 32);
    (copy.dstMemoryType, copy.dstDevice, copy.dstPitch) = (CUmemorytype::CU_MEMORYTYPE_DEVICE, to, 32);
    (copy.WidthInBytes, copy.Height) = (16, 128);
    copy
}

/// A copy from memory of which only the beginning is pinned must not read the rest after it has returned.
#[test]
fn memory_that_is_pinned_in_part_is_taken_as_pageable() {
    for seed in ["0", "1", "2", "3", "4", "5", "6", "7"] {
        let _session = session(&[("SEED", seed), ("IDLE_MS", "10000")]);
        let (x, stream, mut own) = (alloc(2000), stream(), vec![1u8; 2000]);
        let at = own.as_mut_ptr();
        ok(unsafe { sys::cuMemHostRegister_v2(at.cast(), 1000, 0) });
        ok(unsafe { sys::cuMemcpyHtoDAsync_v2(x, at.cast(), 2000, stream) });
        unsafe { std::slice::from_raw_parts_mut(at, 2000) }.fill(2);
        ok(unsafe { sys::cuStreamSynchronize(stream) });
        assert_eq!(get::<u8>(x, 2000), [1; 2000]);
        // And what goes there is there when the call returns.
        ok(unsafe { sys::cuMemsetD8Async(x, 3, 2000, stream) });
        ok(unsafe { sys::cuMemcpyDtoHAsync_v2(at.cast(), x, 2000, stream) });
        assert_eq!(unsafe { std::slice::from_raw_parts(at, 2000) }, [3; 2000]);
        ok(unsafe { sys::cuMemHostUnregister(at.cast()) });
        own.clear();
    }
}
