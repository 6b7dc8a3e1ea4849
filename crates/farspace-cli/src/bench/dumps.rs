//! Dumps of a target that writes to random pages at a steady rate, as a store like redis does: the level `converge` against
//! gcore and against a forked snapshot.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use farspace::Target;
use farspace_abi::RemoteIoVec;
use farspace_dump::dirty::{Tracker, Tracking};
use farspace_dump::predump::{ImageDirectory, PredumpOptions, Predumper};
use farspace_sys::process;

use super::report::{Report, Unit};
use super::stops::{dump, gap, gcore, has_gcore};
use super::transfers::huge_bytes;
use super::{fits, size_name, skip, streams};
use crate::cli::BenchDumpArgs;
use crate::demo::baseline;
use crate::demo::client::{Life, Pages, Request, SampleTarget};
use crate::demo::room;
use crate::engine::DumpOutcome;
use crate::interrupt;

const MIB: u64 = 1 << 20;
/// What is in the target besides the memory that is written to.
const STATIC_BYTES: u64 = MIB;
/// Bytes of pages that are written to per second, where the rate isn't a part of the memory: 10 % of 1 GiB.
const SAME_RATE: u64 = 1024 * MIB / 10;

/// How much is measured.
struct Scale {
    sizes: &'static [u64],
    /// Percent of the pages per second.
    percents: &'static [u64],
    flat: &'static [u64],
    rounds: usize,
    touched: u64,
}

const FULL: Scale = Scale {
    sizes: &[1024 * MIB, 4096 * MIB],
    percents: &[1, 10, 50],
    flat: &[256 * MIB, 1024 * MIB, 4096 * MIB, 8192 * MIB],
    rounds: 3,
    touched: 256 * MIB,
};
const QUICK: Scale =
    Scale { sizes: &[64 * MIB], percents: &[10], flat: &[32 * MIB, 64 * MIB], rounds: 1, touched: 32 * MIB };

/// Measures everything that `bench dump` reports, or the rows whose group was asked for.
pub(crate) fn dumps(args: &BenchDumpArgs) -> anyhow::Result<Report> {
    let scale = if args.quick { QUICK } else { FULL };
    interrupt::watch()?;
    let largest = scale.sizes.iter().chain(scale.flat).copied().max().unwrap_or(0);
    let dir = tempfile::Builder::new()
        .prefix("farspace-bench-")
        .tempdir_in(room::find(largest, args.dir.as_deref())?)?;
    interrupt::remove_at_exit(dir.path().to_owned());
    let core = dir.path().join("core");
    let wanted = |group: &str| args.only.as_ref().is_none_or(|only| group.contains(only.as_str()));
    let mut report = Report::new();
    for &size in scale.sizes {
        for (pages, suffix) in [(Pages::Default, "4k"), (Pages::Huge, "huge")] {
            for &percent in scale.percents {
                let group = format!("{}-{suffix}-{percent}pc", size_name(size));
                if wanted(&group) && fits(size) {
                    against_others(&scale, size, pages, percent, &group, &core, &mut report)?;
                }
            }
        }
    }
    for &size in scale.flat {
        if wanted(&format!("flat-{}", size_name(size))) && fits(size) {
            at_size(&scale, size, &core, &mut report)?;
        }
    }
    if wanted("touch") {
        touches(&scale, &mut report)?;
    }
    if wanted("predump") && fits(2 * scale.sizes[0]) {
        predumps(&scale, dir.path(), &mut report)?;
    }
    if wanted("stream") {
        streams::measure(if args.quick { super::QUICK } else { super::FULL }, &mut report)?;
    }
    Ok(report)
}

fn start(size: u64, pages_per_s: u64, pages: Pages) -> anyhow::Result<SampleTarget> {
    SampleTarget::start(STATIC_BYTES, size, pages, Life::Writing { pages_per_s })
}

/// The three ways in turns, on the same target.
fn against_others(
    scale: &Scale,
    size: u64,
    pages: Pages,
    percent: u64,
    group: &str,
    core: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let has_gcore = has_gcore();
    let mut target = start(size, size / 4096 * percent / 100, pages)?;
    if pages == Pages::Huge && huge_bytes(target.pid()) < size / 2 {
        skip(group, "the target got no transparent huge pages; see farspace doctor");
        return Ok(());
    }
    let (mut against_gcore, mut against_fork) = (Vec::new(), Vec::new());
    let (mut stops, mut totals, mut nr_rounds) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let (ours, outcome) = gap_of_dump(&mut target, "converge", core)?;
        stops.push(outcome.stop_ns as f64 / 1e6);
        totals.push(outcome.total_ns as f64 / 1e6);
        nr_rounds.push(outcome.rounds.len() as f64);
        let (fork, _) = gap_of_dump(&mut target, "snapshot", core)?;
        against_fork.push((ours, fork));
        if has_gcore {
            against_gcore.push((ours, gap(&mut target, |pid| gcore(pid, core))?));
        }
    }
    report.add_pairs(
        &format!("converge-gap-{group}"),
        &format!("snapshot-gap-{group}"),
        Unit::Ms,
        &against_fork,
    );
    if has_gcore {
        let name = format!("converge-gap-{group}-to-gcore");
        report.add_pairs(&name, &format!("gcore-gap-{group}"), Unit::Ms, &against_gcore);
    }
    report.add(format!("converge-stop-{group}"), Unit::Ms, &stops);
    report.add(format!("converge-total-{group}"), Unit::Ms, &totals);
    report.add(format!("converge-rounds-{group}"), Unit::Count, &nr_rounds);
    target.finish()
}

