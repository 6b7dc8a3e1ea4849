//! How long targets are stopped, as their own threads see it, and how much memory farspace needs.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::report::{Report, Unit};
use super::transfers::huge_bytes;
use super::{Scale, fits, size_name, skip};
use crate::demo::client::{Life, Pages, Request, SampleTarget};
use crate::demo::room;
use crate::engine::{Attached, DumpOutcome};
use crate::interrupt;

/// Adds the rows for attach, dump and memory, those of them that are wanted.
pub(super) fn measure(
    scale: Scale,
    is_wanted: &dyn Fn(&str) -> bool,
    report: &mut Report,
) -> anyhow::Result<()> {
    for &size in scale.sizes.iter().filter(|_| is_wanted("attach")) {
        if fits(size) {
            attaches(scale, size, report)?;
        }
    }
    let dir = tempfile::Builder::new()
        .prefix("farspace-bench-")
        .tempdir_in(room::find(scale.target_bytes, None)?)?;
    interrupt::remove_at_exit(dir.path().to_owned());
    let core = dir.path().join("core");
    if is_wanted("dump") {
        dumps(scale, &core, report)?;
    }
    if is_wanted("memory") {
        peak_memory(scale, &core, report)?;
    }
    Ok(())
}

/// The stop of attaching: as the library measured it, and as the target saw it.
fn attaches(scale: Scale, size: u64, report: &mut Report) -> anyhow::Result<()> {
    let mut target = SampleTarget::start(size, 0, Pages::Default, Life::Watching)?;
    let (mut stops, mut gaps) = (Vec::new(), Vec::new());
    for _ in 0..scale.attaches {
        interrupt::check()?;
        target.ask(Request::Reset)?;
        let attached = Attached::new(target.pid(), None)?;
        stops.push(attached.stop().as_secs_f64() * 1e3);
        drop(attached);
        gaps.push(target.ask(Request::State)?.longest_gap_ns as f64 / 1e6);
    }
    report.add(format!("attach-stop-{}", size_name(size)), Unit::Ms, &stops);
    report.add(format!("attach-gap-{}", size_name(size)), Unit::Ms, &gaps);
    target.finish()
}

/// Frozen and snapshot dumps against gcore, by the gap that the target saw.
fn dumps(scale: Scale, core: &Path, report: &mut Report) -> anyhow::Result<()> {
    if !has_gcore() {
        return Ok(());
    }
    // gcore takes seconds; three pairs show enough.
    let nr_pairs = scale.pairs.min(3);
    for (pages, suffix) in [(Pages::Default, "4k"), (Pages::Huge, "huge")] {
        let mut target = SampleTarget::start(scale.target_bytes, 0, pages, Life::Watching)?;
        if pages == Pages::Huge && huge_bytes(target.pid()) < scale.target_bytes / 2 {
            skip("dump-*-huge", "the target got no transparent huge pages; see farspace doctor");
            continue;
        }
        for level in ["frozen", "snapshot"] {
            let mut pairs = Vec::new();
            for _ in 0..nr_pairs {
                let ours = gap(&mut target, |pid| dump(pid, level, core).map(drop))?;
                pairs.push((ours, gap(&mut target, |pid| gcore(pid, core))?));
            }
            let (ours, theirs) =
                (format!("dump-{level}-stop-{suffix}"), format!("gcore-{level}-stop-{suffix}"));
            report.add_pairs(&ours, &theirs, Unit::Ms, &pairs);
        }
        target.finish()?;
    }
    Ok(())
}

/// farspace's own peak memory over target sizes; every dump is a process of its own.
fn peak_memory(scale: Scale, core: &Path, report: &mut Report) -> anyhow::Result<()> {
    for &size in scale.sizes {
        if !fits(size) {
            continue;
        }
        let target = SampleTarget::start(size, 0, Pages::Default, Life::Watching)?;
        let outcome = dump(target.pid(), "snapshot", core)?;
        let peak = outcome.peak_memory_bytes as f64 / f64::from(1 << 20);
        report.add(format!("dump-peak-memory-{}", size_name(size)), Unit::MiB, &[peak]);
        target.finish()?;
    }
    Ok(())
}

/// The longest gap that the target saw during `work`, in milliseconds.
pub(super) fn gap(
    target: &mut SampleTarget,
    work: impl FnOnce(i32) -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    interrupt::check()?;
    target.ask(Request::Reset)?;
    work(target.pid())?;
    Ok(target.ask(Request::State)?.longest_gap_ns as f64 / 1e6)
}

pub(super) fn dump(pid: i32, level: &str, core: &Path) -> anyhow::Result<DumpOutcome> {
    let mut command = Command::new("/proc/self/exe");
    command.args(["dump", &pid.to_string(), "--level", level, "--json", "--force", "--output"]).arg(core);
    let output = command.stderr(Stdio::inherit()).output().context("start farspace dump")?;
    if !output.status.success() {
        bail!("farspace dump of process {pid} ended with {}", output.status);
    }
    std::fs::remove_file(core).context("remove the core")?;
    serde_json::from_slice(&output.stdout).context("understand farspace dump --json")
}

/// Whether there is a gcore; says so if there is none.
pub(super) fn has_gcore() -> bool {
    let found = Command::new("gcore").arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        skip("rows against gcore", "gcore is not installed (apt-get install gdb)");
    }
    found
}

pub(super) fn gcore(pid: i32, core: &Path) -> anyhow::Result<()> {
    let mut command = Command::new("gcore");
    command
        .arg("-o")
        .arg(core)
        .arg(pid.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let status = command.status().context("start gcore")?;
    if !status.success() {
        bail!("gcore of process {pid} ended with {status}");
    }
    // gcore appends the pid to the name.
    let mut name = core.as_os_str().to_owned();
    name.push(format!(".{pid}"));
    std::fs::remove_file(name).context("remove gcore's core")
}
