//! `cargo xtask kernel ...`: farspace's kernels, and running something on one.

mod bench;
mod boot;
mod build;
mod guest;
mod lines;
mod selftests;
mod shell;
mod stress;
mod test;

use xshell::Shell;

pub(crate) use guest::{add_test as add_guest_test, files as guest_files};

/// What to do.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Build a kernel and print where its image, symbols and configuration are.
    Build(build::Options),
    /// Count instructions in the guest: what the calls cost, and what others cost.
    Bench(bench::Options),
    /// Boot a kernel, run a command in the guest, and end with its verdict.
    Boot(boot::Options),
    /// Boot a kernel and run the conformance suite there.
    Test(test::Options),
    /// Count the lines of the kernel part: Rust, C, patches.
    Lines,
    /// Boot a kernel and make both calls from many threads there, against targets that do everything at once.
    Stress(stress::Options),
    /// Boot a kernel to a shell on this terminal.
    Shell(guest::Machine),
}

/// Does it; false if it has failed.
pub(crate) fn run(shell: &Shell, command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Build(options) => build::run(shell, &options),
        Command::Bench(options) => bench::run(shell, &options),
        Command::Boot(options) => boot::run(shell, &options),
        Command::Test(options) => test::run(shell, &options),
        Command::Lines => lines::run(shell),
        Command::Stress(options) => stress::run(shell, &options),
        Command::Shell(machine) => shell::run(shell, &machine),
    }
}