/// The stop at the same rate of writing, whatever the size, and farspace's own memory.
fn at_size(scale: &Scale, size: u64, core: &Path, report: &mut Report) -> anyhow::Result<()> {
    let mut target = start(size, SAME_RATE / 4096, Pages::Default)?;
    let (mut stops, mut gaps, mut peaks, mut scans) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..scale.rounds {
        let (gap, outcome) = gap_of_dump(&mut target, "converge", core)?;
        gaps.push(gap);
        stops.push(outcome.stop_ns as f64 / 1e6);
        scans.push(outcome.stop_parts.scan_ns as f64 / 1e6);
        peaks.push(outcome.peak_memory_bytes as f64 / MIB as f64);
    }
    let name = size_name(size);
    report.add(format!("flat-converge-stop-{name}"), Unit::Ms, &stops);
    report.add(format!("flat-converge-gap-{name}"), Unit::Ms, &gaps);
    report.add(format!("flat-converge-stop-scan-{name}"), Unit::Ms, &scans);
    report.add(format!("converge-peak-memory-{name}"), Unit::MiB, &peaks);
    target.finish()
}

/// What a write to a page costs the target: not tracked, the first one tracked, and those after it.
fn touches(scale: &Scale, report: &mut Report) -> anyhow::Result<()> {
    for (pages, suffix) in [(Pages::Default, "4k"), (Pages::Huge, "huge")] {
        let mut sample =
            SampleTarget::start(STATIC_BYTES, scale.touched, pages, Life::Writing { pages_per_s: 0 })?;
        let nr_pages = (scale.touched / 4096) as f64;
        let (mut before, mut first, mut second) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..scale.rounds + 2 {
            let pid = sample.pid();
            let mut write =
                || -> anyhow::Result<f64> { Ok(sample.ask(Request::Touch)?.touch_ns as f64 / nr_pages) };
            write()?;
            before.push(write()?);
            let target = Target::attach(pid)?;
            let mut tracker = Tracker::start(&target, Some(Tracking::WriteProtect))?;
            let mut maps = process::mappings(pid)?;
            maps.retain(|mapping| !target.owns(mapping));
            tracker.arm(&target, &maps)?;
            first.push(write()?);
            second.push(write()?);
            tracker.disarm();
            target.detach()?;
        }
        let pairs =
            |ours: &[f64]| -> Vec<(f64, f64)> { ours.iter().copied().zip(before.iter().copied()).collect() };
        let untracked = format!("touch-untracked-{suffix}");
        report.add_pairs(&format!("touch-first-tracked-{suffix}"), &untracked, Unit::Ns, &pairs(&first));
        report.add_against(&format!("touch-again-tracked-{suffix}"), &untracked, Unit::Ns, &pairs(&second));
        sample.finish()?;
    }
    Ok(())
}

/// An iteration of a pre-dump a second after the one before, with 1 % of the pages written meanwhile, against a copy of all
/// memory; both into files in the same place.
fn predumps(scale: &Scale, dir: &Path, report: &mut Report) -> anyhow::Result<()> {
    let size = scale.sizes[0];
    let mut target = start(size, size / 4096 / 100, Pages::Default)?;
    let ranges = [RemoteIoVec::new(target.hello.hot_base, target.hello.hot_len)];
    let options = PredumpOptions { keeps_tracking: true, ..PredumpOptions::default() };
    let mut predumper = Predumper::new(target.pid(), options)?;
    let place = |n: usize| dir.join(format!("predump-{n}"));
    predumper.iterate(&mut ImageDirectory::create(&place(0), None)?, &mut |_| interrupt::flow())?;
    let (mut pairs, mut gaps, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for n in 1..=2 * scale.rounds + 1 {
        std::thread::sleep(Duration::from_secs(1));
        target.ask(Request::Reset)?;
        let begin = Instant::now();
        let mut images = ImageDirectory::create(&place(n), Some(&place(n - 1)))?;
        let done = predumper.iterate(&mut images, &mut |_| interrupt::flow())?;
        let ours = begin.elapsed().as_secs_f64() * 1e3;
        gaps.push(target.ask(Request::State)?.longest_gap_ns as f64 / 1e6);
        written.push(done.pages_written as f64 * 4096.0 / MIB as f64);
        let copy = dir.join("copy");
        let begin = Instant::now();
        baseline::copy(target.pid(), &ranges, &mut File::create(&copy)?)?;
        pairs.push((ours, begin.elapsed().as_secs_f64() * 1e3));
        std::fs::remove_file(&copy)?;
    }
    report.add_pairs("predump-iteration-1pc", "readv-copy", Unit::Ms, &pairs);
    report.add("predump-iteration-1pc-gap", Unit::Ms, &gaps);
    report.add("predump-iteration-1pc-written", Unit::MiB, &written);
    (0..=2 * scale.rounds + 1).try_for_each(|n| std::fs::remove_dir_all(place(n)))?;
    target.finish()
}

fn gap_of_dump(target: &mut SampleTarget, level: &str, core: &Path) -> anyhow::Result<(f64, DumpOutcome)> {
    let mut outcome = None;
    let gap = gap(target, |pid| {
        outcome = Some(dump(pid, level, core)?);
        Ok(())
    })?;
    Ok((gap, outcome.ok_or_else(|| anyhow::anyhow!("the dump left no report"))?))
}
