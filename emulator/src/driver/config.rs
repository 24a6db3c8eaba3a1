//! Settings: what card to play, and how. One form for the environment, the C function and the Rust API: names and values.

use super::fault::{Flip, Plan};
use crate::exec::{Card, Landing};
use crate::gpu::Options;
use crate::memory::Checks;
use std::path::PathBuf;

/// What the environment's names begin with.
pub const PREFIX: &str = "ORTHANT_EMULATOR_";
/// The newest driver that is played: CUDA 13.5. Newer PTX is refused as a driver refuses it.
pub const NEWEST: u32 = 13_050;

/// All settings.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub card: Card,
    /// Bytes of device memory, if they were set by themselves: whatever the card has.
    pub memory: Option<u64>,
    pub devices: usize,
    pub options: Options,
    /// CUDA version of the driver, as `cuDriverGetVersion` gives it.
    pub driver: u32,
    /// Symbols that `cuGetProcAddress` does not know.
    pub missing: Vec<String>,
    pub plan: Plan,
    pub flips: Vec<Flip>,
    /// Milliseconds without any call after which waiting work goes on by itself.
    pub idle: u64,
    /// Where the report goes at exit.
    pub report: Option<PathBuf>,
    pub quiet: bool,
    /// Whether every call is printed.
    pub trace: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            card: Card::sm_80(),
            memory: None,
            devices: 1,
            options: Options::default(),
            driver: NEWEST,
            missing: Vec::new(),
            plan: Plan::default(),
            flips: Vec::new(),
            idle: 250,
            report: None,
            quiet: false,
            trace: false,
        }
    }
}

/// Names and what their values mean. The guide has them as a table; a test compares.
pub const NAMES: &[(&str, &str)] = &[
    ("CARD", "sm_80 (default) or sm_90a, then changes: `sm_90a,sms=8,l2=1M,shared=100K,registers=32K`"),
    ("DEVICES", "how many such cards, 1 to 4; CUDA_VISIBLE_DEVICES counts too"),
    ("MEMORY", "bytes of device memory of each, with K, M or G"),
    ("SEED", "0 (default): work runs at once; else it runs late and in any legal order, chosen by the seed"),
    ("LANDING", "when the data of cp.async arrives: early, late, or random (default): when the seed says"),
    ("CHECKS", "all (default), none, or a list of uninitialised, races; bounds are always checked"),
    ("THREADS", "host threads that run blocks; 0 (default): one for each core"),
    ("WARP_LIMIT", "instructions that a warp may execute before it is taken for endless"),
    ("DRIVER", "version of the driver that is played, such as 12.4; the default is the newest"),
    ("MISSING", "list of symbols that cuGetProcAddress does not know"),
    ("FAULTS", "list of NAME#N=CODE: the N-th call of NAME (`*`: any) fails with CODE, a number or a name"),
    ("FLIPS", "list of ALLOCATION+BYTE.BIT@CALL: before the CALL-th call that bit of device memory flips"),
    ("IDLE_MS", "with a seed: milliseconds without a call after which work runs by itself (250)"),
    ("REPORT", "file that the report is written to, as JSON, when the process ends"),
    ("QUIET", "1: reports are not printed to stderr"),
    ("TRACE", "1: every call is printed to stderr"),
];

impl Settings {
    /// What the environment says.
    pub fn of_environment() -> Result<Settings, String> {
        let mut settings = Settings::default();
        for (name, _) in NAMES {
            let name = format!("{PREFIX}{name}");
            if let Some(value) = std::env::var_os(&name) {
                let value = value.to_str().ok_or_else(|| format!("{name} is not UTF-8"))?;
                settings.set(&name, value)?;
            }
        }
        settings.limit_devices(std::env::var("CUDA_VISIBLE_DEVICES").ok().as_deref());
        Ok(settings)
    }

    /// The driver's rule: ordinals up to the first that does not exist.
    fn limit_devices(&mut self, visible: Option<&str>) {
        if let Some(visible) = visible {
            let exists = |text: &&str| text.trim().parse::<usize>().is_ok_and(|n| n < self.devices);
            self.devices = visible.split(',').take_while(exists).count();
        }
    }

