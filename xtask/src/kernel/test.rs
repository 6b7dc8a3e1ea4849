//! `cargo xtask kernel test`: the specification's cases in the guest.

use super::guest;
use crate::step::Counts;
use crate::vm::Echo;
use anyhow::Context;
use std::time::Duration;
use xshell::Shell;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    machine: guest::Machine,
    /// The backends to test, one after another.
    #[arg(long, value_delimiter = ',', default_value = "stock")]
    backends: Vec<String>,
    /// End the machine after so many seconds.
    #[arg(long, default_value_t = 1200)]
    limit_seconds: u64,
    /// Only the cases whose name contains this.
    #[arg(value_name = "CASE")]
    cases: Vec<String>,
}

/// Runs the conformance suite for each backend.
pub(super) fn run(shell: &Shell, options: &Options) -> anyhow::Result<bool> {
    let mut vm = options.machine.vm(shell, "test")?;
    vm.limit = Duration::from_secs(options.limit_seconds);
    let cases = options.cases.join(" ");
    let suites = options.backends.iter().map(|backend| {
        format!("FARSPACE_BACKEND={backend} farspace-conformance --color never {cases} || failed=\"$failed {backend}\"\n")
    });
    let script = format!(
        "farspace doctor\nfailed=\n{}[ -z \"$failed\" ] || {{ echo \"failed:$failed\"; exit 1; }}",
        suites.collect::<String>()
    );
    let outcome = vm.run(&script, Echo::Yes)?;
    println!("vm: {:?} in {:.1} s", outcome.exit, outcome.took.as_secs_f64());
    outcome.verdict()?;
    // A suite that has said nothing has tested nothing.
    let results = outcome.output.lines().filter_map(Counts::parse).count();
    (results == options.backends.len()).then_some(true).context("not every suite has said how it went")
}
