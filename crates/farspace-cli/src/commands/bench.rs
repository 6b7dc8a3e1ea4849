//! `farspace bench splice`.

use crate::bench;
use crate::cli::BenchArgs;

/// Measures and prints.
pub(crate) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let report = bench::splice(args)?;
    args.report.format().print(&report, bench::Report::table)
}
