//! Trains a small byte-level transformer on this repository's own text with one optimizer or several:
//!
//! ```text
//! cargo run --release --features candle --example train
//! cargo run --release --features candle --example train -- --compare muon,adamw,lion
//! ```

mod checkpoint;
mod data;
mod model;
mod optimizers;
mod report;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use orthant::{Device, Error};

use data::Data;
use optimizers::Choice;
use run::{Settings, Usage};

/// Trains a byte-level transformer on the CPU and compares optimizers, which may step on a card.
#[derive(Parser)]
#[command(name = "train")]
struct Cli {
    /// A preset: muon, orthogonal-sgdm, scion, adamw, lion, signum, sign-sgd, nsgd, sgd, adagrad
    #[arg(long, default_value = "muon")]
    optimizer: String,
    /// Several presets, one after the other
    #[arg(long, value_delimiter = ',', value_name = "NAMES", conflicts_with_all = ["optimizer", "lr"])]
    compare: Vec<String>,
    /// Groups and step options as TOML instead of a preset
    #[arg(long, value_name = "FILE", conflicts_with_all = ["optimizer", "compare", "lr"])]
    config: Option<PathBuf>,
    /// Learning rate of the preset at its peak [default: one that suits this example]
    #[arg(long, allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Where the optimizer steps: cpu, cuda, cuda:N or emulated (the software GPU: slow); the model stays on the CPU
    #[arg(long, default_value = "cpu", value_name = "DEVICE", value_parser = str::parse::<Device>)]
    device: Device,
    /// Steps
    #[arg(long, default_value_t = 700, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    steps: u64,
    /// Sequences in a batch
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(1..=4096))]
    batch: u64,
    /// Bytes in a sequence
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u64).range(1..=4096))]
    seq: u64,
    /// Width of the model, a multiple of --heads
    #[arg(long, default_value_t = 96, value_parser = clap::value_parser!(u64).range(1..=4096))]
    width: u64,
    /// Transformer blocks
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(0..=100))]
    layers: u64,
    /// Attention heads
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u64).range(1..=256))]
    heads: u64,
    /// Of the initial values and of the batches
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// A file, or a folder whose *.rs, *.md and *.toml are read [default: this repository]
    #[arg(long, value_name = "PATH")]
    text: Option<PathBuf>,
    /// Where curves, plot and checkpoints go; an earlier run there is replaced
    #[arg(long, default_value = "runs/train", value_name = "DIR")]
    out: PathBuf,
    /// Steps from one evaluation to the next
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    eval_every: u64,
    /// Steps from one checkpoint to the next; 0 for the last step only
    #[arg(long, default_value_t = 100)]
    checkpoint_every: u64,
    /// Go on from the checkpoints in --out, along the same curve bit for bit
    #[arg(long)]
    resume: bool,
}

impl Cli {
    fn choices(&self) -> anyhow::Result<Vec<Choice>> {
        if let Some(path) = &self.config {
            return Ok(vec![Choice::file(path)?]);
        }
        if self.compare.is_empty() {
            return Ok(vec![Choice::preset(&self.optimizer, self.lr)?]);
        }
        for (i, name) in self.compare.iter().enumerate() {
            if self.compare[..i].contains(name) {
                return Err(Usage(format!("--compare names `{name}` twice")).into());
            }
        }
        Ok(self.compare.iter().map(|name| Choice::preset(name, None)).collect::<Result<_, _>>()?)
    }

    fn settings(&self, choice: &Choice, data: &Data) -> Settings {
        Settings {
            optimizer: choice.name.clone(),
            device: self.device.to_string(),
            groups: format!("{:?} {:?}", choice.options, choice.groups),
            steps: self.steps,
            batch: self.batch as usize,
            seq: self.seq as usize,
            seed: self.seed,
            eval_every: self.eval_every,
            width: self.width as usize,
            layers: self.layers as usize,
            heads: self.heads as usize,
            text_sha256: data.digest(),
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    if !cli.width.is_multiple_of(cli.heads) {
        return Err(Usage(format!("--width {} is no multiple of --heads {}", cli.width, cli.heads)).into());
    }
    // Before anything is written: all names and groups are known to be good.
    let choices = cli.choices()?;
    let text = data::read(cli.text.as_deref().unwrap_or(Path::new(env!("CARGO_MANIFEST_DIR"))))?;
    let data = Data::new(text, cli.seq as usize)?;
    eprintln!("{} bytes to train on, {} held out", data.train_bytes, data.held_out_bytes);
    let mut outcomes = vec![];
    for choice in &choices {
        let (settings, folder) = (cli.settings(choice, &data), cli.out.join(&choice.name));
        outcomes.push(run::train(&settings, choice, &data, &folder, cli.checkpoint_every, cli.resume)?);
    }
    let (csv, svg) = (cli.out.join("curves.csv"), cli.out.join("curves.svg"));
    checkpoint::replace(&csv, &report::csv(&outcomes))?;
    checkpoint::replace(&svg, &report::svg(&outcomes)?)?;
    print(&format!("{}\ncurves: {}\nplot: {}", report::table(&outcomes), csv.display(), svg.display()));
    for choice in &choices {
        print(&format!("checkpoint: {}", cli.out.join(&choice.name).display()));
    }
    Ok(())
}

/// Prints to stdout; a reader that went away (`| head`) is no error of ours.
fn print(text: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// candle's element-wise operations wait for each other's threads in a busy loop, which makes a model this small
/// several times slower as soon as other programs run. The number of threads is only read from the environment, and
/// setting that is not safe in a running program: so the program starts itself anew.
#[cfg(unix)]
fn with_one_candle_thread() {
    use std::os::unix::process::CommandExt;
    const THREADS: &str = "CANDLE_NUM_THREADS";
    if std::env::var_os(THREADS).is_none()
        && let Ok(program) = std::env::current_exe()
    {
        let arguments = std::env::args_os().skip(1);
        // Where this cannot be done, the program goes on and is slower.
        let _ = std::process::Command::new(program).args(arguments).env(THREADS, "1").exec();
    }
}

/// 0 ok, 1 the work failed, 2 usage: the command line or the configuration is wrong.
fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // Nothing can be done about a closed terminal; help is no error.
            let _ = e.print();
            return if e.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
        }
    };
    #[cfg(unix)]
    with_one_candle_thread();
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("error: {e:#}");
            ExitCode::from(if is_usage(&e) { 2 } else { 1 })
        }
    }
}

fn is_usage(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.is::<Usage>()
            || matches!(
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
    })
}
