//! Services under load while they are dumped: what their clients notice, against an undumped run and against gcore.
//!
//! Each run of the load generator is a few seconds long; half a second after its begin the dump starts. The three kinds of
//! runs take turns.

use std::path::Path;
use std::process::Child;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;

use super::report::{Report, Unit};
use super::skip;
use super::stops::{dump, gcore};
use crate::cli::BenchServicesArgs;
use crate::demo::room;
use crate::{interrupt, plot};

mod postgres;
mod redis;

/// The load runs alone for so long before a dump.
const BEFORE: Duration = Duration::from_millis(500);

/// What happens to the service during a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Visit {
    Undumped,
    Converge,
    Gcore,
}

const VISITS: [Visit; 3] = [Visit::Undumped, Visit::Converge, Visit::Gcore];

impl Visit {
    fn name(self) -> &'static str {
        match self {
            Self::Undumped => "undumped",
            Self::Converge => "converge",
            Self::Gcore => "gcore",
        }
    }

    /// Visits the process some time after the load has begun.
    fn run(self, pid: i32, core: &Path) -> anyhow::Result<()> {
        thread::sleep(BEFORE);
        match self {
            Self::Undumped => Ok(()),
            Self::Converge => dump(pid, "converge", core).map(drop),
            Self::Gcore => gcore(pid, core),
        }
    }
}

/// What the clients saw in one run.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    per_s: f64,
    /// Latency that 99.9 % of the requests were below, in ms.
    p999_ms: f64,
    max_ms: f64,
}

/// One of the numbers.
type Quantity = fn(&Seen) -> f64;

/// Measures all services, or one.
pub(crate) fn services(args: &BenchServicesArgs) -> anyhow::Result<Report> {
    interrupt::watch()?;
    let dir = tempfile::Builder::new().prefix("farspace-bench-").tempdir_in(room::find(2 << 30, None)?)?;
    interrupt::remove_at_exit(dir.path().to_owned());
    let mut report = Report::new();
    let mut groups = Vec::new();
    let wanted = |name: &str| args.only.as_ref().is_none_or(|only| only == name);
    let rounds = if args.quick { 1 } else { 3 };
    if wanted("redis") {
        match redis::Redis::start(dir.path(), args.quick)? {
            Some(service) => groups.push(measure(
                "redis",
                rounds,
                &dir.path().join("core"),
                &mut report,
                |visit, core| service.run(visit, core),
            )?),
            None => skip("redis", "redis-server or redis-benchmark is not installed"),
        }
    }
    if wanted("postgres") {
        match postgres::Postgres::start(dir.path(), args.quick)? {
            Some(service) => groups.push(measure(
                "postgres",
                rounds,
                &dir.path().join("core"),
                &mut report,
                |visit, core| service.run(visit, core),
            )?),
            None => skip("postgres", "postgres or pgbench is not installed"),
        }
    }
    if let Some(path) = &args.plot {
        plot::services(path, &groups)?;
    }
    Ok(report)
}

/// Runs the kinds in turns; returns the medians for the drawing.
fn measure(
    name: &str,
    rounds: usize,
    core: &Path,
    report: &mut Report,
    run: impl Fn(Visit, &Path) -> anyhow::Result<Seen>,
) -> anyhow::Result<plot::Group> {
    let mut seen: [Vec<Seen>; 3] = Default::default();
    for _ in 0..rounds {
        for (visit, seen) in VISITS.into_iter().zip(&mut seen) {
            interrupt::check()?;
            seen.push(run(visit, core).with_context(|| format!("{name}, {}", visit.name()))?);
        }
    }
    let mut group = plot::Group { name: name.to_owned(), bars: Vec::new() };
    let quantities: [(&str, Unit, Quantity); 3] = [
        ("throughput", Unit::PerS, |seen| seen.per_s),
        ("p999", Unit::Ms, |seen| seen.p999_ms),
        ("max", Unit::Ms, |seen| seen.max_ms),
    ];
    for (quantity, unit, of) in quantities {
        let samples = |index: usize| -> Vec<f64> { seen[index].iter().map(of).collect() };
        let pairs =
            |index: usize| -> Vec<(f64, f64)> { samples(index).into_iter().zip(samples(0)).collect() };
        let row = |visit: Visit| format!("{name}-{quantity}-{}", visit.name());
        report.add(row(Visit::Undumped), unit, &samples(0));
        report.add_against(&row(Visit::Converge), &row(Visit::Undumped), unit, &pairs(1));
        report.add_against(&row(Visit::Gcore), &row(Visit::Undumped), unit, &pairs(2));
    }
    for (visit, seen) in VISITS.into_iter().zip(&seen) {
        let middle = |of: fn(&Seen) -> f64| super::report::median(&seen.iter().map(of).collect::<Vec<_>>());
        group.bars.push(plot::Bar {
            name: visit.name(),
            per_s: middle(|seen| seen.per_s),
            p999_ms: middle(|seen| seen.p999_ms),
            longest_ms: middle(|seen| seen.max_ms),
        });
    }
    Ok(group)
}

/// A process that is ended with its handle.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
