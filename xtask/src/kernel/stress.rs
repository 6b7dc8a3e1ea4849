//! `cargo xtask kernel stress`: both calls from many threads, in the guest.

use super::guest;
use crate::vm::Echo;
use std::time::Duration;
use xshell::Shell;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    machine: guest::Machine,
    /// How long, in the guest's time. The full form is 600 with --debug.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Another one gives another sequence.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// For booting, and for the looking for leaks at the end.
const OVERHEAD: Duration = Duration::from_secs(240);

/// Runs it; the verdict is the program's and the kernel's.
pub(super) fn run(shell: &Shell, options: &Options) -> anyhow::Result<bool> {
    let Options { machine, seconds, seed } = options;
    let mut vm = machine.vm(shell, "stress")?;
    vm.limit = Duration::from_secs(*seconds) + OVERHEAD;
    let slowness = machine.slowness(&vm)?;
    let script = format!(
        "export FARSPACE_TEST_SLOWNESS={slowness}\n\
         FARSPACE_BACKEND=native farspace-stress --seconds {seconds} --seed {seed}"
    );
    let outcome = vm.run(&script, Echo::Yes)?;
    println!("vm: {:?} in {:.1} s", outcome.exit, outcome.took.as_secs_f64());
    outcome.verdict()?;
    Ok(true)
}
