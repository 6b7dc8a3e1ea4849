//! The farspace command: dumps and copies of another live process's memory.
//!
//! One file per command in `commands/`; `engine/` is the only place that calls the library; `demo/` is the
//! sample target and the check of its dump. Reports go to stdout, everything else to stderr.

#![forbid(unsafe_code)]

use std::process::ExitCode;

mod bench;
mod cli;
mod commands;
mod demo;
mod doctor;
mod engine;
mod exit;
mod failure;
mod interrupt;
mod manual;
mod output;
mod plot;
mod progress;
mod range;
mod sink;
mod syscall;
mod table;
mod units;

use exit::Exit;

fn main() -> ExitCode {
    failure::install_panic_hook();
    let exit = std::panic::catch_unwind(run).unwrap_or(Exit::Failed);
    exit.into()
}

fn run() -> Exit {
    let cli = match cli::parse() {
        Ok(cli) => cli,
        Err(exit) => return exit,
    };
    match commands::run(cli) {
        Ok(()) => Exit::Ok,
        Err(error) => failure::report(&error),
    }
}
