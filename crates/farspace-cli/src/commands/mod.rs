//! One file per command.

use crate::cli::{Cli, Command};

mod bench;
mod completions;
mod demo;
mod doctor;
mod dump;
mod man;
mod predump;
mod receive;
mod splice;
mod syscall;

/// Runs the command that was given.
pub(crate) fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        Command::Dump(args) => dump::run(&args),
        Command::Predump(args) => predump::run(&args),
        Command::Receive(args) => receive::run(&args),
        Command::Splice(args) => splice::run(&args),
        Command::Syscall(args) => syscall::run(&args),
        Command::Doctor(args) => doctor::run(args),
        Command::Demo(args) => demo::run(&args),
        Command::Bench(command) => bench::run(&command),
        Command::Man(args) => man::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::DemoTarget(args) => crate::demo::target::run(&args),
    }
}
