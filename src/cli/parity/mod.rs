//! `orthant parity`: every kernel beside the CPU, bit for bit, and beside the f64 reference.
//!
//! Two rows a case. `bits` counts elements of parameters and state, after each of several steps, whose bits are not those of
//! the CPU's f32; its tolerance is 0. `f64` is the largest distance from the f64 reference in parts of the bound that running
//! error analysis ([`bounded`]) derives for that number from what was stored before the step: its tolerance is 1. Where
//! rounding decides a sign (or whether a denominator is zero), f64 and f32 may part by a whole step and both be right: such
//! elements are counted, not compared.
//!
//! Orthogonalisations have rows of their own ([`spectral`]): tensor cores add up in an order of their own, and 16 bits are
//! far from f64, so they are held to errors.

mod bounded;
mod cases;
mod check;
mod oracle;
mod sets;
mod spectral;

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use comfy_table::{Table, presets};
use orthant::Device;

use super::{Common, print, progress};
use cases::Case;
use check::{Outcome, Place};

#[derive(clap::Args)]
pub struct Options {
    /// Fewer and smaller cases: seconds on the software GPU
    #[arg(long)]
    quick: bool,
}

struct Row {
    case: String,
    error: f64,
    tolerance: f64,
}

impl Row {
    fn ok(&self) -> bool {
        self.error <= self.tolerance
    }
}

pub fn run(options: &Options, common: &Common) -> anyhow::Result<()> {
    let device = common.device()?;
    let place = place(device)?;
    // The software GPU and one CPU core take a while for what a card does in no time.
    let large = if matches!(device, Device::Cuda(_)) { 1_000_003 } else { 70_001 };
    let cases = if options.quick { cases::quick() } else { cases::all(large) };
    let seed = common.seed.unwrap_or(0);
    let bar = progress(cases.len(), "cases", common);
    let mut outcomes = vec![];
    for case in &cases {
        let outcome = check::run(case, &place, seed).with_context(|| case.name())?;
        outcomes.push(outcome);
        bar.inc(1);
    }
    bar.finish();
    let spectral = spectral::run(&place, device, options.quick, seed)?;

    let rows: Vec<Vec<Row>> =
        cases.iter().zip(&outcomes).map(|(case, outcome)| rows(case, outcome)).collect();
    if common.json {
        print(&json(device, &rows, &outcomes, &spectral));
    } else if !common.quiet {
        print(&text(device, &cases, &rows, &outcomes, &spectral, common.verbose));
    }
    let missed: Vec<&Row> = rows.iter().flatten().filter(|row| !row.ok()).collect();
    for row in &missed {
        eprintln!("missed: {}: error {}, tolerance {}", row.case, row.error, row.tolerance);
    }
    let off: Vec<_> = spectral.iter().filter(|outcome| !outcome.ok()).collect();
    for o in &off {
        eprintln!(
            "missed: {}: error {:.2e}, tolerance {:.2e}; largest singular value {:.3}, at most {:.3}",
            o.case, o.error, o.tolerance, o.sigma_max, o.sigma_limit
        );
    }
    let missed = missed.len() + off.len();
    if missed > 0 {
        bail!("{missed} of {} comparisons missed", rows.iter().flatten().count() + spectral.len());
    }
    Ok(())
}

fn place(device: Device) -> orthant::Result<Place> {
    if device == Device::Cpu {
        return Ok(Place::Cpu);
    }
    #[cfg(feature = "cuda")]
    return orthant::cuda::Context::open(device).map(Place::Card);
    #[cfg(not(feature = "cuda"))]
    Err(orthant::Driver::open(device).err().unwrap_or(orthant::Error::NoGradients))
}

fn rows(case: &Case, outcome: &Outcome) -> Vec<Row> {
    let name = case.name();
    let bits = outcome.differing.map(|differing| Row {
        case: format!("{name}: bits"),
        error: differing as f64,
        tolerance: 0.0,
    });
    let distance = Row { case: format!("{name}: f64"), error: outcome.error, tolerance: 1.0 };
    bits.into_iter().chain([distance]).collect()
}

