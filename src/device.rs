//! Where steps run.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A device that steps can run on. Only the CPU reference is built so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The CPU reference.
    Cpu,
}

impl Device {
    /// CUDA if usable, else the CPU. Until kernels are built, the CPU.
    ///
    /// # Errors
    /// None yet; a driver that is present but broken will be one.
    pub fn auto() -> Result<Self> {
        Ok(Self::Cpu)
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`; `cuda`, `cuda:N`, `emulated`, `emulated:sm_80`, `emulated:sm_90a` are reserved.
    fn from_str(text: &str) -> Result<Self> {
        let not_built =
            |what: &str| Err(Error::not_built(format!("device `{text}`: {what}"), "; use `cpu` or `auto`"));
        match text.split_once(':') {
            None if text == "auto" => Self::auto(),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => not_built("the CUDA backend"),
            Some(("cuda", ordinal)) if ordinal.parse::<u32>().is_ok() => not_built("the CUDA backend"),
            None if text == "emulated" => not_built("the software GPU"),
            Some(("emulated", "sm_80" | "sm_90a")) => not_built("the software GPU"),
            _ => Err(Error::Device {
                device: text.to_owned(),
                reason: "it must be auto, cpu, cuda, cuda:N, emulated, emulated:sm_80 or emulated:sm_90a"
                    .into(),
            }),
        }
    }
}
