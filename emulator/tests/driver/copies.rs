//! Copies and memsets against a plain model: every function, every direction, any shape.

use crate::harness::*;
use crate::tools::*;
use cudarc::driver::sys::{self, CUcontext, CUmemorytype, CUresult, CUstream, cudaError_enum::*};
use std::ptr::null_mut;

/// Bytes of each buffer; a copy goes from one half to the other, so that it never overlaps itself.
const SIZE: usize = 1 << 14;
const HALF: usize = SIZE / 2;

const HOST: CUmemorytype = CUmemorytype::CU_MEMORYTYPE_HOST;
const DEVICE: CUmemorytype = CUmemorytype::CU_MEMORYTYPE_DEVICE;
const UNIFIED: CUmemorytype = CUmemorytype::CU_MEMORYTYPE_UNIFIED;

/// All zero but for the types of memory, which cannot be.
pub fn flat() -> sys::CUDA_MEMCPY2D {
    let mut copy = std::mem::MaybeUninit::<sys::CUDA_MEMCPY2D>::zeroed();
    unsafe {
        (*copy.as_mut_ptr()).srcMemoryType = HOST;
        (*copy.as_mut_ptr()).dstMemoryType = HOST;
        copy.assume_init()
    }
}

fn solid() -> sys::CUDA_MEMCPY3D {
    let mut copy = std::mem::MaybeUninit::<sys::CUDA_MEMCPY3D>::zeroed();
    unsafe {
        (*copy.as_mut_ptr()).srcMemoryType = HOST;
        (*copy.as_mut_ptr()).dstMemoryType = HOST;
        copy.assume_init()
    }
}

/// Pageable and pinned memory, memory of the first and of the second card; and what should be in them.
struct World {
    _session: Session,
    pageable: Vec<u8>,
    addresses: [u64; 4],
    contexts: [CUcontext; 2],
    stream: CUstream,
    model: [Vec<u8>; 4],
}

fn world(seed: &str, random: &mut Random) -> World {
    let session = session(&[("SEED", seed), ("DEVICES", "2"), ("IDLE_MS", "10000")]);
    let (mut pinned, mut contexts) = (null_mut(), [null_mut(); 2]);
    ok(unsafe { sys::cuMemAllocHost_v2(&mut pinned, SIZE) });
    let mut addresses = [0, pinned as u64, 0, 0];
    for device in [1, 0] {
        ok(unsafe { sys::cuDevicePrimaryCtxRetain(&mut contexts[device], device as i32) });
        ok(unsafe { sys::cuCtxSetCurrent(contexts[device]) });
        addresses[2 + device] = alloc(SIZE);
    }
    let model = [(); 4].map(|()| random.bytes(SIZE));
    let mut pageable = model[0].clone();
    addresses[0] = pageable.as_mut_ptr() as u64;
    unsafe { std::slice::from_raw_parts_mut(pinned.cast::<u8>(), SIZE) }.copy_from_slice(&model[1]);
    for place in [2, 3] {
        put(addresses[place], &model[place]);
    }
    World { _session: session, pageable, addresses, contexts, stream: stream(), model }
}

impl World {
    #[track_caller]
    fn check(&self, what: &str) {
        let pinned = unsafe { std::slice::from_raw_parts(self.addresses[1] as *const u8, SIZE) };
        let found = [
            self.pageable.clone(),
            pinned.to_vec(),
            get(self.addresses[2], SIZE),
            get(self.addresses[3], SIZE),
        ];
        for (place, (found, model)) in found.iter().zip(&self.model).enumerate() {
            let wrong = found.iter().zip(model).position(|(a, b)| a != b);
            assert_eq!(wrong, None, "{what}: place {place}");
        }
    }

    fn wait(&self) {
        ok(unsafe { sys::cuStreamSynchronize(self.stream) });
    }
}

/// One end of a copy: place, first byte, offsets, pitch, rows of a slice.
#[derive(Debug, Clone, Copy)]
struct Corner {
    place: usize,
    base: usize,
    at: [usize; 3],
    pitch: usize,
    height: usize,
}

