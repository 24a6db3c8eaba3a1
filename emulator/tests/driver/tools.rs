//! More of what the tests share: functions that cudarc's bindings lack, child processes, random numbers.

use cudarc::driver::sys;
use std::ffi::CString;
use std::process::{Command, Output};

/// An exported function, by name; `T` is its type. A session must have loaded the library.
pub fn symbol<T: Copy>(name: &str) -> T {
    let text = CString::new(name).unwrap();
    *unsafe { sys::culib().get::<T>(text.as_bytes_with_nul()) }.unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The address of an exported function, as `dlsym` gives it.
pub fn address(name: &str) -> usize {
    symbol::<usize>(name)
}

const CHILD: &str = "DRIVER_TEST_CHILD";

/// Whether this process was started by [`child`].
pub fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs one test of this program in a process of its own, with these variables.
pub fn child(test: &str, variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(CHILD, "1").envs(variables.iter().copied());
    command.output().unwrap()
}

/// What a child wrote to stderr; it must have passed.
#[track_caller]
pub fn passed(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(stdout.contains("1 passed"), "{stdout}");
    stderr
}

/// Splitmix64: the same numbers every time.
pub struct Random(pub u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `n`, which is not 0.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// From `low` to `high`, both included.
    pub fn range(&mut self, low: usize, high: usize) -> usize {
        low + self.below(high - low + 1)
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| self.next() as u8).collect()
    }
}
