//! Command line: options common to all subcommands, exit codes, output.

mod bench;
mod info;
mod noise;
mod parity;
mod plan;
mod singular;
mod step;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use orthant::config::Config;
use orthant::{Device, Error, Precision};

/// Optimizer runtime: SignSGD, Signum, Lion, Muon, Scion and their relatives.
#[derive(Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    common: Common,
}

#[derive(Subcommand)]
enum Command {
    /// Devices, drivers and embedded kernels
    Info,
    /// The routing table: which parameter goes to which group and algorithm, and why
    Plan(plan::Options),
    /// One optimizer step for each gradient file
    Step(step::Options),
    /// Every kernel beside the CPU, bit for bit, and beside the f64 reference
    Parity(parity::Options),
    /// What a step of each kernel costs: counted on the software GPU, timed elsewhere
    Bench(bench::Options),
}

#[derive(Args)]
struct Common {
    /// auto (the CPU), cpu, cuda, cuda:N, emulated, emulated:sm_80 or emulated:sm_90a (the software GPU: checks, no speed)
    #[arg(long, global = true, default_value = "auto", value_name = "DEVICE")]
    device: String,
    /// Compute type on the CPU [default: f64 if any parameter is stored in f64, else f32]
    #[arg(long, global = true, value_enum)]
    precision: Option<PrecisionName>,
    /// Seed of stochastic rounding [default: the configuration's, else 0]
    #[arg(long, global = true)]
    seed: Option<u64>,
    /// Print one JSON object with `rows` instead of text
    #[arg(long, global = true)]
    json: bool,
    /// Print errors only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// Print more
    #[arg(short, long, global = true)]
    verbose: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum PrecisionName {
    F32,
    F64,
}

impl Common {
    fn precision(&self) -> Option<Precision> {
        self.precision.map(|p| match p {
            PrecisionName::F32 => Precision::F32,
            PrecisionName::F64 => Precision::F64,
        })
    }

    fn device(&self) -> Result<Device, Error> {
        self.device.parse()
    }
}

/// 0 ok, 1 the work failed, 2 usage: the command line or the configuration is wrong.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Nothing can be done about a closed terminal; help and version are no errors.
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match &cli.command {
        Command::Info => info::run(&cli.common),
        Command::Plan(options) => plan::run(options, &cli.common),
        Command::Step(options) => step::run(options, &cli.common),
        Command::Parity(options) => parity::run(options, &cli.common),
        Command::Bench(options) => bench::run(options, &cli.common),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(exit_code(&e))
        }
    }
}

/// The configuration does not fit the parameters, whichever of the two an error names: a mistake in the configuration.
#[derive(Debug)]
struct Unfit;

/// Says so of an error, unless it is the device's: no configuration is at fault for a driver's answer.
fn unfit(error: Error) -> anyhow::Error {
    match error {
        Error::Device { .. }
        | Error::Driver { .. }
        | Error::DeviceLost { .. }
        | Error::OutOfMemory { .. } => error.into(),
        error => anyhow::Error::new(error).context(Unfit),
    }
}

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the groups do not fit the parameters")
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Unfit>().is_some() {
        return 2;
    }
    let usage = error.chain().any(|cause| {
        matches!(
            cause.downcast_ref::<Error>(),
            Some(
                Error::Hyperparameter { .. }
                    | Error::NotAnOption { .. }
                    | Error::NotBuilt { .. }
                    | Error::Config(_)
                    | Error::Routing(_)
                    | Error::Device { .. }
            )
        )
    });
    if usage { 2 } else { 1 }
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    std::fs::read_to_string(path)
        .map_err(|e| Error::Config(format!("it cannot be read: {e}")))
        .and_then(|text| Config::parse(&text))
        .with_context(|| format!("{}", path.display()))
}

/// Prints to stdout; a reader that went away (`| head`) is no error of ours.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A bar on stderr, and only on a terminal, for work that takes longer than a second.
struct Progress {
    bar: ProgressBar,
    started: Instant,
    hidden: bool,
}

fn progress(len: usize, unit: &str, common: &Common) -> Progress {
    let style = ProgressStyle::with_template(&format!("{{bar:40}} {{pos}}/{{len}} {unit} {{per_sec}}"));
    let bar = ProgressBar::with_draw_target(Some(len as u64), ProgressDrawTarget::hidden())
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    Progress { bar, started: Instant::now(), hidden: common.quiet || common.json }
}

impl Progress {
    fn inc(&self, by: u64) {
        if self.bar.is_hidden() && !self.hidden && self.started.elapsed() > Duration::from_secs(1) {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.inc(by);
    }

    /// Prints without the bar in between.
    fn suspend(&self, body: impl FnOnce()) {
        self.bar.suspend(body);
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn display(path: &Path) -> String {
    path.display().to_string()
}
