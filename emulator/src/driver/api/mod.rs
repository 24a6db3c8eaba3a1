//! The exported functions, a family a file. What each does is NVIDIA's to say: the driver API's manual.

#![allow(non_snake_case)]

/// Exports functions. `fn NAME(ARGUMENTS) NEEDS |call| { BODY }`: the body has the driver's state and answers.
macro_rules! api {
    ($(fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $needs:ident |$call:ident| $body:block)*) => {
        $(
            // SAFETY: the name is the driver API's own: whoever links this library wants its functions to be these.
            #[allow(unsafe_code)]
            #[unsafe(no_mangle)]
            pub extern "C" fn $name($($arg: $ty),*) -> u32 {
                crate::driver::entry(stringify!($name), crate::driver::Needs::$needs, |$call| {
                    #[allow(unused_must_use, reason = "an empty body is an answer too")]
                    $body
                })
            }
        )*

        /// Names and addresses of this file's functions.
        pub(super) fn table() -> Vec<(&'static str, usize)> {
            vec![$((stringify!($name), $name as *const () as usize)),*]
        }
    };
}

mod context;
mod control;
mod copy;
mod device;
mod event;
mod function;
mod graph;
mod init;
mod launch;
mod memory;
mod module;
mod object;
mod occupancy;
mod pool;
mod stream;
mod unsupported;

use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Every exported function of the driver API: its address, and whether it is built.
pub(super) static EXPORTS: LazyLock<BTreeMap<&'static str, (usize, bool)>> = LazyLock::new(|| {
    let built = [
        context::table(),
        copy::table(),
        device::table(),
        event::table(),
        function::table(),
        graph::table(),
        init::table(),
        launch::table(),
        memory::table(),
        module::table(),
        object::table(),
        occupancy::table(),
        pool::table(),
        stream::table(),
    ];
    let built = built.into_iter().flatten().map(|(name, address)| (name, (address, true)));
    let others = unsupported::table().into_iter().map(|(name, address)| (name, (address, false)));
    others.chain(built).collect()
});
