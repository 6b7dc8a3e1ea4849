//! `farspace dump`.

use std::time::Duration;

use crate::cli::DumpArgs;
use crate::engine::{self, DumpOutcome, DumpRequest, FilterChoice};
use crate::failure::{Failure, eprint_line};
use crate::progress::Progress;
use crate::sink::Existing;
use crate::{interrupt, units};

/// Dumps and reports.
pub(crate) fn run(args: &DumpArgs) -> anyhow::Result<()> {
    check_output(args)?;
    interrupt::watch()?;
    let request = DumpRequest {
        pid: args.pid,
        path: &args.output,
        level: args.level,
        filter: match (args.all, args.filter) {
            (true, _) => FilterChoice::All,
            (false, Some(mask)) => FilterChoice::Mask(mask),
            (false, None) => FilterChoice::Own,
        },
        mechanism: args.mechanism,
        existing: if args.force { Existing::Replace } else { Existing::Keep },
    };
    let progress = Progress::new("dump");
    let outcome = engine::dump(&request, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    warn(&outcome, args.verbose);
    args.report.format().print(&outcome, human)
}

/// Refuses what is certain to fail before the target is touched.
fn check_output(args: &DumpArgs) -> Result<(), Failure> {
    let path = &args.output;
    let what = || format!("cannot open output {}", path.display());
    if path.is_dir() {
        return Err(Failure::output(what(), &rustix::io::Errno::ISDIR.into()));
    }
    if path.symlink_metadata().is_ok() && !args.force {
        return Err(Failure::output(what(), &rustix::io::Errno::EXIST.into()));
    }
    super::splice::check_target(args.pid)
}

/// Tells on stderr what is less than was asked for, whatever the form of the report.
fn warn(outcome: &DumpOutcome, verbose: bool) {
    let copied = !matches!(outcome.mechanism.as_str(), "native" | "agent");
    if verbose || copied {
        eprint_line(&format!("memory was read by: {}", outcome.mechanism));
        outcome
            .fallback_reasons
            .iter()
            .for_each(|reason| eprint_line(&format!("not in a better way: {reason}")));
    }
    if verbose {
        outcome.weaker.iter().for_each(|range| eprint_line(&format!("weaker guarantee: {range}")));
    } else if !outcome.weaker.is_empty() {
        let ranges = match outcome.weaker.len() {
            1 => "1 range has".to_owned(),
            nr => format!("{nr} ranges have"),
        };
        eprint_line(&format!("{ranges} a weaker guarantee than the level's; --verbose says why"));
    }
}

fn human(outcome: &DumpOutcome) -> String {
    let total = Duration::from_nanos(outcome.total_ns);
    format!(
        "{}: {} of memory, {} threads, {} segments in {} ({:.2} GB/s); process {} was stopped for {} ({})\n",
        outcome.path.display(),
        units::size(outcome.bytes_written),
        outcome.threads,
        outcome.segments,
        units::time(total),
        units::gb_per_s(outcome.bytes_written, total),
        outcome.pid,
        units::time(Duration::from_nanos(outcome.stop_ns)),
        outcome.level,
    )
}
