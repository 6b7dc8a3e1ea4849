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

mod copy;
mod gather;
mod pace;
mod places;
mod work;

use std::time::{Duration, Instant};

use farspace::{Frozen, Target};
use farspace_image::core_file::CoreLayout;
use farspace_sys::memory::Memory;
use farspace_sys::process;

use self::copy::Copier;
use self::work::{Moment, Work};
use crate::capture::Tell;
use crate::capture::job::{Job, Written, without_ours};
use crate::dirty::{Changes, PageSet, Tracker, Tracking};
use crate::origin::Origin;
use crate::output::Output;
use crate::place::Place;
use crate::plan::{self, Planned};
use crate::program::Program;
use crate::{DumpOptions, Error, Level, OnMiss, Result, StopParts};

pub use pace::Round;

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

/// The file that is made.
pub(crate) struct Sheet<'a> {
    pub(crate) place: &'a Place,
    /// The same, as a file of this host.
    pub(crate) output: &'a Output,
    pub(crate) progress: Tell<'a>,
}

impl Job<'_> {
    pub(crate) fn converge(
        &mut self,
        target: &mut Target,
        mut tracker: Tracker,
        options: &DumpOptions,
        program: &Program,
        to: &mut Sheet<'_>,
    ) -> Result<Written> {
        let memory = Memory::open(self.pid)?;
        self.course.reasons = tracker.reasons().to_vec();
        self.course.tracking = Some(tracker.tracking());
        let mut planned = self.plan(target, &memory)?;
        let threads = process::threads(self.pid)?.len();
        let mut copier = Copier::new(self.pid, work::header_room(planned.len(), threads));
        while pace::goes_on(&self.course.rounds, options.max_rounds) {
            let round = self.round(target, &mut tracker, &mut copier, &mut planned, &memory, to)?;
            self.course.rounds.push(round);
        }
        self.last(target, tracker, copier, planned, options, program, memory, to)
    }

    /// Copies what has changed since the last round.
    fn round(
        &mut self,
        target: &mut Target,
        tracker: &mut Tracker,
        copier: &mut Copier,
        planned: &mut Vec<Planned>,
        memory: &Memory,
        to: &mut Sheet<'_>,
    ) -> Result<Round> {
        let begin = Instant::now();
        let moment = if self.course.rounds.is_empty() { Moment::First } else { Moment::Later };
        let maps = without_ours(target, process::mappings(self.pid)?);
        *planned = plan::revise(maps, std::mem::take(planned), self.selection, memory);
        let changes = tracker.glance(target, &work::watched(planned))?;
        let scan = begin.elapsed();
        copier.cover(planned);
        let mut origin = Origin::target(target, Memory::open(self.pid)?)?;
        let work = Work::new(moment, planned, &changes, tracker.known(), copier, &mut origin.pagemap)?;
        let copied_bytes = work.bytes;
        let begin = Instant::now();
        copier.live(to, &mut origin, &work)?;
        let copy = begin.elapsed();
        let changed_bytes = if moment == Moment::First { copied_bytes } else { changes.changed.bytes() };
        Ok(Round {
            changed_bytes,
            copied_bytes,
            scan_ns: nanos(scan),
            copy_ns: nanos(copy),
            stop_ns: nanos(changes.stop),
            stop_estimate_ns: nanos(scan + copier.speed.time_for(changed_bytes)),
        })
    }

    /// The stop, and what comes after it.
    #[expect(clippy::too_many_arguments, reason = "what the rounds have made, each used up here")]
    fn last(
        &mut self,
        target: &mut Target,
        mut tracker: Tracker,
        mut copier: Copier,
        planned: Vec<Planned>,
        options: &DumpOptions,
        program: &Program,
        memory: Memory,
        to: &mut Sheet<'_>,
    ) -> Result<Written> {
        let frozen = target.freeze(options.stop_timeout)?;
        let begin = Instant::now();
        let mut parts = StopParts::default();
        if !program.still_runs() {
            return Err(Error::Gone { pid: self.pid });
        }
        let (mut threads, maps) = self.registers(target, &frozen)?;
        parts.registers_ns = nanos(begin.elapsed());
        let planned = plan::revise(maps, planned, self.selection, &memory);
        let changes = tracker.settle(&work::watched(&planned))?;
        copier.cover(&planned);
        let work = Work::new(
            Moment::Last,
            &planned,
            &changes,
            tracker.known(),
            &copier,
            &mut copier.pagemap(self.pid)?,
        )?;
        parts.scan_ns = nanos(begin.elapsed()) - parts.registers_ns;
        self.course.last_bytes = work.bytes;

        let elapsed = frozen.elapsed();
        let estimate = elapsed + copier.speed.time_for(work.bytes);
        let missed = options.max_downtime.filter(|limit| estimate > *limit).map(|limit| {
            format!(
                "a stop of {:.1} ms was asked for, and {} pages that are still to be copied make it {:.1} ms",
                limit.as_secs_f64() * 1e3,
                work.bytes / 4096,
                estimate.as_secs_f64() * 1e3
            )
        });
        self.course.level = Level::Converge;
        copier.unreadable = PageSet::default();
        let copy_begin = Instant::now();
        let stop;
        match (&missed, options.on_miss) {
            (Some(reason), OnMiss::Fail) => {
                drop(frozen);
                tracker.disarm();
                return Err(Error::Downtime { pid: self.pid, reason: reason.clone() });
            }
            (Some(_), OnMiss::Snapshot) if target.report().mechanism.is_zero_copy() => {
                stop = self.rest_from_snapshot(target, &mut copier, frozen, &work, &planned, to)?;
                self.course.level = Level::Snapshot;
            }
            (missed, _) => {
                let mut origin = Origin::target(target, memory)?;
                copier.stopped(to, &mut origin, &work)?;
                parts.copy_ns = nanos(copy_begin.elapsed());
                stop = frozen.thaw();
                if missed.is_some() {
                    self.course.level = Level::Frozen;
                }
            }
        }
        self.course.missed = missed;
        let settled = tracker.known().clone();
        tracker.disarm();
        parts.threads_ns = nanos(stop).saturating_sub(parts.registers_ns + parts.scan_ns + parts.copy_ns);
        self.course.stop_parts = parts;
        self.finish_threads(&mut threads);
        self.complete(copier, &planned, &work, settled, threads, &changes, stop, to)
    }

    /// Forks the target as it stands, lets it go, and copies what is left from the fork.
    fn rest_from_snapshot(
        &mut self,
        target: &mut Target,
        copier: &mut Copier,
        frozen: Frozen,
        work: &Work,
        planned: &[Planned],
        to: &mut Sheet<'_>,
    ) -> Result<Duration> {
        let pid = self.pid;
        let snapshot = target.snapshot()?;
        let stop = frozen.thaw();
        let (own, others) = work.split(|mapping| {
            planned.iter().any(|p| {
                p.mapping.start.0 == mapping && !p.traits.is_wiped_on_fork && p.traits.is_copied_by_fork
            })
        });
        let mut origin = Origin::snapshot(snapshot)?;
        copier.stopped(to, &mut origin, &own)?;
        drop(origin);
        for planned in planned.iter().filter(|p| p.dumped_bytes > 0) {
            if planned.traits.is_shared && planned.mapping.permissions[1] == b'w' {
                self.weaken(&planned.mapping, "is shared, and as of when it was written to the file");
            } else if planned.traits.is_wiped_on_fork || !planned.traits.is_copied_by_fork {
                let how = "isn't copied by a fork, and as of when it was written to the file";
                self.weaken(&planned.mapping, how);
            }
        }
        let mut origin = Origin::target(target, Memory::open(pid)?)?;
        copier.stopped(to, &mut origin, &others)?;
        Ok(stop)
    }

    /// Makes a core of what is in the file.
    #[expect(clippy::too_many_arguments, reason = "what the stop has found, each used up here")]
    fn complete(
        &mut self,
        mut copier: Copier,
        planned: &[Planned],
        work: &Work,
        settled: PageSet,
        threads: Vec<farspace_image::core_file::Thread>,
        changes: &Changes,
        stop: Duration,
        to: &Sheet<'_>,
    ) -> Result<Written> {
        let (segments, offsets) = copier.segments(planned);
        let spec = self.spec(threads, planned, segments)?;
        let layout = CoreLayout::placed(spec, offsets, copier.room)
            .map_err(|source| Error::Layout { pid: self.pid, source })?;
        let missing = copier.finish(to.output, planned, work, settled)?;
        for (name, bytes) in missing {
            self.weaken_missing(&name, bytes);
        }
        for (range, why) in &changes.untracked {
            let is_private = why.starts_with("watched") || why.starts_with("can't");
            if is_private {
                let end = range.base.0 + range.len;
                self.course.reasons.push(format!("{:#x}-{end:#x}: {why}; copied in the stop", range.base.0));
            }
        }
        to.place.write_header(&layout)?;
        Ok(Written {
            threads: layout.spec().threads.len(),
            segments: layout.segments().len(),
            bytes: copier.contents_bytes,
            file_bytes: layout.file_len(),
            weaker: std::mem::take(&mut self.weaker),
            stop,
            course: std::mem::take(&mut self.course),
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