impl Corner {
    fn random(
        random: &mut Random,
        half: usize,
        [width, height, depth]: [usize; 3],
        dimensions: usize,
    ) -> Corner {
        let at = [16, 3, 2].map(|most| random.range(0, most));
        let at = [at[0], if dimensions > 1 { at[1] } else { 0 }, if dimensions > 2 { at[2] } else { 0 }];
        let tight = random.below(3) == 0;
        let pitch = at[0] + width + if tight { 0 } else { random.below(16) };
        let rows = if dimensions > 2 { at[1] + height + if tight { 0 } else { random.below(3) } } else { 0 };
        let mut corner = Corner { place: random.below(4), base: 0, at, pitch, height: rows };
        let used = corner.index([width.max(1) - 1, height.max(1) - 1, depth.max(1) - 1]) + 1;
        corner.base = half * HALF + random.range(0, HALF - used);
        corner
    }

    fn index(&self, [x, y, z]: [usize; 3]) -> usize {
        let [x0, y0, z0] = self.at;
        self.base + ((z0 + z) * self.height + y0 + y) * self.pitch + x0 + x
    }

    fn kind(&self, random: &mut Random) -> CUmemorytype {
        match random.below(3) {
            0 => UNIFIED,
            _ if self.place < 2 => HOST,
            _ => DEVICE,
        }
    }
}

fn two_d(
    world: &World,
    to: &Corner,
    from: &Corner,
    size: [usize; 3],
    random: &mut Random,
) -> sys::CUDA_MEMCPY2D {
    let mut copy = flat();
    let address = |c: &Corner| world.addresses[c.place] + c.base as u64;
    (copy.srcMemoryType, copy.dstMemoryType) = (from.kind(random), to.kind(random));
    (copy.srcXInBytes, copy.srcY, copy.srcPitch) = (from.at[0], from.at[1], from.pitch);
    (copy.dstXInBytes, copy.dstY, copy.dstPitch) = (to.at[0], to.at[1], to.pitch);
    // Only the address that the type says is looked at.
    match copy.srcMemoryType {
        HOST => copy.srcHost = address(from) as _,
        _ => copy.srcDevice = address(from),
    }
    match copy.dstMemoryType {
        HOST => copy.dstHost = address(to) as _,
        _ => copy.dstDevice = address(to),
    }
    (copy.WidthInBytes, copy.Height) = (size[0], size[1]);
    copy
}

fn three_d(
    world: &World,
    to: &Corner,
    from: &Corner,
    size: [usize; 3],
    random: &mut Random,
) -> sys::CUDA_MEMCPY3D {
    let flat = two_d(world, to, from, size, random);
    let mut copy = solid();
    (copy.srcMemoryType, copy.srcHost, copy.srcDevice) = (flat.srcMemoryType, flat.srcHost, flat.srcDevice);
    (copy.dstMemoryType, copy.dstHost, copy.dstDevice) = (flat.dstMemoryType, flat.dstHost, flat.dstDevice);
    (copy.srcXInBytes, copy.srcY, copy.srcZ) = from.at.into();
    (copy.dstXInBytes, copy.dstY, copy.dstZ) = to.at.into();
    (copy.srcPitch, copy.srcHeight, copy.dstPitch, copy.dstHeight) =
        (from.pitch, from.height, to.pitch, to.height);
    (copy.WidthInBytes, copy.Height, copy.Depth) = size.into();
    copy
}

fn one_d(
    world: &World,
    to: &Corner,
    from: &Corner,
    bytes: usize,
    later: bool,
    random: &mut Random,
) -> CUresult {
    let address = |c: &Corner| world.addresses[c.place] + c.index([0; 3]) as u64;
    let (target, source, stream) = (address(to), address(from), world.stream);
    let any = random.below(3) == 0;
    unsafe {
        match (from.place < 2, to.place < 2, later) {
            (_, _, true) if any => sys::cuMemcpyAsync(target, source, bytes, stream),
            (_, _, false) if any => sys::cuMemcpy(target, source, bytes),
            (true, true, true) => sys::cuMemcpyAsync(target, source, bytes, stream),
            (true, true, false) => sys::cuMemcpy(target, source, bytes),
            (true, false, true) => sys::cuMemcpyHtoDAsync_v2(target, source as _, bytes, stream),
            (true, false, false) => sys::cuMemcpyHtoD_v2(target, source as _, bytes),
            (false, true, true) => sys::cuMemcpyDtoHAsync_v2(target as _, source, bytes, stream),
            (false, true, false) => sys::cuMemcpyDtoH_v2(target as _, source, bytes),
            (false, false, _) if random.below(2) == 0 => {
                let [a, b] = [to, from].map(|c| world.contexts[c.place - 2]);
                if later {
                    sys::cuMemcpyPeerAsync(target, a, source, b, bytes, stream)
                } else {
                    sys::cuMemcpyPeer(target, a, source, b, bytes)
                }
            }
            (false, false, true) => sys::cuMemcpyDtoDAsync_v2(target, source, bytes, stream),
            (false, false, false) => sys::cuMemcpyDtoD_v2(target, source, bytes),
        }
    }
}

