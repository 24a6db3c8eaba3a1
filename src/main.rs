//! The `orthant` program: dispatches to one file a subcommand.

mod cli;

fn main() -> std::process::ExitCode {
    cli::main()
}
