//! How a task and its callers wait for each other: looking, on CPUs of their own, or taking turns on one.
//!
//! Looking pays off only while both are on a CPU at the same time. On a busy machine they often aren't, and each look
//! then delays the other: so looks that find nothing make for fewer looks, and in the end the task is kept on the
//! caller's CPU, where a hand-off is a switch. Now and then looking is tried again.

use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::wait::{LOOKS, Run};

/// Looks at first, and at most.
const MOST: u32 = LOOKS;
/// The first runs of a task that was made on the caller's CPU: some have no others.
const NEW: u32 = 8;
/// More looks for each that was worth it.
const MORE: u32 = 16;
/// With fewer it isn't tried any more.
const FEWEST: u32 = 64;
/// Runs after a move to another CPU in which looking may find nothing, and how long it is then tried: a wake-up there takes
/// tens of microseconds.
const SETTLING: u32 = 4;
const PATIENT: u32 = 4 * LOOKS;
/// Runs on one CPU after which looking is tried again.
const RETRY: u32 = 2_000;
/// A guest that runs longer than this may run anywhere.
pub(crate) const PATIENCE: Duration = Duration::from_millis(1);

/// Where a task runs, relative to the thread that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// Apart and looking for each other where that pays off, together otherwise.
    #[default]
    Auto,
    /// On the thread's own CPU: a hand-off is a context switch, and no CPU is spent on looking.
    Together,
    /// Wherever the scheduler puts it; both sides look for each other while there are CPUs enough.
    Apart,
}

/// What was learnt of one task.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    task: Option<Pid>,
    looks: u32,
    /// Runs on one CPU since looking was tried.
    together: u32,
    /// Runs for which it is still new.
    new: u32,
    /// Runs until the task has arrived on another CPU, and is awake there.
    settling: u32,
    /// Where the task is kept, and the CPUs that it may run on otherwise.
    kept: Option<(Keep, CpuSet)>,
}

impl Pace {
    pub(crate) fn new(pid: i32) -> Self {
        Self { task: Pid::from_raw(pid), looks: MOST, together: 0, new: 0, settling: 0, kept: None }
    }

    /// Of a child, which is kept where its parent is.
    pub(crate) fn of_child(&self, pid: i32) -> Self {
        Self { task: Pid::from_raw(pid), new: NEW, kept: self.kept, ..Self::new(pid) }
    }

    /// How often to look in the run that begins; 0 on one CPU.
    pub(crate) fn begin(&mut self, run: &Run, placement: Placement) -> u32 {
        self.new = self.new.saturating_sub(1);
        let looks = match placement {
            Placement::Together => 0,
            Placement::Apart => {
                self.untie();
                return run.looks();
            }
            Placement::Auto if self.new > 0 || self.looks < FEWEST => 0,
            Placement::Auto => run.looks().min(self.looks),
        };
        if looks > 0 {
            let apart = Keep::Off(sched_getcpu());
            if self.kept.as_ref().is_none_or(|(kept, _)| *kept != apart) {
                self.settling = SETTLING;
                self.keep(apart);
            }
            if self.settling > 0 {
                self.settling -= 1;
                return PATIENT;
            }
            return looks;
        }
        self.together += 1;
        if self.together >= RETRY {
            self.together = 0;
            self.looks = 2 * FEWEST;
        }
        self.tie();
        0
    }

    /// Looking was worth it.
    pub(crate) fn hit(&mut self) {
        self.looks = (self.looks + MORE).min(MOST);
    }

    /// It wasn't: that costs as much as many hits have saved.
    pub(crate) fn miss(&mut self) {
        if self.settling == 0 {
            self.looks /= 4;
        }
    }

    /// True if the task is kept on the caller's CPU.
    pub(crate) fn is_tied(&self) -> bool {
        matches!(self.kept, Some((Keep::On(_), _)))
    }

    /// Keeps the task on this CPU.
    pub(crate) fn tie(&mut self) {
        self.keep(Keep::On(sched_getcpu()));
    }

    /// Has the task run there, if it may. A user who may not move it leaves that to the scheduler.
    fn keep(&mut self, wanted: Keep) {
        if self.kept.as_ref().is_some_and(|(kept, _)| *kept == wanted) {
            return;
        }
        let all = match self.kept.take() {
            Some((_, all)) => all,
            None => match sched_getaffinity(self.task) {
                Ok(all) if self.task.is_some() => all,
                _ => return,
            },
        };
        let mut cpus = all;
        match wanted {
            Keep::On(cpu) => {
                cpus = CpuSet::new();
                if all.is_set(cpu) {
                    cpus.set(cpu);
                }
            }
            Keep::Off(cpu) => cpus.unset(cpu),
        }
        if cpus.count() == 0 {
            // The caller is where the task may not be.
            cpus = all;
        }
        if sched_setaffinity(self.task, &cpus).is_ok() {
            self.kept = Some((wanted, all));
        } else {
            // Not again.
            self.task = None;
        }
    }

    /// Lets the task run wherever it could before.
    pub(crate) fn untie(&mut self) {
        if let Some((_, all)) = self.kept.take() {
            let _ = sched_setaffinity(self.task, &all);
        }
    }
}

/// Which CPUs a task is kept on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// This one.
    On(usize),
    /// Any other.
    Off(usize),
}
