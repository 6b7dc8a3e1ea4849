//! `farspace demo`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use farspace_abi::RemoteIoVec;
use serde::Serialize;

use crate::cli::{DemoArgs, LevelArg, OnMissArg};
use crate::demo::client::{Life, Pages, Request, SampleTarget};
use crate::demo::dump_file::DumpFile;
use crate::demo::pattern::HotVerdict;
use crate::demo::{baseline, room};
use crate::engine::{self, DumpRequest, FilterChoice};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::output::Format;
use crate::progress::Progress;
use crate::sink::Existing;
use crate::table::{Align, render};
use crate::{doctor, interrupt, units};

/// How long the target is watched without anything being done to it.
const QUIET: Duration = Duration::from_millis(500);

/// What is done to the target, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    Dump,
    CopyStopped,
    CopyLive,
}

impl Method {
    const ALL: [Self; 3] = [Self::Dump, Self::CopyStopped, Self::CopyLive];

    const fn name(self) -> &'static str {
        match self {
            Self::Dump => "farspace dump (converge)",
            Self::CopyStopped => "process_vm_readv + write, stopped",
            Self::CopyLive => "process_vm_readv + write, live",
        }
    }
}

/// One run of one method.
#[derive(Clone, Debug, Serialize)]
struct Run {
    bytes: u64,
    time_ns: u64,
    /// The longest gap that the target's own threads saw.
    stopped_ns: u64,
    /// The copy shows one instant of the target.
    one_instant: bool,
}

/// All runs of one method.
#[derive(Clone, Debug, Serialize)]
struct Row {
    method: &'static str,
    median_time_ns: u64,
    median_gb_per_s: f64,
    median_stopped_ns: u64,
    one_instant: bool,
    /// Median time of the method by that of farspace, and the same for the stop; 1 for farspace itself.
    time_ratio: f64,
    stopped_ratio: f64,
    runs: Vec<Run>,
}

/// The report.
#[derive(Clone, Debug, Serialize)]
struct Report {
    machine: String,
    kernel: String,
    target_bytes: u64,
    directory: PathBuf,
    /// The longest gap that the target saw while nothing was done to it.
    noise_ns: u64,
    /// Mechanism of the dumps.
    mechanism: String,
    /// Every copy held what the target says it should.
    verified: bool,
    /// After everything the target's memory and its blocked calls were as before.
    unharmed: bool,
    rows: Vec<Row>,
}

/// What the methods work with.
struct Bench {
    target: SampleTarget,
    file: PathBuf,
    ranges: Vec<RemoteIoVec>,
    mechanism: String,
}

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let format = args.report.format();
    let parent = room::find(args.size, args.dir.as_deref())?;
    interrupt::watch()?;
    let dir = tempfile::Builder::new().prefix("farspace-demo-").tempdir_in(&parent);
    let dir = dir.map_err(|e| Failure::output(format!("create a directory in {}", parent.display()), &e))?;
    interrupt::remove_at_exit(dir.path().to_owned());
    let report = measure(args, &parent, dir.path(), format)?;
    format.print(&report, human)
}

fn measure(args: &DemoArgs, parent: &Path, dir: &Path, format: Format) -> anyhow::Result<Report> {
    tell(format, &format!("Starting a target of {} that never stops writing.", units::size(args.size)));
    // One sixteenth changes all the time.
    let hot = args.size / 16;
    let target = SampleTarget::start(args.size - hot, hot, Pages::Default, Life::Watching)?;
    let mut bench = Bench { target, file: dir.join("copy"), ranges: Vec::new(), mechanism: String::new() };
    bench.target.ask(Request::Reset)?;
    std::thread::sleep(QUIET);
    let noise_ns = bench.target.ask(Request::State)?.longest_gap_ns;
    let mut runs: [Vec<Run>; 3] = Default::default();
    for round in 1..=args.rounds {
        for (method, runs) in Method::ALL.into_iter().zip(&mut runs) {
            tell(
                format,
                &format!("Round {round} of {}: {}, then checking the copy.", args.rounds, method.name()),
            );
            runs.push(bench.run(method)?);
        }
    }
    bench.target.finish()?;
    let farspace = (median(&runs[0], |r| r.time_ns), median(&runs[0], |r| r.stopped_ns));
    let rows = Method::ALL.into_iter().zip(runs).map(|(method, runs)| row(method, runs, farspace)).collect();
    Ok(Report {
        machine: doctor::machine(),
        kernel: doctor::kernel_release(),
        target_bytes: args.size,
        directory: parent.to_owned(),
        noise_ns,
        mechanism: bench.mechanism,
        verified: true,
        unharmed: true,
        rows,
    })
}

