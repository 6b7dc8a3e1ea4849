//! What it costs to answer a system call for another process, in nanoseconds per call.
//!
//! | file | what |
//! |---|---|
//! | `entry` | a row to be: its name, how to start it, what it is compared with |
//! | `baselines` | the rows of others: ptrace, seccomp, local signals, bare hand-offs |
//! | `engine` | our own rows: guests in created spaces |
//! | `many` | our own rows: many spaces, and the life of one |
//! | `foreign` | our own rows: calls and guests in a process that runs already |
//! | `runner` | starts all entries, then measures them in turns |

use crate::cli::BenchExecArgs;
use crate::interrupt;

use super::Report;
use super::report::Unit;
use entry::Entry;
use runner::{FULL, QUICK};

mod baselines;
mod engine;
mod entry;
mod foreign;
mod many;
mod runner;

/// Every row, in the order of the report: an entry stands below those it is compared with.
const ENTRIES: &[&[Entry]] = &[baselines::ENTRIES, engine::ENTRIES, many::ENTRIES, foreign::ENTRIES];

/// Measures everything that `bench exec` reports.
pub(crate) fn exec(args: &BenchExecArgs) -> anyhow::Result<Report> {
    interrupt::watch()?;
    let mut report = Report::new();
    let entries: Vec<&Entry> = ENTRIES.iter().copied().flatten().collect();
    runner::measure(&entries, if args.quick { QUICK } else { FULL }, &mut report)?;
    let nr_spaces = if args.quick { 20 } else { 200 };
    match (0..3).map(|_| many::memory_each(nr_spaces)).collect::<Result<Vec<_>, _>>() {
        Ok(samples) => report.add("space-memory", Unit::MiB, &samples),
        Err(error) => super::skip("space-memory", &format!("{error:#}")),
    }
    Ok(report)
}
