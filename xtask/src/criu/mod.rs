//! `cargo xtask criu`: pre-dumps of farspace's, continued and restored by Debian's CRIU on Debian's kernel, in a virtual
//! machine. The kernel of the machine that tests may be without soft-dirty bits, which CRIU needs; Debian's has them. So
//! what farspace notices by them is tested here, too.

mod debian;
mod guest;

use crate::step::Counts;
use crate::vm::{Echo, Vm};
use crate::{packages, vm};
use anyhow::Context;
use std::time::Duration;
use xshell::Shell;

/// What to do there.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Measure farspace predump against criu pre-dump instead of testing.
    #[arg(long)]
    bench: bool,
    /// With --bench: memory of each of the two processes.
    #[arg(long, default_value_t = 512)]
    mib: u32,
    /// With --bench: how often each takes its turn.
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// End the machine after so many seconds.
    #[arg(long, default_value_t = 900)]
    limit_seconds: u64,
}

/// The scripts, for the guest's shell.
const TEST: &str = include_str!("test.sh");
const BENCH: &str = include_str!("bench.sh");

/// Boots the machine and runs the script; false if it has failed.
pub(crate) fn run(shell: &Shell, options: &Options) -> anyhow::Result<bool> {
    packages::ensure_installed(shell, "the test with CRIU", &["criu", "kmod", "python3-protobuf"])?;
    let kernel = debian::kernel(shell, &vm::target().join("debian-kernel"))?;
    let mut files = crate::kernel::guest_files(shell)?;
    guest::add_criu(shell, &mut files)?;
    if !options.bench {
        crate::kernel::add_guest_test(shell, &mut files, "farspace-dump", "dirty")?;
        crate::kernel::add_guest_test(shell, &mut files, "farspace-dump", "converge")?;
    }
    files.modules(&kernel.modules, guest::MODULES)?;
    let mut vm = Vm::new("criu", kernel.image, files);
    vm.limit = Duration::from_secs(options.limit_seconds);
    // The processes, their images, and what the rest needs.
    vm.memory_mib = if options.bench { 2048 + 6 * options.mib } else { 3072 };
    let script = match options.bench {
        true => format!("mib={}\nrounds={}\n{BENCH}", options.mib, options.rounds),
        false => TEST.to_owned(),
    };
    let outcome = vm.run(&script, Echo::Yes)?;
    println!("vm: {:?} in {:.1} s", outcome.exit, outcome.took.as_secs_f64());
    outcome.verdict()?;
    // A script that has said nothing has tested nothing.
    let said = options.bench || outcome.output.lines().any(|line| Counts::parse(line).is_some());
    said.then_some(true).context("the script hasn't said how it went")
}