    /// Changes one setting. Names may have the prefix, and be in small letters.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
        let key = name.to_ascii_uppercase();
        let key = key.strip_prefix(PREFIX).unwrap_or(&key);
        let wrong = |what: &str| format!("{PREFIX}{key}=`{value}`: {what}");
        let list = || value.split(',').map(str::trim).filter(|part| !part.is_empty());
        match key {
            "CARD" => {
                let mut parts = list();
                self.card = match parts.next() {
                    Some("sm_80") => Card::sm_80(),
                    Some("sm_90a" | "sm_90") => Card::sm_90a(),
                    _ => return Err(wrong("it begins with sm_80 or sm_90a")),
                };
                self.card.memory_bytes = self.memory.unwrap_or(self.card.memory_bytes);
                for part in parts {
                    let Some((field, Some(amount))) = part.split_once('=').map(|(f, v)| (f, bytes(v))) else {
                        return Err(wrong("changes are FIELD=NUMBER"));
                    };
                    let small = u32::try_from(amount).unwrap_or(u32::MAX);
                    let card = &mut self.card;
                    match field {
                        "sms" if (1..=1024).contains(&small) => card.sms = small,
                        "shared" => {
                            // What a block may have; the multiprocessor has what the system takes beside it.
                            card.shared_per_block_optin = small.min(227 << 10);
                            card.shared_per_block = card.shared_per_block.min(small);
                            card.shared_per_sm = card.shared_per_block_optin + card.shared_reserved;
                        }
                        "registers" => card.registers_per_sm = small,
                        "l2" => card.l2_bytes = amount,
                        "memory" => card.memory_bytes = amount,
                        _ => return Err(wrong("fields are sms (1 to 1024), shared, registers, l2, memory")),
                    }
                }
            }
            "DEVICES" => match value.parse() {
                Ok(devices @ 1..=4) => self.devices = devices,
                _ => return Err(wrong("a number from 1 to 4")),
            },
            "MEMORY" => match bytes(value) {
                Some(bytes) if bytes > 0 => {
                    (self.card.memory_bytes, self.memory) = (bytes, Some(bytes));
                }
                _ => return Err(wrong("a number of bytes, with K, M or G")),
            },
            "SEED" => self.options.seed = number(value).ok_or_else(|| wrong("a number"))?,
            "LANDING" => {
                self.options.landing = match value {
                    "early" => Landing::Early,
                    "late" => Landing::Late,
                    "random" => Landing::Random,
                    _ => return Err(wrong("early, late or random")),
                }
            }
            "THREADS" => match value.parse() {
                Ok(threads) if threads <= 1024 => self.options.threads = threads,
                _ => return Err(wrong("a number up to 1024")),
            },
            "WARP_LIMIT" => match number(value) {
                Some(limit) if limit > 0 => self.options.warp_limit = limit,
                _ => return Err(wrong("a positive number")),
            },
            "CHECKS" => {
                let mut checks = Checks::NONE;
                for part in list() {
                    match part {
                        "all" => checks = Checks::ALL,
                        "none" => checks = Checks::NONE,
                        "uninitialised" => checks.uninitialised = true,
                        "races" => checks.races = true,
                        _ => return Err(wrong("all, none, or a list of uninitialised and races")),
                    }
                }
                self.options.checks = checks;
            }
            "DRIVER" => match version(value) {
                Some(version @ 11_000..=NEWEST) => self.driver = version,
                _ => return Err(wrong("a version from 11.0 to 13.5")),
            },
            "MISSING" => self.missing = list().map(str::to_string).collect(),
            "FAULTS" => self.plan = Plan::parse(value).map_err(|e| wrong(&e))?,
            "FLIPS" => {
                self.flips = list().map(Flip::parse).collect::<Result<_, _>>().map_err(|e| wrong(&e))?;
            }
            "IDLE_MS" => match value.parse() {
                Ok(idle) => self.idle = idle,
                _ => return Err(wrong("a number of milliseconds")),
            },
            "REPORT" => self.report = Some(PathBuf::from(value)).filter(|path| !path.as_os_str().is_empty()),
            "QUIET" => self.quiet = switch(value).ok_or_else(|| wrong("0 or 1"))?,
            "TRACE" => self.trace = switch(value).ok_or_else(|| wrong("0 or 1"))?,
            _ => return Err(format!("there is no setting {name}")),
        }
        Ok(())
    }

    /// `name=value` lines.
    pub fn set_all(&mut self, lines: &str) -> Result<(), String> {
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let (name, value) = line.split_once('=').ok_or_else(|| format!("`{line}` is not NAME=VALUE"))?;
            self.set(name.trim(), value.trim())?;
        }
        Ok(())
    }

    /// The newest PTX that this driver understands, times ten.
    pub fn newest_ptx(&self) -> u32 {
        let (major, minor) = (self.driver / 1000, self.driver % 1000 / 10);
        match (major, minor) {
            (11, _) => 70 + minor,
            (12, 0..=5) => 80 + minor,
            (12, 6) => 85,
            (12, _) => 79 + minor,
            _ => 90 + minor,
        }
    }
}

