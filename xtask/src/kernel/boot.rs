//! `cargo xtask kernel boot`.

use super::guest;
use crate::vm::{Clock, Echo};
use std::time::Duration;
use xshell::Shell;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    machine: guest::Machine,
    /// End the machine after so many seconds.
    #[arg(long, default_value_t = 300)]
    limit_seconds: u64,
    /// Make one guest nanosecond one instruction: exactly repeatable, on one CPU.
    #[arg(long)]
    icount: bool,
    /// For the guest's shell; farspace, farspace-conformance, farspace-victim and busybox are there.
    #[arg(trailing_var_arg = true, required = true)]
    command: Vec<String>,
}

/// Runs a command in the guest.
pub(super) fn run(shell: &Shell, options: &Options) -> anyhow::Result<bool> {
    let mut vm = options.machine.vm(shell, "boot")?;
    vm.limit = Duration::from_secs(options.limit_seconds);
    if options.icount {
        vm.clock = Clock::Instructions;
    }
    let outcome = vm.run(&options.command.join(" "), Echo::Yes)?;
    println!("vm: {:?} in {:.1} s", outcome.exit, outcome.took.as_secs_f64());
    outcome.verdict()?;
    Ok(true)
}
