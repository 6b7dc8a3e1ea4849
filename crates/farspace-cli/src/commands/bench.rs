//! `farspace bench splice`, `farspace bench exec`, `farspace bench dump` and `farspace bench services`.

use crate::bench;
use crate::cli::BenchCommand;

/// Measures and prints.
pub(crate) fn run(command: &BenchCommand) -> anyhow::Result<()> {
    let (report, format) = match command {
        BenchCommand::Splice(args) => (bench::splice(args)?, args.report.format()),
        BenchCommand::Dump(args) => (bench::dumps(args)?, args.report.format()),
        BenchCommand::Services(args) => (bench::services(args)?, args.report.format()),
        BenchCommand::Exec(args) => (bench::exec(args)?, args.report.format()),
    };
    format.print(&report, bench::Report::table)
}
