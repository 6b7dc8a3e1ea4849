//! Splice against process_vm_readv + write.

use std::fs::File;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use farspace_abi::RemoteIoVec;

use super::report::{Report, Unit};
use super::sinks::{Kind, Sink};
use super::{Scale, fits, size_name, skip};
use crate::demo::baseline;
use crate::demo::client::{Life, Pages, SampleTarget};
use crate::engine::Attached;
use crate::interrupt;
use crate::units::gb_per_s;

/// One way to bring the target's bytes to a sink.
type Transfer<'a> = &'a mut dyn FnMut(&Sink) -> anyhow::Result<u64>;

/// Adds a pair of rows for every sink that is wanted, and the curve.
pub(super) fn measure(
    scale: Scale,
    is_wanted: &dyn Fn(&str) -> bool,
    disk: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let target = SampleTarget::start(scale.target_bytes, 0, Pages::Default, Life::Asleep)?;
    for kind in
        [Kind::DevNull, Kind::Tcp, Kind::TcpOnward, Kind::Unix, Kind::Tmpfs, Kind::PageCache, Kind::Direct]
    {
        let suffix = if kind == Kind::DevNull { "devnull-4k".to_owned() } else { kind.name().to_owned() };
        if !is_wanted(&suffix) {
            continue;
        }
        if let Err(error) = Sink::open(kind, disk).map(Sink::finish) {
            skip(&suffix, &error.to_string());
            continue;
        }
        rows(&target, kind, &suffix, scale.pairs, disk, report)?;
    }
    target.finish()?;
    if is_wanted("devnull-huge") {
        huge(scale, disk, report)?;
    }
    if is_wanted("curve") {
        curve(scale, disk, report)?;
    }
    Ok(())
}

/// Huge pages, if the system gives any.
fn huge(scale: Scale, disk: &Path, report: &mut Report) -> anyhow::Result<()> {
    let target = SampleTarget::start(scale.target_bytes, 0, Pages::Huge, Life::Asleep)?;
    if huge_bytes(target.pid()) < scale.target_bytes / 2 {
        skip("devnull-huge", "the target got no transparent huge pages; see farspace doctor");
    } else {
        rows(&target, Kind::DevNull, "devnull-huge", scale.pairs, disk, report)?;
    }
    target.finish()
}

/// AnonHugePages of a process.
pub(super) fn huge_bytes(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("AnonHugePages:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}

fn rows(
    target: &SampleTarget,
    kind: Kind,
    suffix: &str,
    nr_pairs: usize,
    disk: &Path,
    report: &mut Report,
) -> anyhow::Result<()> {
    let ranges = [static_range(target)];
    let mut attached = Attached::new(target.pid(), None)?;
    let mut ours =
        |sink: &Sink| Ok(attached.splice(&ranges, sink.as_by_command()?, &mut |_| crate::interrupt::flow())?);
    let mut theirs = |sink: &Sink| copy(target.pid(), &ranges, sink);
    let mut pairs = Vec::new();
    for pair in 0..nr_pairs {
        // Who goes first alternates, so that neither always finds the caches warm.
        pairs.push(if pair % 2 == 0 {
            let first = rate(kind, disk, &mut ours)?;
            (first, rate(kind, disk, &mut theirs)?)
        } else {
            let first = rate(kind, disk, &mut theirs)?;
            (rate(kind, disk, &mut ours)?, first)
        });
    }
    report.add_pairs(&format!("splice-{suffix}"), &format!("readv-write-{suffix}"), Unit::GbPerS, &pairs);
    Ok(())
}

/// Splice to /dev/null over target sizes: a flat line is linear time.
fn curve(scale: Scale, disk: &Path, report: &mut Report) -> anyhow::Result<()> {
    for &size in scale.sizes {
        if !fits(size) {
            continue;
        }
        let target = SampleTarget::start(size, 0, Pages::Default, Life::Asleep)?;
        let ranges = [static_range(&target)];
        let mut attached = Attached::new(target.pid(), None)?;
        let mut samples = Vec::new();
        for _ in 0..scale.pairs {
            samples.push(rate(Kind::DevNull, disk, &mut |sink| {
                Ok(attached.splice(&ranges, &sink.output, &mut |_| crate::interrupt::flow())?)
            })?);
        }
        report.add(format!("splice-devnull-{}", size_name(size)), Unit::GbPerS, &samples);
        drop(attached);
        target.finish()?;
    }
    Ok(())
}

/// Runs one transfer into a new sink, until its reader has all of it; GB/s.
fn rate(kind: Kind, disk: &Path, transfer: Transfer<'_>) -> anyhow::Result<f64> {
    interrupt::check()?;
    let sink = Sink::open(kind, disk)?;
    let start = Instant::now();
    let bytes = transfer(&sink)?;
    // Removing a file is not part of writing it; a reader that lags behind is part of sending.
    let written = start.elapsed();
    sink.finish().context("finish a transfer")?;
    let received = start.elapsed();
    let time = if matches!(kind, Kind::Tcp | Kind::TcpOnward | Kind::Unix) { received } else { written };
    Ok(gb_per_s(bytes, time))
}

fn copy(pid: i32, ranges: &[RemoteIoVec], sink: &Sink) -> anyhow::Result<u64> {
    let fd = sink.output.fd.try_clone().context("duplicate a descriptor")?;
    baseline::copy(pid, ranges, &mut File::from(fd))
}

fn static_range(target: &SampleTarget) -> RemoteIoVec {
    RemoteIoVec::new(target.hello.static_base, target.hello.static_len)
}
