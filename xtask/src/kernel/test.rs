//! `cargo xtask kernel test`: the specification's cases in the guest.

use super::{guest, selftests};
use crate::step::{Counts, SKIPPED};
use crate::vm::Echo;
use anyhow::ensure;
use std::time::Duration;
use xshell::Shell;

#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(flatten)]
    machine: guest::Machine,
    /// The backends to test, one after another.
    #[arg(long, value_delimiter = ',', default_value = "native,stock")]
    backends: Vec<String>,
    /// Run the selftests of kernel/selftests first.
    #[arg(long)]
    selftests: bool,
    /// Where a package that it takes to build the kernel can't be installed, say so and succeed.
    #[arg(long)]
    or_skip: bool,
    /// End the machine after so many seconds.
    #[arg(long, default_value_t = 1500)]
    limit_seconds: u64,
    /// Passed on to the suite: names of cases, --exact, --skip NAME...
    #[arg(last = true)]
    suite: Vec<String>,
}

/// Runs the conformance suite for each backend.
pub(crate) fn run(shell: &Shell, options: &Options) -> anyhow::Result<bool> {
    if let (true, Some(reason)) = (options.or_skip, options.machine.obstacle(shell)) {
        println!("{SKIPPED}{reason}");
        return Ok(true);
    }
    let mut vm = options.machine.vm(shell, "test")?;
    let selftests = if options.selftests {
        selftests::add(shell, vm.files())?;
        selftests::script()
    } else {
        String::new()
    };
    vm.limit = Duration::from_secs(options.limit_seconds);
    let arguments = options.suite.join(" ");
    let suites = options.backends.iter().map(|backend| {
        let suite = format!("farspace-conformance --color never {arguments}");
        format!("FARSPACE_BACKEND={backend} {suite} || failed=\"$failed {backend}\"\n")
    });
    let script = format!(
        "export FARSPACE_TEST_SLOWNESS={}\nfailed=\n{selftests}{}[ -z \"$failed\" ] || {{ echo \"failed:$failed\"; exit 1; }}",
        options.machine.slowness(&vm)?,
        suites.collect::<String>()
    );
    let outcome = vm.run(&script, Echo::Yes)?;
    println!("vm: {:?} in {:.1} s", outcome.exit, outcome.took.as_secs_f64());
    outcome.verdict()?;
    // A suite that has said nothing has tested nothing.
    let results = outcome.output.lines().filter_map(Counts::parse).count();
    ensure!(results >= options.backends.len(), "{results} suites have said how it went");
    Ok(true)
}
