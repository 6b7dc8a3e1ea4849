//! Project chores, as `cargo xtask COMMAND`.

mod bench;
mod criu;
mod fuzz;
mod kernel;
mod packages;
mod processes;
mod step;
mod steps;
mod test;
mod vm;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use xshell::Shell;

/// Project chores.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what the tests need (as root on Debian), then run all of them.
    Test(test::Options),
    /// Linux with the two calls: build it, boot it, test it.
    #[command(subcommand)]
    Kernel(Box<kernel::Command>),
    /// Pre-dumps continued and restored by Debian's CRIU on Debian's kernel, in a virtual machine.
    Criu(criu::Options),
    /// Parsers and protocols against made-up bytes, by libFuzzer; needs a nightly compiler.
    Fuzz(fuzz::Options),
    /// Measure: `farspace bench splice`, with the arguments given here.
    Bench {
        /// Passed on, for example --quick or --json.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let run = || -> anyhow::Result<bool> {
        let shell = Shell::new()?;
        // This file's crate is one level below the workspace.
        shell.change_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        match Arguments::parse().command {
            Command::Test(options) => test::run(&shell, &options),
            Command::Kernel(command) => kernel::run(&shell, *command),
            Command::Criu(options) => criu::run(&shell, &options),
            Command::Fuzz(options) => fuzz::run(&shell, &options),
            Command::Bench { arguments } => bench::run(&shell, &arguments),
        }
    };
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
