//! The level `converge`: everything is copied while the target runs, then what has changed meanwhile, and so on; the rest
//! in one short stop.
//!
//! ```text
//! running   watch; copy all; copy what has changed; copy what has changed; ...
//! stopped   registers; mappings; which pages have changed; those into memory of this process
//! running   those into the file; holes where pages are gone; the header
//! ```
//!
//! | module | what |
//! |---|---|
//! | `pace` | when the rounds end |
//! | `places` | where in the file each address goes |
//! | `work` | which pages are to be copied in a round |
//! | `gather` | copying many small runs at once |
//! | `copy` | moving pages into the file, live and in the stop |
//!
//! What the file holds is right for a page if it was copied after it changed. Memory that can't be watched (shared, or a
//! file's) is copied once live, so that the file has its pages, and again in the stop.
//!
//! [`Convergence`] has the steps of one process. `Job::converge` takes them for one; several processes take them together
//! (`capture::tree`).
//!
//! A receiver is sent pages again like a file is written again. But what was spliced to it is the target's own page until the
//! receiver has it, and would show what the target writes after the stop. So before the stop the sender waits until
//! everything has arrived, and nothing is spliced in the stop without the same.

mod copy;
mod gather;
mod pace;
mod places;
mod work;

use std::time::{Duration, Instant};

use farspace::{Frozen, Snapshot, Target};
use farspace_image::core_file::{CoreLayout, Process, Thread};
use farspace_sys::memory::Memory;
use farspace_sys::process;

use self::copy::{Copier, HELD};
use self::work::{Moment, Work};
use crate::capture::job::{Job, To, Written, without_ours};
use crate::dirty::{Changes, PageSet, Tracker, Tracking};
use crate::origin::Origin;
use crate::plan::{self, Planned};
use crate::program::Program;
use crate::{DumpOptions, Error, Level, OnMiss, Progress, Result, StopParts};

pub(crate) use gather::Gather;
pub use pace::Round;
pub(crate) use pace::goes_on;

/// What the report says of the rounds and of the stop.
#[derive(Debug, Default)]
pub(crate) struct Course {
    /// How changes were noticed, and why not in a better way.
    pub(crate) tracking: Option<Tracking>,
    pub(crate) reasons: Vec<String>,
    pub(crate) rounds: Vec<Round>,
    /// Bytes copied for the stop.
    pub(crate) last_bytes: u64,
    pub(crate) stop_parts: StopParts,
    /// Why another level was reached than was asked for.
    pub(crate) missed: Option<String>,
    /// The level that was reached.
    pub(crate) level: Level,
}

/// One process that is copied round by round.
pub(crate) struct Convergence {
    tracker: Tracker,
    copier: Copier,
    planned: Vec<Planned>,
    memory: Memory,
    is_first: bool,
}

/// What a stop has found.
pub(crate) struct Rest {
    threads: Vec<Thread>,
    planned: Vec<Planned>,
    changes: Changes,
    work: Work,
    census: (Process, Vec<u8>),
}

impl Rest {
    /// Bytes that are to be copied yet.
    pub(crate) fn bytes(&self) -> u64 {
        self.work.bytes
    }
}

/// Memory for what is copied in a stop.
pub(crate) fn gather() -> Gather {
    Gather::new(HELD)
}

/// Why the stop is longer than it may be, if it is.
pub(crate) fn miss(options: &DumpOptions, bytes: u64, estimate: Duration) -> Option<String> {
    options.max_downtime.filter(|limit| estimate > *limit).map(|limit| {
        format!(
            "the stop may take {:.1} ms, and {} pages that are still to be copied make it {:.1} ms",
            limit.as_secs_f64() * 1e3,
            bytes / 4096,
            estimate.as_secs_f64() * 1e3
        )
    })
}

