//! Faults to order: calls that fail, bits that flip.

use super::api::EXPORTS;
use super::codes;

/// Which calls are to fail.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    rules: Vec<Rule>,
}

#[derive(Debug, Clone)]
struct Rule {
    /// `*`: any call.
    name: String,
    /// Calls until it fails, counted from when the rule was made.
    left: u64,
    code: u32,
}

impl Plan {
    /// A list of `NAME#N=CODE`.
    pub fn parse(text: &str) -> Result<Plan, String> {
        let mut plan = Plan::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let rule = part.split_once('=').and_then(|(call, code)| {
                let (name, nth) = call.split_once('#')?;
                let nth = nth.trim().parse().ok().filter(|&nth: &u64| nth > 0)?;
                Some((name.trim(), nth, codes::by_name(code.trim())?))
            });
            let (name, nth, code) = rule.ok_or_else(|| format!("`{part}` is not NAME#N=CODE"))?;
            plan.add(name, nth, code)?;
        }
        Ok(plan)
    }

    /// The `nth` call of `name` from now on will fail.
    pub fn add(&mut self, name: &str, nth: u64, code: u32) -> Result<(), String> {
        if name != "*" && !EXPORTS.contains_key(name) {
            return Err(format!("the driver has no function `{name}`"));
        }
        self.rules.push(Rule { name: name.into(), left: nth, code });
        Ok(())
    }

    /// Counts a call; the code it must fail with, if it must.
    pub fn call(&mut self, name: &str) -> Option<u32> {
        let mut code = None;
        for rule in self.rules.iter_mut().filter(|rule| rule.name == "*" || rule.name == name) {
            rule.left = rule.left.saturating_sub(1);
            if rule.left == 0 {
                code = code.or(Some(rule.code));
            }
        }
        self.rules.retain(|rule| rule.left > 0);
        code
    }
}

/// A bit that flips.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flip {
    /// Number of the allocation on the first card, from 0.
    pub allocation: u64,
    pub byte: u64,
    pub bit: u32,
    /// Before which call, from 1.
    pub call: u64,
}

impl Flip {
    /// `ALLOCATION+BYTE.BIT@CALL`
    pub fn parse(text: &str) -> Result<Flip, String> {
        let read = || {
            let (place, call) = text.split_once('@')?;
            let (allocation, rest) = place.split_once('+')?;
            let (byte, bit) = rest.split_once('.')?;
            Some(Flip {
                allocation: allocation.parse().ok()?,
                byte: byte.parse().ok()?,
                bit: bit.parse().ok().filter(|&bit| bit < 8)?,
                call: call.parse().ok().filter(|&call| call > 0)?,
            })
        };
        read().ok_or_else(|| format!("`{text}` is not ALLOCATION+BYTE.BIT@CALL"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_calls_of_their_name_or_all() {
        let mut plan = Plan::parse("cuMemAlloc_v2#2=OUT_OF_MEMORY, *#5=999").unwrap();
        assert_eq!(plan.call("cuMemAlloc_v2"), None);
        assert_eq!(plan.call("cuInit"), None);
        assert_eq!(plan.call("cuMemAlloc_v2"), Some(2));
        assert_eq!(plan.call("cuMemAlloc_v2"), None);
        assert_eq!(plan.call("cuInit"), Some(999));
        assert_eq!(plan.call("cuInit"), None);
    }

    #[test]
    fn flips_are_read() {
        assert_eq!(Flip::parse("3+128.5@7"), Ok(Flip { allocation: 3, byte: 128, bit: 5, call: 7 }));
        for wrong in ["3+128.8@7", "3+128.5@0", "3+128@7", "3.1@7", ""] {
            assert!(Flip::parse(wrong).is_err(), "{wrong}");
        }
    }
}
