//! `cargo xtask test`: everything that a change has to pass.

use crate::step::{Counts, Outcome, Step};
use crate::{packages, steps};
use std::time::{Duration, Instant};
use xshell::Shell;

/// What to leave out.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Don't look for the packages that the tests need, and don't install any.
    #[arg(long)]
    no_install: bool,
    /// Run only the steps whose name contains this.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

/// Runs all steps; false if one of them failed.
pub(crate) fn run(shell: &Shell, options: &Options) -> anyhow::Result<bool> {
    let begin = Instant::now();
    if options.no_install {
        // For the steps that need more.
        shell.set_var(packages::NO_INSTALL, "1");
    } else {
        packages::ensure(shell)?;
    }
    let wanted = |step: &Step| options.only.as_ref().is_none_or(|only| step.name.contains(only.as_str()));
    let mut results = Vec::new();
    for step in steps::all(shell).into_iter().filter(wanted) {
        println!("\n== {}", step.name);
        let (name, essential) = (step.name, step.essential);
        let outcome = step.run()?;
        let stop = essential && !outcome.success;
        results.push((name, outcome));
        if stop {
            println!("\nNothing further can run without this step.");
            break;
        }
    }
    if results.is_empty() {
        anyhow::bail!("no step has such a name; there are {:?}", steps::all(shell).map(|step| step.name));
    }
    Ok(summarize(&results, begin.elapsed()))
}

/// Prints every step with its time, then the totals; whether all succeeded.
fn summarize(results: &[(&str, Outcome)], took: Duration) -> bool {
    println!("\n== Summary");
    let mut total = Counts::default();
    for (name, outcome) in results {
        let verdict = match &outcome.skipped {
            _ if !outcome.success => "FAILED",
            Some(_) => "skipped",
            None => "ok",
        };
        let counts = outcome.counts.map_or_else(String::new, |counts| format!("  {counts}"));
        let reason = outcome.skipped.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
        println!("{verdict:>7}  {:>7.1} s  {name}{counts}{reason}", outcome.took.as_secs_f64());
        if let Some(counts) = outcome.counts {
            total.add(counts);
        }
    }
    let failed = results.iter().filter(|(_, outcome)| !outcome.success).count();
    let skipped = results.iter().filter(|(_, outcome)| outcome.skipped.is_some()).count();
    println!("{} steps, {failed} failed, {skipped} skipped, {:.1} s", results.len(), took.as_secs_f64());
    println!("{total}");
    failed == 0
}