impl Job<'_> {
    pub(crate) fn converge(
        &mut self,
        target: &mut Target,
        tracker: Tracker,
        options: &DumpOptions,
        program: &Program,
        to: &mut To<'_>,
    ) -> Result<Written> {
        let mut gather = gather();
        let mut run = Convergence::new(self, target, tracker)?;
        while pace::goes_on(&self.course.rounds, options.max_rounds) {
            run.round(self, target, &mut gather, to)?;
        }
        to.place.settle(&mut |_| (to.progress)(Progress::NONE))?;
        let census = self.census()?;

        let frozen = program.freeze(target, options.stop_timeout)?;
        let rest = run.rest(self, target, &frozen, census)?;
        let missed = miss(options, rest.bytes(), frozen.elapsed() + run.time_for(rest.bytes()));
        self.course.level = Level::Converge;
        let (stop, snapshot);
        match (&missed, options.on_miss) {
            (Some(reason), OnMiss::Fail) => {
                drop(frozen);
                run.give_up();
                return Err(Error::Downtime { pid: self.pid, reason: reason.clone() });
            }
            (Some(_), OnMiss::Snapshot) if target.report().mechanism.is_zero_copy() => {
                snapshot = Some(target.snapshot()?);
                stop = frozen.thaw();
                self.course.level = Level::Snapshot;
            }
            (missed, _) => {
                run.copy(self, target, &rest, &mut gather, to)?;
                snapshot = None;
                stop = frozen.thaw();
                if missed.is_some() {
                    self.course.level = Level::Frozen;
                }
            }
        }
        self.course.missed = missed;
        if let Some(snapshot) = snapshot {
            run.copy_fork(self, target, snapshot, &rest, to)?;
        }
        let parts = &mut self.course.stop_parts;
        parts.threads_ns = nanos(stop).saturating_sub(parts.registers_ns + parts.scan_ns + parts.copy_ns);
        let written = run.complete(self, rest, &mut gather, to)?;
        Ok(Written { stop, ..written })
    }
}

impl Convergence {
    pub(crate) fn new(job: &mut Job<'_>, target: &Target, tracker: Tracker) -> Result<Self> {
        let memory = Memory::open(job.pid)?;
        job.course.reasons = tracker.reasons().to_vec();
        job.course.tracking = Some(tracker.tracking());
        let planned = job.plan(target, &memory)?;
        let threads = process::threads(job.pid)?.len();
        let copier = Copier::new(job.pid, work::header_room(planned.len(), threads));
        Ok(Self { tracker, copier, planned, memory, is_first: true })
    }

    /// Copies what has changed since the last round.
    pub(crate) fn round(
        &mut self,
        job: &mut Job<'_>,
        target: &mut Target,
        gather: &mut Gather,
        to: &mut To<'_>,
    ) -> Result<()> {
        let pid = job.pid;
        let begin = Instant::now();
        let moment = if std::mem::take(&mut self.is_first) { Moment::First } else { Moment::Later };
        self.revise(job, without_ours(target, process::mappings(pid)?));
        let planned = job.once(&self.planned);
        let changes = self.tracker.glance(target, &work::watched(&planned))?;
        let scan = begin.elapsed();
        self.copier.cover(&planned);
        let mut origin = Origin::target(target, Memory::open(pid)?)?;
        let known = self.tracker.known();
        let work = Work::new(moment, &planned, &changes, known, &self.copier, &mut origin.pagemap)?;
        let copied_bytes = work.bytes;
        let begin = Instant::now();
        self.copier.live(to, &mut origin, gather, &work)?;
        let copy = begin.elapsed();
        let changed_bytes = if moment == Moment::First { copied_bytes } else { changes.changed.bytes() };
        job.course.rounds.push(Round {
            changed_bytes,
            copied_bytes,
            scan_ns: nanos(scan),
            copy_ns: nanos(copy),
            stop_ns: nanos(changes.stop),
            stop_estimate_ns: nanos(scan + self.copier.time_for(changed_bytes)),
        });
        Ok(())
    }

    fn revise(&mut self, job: &Job<'_>, maps: Vec<process::Mapping>) {
        let before = std::mem::take(&mut self.planned);
        self.planned = plan::revise(job.pid, maps, before, job.selection, &self.memory);
    }