fn json(device: Device, rows: &[Vec<Row>], outcomes: &[Outcome], spectral: &[spectral::Outcome]) -> String {
    let mut out = vec![];
    for (rows, outcome) in rows.iter().zip(outcomes) {
        for row in rows {
            let mut object = serde_json::json!({
                "case": row.case,
                "error": row.error,
                "tolerance": row.tolerance,
                "ok": row.ok(),
            });
            if row.tolerance > 0.0 {
                object["relative_error"] = outcome.relative.into();
                object["compared"] = outcome.compared.into();
                object["undecided"] = outcome.undecided.into();
            }
            out.push(object);
        }
    }
    out.extend(spectral.iter().map(|o| {
        serde_json::json!({
            "case": o.case,
            "error": o.error,
            "tolerance": o.tolerance,
            "ok": o.ok(),
            "shape": o.shape,
            "method": o.method,
            "dtype": o.dtype,
            "sigma_max": o.sigma_max,
            "sigma_limit": o.sigma_limit,
            "dual": o.dual,
        })
    }));
    serde_json::json!({ "device": device.to_string(), "rows": out }).to_string()
}

/// A line for each rule, or for each row.
fn text(
    device: Device,
    cases: &[Case],
    rows: &[Vec<Row>],
    outcomes: &[Outcome],
    spectral: &[spectral::Outcome],
    verbose: bool,
) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let bits = |differing: Option<u64>| differing.map_or("not compared".into(), |n| n.to_string());
    if verbose {
        table.set_header(["case", "error", "tolerance", "", "undecided"]);
        for (rows, outcome) in rows.iter().zip(outcomes) {
            for row in rows {
                let undecided =
                    if row.tolerance > 0.0 { outcome.undecided.to_string() } else { String::new() };
                let verdict = if row.ok() { "" } else { "MISSED" };
                let error = format!("{:.3}", row.error);
                table.add_row([
                    row.case.clone(),
                    error,
                    row.tolerance.to_string(),
                    verdict.into(),
                    undecided,
                ]);
            }
        }
    } else {
        table.set_header(["rule", "cases", "other bits", "of f64 bound", "numbers", "undecided"]);
        let mut of_rules: BTreeMap<&str, (usize, Outcome)> = BTreeMap::new();
        for (case, outcome) in cases.iter().zip(outcomes) {
            let (count, sum) = of_rules.entry(case.rule.name).or_default();
            *count += 1;
            sum.differing = outcome.differing.map(|n| n + sum.differing.unwrap_or_default());
            sum.error = sum.error.max(outcome.error);
            sum.compared += outcome.compared;
            sum.undecided += outcome.undecided;
        }
        for (rule, (count, sum)) in of_rules {
            table.add_row([
                rule.to_owned(),
                count.to_string(),
                bits(sum.differing),
                format!("{:.3}", sum.error),
                sum.compared.to_string(),
                sum.undecided.to_string(),
            ]);
        }
    }
    let all = rows.iter().flatten().count() + spectral.len();
    let missed = rows.iter().flatten().filter(|row| !row.ok()).count();
    let missed = missed + spectral.iter().filter(|o| !o.ok()).count();
    let verdict = if missed == 0 { "all within tolerance".into() } else { format!("{missed} missed") };
    let spectral = spectral_table(spectral, verbose);
    format!("device {device}\n{table}\n{spectral}\n{} cases, {all} comparisons, {verdict}", cases.len())
}

/// A line for each spectrum, method and format with the worst of each number, or for each row.
fn spectral_table(outcomes: &[spectral::Outcome], verbose: bool) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    let mut of_spectra: BTreeMap<String, Vec<&spectral::Outcome>> = BTreeMap::new();
    for o in outcomes {
        let key = if verbose { o.case.clone() } else { format!("{}, {} {}", o.spectrum, o.method, o.dtype) };
        of_spectra.entry(key).or_default().push(o);
    }
    table.set_header(["orthogonalised", "cases", "error", "of tolerance", "sigma max", "least dual", ""]);
    for (key, of) in of_spectra {
        let most = |value: fn(&spectral::Outcome) -> f64| of.iter().map(|o| value(o)).fold(0.0, f64::max);
        let dual = of.iter().filter_map(|o| o.dual).reduce(f64::min);
        table.add_row([
            key,
            of.len().to_string(),
            format!("{:.1e}", most(|o| o.error)),
            format!("{:.2}", most(|o| o.error / o.tolerance)),
            format!("{:.3}", most(|o| o.sigma_max)),
            dual.map_or("none".into(), |dual| format!("{dual:.3}")),
            if of.iter().all(|o| o.ok()) { String::new() } else { "MISSED".into() },
        ]);
    }
    table
}
