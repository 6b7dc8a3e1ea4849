//! The order of events at each level: what happens while the target is stopped, and what after.
//!
//! | level | stopped | after |
//! |---|---|---|
//! | converge | registers, list of mappings, last changes ([`converge`](crate::converge)) | the rest of the file |
//! | snapshot | registers, list of mappings, fork | pages from the forked child; what a fork leaves out, live |
//! | frozen | registers, mappings, all pages | - |
//! | fuzzy | registers, list of mappings | all pages, live |
//!
//! [`job`] has the stages of one process, [`tree`] takes the stages of several processes together,
//! and [`rounds`] what they copy before the stop.

pub(crate) mod job;
mod rounds;
mod shared;
mod tree;

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use farspace::{AttachOptions, Mechanism, Refusal, Target};
use farspace_image::filter::CoredumpFilter;
use farspace_sys::process;
use rustix::io::Errno;

use crate::converge::Course;
use crate::dirty::{Tracker, Tracking};
use crate::place::{Destination, Place};
use crate::plan::{Selection, Undumped};
use crate::program::Program;
use crate::{DumpOptions, DumpReport, Error, Filter, Level, Progress, Result};

use job::{Job, To, Written};
pub use tree::dump_tree;

/// Told how far a dump is; `Break` ends it.
pub(crate) type Tell<'a> = &'a mut (dyn FnMut(Progress) -> ControlFlow<()> + Send);

/// Writes an ELF core of a running process to a file, or to a receiver elsewhere.
///
/// `progress` is called often, from another thread; `Break` ends the dump. The file appears under its name only when it is complete.
///
/// # Errors
///
/// The target can't be visited or ends meanwhile; the output exists or can't be written; the receiver gives up.
pub fn dump(
    pid: i32,
    to: &Destination,
    options: &DumpOptions,
    progress: &mut (dyn FnMut(Progress) -> ControlFlow<()> + Send),
) -> Result<DumpReport> {
    // Threads of the target that are traced are let go with the end of the thread that traces them.
    farspace::on_own_thread(|| capture(pid, to, options, progress))
}

fn capture(pid: i32, to: &Destination, options: &DumpOptions, progress: Tell<'_>) -> Result<DumpReport> {
    let begin = Instant::now();
    let status = visitable(pid)?;
    let pid = status.tgid;
    let place = Place::create(to, &format!("core.{pid}"), options.overwrite)?;
    let program = Program::of(pid);
    let job = Job::new(pid, options, is_stopped(&status));
    let (written, target) = one(job, options, &place, &program, progress)
        .map_err(|error| explain(error, &place, &program, pid))
        .inspect_err(|error| place.give_up(error))?;
    let found = target.report().clone();
    target.detach()?;
    place.finish()?;
    Ok(report(pid, PathBuf::from(to.to_string()), options, written, found, begin.elapsed()))
}

/// All stages of one process.
fn one(
    mut job: Job<'_>,
    options: &DumpOptions,
    place: &Place,
    program: &Program,
    progress: Tell<'_>,
) -> Result<(Written, Target)> {
    let mut target = attach(job.pid(), options)?;
    let mut level = options.level;
    if level == Level::Converge {
        match way(&target, options)? {
            Ok(tracker) => {
                let mut to = To { place, progress };
                let written = job.converge(&mut target, tracker, options, program, &mut to)?;
                return Ok((written, target));
            }
            Err(course) => {
                level = course.level;
                job.fall_back(level, course);
            }
        }
    }
    let before = job.before(&target, Some(place))?;
    let frozen = program.freeze(&target, options.stop_timeout)?;
    let held = job.at_stop(&mut target, &frozen, before)?;
    if level.copies_stopped() {
        let mut written = job.write(&mut target, program, held, &mut To { place, progress })?;
        place.settle(&mut |_| progress(Progress::NONE))?;
        written.stop = frozen.thaw();
        Ok((written, target))
    } else {
        let stop = frozen.thaw();
        let written = job.write(&mut target, program, held, &mut To { place, progress })?;
        Ok((Written { stop, ..written }, target))
    }
}

/// What a dump that converges needs; or why it can't, and the level instead.
fn way(target: &Target, options: &DumpOptions) -> Result<std::result::Result<Tracker, Course>> {
    let tracker = Tracker::start(target, options.tracking)?;
    if tracker.tracking() == Tracking::Nothing && options.tracking.is_none() {
        return Ok(Err(instead(target, "changes can't be noticed here", tracker.reasons().to_vec())));
    }
    Ok(Ok(tracker))
}