fn switch(value: &str) -> Option<bool> {
    match value {
        "0" | "" => Some(false),
        "1" => Some(true),
        _ => None,
    }
}

fn number(value: &str) -> Option<u64> {
    match value.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => value.parse().ok(),
    }
}

fn bytes(value: &str) -> Option<u64> {
    let shift = match value.as_bytes().last()? {
        b'K' | b'k' => 10,
        b'M' | b'm' => 20,
        b'G' | b'g' => 30,
        _ => 0,
    };
    let digits = if shift == 0 { value } else { value.get(..value.len() - 1)? };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift).filter(|&bytes| bytes < 1 << 44)
}

/// `12.4` and `12040` are both CUDA 12.4.
pub(crate) fn version(value: &str) -> Option<u32> {
    match value.split_once('.') {
        Some((major, minor)) => {
            let (major, minor) = (major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?);
            (major < 100 && minor < 100).then_some(major * 1000 + minor * 10)
        }
        None => value.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &str, value: &str) -> Result<Settings, String> {
        let mut settings = Settings::default();
        settings.set(name, value).map(|()| settings)
    }

    #[test]
    fn every_setting_is_understood_and_checked() {
        let card = with("card", "sm_90a,sms=8,l2=1M,shared=100K,registers=32K").unwrap().card;
        assert_eq!((card.arch, card.sms, card.l2_bytes), (90, 8, 1 << 20));
        assert_eq!((card.shared_per_block_optin, card.registers_per_sm), (100 << 10, 32 << 10));
        assert_eq!(with("ORTHANT_EMULATOR_SEED", "0x10").unwrap().options.seed, 16);
        assert_eq!(with("landing", "late").unwrap().options.landing, Landing::Late);
        assert_eq!(with("MEMORY", "3G").unwrap().card.memory_bytes, 3 << 30);
        assert_eq!(with("DRIVER", "12.4").unwrap().driver, 12_040);
        assert_eq!(
            with("CHECKS", "races").unwrap().options.checks,
            Checks { races: true, uninitialised: false }
        );
        let wrong = [
            ("CARD", "sm_70"),
            ("CARD", "sm_80,sms"),
            ("CARD", "sm_80,sms=0"),
            ("CARD", "sm_80,x=1"),
            ("DEVICES", "0"),
            ("DEVICES", "5"),
            ("MEMORY", "0"),
            ("MEMORY", "1T"),
            ("SEED", "x"),
            ("CHECKS", "some"),
            ("LANDING", "soon"),
            ("THREADS", "-1"),
            ("WARP_LIMIT", "0"),
            ("DRIVER", "10.2"),
            ("DRIVER", "14.0"),
            ("FAULTS", "cuInit"),
            ("FAULTS", "cuInit#0=2"),
            ("FAULTS", "cuInit#1=nonsense"),
            ("FLIPS", "1+2"),
            ("IDLE_MS", "soon"),
            ("QUIET", "yes"),
            ("TRACE", "2"),
            ("NOTHING", "1"),
        ];
        for (name, value) in wrong {
            let error = with(name, value).expect_err(value);
            assert!(error.contains(name), "{error}");
        }
        for (name, _) in NAMES {
            assert!(!with(name, "\u{1}").is_err_and(|e| e.contains("there is no setting")), "{name}");
        }
    }

    #[test]
    fn drivers_know_the_ptx_of_their_time() {
        // Table of PTX ISA releases: CUDA 11.8 has 7.8, 12.0 8.0, 12.5 and 12.6 8.5, 12.8 8.7, 12.9 8.8, 13.0 9.0.
        let table = [
            ("11.8", 78),
            ("12.0", 80),
            ("12.5", 85),
            ("12.6", 85),
            ("12.8", 87),
            ("12.9", 88),
            ("13.0", 90),
        ];
        for (driver, ptx) in table {
            assert_eq!(with("DRIVER", driver).unwrap().newest_ptx(), ptx, "{driver}");
        }
    }

    #[test]
    fn visible_devices_are_counted_up_to_the_first_unknown() {
        let count = |visible: &str| {
            let mut settings = Settings { devices: 2, ..Settings::default() };
            settings.limit_devices(Some(visible));
            settings.devices
        };
        assert_eq!([count(""), count("0"), count("1,0"), count("0,7,1"), count("-1")], [0, 1, 2, 1, 0]);
    }
}
