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

/// Every row, in the order of the report: an entry stands below those it is compared with, and is measured in turns with
/// those of its group. The first group is over before the second is set up: fork(2) takes the longer the more its caller
/// has.
const GROUPS: [&[&[Entry]]; 2] = [
    &[baselines::SPAWNS, many::LIVES],
    &[baselines::ENTRIES, engine::ENTRIES, many::ENTRIES, foreign::ENTRIES],
];

/// The row that isn't a time.
const MEMORY: &str = "space-memory";

/// Measures everything that `bench exec` reports.
pub(crate) fn exec(args: &BenchExecArgs) -> anyhow::Result<Report> {
    interrupt::watch()?;
    let mut report = Report::new();
    let only = args.only.as_deref().unwrap_or_default();
    let scale = if args.quick { QUICK } else { FULL };
    let mut is_empty = true;
    for group in GROUPS {
        let entries = select(group, only);
        is_empty &= entries.is_empty();
        runner::measure(&entries, scale, &mut report)?;
    }
    if !MEMORY.contains(only) {
        anyhow::ensure!(!is_empty, "no row of `bench exec` has {only:?} in its name");
        return Ok(report);
    }
    let nr_spaces = if args.quick { 20 } else { 200 };
    match (0..3).map(|_| many::memory_each(nr_spaces)).collect::<Result<Vec<_>, _>>() {
        Ok(samples) => report.add(MEMORY, Unit::MiB, &samples),
        Err(error) => super::skip(MEMORY, &format!("{error:#}")),
    }
    Ok(report)
}

/// The entries with this in their names, and those that they are compared with.
fn select(group: &'static [&[Entry]], only: &str) -> Vec<&'static Entry> {
    let all: Vec<&Entry> = group.iter().copied().flatten().collect();
    let is_wanted = |entry: &Entry| entry.name.contains(only);
    let needed: Vec<&str> =
        all.iter().filter(|entry| is_wanted(entry)).flat_map(|entry| entry.against).copied().collect();
    all.into_iter().filter(|entry| is_wanted(entry) || needed.contains(&entry.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_with_their_baselines() {
        let names = |only| select(GROUPS[1], only).iter().map(|entry| entry.name).collect::<Vec<_>>();
        assert_eq!(names("exec-2-"), ["exec-1-vcpu", "exec-2-vcpus"]);
        assert!(names("nothing has this").is_empty());
        assert_eq!(names("").len(), GROUPS[1].iter().map(|entries| entries.len()).sum::<usize>());
    }
}
