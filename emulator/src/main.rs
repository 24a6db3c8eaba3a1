//! `orthant-emulator`: puts the emulated driver where programs look for one.

#![forbid(unsafe_code)]

use clap::{Parser, Subcommand};
use orthant_gpu::{driver, install, preload};
use std::path::PathBuf;
use std::process::ExitCode;

/// A software GPU in the place of the CUDA driver.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Writes libcuda.so and libcuda.so.1 to a folder; programs use them with LD_LIBRARY_PATH set to it.
    Install {
        /// The folder. It is made if it does not exist.
        dir: PathBuf,
        /// Leaves out a symbol, as an older driver would. May be given several times.
        #[arg(long, value_name = "SYMBOL")]
        without: Vec<String>,
        /// Leaves out every symbol that came after this driver, such as 12.4.
        #[arg(long, value_name = "VERSION")]
        driver: Option<String>,
        /// The library to install, if not the one beside this program.
        #[arg(long, value_name = "FILE")]
        library: Option<PathBuf>,
    },
    /// Prints the settings that the library takes from the environment.
    Settings,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Settings => {
            for (name, meaning) in driver::SETTINGS {
                println!("{}{name}\n    {meaning}", driver::SETTINGS_PREFIX);
            }
            ExitCode::SUCCESS
        }
        Command::Install { dir, mut without, driver, library } => {
            let installed = (|| {
                if let Some(version) = driver {
                    without.extend(driver::symbols_after(&version)?);
                }
                let library = match library {
                    Some(library) => library,
                    None => preload::locate().map_err(|e| e.to_string())?,
                };
                install::install(&library, &dir, &without)
            })();
            match installed {
                Ok(files) => {
                    files.iter().for_each(|file| println!("{}", file.display()));
                    ExitCode::SUCCESS
                }
                Err(error) => {
                    eprintln!("error: {error}");
                    ExitCode::FAILURE
                }
            }
        }
    }
}
