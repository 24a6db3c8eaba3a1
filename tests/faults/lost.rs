//! A card that is lost on the way, a caller whose own work has gone wrong, and memory that does not keep what it was given.

use std::ffi::CString;
use std::time::{Duration, Instant};

use cudarc::driver::sys;
use orthant::algorithm::Slot;
use orthant::cuda::Context;
use orthant::{Device, Dtype, Error};

use crate::runs::{check_lost, make_current, session};
use crate::world::{DEVICE, Place, Stop, World};

const LION: &str =
    "[[group]]\nname = \"all\"\nparams = [\"*\"]\nalgorithm = \"lion\"\nlr = 0.01\nbetas = [0.9, 0.99]";

/// An optimizer of tensors on the card, that has stepped once.
fn stepped() -> World {
    let mut world = World::new(Some(Context::open(DEVICE).unwrap_or_else(|e| panic!("{e}"))));
    let done = world
        .add_stream()
        .and_then(|()| world.add_card_set(Dtype::F32, Dtype::F32, &[&[4, 8]]))
        .and_then(|()| world.register(LION))
        .and_then(|()| world.step_on(0, 0))
        .and_then(|()| world.with(0, |o| o.save(crate::world::file())));
    done.unwrap_or_else(|e| panic!("{e:?}"));
    world
}

#[track_caller]
fn lost(stop: Result<(), Stop>) -> Error {
    match stop {
        Err(Stop::Optimizer(0, error @ Error::DeviceLost { .. })) => error,
        found => panic!("{found:?}"),
    }
}

#[test]
fn a_card_that_is_lost_between_steps_is_told_at_once_and_for_ever() {
    let session = session();
    for code in [214, 700, 719, 999] {
        session.restart();
        let mut world = stepped();
        session.emulator.lose_device(0, code).unwrap_or_else(|e| panic!("{e}"));
        let begun = Instant::now();
        let first = lost(world.step_on(0, 0));
        assert!(first.to_string().contains(&format!("({code})")), "{first}");
        check_lost(&mut world, 0, &first, "a lost card");
        drop(world);
        assert!(begun.elapsed() < Duration::from_secs(5));
        session.restart();
        drop(stepped());
        assert_eq!(session.living().as_object().map(|kinds| kinds.values().all(|n| *n == 0)), Some(true));
    }
}

/// `bad(u64 x)` writes far behind x.
const BAD: &str = "
.version 8.0
.target sm_80
.address_size 64
.visible .entry bad(.param .u64 x)
{
    .reg .b32 %r<2>;
    .reg .b64 %rd<2>;
    ld.param.u64 %rd1, [x];
    mov.u32 %r1, 1;
    st.global.u32 [%rd1+1073741824], %r1;
    ret;
}
";

#[test]
fn a_callers_kernel_that_went_wrong_is_no_error_of_the_step_that_meets_it() {
    let session = session();
    for synchronised in [false, true] {
        session.restart();
        let mut world = stepped();
        let stream = world.stream(0);
        let Place::Card { data, .. } = &world.sets[0].place else { panic!("on the card") };
        let mut address = data[0].address();
        let text = CString::new(BAD).expect("no NUL");
        let (mut module, mut function) = (std::ptr::null_mut(), std::ptr::null_mut());
        let (raw, nothing) = (stream.as_raw().cast(), std::ptr::null_mut());
        let mut words = [(&raw mut address).cast()];
        make_current();
        // SAFETY: handles are live ones, and the kernel takes one word.
        let results = unsafe {
            [
                sys::cuModuleLoadData(&mut module, text.as_ptr().cast()),
                sys::cuModuleGetFunction(&mut function, module, c"bad".as_ptr()),
                sys::cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, raw, words.as_mut_ptr(), nothing),
                sys::cuCtxSetCurrent(std::ptr::null_mut()),
            ]
        };
        assert!(results.iter().all(|&result| result as u32 == 0), "{results:?}");
        let first = match synchronised {
            true => lost(world.with(0, |o| o.synchronize())),
            false => lost(world.step_on(0, 0)),
        };
        let text = first.to_string();
        for words in
            ["emulated:sm_80", "(700)", "may stem from earlier work", "checkpoints on disk are intact"]
        {
            assert!(text.contains(words), "{text}");
        }
        check_lost(&mut world, 0, &first, "a caller's kernel");
    }
}

#[test]
fn a_bit_that_flips_in_the_state_is_seen_by_nobody_but_the_reference() {
    let session = session();
    let mut world = stepped();
    let mut reference = World::new(None);
    reference.add_host_set(Dtype::F32, Dtype::F32, &[&[4, 8]]);
    let seen = |world: &World| world.observe_one(0).unwrap_or_else(|e| panic!("{e}"));
    let bytes = world.with(0, |o| Ok(o.device_bytes()[0])).unwrap_or_else(|e| panic!("{e:?}"));
    let report = session.report();
    let blocks = report["leaks"].as_array().expect("a list").iter();
    let state = blocks.filter(|b| b["ended"] == false && b["bytes"] == bytes as u64).collect::<Vec<_>>();
    assert_eq!(state.len(), 1, "{report}");
    let address = state[0]["address"].as_u64().expect("a number");
    let before = seen(&world);
    let momentum = |world: &World| -> Vec<f64> {
        let optimizer = world.optimizers[0].as_ref().expect("registered");
        optimizer.state("p0", Slot::Momentum).unwrap_or_else(|e| panic!("{e}")).expect("lion has one")
    };
    let was = momentum(&world);
    // Step counts take the first 256 bytes; then the sign of the fourth element's momentum.
    session.emulator.flip_bit(address + 256 + 4 * 3 + 3, 7).unwrap_or_else(|e| panic!("{e}"));
    let is = momentum(&world);
    assert_eq!(is[3], -was[3]);
    assert_ne!(seen(&world), before);
    // The step goes well, as it would have on a card.
    let stepped =
        world.step_on(0, 0).and_then(|()| world.status(0)).and_then(|()| world.with(0, |o| o.synchronize()));
    stepped.unwrap_or_else(|e| panic!("{e:?}"));
    assert!(session.report()["faults"].as_array().is_some_and(Vec::is_empty));
    // The same two steps on the CPU.
    let config = orthant::config::Config::parse(LION).unwrap_or_else(|e| panic!("{e}"));
    let optimizer = orthant::Optimizer::builder(Device::Cpu).groups(config.groups).options(config.options);
    let mut optimizer = optimizer.register(reference.sets[0].parameters()).unwrap_or_else(|e| panic!("{e}"));
    for _ in 0..2 {
        optimizer.step().unwrap_or_else(|e| panic!("{e}"));
    }
    let expected =
        optimizer.state("p0", Slot::Momentum).unwrap_or_else(|e| panic!("{e}")).expect("lion has one");
    let found = momentum(&world);
    let differ: Vec<usize> =
        (0..expected.len()).filter(|&i| expected[i].to_bits() != found[i].to_bits()).collect();
    assert_eq!(differ, [3]);
}
