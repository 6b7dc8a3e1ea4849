//! Waiting for the other side: by looking where a second CPU is free for it, asleep otherwise.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use rustix::thread::{CpuSet, futex, sched_getaffinity, sched_setaffinity};

/// How often either side looks before it sleeps, some 20 us.
const LOOKS: u32 = 500;
/// Runs for which a vCPU is new.
const NEW: u32 = 8;
/// Guests that run now, in this process.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Where a vCPU runs, relative to the thread that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Placement {
    /// Apart and looking for each other while there are CPUs enough for all that run, together otherwise.
    #[default]
    Auto,
    /// On the thread's own CPU: a hand-off is a context switch, and no CPU is spent on looking.
    Together,
    /// Wherever the scheduler puts it; both sides look for each other while there are CPUs enough.
    Apart,
}

/// A guest that runs; it counts while this lives.
#[derive(Debug)]
pub(crate) struct Run {
    is_crowded: bool,
}

impl Run {
    ///
    /// The first runs of a vCPU are together with their thread, as its start was: some have no others.
    pub(crate) fn begin(placement: Placement, nr_before: u32) -> Self {
        let running = RUNNING.fetch_add(1, Ordering::Relaxed) + 1;
        let is_new = placement == Placement::Auto && nr_before < NEW;
        Self { is_crowded: is_new || placement == Placement::Together || 2 * running > nr_cpus() }
    }

    /// True if not everyone who runs and everyone who waits can have a CPU.
    pub(crate) fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    /// How often to look before sleeping.
    pub(crate) fn looks(&self) -> u32 {
        if self.is_crowded { 0 } else { LOOKS }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The CPU that a task is kept on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tether {
    cpu: Option<usize>,
    /// Runs since it was last wanted.
    idle: u32,
}

/// Runs after which a tether that isn't wanted any more is let go: it costs a system call each time.
const PATIENCE: u32 = 64;

impl Tether {
    /// Moves the task to the calling thread's CPU.
    pub(crate) fn tie(&mut self, task: Pid) {
        let cpu = rustix::thread::sched_getcpu();
        self.idle = 0;
        if self.cpu != Some(cpu) {
            let mut only = CpuSet::new();
            only.set(cpu);
            self.cpu = sched_setaffinity(Some(task), &only).is_ok().then_some(cpu);
        }
    }

    /// Lets the task run anywhere, if that was wanted for a while.
    pub(crate) fn loosen(&mut self, task: Pid) {
        self.idle = self.idle.saturating_add(1);
        if self.cpu.is_some() && self.idle > PATIENCE {
            self.untie(task);
        }
    }

    /// Lets the task run where the calling thread may.
    pub(crate) fn untie(&mut self, task: Pid) {
        if self.cpu.take().is_some()
            && let Ok(all) = sched_getaffinity(None)
        {
            let _ = sched_setaffinity(Some(task), &all);
        }
    }
}

/// CPUs that this process may use.
fn nr_cpus() -> usize {
    static CPUS: OnceLock<usize> = OnceLock::new();
    *CPUS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Sleeps while `word` is `value`, at most until `deadline` and at most `slice`.
pub(crate) fn sleep(word: &AtomicU32, value: u32, slice: Duration, deadline: Option<Instant>) {
    let left =
        deadline.map_or(slice, |deadline| deadline.saturating_duration_since(Instant::now()).min(slice));
    let Ok(timeout) = left.try_into() else { return };
    // Whatever it returns, the caller looks again. Not private: the other side is another process.
    let _ = futex::wait(word, futex::Flags::empty(), value, Some(&timeout));
}

/// Wakes the other side.
pub(crate) fn wake(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}