#[test]
fn copies_of_any_shape_in_every_direction() {
    for seed in 0..4 {
        let mut random = Random(1000 + seed);
        let mut world = world(&seed.to_string(), &mut random);
        for case in 0..120 {
            let dimensions = random.range(1, 3);
            let most = [64, 8, 4];
            // Now and then nothing is copied.
            let size: [usize; 3] = std::array::from_fn(|axis| match axis {
                _ if axis >= dimensions => 1,
                _ if random.below(12) == 0 => 0,
                _ => random.range(1, most[axis]),
            });
            let half = random.below(2);
            let from = Corner::random(&mut random, half, size, dimensions);
            let to = Corner::random(&mut random, 1 - half, size, dimensions);
            let later = random.below(2) == 0;
            let bytes = size.iter().product();
            let result = match dimensions {
                1 => one_d(&world, &to, &from, bytes, later, &mut random),
                2 => {
                    let copy = two_d(&world, &to, &from, size, &mut random);
                    match (later, random.below(2)) {
                        (true, _) => unsafe { sys::cuMemcpy2DAsync_v2(&copy, world.stream) },
                        (false, 0) => unsafe { sys::cuMemcpy2D_v2(&copy) },
                        (false, _) => unsafe { sys::cuMemcpy2DUnaligned_v2(&copy) },
                    }
                }
                _ => {
                    let copy = three_d(&world, &to, &from, size, &mut random);
                    match later {
                        true => unsafe { sys::cuMemcpy3DAsync_v2(&copy, world.stream) },
                        false => unsafe { sys::cuMemcpy3D_v2(&copy) },
                    }
                }
            };
            let what = format!("seed {seed} case {case}: {size:?} from {from:?} to {to:?} later {later}");
            assert_eq!(result, CUDA_SUCCESS, "{what}");
            for z in 0..size[2] {
                for y in 0..size[1] {
                    for x in 0..size[0] {
                        let byte = world.model[from.place][from.index([x, y, z])];
                        world.model[to.place][to.index([x, y, z])] = byte;
                    }
                }
            }
            if later {
                world.wait();
            }
            world.check(&what);
        }
        assert_eq!(world._session.faults(), [""; 0]);
    }
}

#[test]
fn memsets_of_any_shape() {
    for seed in 0..3 {
        let mut random = Random(2000 + seed);
        let mut world = world(&seed.to_string(), &mut random);
        let stream = world.stream;
        for case in 0..100 {
            let element = 1 << random.below(3);
            let flat = random.below(2) == 0;
            let [width, rows] = [48, if flat { 1 } else { 9 }]
                .map(|most| if random.below(12) == 0 { 0 } else { random.range(1, most) });
            let pitch = (width + random.below(5)) * element;
            let base = random.below((SIZE - 4 * 53 * 9) / element) * element;
            let value = (random.below(1 << 30) as u32).wrapping_mul(5);
            let (to, later) = (world.addresses[2] + base as u64, random.below(2) == 0);
            let result = unsafe {
                match (flat, element, later) {
                    (true, 1, false) => sys::cuMemsetD8_v2(to, value as u8, width * rows),
                    (true, 2, false) => sys::cuMemsetD16_v2(to, value as u16, width * rows),
                    (true, _, false) => sys::cuMemsetD32_v2(to, value, width * rows),
                    (true, 1, true) => sys::cuMemsetD8Async(to, value as u8, width * rows, stream),
                    (true, 2, true) => sys::cuMemsetD16Async(to, value as u16, width * rows, stream),
                    (true, _, true) => sys::cuMemsetD32Async(to, value, width * rows, stream),
                    (false, 1, false) => sys::cuMemsetD2D8_v2(to, pitch, value as u8, width, rows),
                    (false, 2, false) => sys::cuMemsetD2D16_v2(to, pitch, value as u16, width, rows),
                    (false, _, false) => sys::cuMemsetD2D32_v2(to, pitch, value, width, rows),
                    (false, 1, true) => sys::cuMemsetD2D8Async(to, pitch, value as u8, width, rows, stream),
                    (false, 2, true) => sys::cuMemsetD2D16Async(to, pitch, value as u16, width, rows, stream),
                    (false, _, true) => sys::cuMemsetD2D32Async(to, pitch, value, width, rows, stream),
                }
            };
            let what =
                format!("seed {seed} case {case}: {width}x{rows} of {element}, pitch {pitch}, at {base}");
            assert_eq!(result, CUDA_SUCCESS, "{what}");
            for row in 0..rows {
                for x in 0..width * element {
                    world.model[2][base + row * pitch + x] = value.to_le_bytes()[x % element];
                }
            }
            if later {
                world.wait();
            }
            world.check(&what);
        }
    }
}