    /// What is still to be copied of a target that stands still.
    pub(crate) fn rest(
        &mut self,
        job: &mut Job<'_>,
        target: &Target,
        frozen: &Frozen,
        census: (Process, Vec<u8>),
    ) -> Result<Rest> {
        let begin = Instant::now();
        let (threads, maps) = job.registers(target, frozen)?;
        let registers = begin.elapsed();
        self.revise(job, maps);
        let planned = std::mem::take(&mut self.planned);
        let planned: Vec<_> = planned.into_iter().map(|planned| job.not_twice(planned)).collect();
        let changes = self.tracker.settle(&work::watched(&planned))?;
        self.copier.cover(&planned);
        let known = self.tracker.known();
        let mut pagemap = self.copier.pagemap(job.pid)?;
        let work = Work::new(Moment::Last, &planned, &changes, known, &self.copier, &mut pagemap)?;
        self.copier.unreadable = PageSet::default();
        job.course.stop_parts.registers_ns = nanos(registers);
        job.course.stop_parts.scan_ns = nanos(begin.elapsed() - registers);
        job.course.last_bytes = work.bytes;
        Ok(Rest { threads, planned, changes, work, census })
    }

    /// How long so many bytes take, as measured so far.
    pub(crate) fn time_for(&self, bytes: u64) -> Duration {
        self.copier.time_for(bytes)
    }

    /// Copies what is left in the stop.
    pub(crate) fn copy(
        &mut self,
        job: &mut Job<'_>,
        target: &mut Target,
        rest: &Rest,
        gather: &mut Gather,
        to: &mut To<'_>,
    ) -> Result<()> {
        let begin = Instant::now();
        let mut origin = Origin::target(target, Memory::open(job.pid)?)?;
        self.copier.stopped(to, &mut origin, gather, &rest.work)?;
        job.course.stop_parts.copy_ns = nanos(begin.elapsed());
        Ok(())
    }

    /// Copies what is left from a fork that was made in the stop.
    pub(crate) fn copy_fork(
        &mut self,
        job: &mut Job<'_>,
        target: &mut Target,
        snapshot: Snapshot,
        rest: &Rest,
        to: &mut To<'_>,
    ) -> Result<()> {
        let planned = &rest.planned;
        let (own, others) = rest.work.split(|mapping| {
            planned.iter().any(|p| {
                p.mapping.start.0 == mapping && !p.traits.is_wiped_on_fork && p.traits.is_copied_by_fork
            })
        });
        let mut origin = Origin::snapshot(snapshot)?;
        self.copier.forked(to, &mut origin, &own)?;
        drop(origin);
        for planned in planned.iter().filter(|p| p.dumped_bytes > 0) {
            if planned.traits.is_shared && planned.mapping.permissions[1] == b'w' {
                job.weaken(&planned.mapping, "is shared, and as of when it was written to the file");
            } else if planned.traits.is_wiped_on_fork || !planned.traits.is_copied_by_fork {
                let how = "isn't copied by a fork, and as of when it was written to the file";
                job.weaken(&planned.mapping, how);
            }
        }
        let mut origin = Origin::target(target, Memory::open(job.pid)?)?;
        self.copier.forked(to, &mut origin, &others)
    }

    /// Ends the watching, without a core.
    pub(crate) fn give_up(self) {
        self.tracker.disarm();
    }

    /// Makes a core of what was copied, once the target runs again; whatever becomes of it.
    pub(crate) fn complete(
        self,
        job: &mut Job<'_>,
        rest: Rest,
        gather: &mut Gather,
        to: &To<'_>,
    ) -> Result<Written> {
        let Self { tracker, mut copier, .. } = self;
        let Rest { mut threads, planned, changes, work, census } = rest;
        let settled = tracker.known().clone();
        tracker.disarm();
        job.finish_threads(&mut threads);
        let (segments, offsets) = copier.segments(&planned);
        let spec = job.spec(census, threads, &planned, segments);
        let layout = CoreLayout::placed(spec, offsets, copier.room)
            .map_err(|source| Error::Layout { pid: job.pid, source })?;
        let missing = copier.finish(to.place, gather, &planned, &work, settled)?;
        for (name, bytes) in missing {
            job.weaken_missing(&name, bytes);
        }
        for (range, why) in &changes.untracked {
            let is_private = why.starts_with("watched") || why.starts_with("can't");
            if is_private {
                let end = range.base.0 + range.len;
                job.course.reasons.push(format!("{:#x}-{end:#x}: {why}; copied in the stop", range.base.0));
            }
        }
        to.place.write_header(&layout)?;
        Ok(Written {
            threads: layout.spec().threads.len(),
            segments: layout.segments().len(),
            bytes: copier.contents_bytes,
            file_bytes: layout.file_len(),
            weaker: std::mem::take(&mut job.weaker),
            stop: Duration::ZERO,
            course: std::mem::take(&mut job.course),
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