impl Bench {
    /// Runs one method once and checks its copy.
    fn run(&mut self, method: Method) -> anyhow::Result<Run> {
        interrupt::check()?;
        self.target.ask(Request::Reset)?;
        let start = Instant::now();
        let bytes = match method {
            Method::Dump => self.dump()?,
            Method::CopyStopped => {
                let _stopped = baseline::Stopped::new(self.target.pid())?;
                self.copy()?
            }
            Method::CopyLive => self.copy()?,
        };
        let time_ns = start.elapsed().as_nanos() as u64;
        let stopped_ns = self.target.ask(Request::State)?.longest_gap_ns;
        let copy = match method {
            Method::Dump => DumpFile::open_core(&self.file)?,
            Method::CopyStopped | Method::CopyLive => DumpFile::open_copy(&self.file, &self.ranges)?,
        };
        let verdict = copy.verify(&self.target)?;
        if method == Method::Dump {
            self.ranges = copy.ranges();
        }
        let one_instant = matches!(verdict, HotVerdict::OneInstant { .. });
        if !one_instant && method != Method::CopyLive {
            let what = format!("{}: the copy mixes several instants ({verdict:?})", method.name());
            return Err(Failure::new(Exit::Failed, what).next("this is a bug; please report it").into());
        }
        std::fs::remove_file(&self.file).context("remove the copy")?;
        Ok(Run { bytes, time_ns, stopped_ns, one_instant })
    }

    fn dump(&mut self) -> anyhow::Result<u64> {
        let request = DumpRequest {
            pid: self.target.pid(),
            to: self.file.as_path().into(),
            level: LevelArg::Converge,
            filter: FilterChoice::Own,
            mechanism: None,
            existing: Existing::Keep,
            max_rounds: 30,
            max_downtime: None,
            on_miss: OnMissArg::Frozen,
            tracking: None,
        };
        let progress = Progress::new("dump");
        let outcome = engine::dump(&request, &mut |done, total| progress.update(done, total))?;
        self.mechanism = outcome.mechanism;
        Ok(outcome.bytes_written)
    }

    /// Copies the ranges that the dump had, so that both move the same bytes.
    fn copy(&self) -> anyhow::Result<u64> {
        let mut file = std::fs::File::create(&self.file)
            .map_err(|e| Failure::output(format!("create {}", self.file.display()), &e))?;
        baseline::copy(self.target.pid(), &self.ranges, &mut file)
    }
}

fn row(method: Method, runs: Vec<Run>, farspace: (u64, u64)) -> Row {
    let (time, stopped) = (median(&runs, |r| r.time_ns), median(&runs, |r| r.stopped_ns));
    let ratio = |theirs: u64, ours: u64| theirs as f64 / ours.max(1) as f64;
    Row {
        method: method.name(),
        median_time_ns: time,
        median_gb_per_s: units::gb_per_s(median(&runs, |r| r.bytes), Duration::from_nanos(time)),
        median_stopped_ns: stopped,
        one_instant: runs.iter().all(|r| r.one_instant),
        time_ratio: ratio(time, farspace.0),
        stopped_ratio: ratio(stopped, farspace.1),
        runs,
    }
}

fn median(runs: &[Run], value: impl Fn(&Run) -> u64) -> u64 {
    let mut values: Vec<u64> = runs.iter().map(value).collect();
    values.sort_unstable();
    values.get(values.len() / 2).copied().unwrap_or(0)
}

/// What is going on, for people who watch; it goes to stderr, so that reports stay clean.
fn tell(format: Format, text: &str) {
    if format == Format::Human {
        use std::io::Write as _;
        // A closed stderr is no reason to fail.
        let _ = writeln!(std::io::stderr(), "{text}");
    }
}

fn human(report: &Report) -> String {
    let header = [
        ("method", Align::Left),
        ("time", Align::Right),
        ("GB/s", Align::Right),
        ("target stopped", Align::Right),
        ("one instant", Align::Left),
        ("farspace is", Align::Left),
    ];
    let rows: Vec<_> = report.rows.iter().map(cells).collect();
    format!(
        "\nLinux {} on {}; target of {}, copies in {}, median of {} rounds\n\n{}\n{}\n",
        report.kernel,
        report.machine,
        units::size(report.target_bytes),
        report.directory.display(),
        report.rows.first().map_or(0, |row| row.runs.len()),
        render(&header, &rows),
        remarks(report),
    )
}

fn cells(row: &Row) -> Vec<String> {
    let faster = |ratio: f64, more: &str, less: &str| {
        if ratio >= 1.0 { format!("{ratio:.1}x {more}") } else { format!("{:.1}x {less}", 1.0 / ratio) }
    };
    let versus = match (row.method == Method::Dump.name(), row.one_instant) {
        (true, _) => String::new(),
        (false, true) => format!(
            "{}, {}",
            faster(row.time_ratio, "faster", "slower"),
            faster(row.stopped_ratio, "shorter stop", "longer stop")
        ),
        (false, false) => faster(row.time_ratio, "faster", "slower"),
    };
    vec![
        row.method.to_owned(),
        units::time(Duration::from_nanos(row.median_time_ns)),
        format!("{:.2}", row.median_gb_per_s),
        units::time(Duration::from_nanos(row.median_stopped_ns)),
        if row.one_instant { "yes".to_owned() } else { "no: torn".to_owned() },
        versus,
    ]
}

fn remarks(report: &Report) -> String {
    format!(
        "Stopped: the longest time that the target's own threads did not run, less their wait for a CPU; {} of it\n\
         is noise, seen while nothing was done. Memory was read by: {}. Every copy was checked against the\n\
         target's checksum, and the target ended unharmed.",
        units::time(Duration::from_nanos(report.noise_ns)),
        report.mechanism,
    )
}