#[test]
fn ranges_that_do_not_exist_are_refused_and_nothing_changes() {
    let mut random = Random(3);
    let world = world("0", &mut random);
    let [host, _, x, y] = world.addresses;
    let (h, s, end) = (host as *mut std::ffi::c_void, world.stream, x + SIZE as u64);
    let calls = unsafe {
        [
            sys::cuMemcpyHtoD_v2(x, h, SIZE + 1),
            sys::cuMemcpyHtoD_v2(end, h, 1),
            sys::cuMemcpyHtoD_v2(x - 1, h, 1),
            sys::cuMemcpyHtoD_v2(0, h, 1),
            sys::cuMemcpyHtoD_v2(x, null_mut(), 1),
            sys::cuMemcpyHtoD_v2(x, h, usize::MAX),
            sys::cuMemcpyDtoH_v2(h, end - 10, 11),
            sys::cuMemcpyDtoH_v2(null_mut(), x, 1),
            sys::cuMemcpyDtoH_v2(h, u64::MAX, 2),
            sys::cuMemcpyDtoD_v2(x, y, SIZE + 1),
            sys::cuMemcpyDtoD_v2(x + 1, y, SIZE),
            sys::cuMemcpyDtoD_v2(host, y, 16),
            sys::cuMemcpy(x, y + 1, SIZE),
            sys::cuMemcpyHtoDAsync_v2(x, h, SIZE + 1, s),
            sys::cuMemcpyDtoHAsync_v2(h, end, 1, s),
            sys::cuMemcpyDtoDAsync_v2(end, x, 1, s),
            sys::cuMemcpyAsync(host, end, 1, s),
            sys::cuMemcpyPeerAsync(x, world.contexts[0], y, world.contexts[1], SIZE + 1, s),
            sys::cuMemsetD8_v2(x, 1, SIZE + 1),
            sys::cuMemsetD32_v2(x, 1, usize::MAX / 2),
            sys::cuMemsetD16_v2(x + 1, 1, 4),
            sys::cuMemsetD32_v2(x + 2, 1, 4),
            sys::cuMemsetD2D8_v2(x, 7, 1, 8, 2),
            sys::cuMemsetD2D8_v2(x, SIZE, 1, 8, 2),
            sys::cuMemsetD2D32_v2(x, 10, 1, 2, 2),
            sys::cuMemsetD2D8_v2(x, usize::MAX / 2, 1, 8, 4),
            sys::cuMemsetD2D32_v2(x, usize::MAX, 1, usize::MAX, 2),
            sys::cuMemsetD8Async(end, 1, 1, s),
            sys::cuMemsetD2D16Async(x, 64, 1, 32, SIZE / 64 + 1, s),
            sys::cuMemsetD8_v2(host, 1, 1),
        ]
    };
    assert_eq!(calls, [CUDA_ERROR_INVALID_VALUE; 30]);
    // Several dimensions: what is beside or behind the memory, pitches that are too small, sizes that overflow.
    let corner = |place| Corner { place, base: 0, at: [0; 3], pitch: 128, height: 8 };
    let flat = |change: &dyn Fn(&mut sys::CUDA_MEMCPY2D)| {
        let mut copy = two_d(&world, &corner(2), &corner(0), [64, 8, 1], &mut Random(1));
        change(&mut copy);
        unsafe { [sys::cuMemcpy2D_v2(&copy), sys::cuMemcpy2DAsync_v2(&copy, s)] }
    };
    let solid = |change: &dyn Fn(&mut sys::CUDA_MEMCPY3D)| {
        let mut copy = three_d(&world, &corner(2), &corner(0), [64, 8, 2], &mut Random(1));
        change(&mut copy);
        unsafe { [sys::cuMemcpy3D_v2(&copy), sys::cuMemcpy3DAsync_v2(&copy, s)] }
    };
    let results = [
        flat(&|c| c.Height = SIZE / 128 + 1),
        flat(&|c| c.dstY = SIZE),
        flat(&|c| c.dstPitch = 63),
        flat(&|c| (c.dstXInBytes, c.dstPitch) = (65, 128)),
        flat(&|c| c.srcPitch = 63),
        flat(&|c| c.dstPitch = usize::MAX),
        flat(&|c| (c.dstY, c.dstPitch) = (usize::MAX, 1 << 20)),
        flat(&|c| c.dstXInBytes = usize::MAX),
        flat(&|c| c.WidthInBytes = usize::MAX),
        // CU_DEVICE_ATTRIBUTE_MAX_PITCH
        flat(&|c| (c.Height, c.dstPitch) = (1, 1 << 31)),
        solid(&|c| c.Depth = 17),
        solid(&|c| c.dstZ = usize::MAX),
        solid(&|c| c.dstHeight = usize::MAX),
        solid(&|c| c.srcPitch = 10),
        // cuda.h: the height "may be 0 if Depth==1".
        solid(&|c| c.dstHeight = 0),
        solid(&|c| c.srcHeight = 0),
        // Slices would overlap.
        solid(&|c| c.dstHeight = 7),
        solid(&|c| (c.srcY, c.srcHeight) = (2, 9)),
        solid(&|c| c.srcLOD = 1),
    ];
    assert_eq!(results, [[CUDA_ERROR_INVALID_VALUE; 2]; 19]);
    let arrays = CUmemorytype::CU_MEMORYTYPE_ARRAY;
    assert_eq!(flat(&|c| c.srcMemoryType = arrays), [CUDA_ERROR_NOT_SUPPORTED; 2]);
    fails(unsafe { sys::cuMemcpy2D_v2(std::ptr::null()) }, CUDA_ERROR_INVALID_VALUE);
    assert_eq!(solid(&|c| (c.Depth, c.srcHeight, c.dstHeight) = (0, 0, 0)), [CUDA_SUCCESS; 2]);
    world.wait();
    world.check("nothing was copied");
    assert_eq!(world._session.faults(), [""; 0]);
}

