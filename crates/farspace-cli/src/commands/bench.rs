//! `farspace bench splice` and `farspace bench exec`.

use crate::bench;
use crate::cli::BenchCommand;

/// Measures and prints.
pub(crate) fn run(command: &BenchCommand) -> anyhow::Result<()> {
    let (report, format) = match command {
        BenchCommand::Splice(args) => (bench::splice(args)?, args.report.format()),
        BenchCommand::Exec(args) => (bench::exec(args)?, args.report.format()),
    };
    format.print(&report, bench::Report::table)
}
