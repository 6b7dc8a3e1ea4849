//! How a task and its callers wait for each other: looking, on CPUs of their own, or taking turns on one.
//!
//! Looking pays off only while both are on a CPU at the same time. On a busy machine they often aren't, and each look
//! then delays the other: so looks that find nothing make for fewer looks, and in the end the task is kept on the
//! caller's CPU, where a hand-off is a switch. Now and then looking is tried again.
//!
//! The cheapest switch is sched_yield(2): both sides stay runnable, nobody is woken. But it lets others go first as
//! well, and whether the scheduler then picks the other side is its own affair: if it takes long, or doesn't help, they
//! sleep and wake each other by futex, and yielding is tried again later.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};

use crate::floor::{Notice, Run};
use crate::wait::LOOKS;

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
/// Runs on one CPU after which looking is tried again: the first time, and at most.
const RETRY: u32 = 64;
const LONG_RETRY: u32 = 4_096;
/// How often to yield before sleeping.
pub(crate) const YIELDS: u32 = 3;
/// A hand-off by yielding that takes longer is one that others came before.
const SLOW: Duration = Duration::from_micros(100);
/// Runs without yielding after it was of no use: the first time, and at most.
const REST: u32 = 64;
const LONG_REST: u32 = 8_192;
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

/// How to wait in one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tries {
    /// Looks at first.
    pub(crate) looks: u32,
    /// Then, how often to let others run.
    pub(crate) yields: u32,
}

impl Tries {
    /// Sleeps at once.
    pub(crate) const NONE: Self = Self { looks: 0, yields: 0 };
}

/// What was learnt of one task.
#[derive(Clone, Debug)]
pub(crate) struct Pace {
    task: Option<Pid>,
    looks: u32,
    /// Runs on one CPU since looking was tried.
    together: u32,
    /// After how many it is tried.
    retry: u32,
    /// Nothing has been found since a task that slept was excused; the run that goes on is.
    was_excused: bool,
    is_excused: bool,
    /// Runs for which it is still new.
    new: u32,
    /// Runs without yielding from now on, and the next time that it is of no use.
    rest: u32,
    next_rest: u32,
    /// Runs until the task has arrived on another CPU, and is awake there.
    settling: u32,
    /// Where the task is kept, and the CPUs that it may run on otherwise.
    kept: Option<(Keep, CpuSet)>,
}

impl Pace {
    pub(crate) fn new(pid: i32) -> Self {
        Self {
            task: Pid::from_raw(pid),
            looks: MOST,
            together: 0,
            retry: RETRY,
            was_excused: false,
            is_excused: false,
            new: 0,
            rest: 0,
            next_rest: REST,
            settling: 0,
            kept: None,
        }
    }

    /// Of a child, which is kept where its parent is.
    pub(crate) fn of_child(&self, pid: i32) -> Self {
        Self { task: Pid::from_raw(pid), new: NEW, kept: self.kept, ..Self::new(pid) }
    }

    /// Begins a run: with a place to look from, if it would be of use, for which a busy thread may wait.
    pub(crate) fn enter(
        &self,
        placement: Placement,
        notice: Option<(&Arc<Notice>, Option<Duration>)>,
    ) -> Run {
        match placement {
            Placement::Together => Run::without(),
            Placement::Apart => Run::begin(None),
            Placement::Auto if self.new > 0 || self.looks < FEWEST => Run::without(),
            Placement::Auto => Run::begin(notice),
        }
    }

    /// How to wait in the run that begins.
    pub(crate) fn begin(&mut self, run: &Run, placement: Placement) -> Tries {
        self.new = self.new.saturating_sub(1);
        let looks = match placement {
            Placement::Apart => {
                self.untie();
                return Tries { looks: if run.has_place() { MOST } else { 0 }, yields: 0 };
            }
            _ if run.has_place() => self.looks,
            _ => 0,
        };
        if looks > 0 {
            let apart = Keep::Off(sched_getcpu());
            if self.kept.as_ref().is_none_or(|(kept, _)| *kept != apart) {
                self.settling = SETTLING;
                self.keep(apart);
            }
            if self.settling > 0 {
                self.settling -= 1;
                return Tries { looks: PATIENT, yields: 0 };
            }
            return Tries { looks, yields: 0 };
        }
        self.together += 1;
        if self.together >= self.retry {
            self.together = 0;
            self.retry = (2 * self.retry).min(LONG_RETRY);
            self.looks = 2 * FEWEST;
        }
        self.tie();
        if self.rest > 0 {
            self.rest -= 1;
            return Tries::NONE;
        }
        Tries { looks: 0, yields: YIELDS }
    }

    /// Lets the other side run, on this CPU; true if it has answered then.
    pub(crate) fn take_turns(&mut self, yields: u32, has_answered: impl Fn() -> bool) -> bool {
        let begin = Instant::now();
        let has_answered = (0..yields).any(|_| {
            rustix::thread::sched_yield();
            has_answered()
        });
        if has_answered && begin.elapsed() < SLOW {
            self.next_rest = REST;
        } else {
            self.rest = self.next_rest;
            self.next_rest = (2 * self.next_rest).min(LONG_REST);
        }
        has_answered
    }

    /// Looking was worth it.
    pub(crate) fn hit(&mut self) {
        self.looks = (self.looks + MORE).min(MOST);
        (self.was_excused, self.is_excused) = (false, false);
        if self.looks == MOST {
            self.retry = RETRY;
        }
    }

    /// The task had to be woken: it is looked for longer, and once in a row it may come too late.
    pub(crate) fn wakes(&mut self, tries: Tries) -> Tries {
        if tries.looks == 0 {
            return tries;
        }
        self.is_excused = !self.was_excused;
        self.was_excused = true;
        Tries { looks: PATIENT, ..tries }
    }

    /// It wasn't: that costs as much as many hits have saved.
    pub(crate) fn miss(&mut self) {
        if self.settling == 0 && !self.is_excused {
            self.looks /= 4;
        }
        self.is_excused = false;
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