#[test]
fn nothing_is_copied_from_anywhere() {
    let mut random = Random(4);
    let world = world("0", &mut random);
    let [host, _, x, y] = world.addresses;
    for (to, from) in [(x, y), (x, 0), (0, x), (0, 0)] {
        ok(unsafe { sys::cuMemcpyDtoD_v2(to, from, 0) });
        ok(unsafe { sys::cuMemcpyHtoD_v2(to, null_mut(), 0) });
        ok(unsafe { sys::cuMemcpyDtoH_v2(host as _, from, 0) });
        ok(unsafe { sys::cuMemcpyAsync(to, from, 0, world.stream) });
        ok(unsafe { sys::cuMemsetD8_v2(to, 1, 0) });
        ok(unsafe { sys::cuMemsetD2D8_v2(to, 16, 1, 0, 4) });
        ok(unsafe { sys::cuMemsetD2D8_v2(to, 16, 1, 4, 0) });
    }
    fails(unsafe { sys::cuMemcpyDtoDAsync_v2(x, y, 0, 0xdead0 as _) }, CUDA_ERROR_INVALID_HANDLE);
    world.check("nothing");
}

#[test]
fn copies_of_contexts_and_of_memory_that_overlaps() {
    let mut random = Random(5);
    let world = world("0", &mut random);
    let [x, y] = [world.addresses[2], world.addresses[3]];
    let [a, b] = world.contexts;
    let wrong = 0xdead0 as CUcontext;
    for (to, from) in [(wrong, b), (a, wrong), (null_mut(), b)] {
        fails(unsafe { sys::cuMemcpyPeer(x, to, y, from, 16) }, CUDA_ERROR_INVALID_CONTEXT);
        fails(
            unsafe { sys::cuMemcpyPeerAsync(x, to, y, from, 16, world.stream) },
            CUDA_ERROR_INVALID_CONTEXT,
        );
    }
    world.check("nothing");
    // The manual leaves open what overlapping copies do; they end.
    _ = unsafe { sys::cuMemcpyDtoD_v2(x + 4, x, 1000) };
    ok(unsafe { sys::cuCtxSynchronize() });
}
