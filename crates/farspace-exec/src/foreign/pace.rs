//! How a task and its callers wait for each other: looking, on CPUs of their own, or taking turns on one.
//!
//! Looking pays off only while both are on a CPU at the same time. On a busy machine they often aren't, and each look
//! then delays the other: so looks that find nothing make for fewer looks, and in the end the task is kept on the
//! caller's CPU, where a hand-off is a switch. Now and then looking is tried again.

use std::time::Duration;

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::wait::Run;

/// Looks at first, and at most.
const MOST: u32 = 500;
/// With fewer it isn't tried any more.
const FEWEST: u32 = 64;
/// More looks after each that was worth it.
const MORE: u32 = 8;
/// Runs on one CPU after which looking is tried again.
const RETRY: u32 = 2_000;
/// A guest that runs longer than this may run anywhere.
pub(super) const PATIENCE: Duration = Duration::from_millis(1);

/// What was learnt of one task.
#[derive(Debug)]
pub(super) struct Pace {
    task: Option<Pid>,
    looks: u32,
    /// Runs on one CPU since looking was tried.
    together: u32,
    /// The CPU that the task is kept on, and those that it may run on otherwise.
    tied: Option<(usize, CpuSet)>,
}

impl Pace {
    pub(super) fn new(pid: i32) -> Self {
        Self { task: Pid::from_raw(pid), looks: MOST, together: 0, tied: None }
    }

    /// How often to look in the run that begins; 0 on one CPU.
    pub(super) fn begin(&mut self, run: &Run) -> u32 {
        let looks = if self.looks < FEWEST { 0 } else { run.looks().min(self.looks) };
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
    pub(super) fn hit(&mut self) {
        self.looks = (self.looks + MORE).min(MOST);
    }

    /// It wasn't: that costs as much as many hits have saved.
    pub(super) fn miss(&mut self) {
        self.looks /= 4;
    }

    /// True if the task is kept on a CPU.
    pub(super) fn is_tied(&self) -> bool {
        self.tied.is_some()
    }

    /// Keeps the task on this CPU, if it may run there. A user who may not move it leaves that to the scheduler.
    fn tie(&mut self) {
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
    pub(super) fn untie(&mut self) {
        if let Some((_, all)) = self.tied.take() {
            let _ = sched_setaffinity(self.task, &all);
        }
    }
}
