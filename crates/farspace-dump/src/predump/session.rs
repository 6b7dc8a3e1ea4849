//! One pre-dump after another.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use farspace::Target;
use farspace_image::criu::{DumpStats, Inventory, PreDumpMode};
use farspace_sys::{memory, process};
use rustix::time::{ClockId, clock_gettime};

use super::tracking::{self, Look};
use super::work::Work;
use super::{PageSink, PredumpOptions, PredumpReport, tree};
use crate::dirty::Tracker;
use crate::program::Program;
use crate::{Error, Progress, Result};

/// Pre-dumps of one process tree. Where the kernel has no soft-dirty bits, changes are tracked for as long as this lives.
///
/// Dropped, nothing stays armed in the processes but soft-dirty bits, which cost a process one page fault for each page that
/// it writes to.
#[derive(Debug)]
pub struct Predumper {
    pub(super) root: i32,
    pub(super) options: PredumpOptions,
    has_soft_dirty: bool,
    /// By pid, on a kernel without soft-dirty bits.
    pub(super) trackers: HashMap<i32, Tracked>,
    iterations: u64,
}

/// A process whose changes are tracked from one iteration to the next.
#[derive(Debug)]
pub(super) struct Tracked {
    start_ticks: Option<u64>,
    program: Program,
    tracker: Tracker,
}

pub(super) type OnProgress<'a> = &'a mut (dyn FnMut(Progress) -> ControlFlow<()> + Send);

impl Predumper {
    /// Prepares pre-dumps of a process and its descendants; nothing is done to them yet.
    ///
    /// # Errors
    ///
    /// ESRCH: no such process; EPERM: no access to it; this process itself.
    pub fn new(pid: i32, options: PredumpOptions) -> Result<Self> {
        let root = process::status(pid)?.tgid;
        if root == std::process::id() as i32 {
            return Err(Error::Own { pid: root });
        }
        memory::check_access(root)?;
        let has_soft_dirty = tracking::has_soft_dirty();
        Ok(Self { root, options, has_soft_dirty, trackers: HashMap::new(), iterations: 0 })
    }

    /// Writes the images of all processes as they are now, each page as of some moment during the call, and what the parent
    /// has only as a reference. The sink is complete if this succeeds.
    ///
    /// # Errors
    ///
    /// The root ends or executes another program; memory can't be reached; the sink or its parent fails; `progress` has
    /// broken it off.
    pub fn iterate(
        &mut self,
        sink: &mut (dyn PageSink + Send),
        progress: OnProgress<'_>,
    ) -> Result<PredumpReport> {
        // Threads of the target that are traced are let go with the end of the thread that traces them.
        farspace::on_own_thread(|| self.run(sink, progress))
    }

    fn run(&mut self, sink: &mut (dyn PageSink + Send), progress: OnProgress<'_>) -> Result<PredumpReport> {
        let begin = Instant::now();
        // A process that starts from here on isn't known to be in these images.
        let uptime_us = uptime_us();
        let program = Program::of(self.root);
        let parent_us = sink.parent_inventory()?.map(|parent| parent.dump_uptime_us);
        let mut work = Work::new(self, sink, progress, parent_us);
        let done = work.all();
        let mut report = work.into_report();
        match done {
            Err(Error::Target(_)) | Ok(()) if !program.still_runs() => {
                return Err(Error::Gone { pid: self.root });
            }
            other => other?,
        }
        let stats = DumpStats {
            frozen: Duration::from_nanos(report.stop_ns),
            memory_dump: Duration::from_nanos(report.scan_ns),
            memory_write: Duration::from_nanos(report.write_ns),
            pages_scanned: report.pages_written + report.pages_in_parent,
            pages_skipped_parent: report.pages_in_parent,
            pages_written: report.pages_written,
            shared_pages_written: report.shared_pages_written,
            ..DumpStats::default()
        };
        // Memory without PROT_READ is read, too.
        let mode = Some(PreDumpMode::Splice);
        sink.finish(&Inventory { dump_uptime_us: Some(uptime_us), pre_dump_mode: mode }, &stats)?;
        self.iterations += 1;
        report.pid = self.root;
        report.iteration = self.iterations;
        report.criu_can_continue = self.has_soft_dirty;
        report.total_ns = nanos(begin.elapsed());
        Ok(report)
    }
}

impl Predumper {
    /// True if the changes of a process, and of the program that it runs, are tracked since the iteration before.
    pub(super) fn is_tracked(&self, pid: i32) -> bool {
        self.trackers.get(&pid).is_some_and(|tracked| {
            tracked.start_ticks == tree::start_ticks(pid) && tracked.program.still_runs()
        })
    }

    /// Looks at one process, in the best way that there is.
    pub(super) fn look(&mut self, target: &Target, has_parent: bool) -> Result<Look> {
        if self.has_soft_dirty {
            return tracking::by_soft_dirty(target, has_parent, self.options.stop_timeout);
        }
        if !self.options.keeps_tracking {
            let reason =
                "this kernel is built without CONFIG_MEM_SOFT_DIRTY, and nothing else outlives this run";
            return tracking::by_nothing(target, reason.to_owned());
        }
        let pid = target.pid();
        let known = self.is_tracked(pid).then(|| self.trackers.remove(&pid)).flatten();
        let mut tracked = match known {
            Some(known) => known,
            None => Tracked {
                start_ticks: tree::start_ticks(pid),
                program: Program::of(pid),
                tracker: Tracker::start(target, None)?,
            },
        };
        let look = tracking::by_tracker(&mut tracked.tracker, target)?;
        self.trackers.insert(pid, tracked);
        Ok(look)
    }
}

/// Time since boot, in us.
fn uptime_us() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