/// The best level that shows one instant without rounds before it.
fn instead(target: &Target, why: &str, reasons: Vec<String>) -> Course {
    let has_agent = target.report().mechanism.is_zero_copy();
    let level = if has_agent { Level::Snapshot } else { Level::Frozen };
    Course { level, missed: Some(why.to_owned()), reasons, ..Course::default() }
}

/// The status of a process that isn't this one, and may be visited.
fn visitable(pid: i32) -> Result<process::Status> {
    let status = process::status(pid)?;
    if status.tgid == std::process::id() as i32 {
        return Err(Error::Own { pid: status.tgid });
    }
    farspace_sys::memory::check_access(status.tgid)?;
    Ok(status)
}

/// True if the process is stopped by a signal (SIGSTOP), and was before anybody came.
fn is_stopped(status: &process::Status) -> bool {
    status.state == 'T'
}

fn attach(pid: i32, options: &DumpOptions) -> Result<Target> {
    // A snapshot is the agent's work: why it can't be there is the error then.
    let needed = (options.level == Level::Snapshot).then_some(Mechanism::Agent);
    let attach = AttachOptions {
        mechanism: options.mechanism.or(needed),
        stop_timeout: options.stop_timeout,
        ..AttachOptions::default()
    };
    Target::attach_with(pid, &attach).map_err(|error| match error.refusal() {
        // Nothing helps against these: all levels stop every thread.
        None | Some(Refusal::Traced { .. } | Refusal::Not64Bit) => error.into(),
        Some(refusal) if needed.is_some() => Error::NoSnapshot { pid, reason: refusal.to_string() },
        Some(_) => error.into(),
    })
}

/// What an error in the middle of a dump really is.
fn explain(error: Error, place: &Place, program: &Program, pid: i32) -> Error {
    let error = match error {
        Error::Target(e) if e.errno() == Errno::INTR => Error::Interrupted,
        // An error while writing is the output's, where it came through a splice.
        Error::Target(e) if is_output(e.errno()) && e.operation() == farspace::WRITE_OUT => {
            place.broken(e.errno())
        }
        other => other,
    };
    match error {
        // It was there a moment ago.
        Error::Target(error) if error.errno() == Errno::SRCH => Error::Gone { pid },
        // Whatever can't be had in the middle of an exec.
        Error::Target(_) | Error::Layout { .. } | Error::NoSnapshot { .. } if !program.still_runs() => {
            Error::Gone { pid }
        }
        error => error,
    }
}

fn is_output(errno: Errno) -> bool {
    !matches!(errno, Errno::SRCH | Errno::PERM)
}

fn report(
    pid: i32,
    path: PathBuf,
    options: &DumpOptions,
    written: Written,
    found: farspace::Report,
    took: Duration,
) -> DumpReport {
    let course = written.course;
    let level = if options.level == Level::Converge { course.level } else { options.level };
    DumpReport {
        pid,
        level: level.name().to_owned(),
        requested_level: options.level.name().to_owned(),
        missed: course.missed,
        tracking: course.tracking.map(|tracking| tracking.name().to_owned()),
        tracking_reasons: course.reasons,
        rounds: course.rounds,
        last_bytes: course.last_bytes,
        stop_parts: course.stop_parts,
        max_downtime_ns: options.max_downtime.map(nanos),
        path,
        mechanism: found.mechanism.name().to_owned(),
        fallback_reasons: found.reasons,
        weaker: written.weaker,
        threads: written.threads,
        segments: written.segments,
        bytes_written: written.bytes,
        file_bytes: written.file_bytes,
        stop_ns: nanos(written.stop),
        attach_stop_ns: nanos(found.stop),
        total_ns: nanos(took),
    }
}

fn selection(pid: i32, filter: Filter) -> Selection {
    let own = || {
        let text = std::fs::read_to_string(format!("/proc/{pid}/coredump_filter")).ok()?;
        CoredumpFilter::from_proc(&text).ok()
    };
    match filter {
        Filter::All => Selection { filter: CoredumpFilter::all(), undumped: Undumped::Dumped },
        Filter::Mask(filter) => Selection { filter, undumped: Undumped::LeftOut },
        Filter::Target => Selection { filter: own().unwrap_or_default(), undumped: Undumped::LeftOut },
    }
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
