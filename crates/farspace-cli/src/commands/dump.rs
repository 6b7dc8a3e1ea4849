//! `farspace dump`.

use std::time::Duration;

use crate::cli::DumpArgs;
use crate::engine::{self, DumpOutcome, DumpRequest, FilterChoice, TreeOutcome};
use crate::exit::Exit;
use crate::failure::{Failure, eprint_line};
use crate::progress::Progress;
use crate::sink::{Existing, SinkSpec};
use crate::table::{Align, render};
use crate::{interrupt, plot, units};

/// Dumps and reports.
pub(crate) fn run(args: &DumpArgs) -> anyhow::Result<()> {
    check_output(args)?;
    interrupt::watch()?;
    let request = DumpRequest {
        pid: args.pid,
        to: args.output.destination(args.stream),
        level: args.level,
        filter: match (args.all, args.filter) {
            (true, _) => FilterChoice::All,
            (false, Some(mask)) => FilterChoice::Mask(mask),
            (false, None) => FilterChoice::Own,
        },
        mechanism: args.mechanism,
        existing: if args.force { Existing::Replace } else { Existing::Keep },
        max_rounds: args.max_rounds,
        max_downtime: Some(args.max_downtime),
        on_miss: args.on_miss,
        tracking: args.tracking,
    };
    let progress = Progress::new("dump");
    if args.tree {
        let outcome = engine::dump_tree(&request, &mut |done, total| progress.update(done, total))?;
        drop(progress);
        warn_of_tree(&outcome, args.verbose);
        return args.report.format().print(&outcome, human_tree);
    }
    let outcome = engine::dump(&request, &mut |done, total| progress.update(done, total))?;
    drop(progress);
    warn(&outcome, args.verbose);
    if let Some(path) = &args.plot {
        plot::draw(path, &outcome)?;
    }
    args.report.format().print(&outcome, human)
}

/// Refuses what is certain to fail before the target is touched.
fn check_output(args: &DumpArgs) -> Result<(), Failure> {
    let SinkSpec::File(path) = &args.output else { return super::splice::check_target(args.pid) };
    if args.stream.compress.is_some() {
        let what = "--compress is for dumps to a receiver";
        return Err(Failure::new(Exit::Usage, what).next("leave it out, or compress the file afterwards"));
    }
    let what = || format!("cannot open output {}", path.display());
    // The library says it of a directory that isn't empty.
    if args.tree {
        return super::splice::check_target(args.pid);
    }
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
    warn_of_copy("memory", &outcome.mechanism, &outcome.fallback_reasons, verbose);
    if let Some(missed) = &outcome.missed {
        eprint_line(&format!("level {} instead of {}: {missed}", outcome.level, outcome.requested_level));
    }
    if verbose && let Some(tracking) = &outcome.tracking {
        eprint_line(&format!("changes were noticed by: {tracking}"));
        outcome.tracking_reasons.iter().for_each(|reason| eprint_line(&format!("not watched: {reason}")));
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

/// Says how memory was read, if it was copied or is to be said.
fn warn_of_copy(memory: &str, mechanism: &str, reasons: &[String], verbose: bool) {
    if verbose || !matches!(mechanism, "native" | "agent") {
        eprint_line(&format!("{memory} was read by: {mechanism}"));
        reasons.iter().for_each(|reason| eprint_line(&format!("not in a better way: {reason}")));
    }
}

/// The same for each process of a tree.
fn warn_of_tree(outcome: &TreeOutcome, verbose: bool) {
    for process in &outcome.report.processes {
        let memory = format!("memory of pid {}", process.pid);
        warn_of_copy(&memory, &process.mechanism, &process.fallback_reasons, verbose);
        let pid = process.pid;
        if let Some(missed) = &process.missed {
            let (level, wanted) = (&process.level, &process.requested_level);
            eprint_line(&format!("level {level} instead of {wanted} for pid {pid}: {missed}"));
        }
        if verbose {
            process.weaker.iter().for_each(|range| eprint_line(&format!("weaker in core.{pid}: {range}")));
        }
    }
    outcome.report.left_out.iter().for_each(|who| eprint_line(&format!("left out: {who}")));
    let weaker: usize = outcome.report.processes.iter().map(|process| process.weaker.len()).sum();
    if !verbose && weaker > 0 {
        eprint_line(&format!(
            "{weaker} ranges are in another core or have a weaker guarantee; --verbose says why"
        ));
    }
}

fn human_tree(outcome: &TreeOutcome) -> String {
    let report = &outcome.report;
    let total = Duration::from_nanos(report.total_ns);
    format!(
        "{}: {} of memory of {} processes in {} ({:.2} GB/s); all were stopped for {} ({})\n",
        report.path.display(),
        units::size(report.bytes_written),
        report.processes.len(),
        units::time(total),
        units::gb_per_s(report.bytes_written, total),
        units::time(Duration::from_nanos(report.stop_ns)),
        report.level,
    )
}

fn human(outcome: &DumpOutcome) -> String {
    let total = Duration::from_nanos(outcome.total_ns);
    let mut text = rounds(outcome);
    text.push_str(&format!(
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
    ));
    text
}

/// A line for each round, and one for the stop.
fn rounds(outcome: &DumpOutcome) -> String {
    if outcome.rounds.is_empty() {
        return String::new();
    }
    let header = [
        ("round", Align::Left),
        ("changed", Align::Right),
        ("found in", Align::Right),
        ("copied in", Align::Right),
    ];
    let time = |ns| units::time(Duration::from_nanos(ns));
    let line = |name: String, bytes, scan, copy| vec![name, units::size(bytes), time(scan), time(copy)];
    let mut lines: Vec<_> = outcome
        .rounds
        .iter()
        .zip(1..)
        .map(|(round, n)| line(n.to_string(), round.changed_bytes, round.scan_ns, round.copy_ns))
        .collect();
    let parts = &outcome.stop_parts;
    lines.push(line("stop".to_owned(), outcome.last_bytes, parts.scan_ns, parts.copy_ns));
    render(&header, &lines)
}
