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
/// With fewer it isn't tried any more.
const FEWEST: u32 = 64;
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
    /// The CPU that the task is kept on, and those that it may run on otherwise.
    tied: Option<(usize, CpuSet)>,
}

impl Pace {
    pub(crate) fn new(pid: i32) -> Self {
        Self { task: Pid::from_raw(pid), looks: MOST, together: 0, new: 0, tied: None }
    }

    /// Of a child, which is kept where its parent is.
    pub(crate) fn of_child(&self, pid: i32) -> Self {
        Self { task: Pid::from_raw(pid), new: NEW, tied: self.tied, ..Self::new(pid) }
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
            self.untie();
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
        self.looks = (2 * self.looks).min(MOST);
    }

    /// It wasn't.
    pub(crate) fn miss(&mut self) {
        self.looks /= 2;
    }

    /// True if the task is kept on a CPU.
    pub(crate) fn is_tied(&self) -> bool {
        self.tied.is_some()
    }

    /// Keeps the task on this CPU, if it may run there. A user who may not move it leaves that to the scheduler.
    pub(crate) fn tie(&mut self) {
        let cpu = sched_getcpu();
        if self.tied.as_ref().is_some_and(|(tied, _)| *tied == cpu) {
            return;
        }
        let all = match self.tied.take() {
            Some((_, all)) => all,
            None => match sched_getaffinity(self.task) {
                Ok(all) if self.task.is_some() => all,
                _ => return,
            },
        };
        let mut only = CpuSet::new();
        only.set(cpu);
        if all.is_set(cpu) && sched_setaffinity(self.task, &only).is_ok() {
            self.tied = Some((cpu, all));
        } else {
            let _ = sched_setaffinity(self.task, &all);
            // Not again.
            self.task = None;
        }
    }

    /// Lets the task run wherever it could before.
    pub(crate) fn untie(&mut self) {
        if let Some((_, all)) = self.tied.take() {
            let _ = sched_setaffinity(self.task, &all);
        }
    }
}
