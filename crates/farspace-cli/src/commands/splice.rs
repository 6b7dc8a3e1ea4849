//! `farspace splice`.

use std::time::{Duration, Instant};

use farspace_abi::RemoteIoVec;
use serde::Serialize;

use crate::cli::SpliceArgs;
use crate::engine::{Attached, NewFile, Output};
use crate::exit::Exit;
use crate::failure::{Failure, eprint_line};
use crate::output::Format;
use crate::progress::Progress;
use crate::sink::{Existing, SinkSpec};
use crate::{interrupt, units};

/// The JSON report.
#[derive(Debug, Serialize)]
struct Report {
    pid: i32,
    output: String,
    ranges: usize,
    bytes: u64,
    mechanism: String,
    fallback_reasons: Vec<String>,
    stop_ns: u64,
    total_ns: u64,
}

/// Sends the ranges and reports; the report goes to stderr if the bytes go to stdout.
pub(crate) fn run(args: &SpliceArgs) -> anyhow::Result<()> {
    check_target(args.pid)?;
    interrupt::watch()?;
    let start = Instant::now();
    // First the target, so that nobody is connected to for a wrong pid.
    let mut target = Attached::new(args.pid, args.mechanism)?;
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    let sink = args.output.open(existing)?;
    let output = Output { fd: sink.fd, name: args.output.to_string() };
    let bytes = send(&mut target, &args.ranges, &output)?;
    sink.unfinished.map_or(Ok(()), NewFile::finish)?;
    let report = Report {
        pid: args.pid,
        output: output.name,
        ranges: args.ranges.len(),
        bytes,
        mechanism: target.mechanism(),
        fallback_reasons: target.reasons().to_vec(),
        stop_ns: target.stop().as_nanos() as u64,
        total_ns: start.elapsed().as_nanos() as u64,
    };
    if args.verbose || !matches!(report.mechanism.as_str(), "native" | "agent") {
        eprint_line(&format!("memory was read by: {}", report.mechanism));
        report
            .fallback_reasons
            .iter()
            .for_each(|reason| eprint_line(&format!("not in a better way: {reason}")));
    }
    match (&args.output, args.report.format()) {
        (SinkSpec::Stdout, Format::Json) => eprintln!("{}", serde_json::to_string(&report)?),
        (SinkSpec::Stdout, Format::Human) => (),
        (_, format) => format.print(&report, human)?,
    }
    Ok(())
}

/// farspace can't stop itself.
pub(super) fn check_target(pid: i32) -> Result<(), Failure> {
    if pid == std::process::id() as i32 {
        return Err(
            Failure::new(Exit::Usage, format!("pid {pid} is farspace itself")).next("give another pid")
        );
    }
    Ok(())
}

fn send(target: &mut Attached, ranges: &[RemoteIoVec], output: &Output) -> anyhow::Result<u64> {
    let progress = Progress::new("splice");
    let total = ranges.iter().map(|range| range.len).sum();
    let mut sent = 0;
    Ok(target.splice(ranges, output, &mut |step| {
        sent += step;
        progress.update(sent, total)
    })?)
}

fn human(report: &Report) -> String {
    let total = Duration::from_nanos(report.total_ns);
    format!(
        "{}: {} from process {} in {} ({:.2} GB/s)\n",
        report.output,
        units::size(report.bytes),
        report.pid,
        units::time(total),
        units::gb_per_s(report.bytes, total),
    )
}
