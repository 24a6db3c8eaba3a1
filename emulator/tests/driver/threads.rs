//! Many threads at once, each with work of its own.

use crate::harness::*;
use crate::tools::*;
use cudarc::driver::sys::{self, CUcontext, CUfunction};

const N: usize = 300;

fn work(context: usize, add: usize, mut random: Random) {
    let add = add as CUfunction;
    ok(unsafe { sys::cuCtxSetCurrent(context as CUcontext) });
    let (s, e) = (stream(), event());
    for _ in 0..15 {
        let (mut x, mut pinned) = (0, std::ptr::null_mut());
        ok(unsafe { sys::cuMemAllocAsync(&mut x, 4 * N, s) });
        ok(unsafe { sys::cuMemAllocHost_v2(&mut pinned, 4 * N) });
        let start = random.below(1000) as u32;
        ok(unsafe { sys::cuMemsetD32Async(x, start, N, s) });
        let rounds = random.range(1, 4) as u32;
        for _ in 0..rounds {
            ok(launch(add, 2, 160, s, &[&x, &(N as u32), &3u32]));
        }
        ok(unsafe { sys::cuMemcpyDtoHAsync_v2(pinned, x, 4 * N, s) });
        ok(unsafe { sys::cuEventRecord(e, s) });
        ok(unsafe { sys::cuMemFreeAsync(x, s) });
        match random.below(3) {
            0 => ok(unsafe { sys::cuStreamSynchronize(s) }),
            1 => ok(unsafe { sys::cuEventSynchronize(e) }),
            _ => ok(unsafe { sys::cuCtxSynchronize() }),
        }
        let found = unsafe { std::slice::from_raw_parts(pinned.cast::<u32>(), N) };
        assert!(found.iter().all(|&value| value == start + 3 * rounds));
        ok(unsafe { sys::cuMemFreeHost(pinned) });
    }
    ok(unsafe { sys::cuStreamDestroy_v2(s) });
    ok(unsafe { sys::cuEventDestroy_v2(e) });
}

#[test]
fn threads_do_not_disturb_each_other() {
    for seed in ["0", "9"] {
        let session = session(&[("SEED", seed)]);
        let mut context = std::ptr::null_mut();
        ok(unsafe { sys::cuCtxGetCurrent(&mut context) });
        let module = module(KERNELS);
        let (context, add) = (context as usize, function(module, "add") as usize);
        let threads = (0..6).map(|n| std::thread::spawn(move || work(context, add, Random(n))));
        threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        ok(unsafe { sys::cuModuleUnload(module) });
        let report = session.report();
        assert_eq!((&report["memory_used"], session.faults().len()), (&0.into(), 0));
        for kind in ["allocations", "pinned", "streams", "events"] {
            assert_eq!(report["living"][kind], 0, "{kind}");
        }
    }
}
