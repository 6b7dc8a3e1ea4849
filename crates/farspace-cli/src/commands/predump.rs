//! `farspace predump`.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use farspace_dump::Destination;
use farspace_dump::stream::StreamOptions;
use serde::Serialize;

use crate::cli::{PredumpArgs, StreamArgs};
use crate::engine::{Iteration, PredumpRequest, Predumps};
use crate::exit::Exit;
use crate::failure::{Failure, eprint_line};
use crate::output::Format;
use crate::progress::Progress;
use crate::{interrupt, units};

/// The JSON report.
#[derive(Serialize)]
struct Report<'a> {
    iterations: &'a [Iteration],
}

/// Pre-dumps and reports.
pub(crate) fn run(args: &PredumpArgs) -> anyhow::Result<()> {
    super::splice::check_target(args.pid)?;
    interrupt::watch()?;
    let request = PredumpRequest { pid: args.pid, mechanism: args.mechanism, iterations: args.iterations };
    let mut predumps = Predumps::new(&request)?;
    let to = destination(args)?;
    if args.iterations > 1
        && let To::Here(path) = &to
    {
        make_directory(path)?;
    }
    let mut done: Vec<Iteration> = Vec::new();
    for number in 1..=args.iterations {
        if number > 1 {
            wait(args.interval)?;
        }
        let parent: Option<PathBuf> =
            done.last().map(|last| last.path.clone()).or_else(|| args.parent.clone());
        let progress = Progress::new("predump");
        let tell = &mut |d, total| progress.update(d, total);
        let iteration = match &to {
            To::Here(path) if args.iterations == 1 => predumps.write(path, parent.as_deref(), tell)?,
            To::Here(path) => predumps.write(&path.join(number.to_string()), parent.as_deref(), tell)?,
            To::Receiver(options) => predumps.send(options, tell)?,
            To::PageServer(options, path) => predumps.serve(options, (path, parent.as_deref()), tell)?,
        };
        drop(progress);
        warn(&iteration, parent.is_some(), args.verbose);
        if args.report.format() == Format::Human {
            crate::output::print(&human(&iteration))?;
        }
        done.push(iteration);
    }
    if args.report.format() == Format::Json {
        args.report.format().print(&Report { iterations: &done }, |_| String::new())?;
    }
    Ok(())
}

/// Where the images go.
enum To {
    Here(PathBuf),
    Receiver(StreamOptions),
    /// Pages there, the rest here.
    PageServer(StreamOptions, PathBuf),
}

fn destination(args: &PredumpArgs) -> Result<To, Failure> {
    let wrong = |what: &str, next: &str| Err(Failure::new(Exit::Usage, what).next(next));
    let to = match (args.output.destination(args.stream), &args.page_server) {
        (Destination::Path(path), None) => To::Here(path),
        (Destination::Path(path), Some(address)) => {
            let StreamArgs { timeout, .. } = args.stream;
            To::PageServer(StreamOptions { timeout, ..StreamOptions::to(address.clone()) }, path)
        }
        (Destination::Stream(options), None) => To::Receiver(options),
        (Destination::Stream(_), Some(_)) => {
            return wrong("--page-server needs a directory for the rest", "name one by --output");
        }
    };
    match &to {
        To::Here(_) => Ok(to),
        _ if args.iterations > 1 => {
            wrong("a receiver takes one iteration", "leave --iterations out, and begin again for each")
        }
        To::Receiver(_) if args.parent.is_some() => {
            wrong("the parent is where the receiver is", "give --parent to farspace receive")
        }
        To::PageServer(..) if args.stream.compress.is_some() => {
            wrong("CRIU's page server knows no compression", "leave --compress out")
        }
        _ => Ok(to),
    }
}

/// The directory that has one for each iteration.
fn make_directory(path: &Path) -> Result<(), Failure> {
    match fs::create_dir(path) {
        Err(error) if !path.is_dir() => {
            Err(Failure::output(format!("cannot create {}", path.display()), &error))
        }
        _ => Ok(()),
    }
}

fn wait(time: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + time;
    loop {
        interrupt::check()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Tells on stderr what is less than was asked for, whatever the form of the report.
fn warn(iteration: &Iteration, has_parent: bool, verbose: bool) {
    let report = &iteration.report;
    let copied = report.mechanisms.iter().any(|way| !matches!(way.as_str(), "native" | "agent"));
    if verbose {
        eprint_line(&format!("memory was read by: {}", report.mechanisms.join(", ")));
        eprint_line(&format!("changes were found by: {}", report.tracking.join(", ")));
    }
    let unlinked = has_parent && report.pages_in_parent == 0;
    if unlinked && !verbose {
        eprint_line("everything was written, not only what has changed; --verbose says why");
    }
    if verbose || copied {
        report
            .fallback_reasons
            .iter()
            .for_each(|reason| eprint_line(&format!("not in a better way: {reason}")));
    }
    if !report.criu_can_continue && (verbose || !has_parent && report.iteration == 1) {
        eprint_line(
            "criu dump can't go on from these images here: this kernel is built without CONFIG_MEM_SOFT_DIRTY",
        );
    }
    report.weaker.iter().for_each(|what| eprint_line(what));
}

fn human(iteration: &Iteration) -> String {
    let report = &iteration.report;
    let total = Duration::from_nanos(report.total_ns);
    let (processes, shared) = (report.processes, report.shared_objects);
    let shared = if shared == 0 { String::new() } else { format!(" and {shared} shared memory objects") };
    let held = Duration::from_nanos(report.attach_stop_ns);
    let stopped = match report.stop_ns {
        0 => "nothing was stopped".to_owned(),
        stop => {
            format!("all threads of a process were stopped for {}", units::time(Duration::from_nanos(stop)))
        }
    };
    format!(
        "{}: {} of {processes} processes{shared} in {}, {} in the parent; {stopped}, one thread was held for {}\n",
        iteration.path.display(),
        units::size(report.bytes_written),
        units::time(total),
        units::size(report.pages_in_parent * 4096),
        units::time(held),
    )
}
