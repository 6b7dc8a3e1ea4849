//! `farspace splice`.

use std::time::{Duration, Instant};

use farspace_abi::RemoteIoVec;
use serde::Serialize;

use crate::cli::SpliceArgs;
use crate::engine::{Attached, Output};
use crate::failure::eprint_line;
use crate::output::Format;
use crate::progress::Progress;
use crate::sink::{Existing, SinkSpec};
use crate::{interrupt, units};

/// Bytes handed to the library at a time; between two of them the bar moves and Ctrl-C is seen.
const PIECE_BYTES: u64 = 64 << 20;

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
    interrupt::watch()?;
    let start = Instant::now();
    // First the target, so that a wrong pid leaves no empty file behind.
    let mut target = Attached::new(args.pid, args.mechanism)?;
    let existing = if args.force { Existing::Replace } else { Existing::Keep };
    let output = Output { fd: args.output.open(existing)?, name: args.output.to_string() };
    let sent = send(&mut target, &args.ranges, &output);
    let bytes = sent.inspect_err(|_| forget(&args.output))?;
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

fn send(target: &mut Attached, ranges: &[RemoteIoVec], output: &Output) -> anyhow::Result<u64> {
    let progress = Progress::new("splice");
    let total = ranges.iter().map(|range| range.len).sum();
    let mut sent = 0;
    let pieces = ranges.iter().flat_map(|range| {
        let starts = (0..range.len).step_by(PIECE_BYTES as usize);
        starts.map(|at| RemoteIoVec::new(range.base.0 + at, (range.len - at).min(PIECE_BYTES)))
    });
    for piece in pieces {
        interrupt::check()?;
        let mut shown = sent;
        sent += target.splice(&[piece], output, &mut |step| {
            shown += step;
            progress.update(shown, total)
        })?;
    }
    Ok(sent)
}

/// Removes an unfinished regular file; nothing else is ours to remove.
fn forget(output: &SinkSpec) {
    if let SinkSpec::File(path) = output
        && path.symlink_metadata().is_ok_and(|m| m.is_file())
        && let Err(error) = std::fs::remove_file(path)
    {
        eprint_line(&format!("remove the unfinished {}: {error}", path.display()));
    }
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
