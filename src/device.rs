//! Where steps run.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Result};

/// A device that steps can run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Device {
    /// The CPU reference.
    Cpu,
    /// A CUDA card, by its ordinal.
    Cuda(u32),
    /// The software GPU, which executes the kernels' PTX and checks it; never a measure of speed.
    Emulated(EmulatedCard),
}

/// A card that the software GPU plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum EmulatedCard {
    /// An A100's like.
    #[default]
    Sm80,
    /// An H100's or H200's like.
    Sm90a,
}

impl Device {
    /// The CPU, until all algorithms run on cards: what is registered without naming a device must not depend on the
    /// machine. Cards are asked for by name.
    ///
    /// # Errors
    /// None yet; a driver that is present but broken will be one.
    pub fn auto() -> Result<Self> {
        Ok(Self::Cpu)
    }
}

impl fmt::Display for EmulatedCard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sm80 => "sm_80",
            Self::Sm90a => "sm_90a",
        })
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Emulated(card) => write!(f, "emulated:{card}"),
        }
    }
}

impl FromStr for Device {
    type Err = Error;

    /// `auto`, `cpu`, `cuda`, `cuda:N`, `emulated`, `emulated:sm_80` or `emulated:sm_90a`. Whether a driver is there is
    /// not looked at.
    fn from_str(text: &str) -> Result<Self> {
        let emulated = |card| Ok(Self::Emulated(card));
        match text.split_once(':') {
            None if text == "auto" => Self::auto(),
            None if text == "cpu" => Ok(Self::Cpu),
            None if text == "cuda" => Ok(Self::Cuda(0)),
            Some(("cuda", ordinal)) if ordinal.bytes().all(|b| b.is_ascii_digit()) && !ordinal.is_empty() => {
                let ordinal = ordinal.parse().map_err(|_| Error::Device {
                    device: text.to_owned(),
                    reason: "there is no card of this number".into(),
                })?;
                Ok(Self::Cuda(ordinal))
            }
            None if text == "emulated" => emulated(EmulatedCard::Sm80),
            Some(("emulated", "sm_80")) => emulated(EmulatedCard::Sm80),
            Some(("emulated", "sm_90a")) => emulated(EmulatedCard::Sm90a),
            _ => Err(Error::Device {
                device: text.to_owned(),
                reason: "it must be auto, cpu, cuda, cuda:N, emulated, emulated:sm_80 or emulated:sm_90a"
                    .into(),
            }),
        }
    }
}
