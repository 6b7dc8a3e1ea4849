//! Waiting for the other side: by looking where a second CPU is free for it, asleep otherwise.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::futex;

/// How often either side looks before it sleeps, some 20 us.
pub(crate) const LOOKS: u32 = 500;
/// How long a kicked guest may take to stop before it is killed.
pub(crate) const KICK_DEADLINE: Duration = Duration::from_secs(5);
/// How often a kick is repeated: one that comes just before the guest goes on is lost.
pub(crate) const KICK_AGAIN: Duration = Duration::from_millis(5);
/// Guests that run now, in this process.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// A guest that runs; it counts while this lives.
#[derive(Debug)]
pub(crate) struct Run {
    looks: u32,
}

impl Run {
    /// Counts one more; it may look if each running guest and each waiting thread can have a CPU of its own.
    pub(crate) fn begin() -> Self {
        let running = RUNNING.fetch_add(1, Ordering::Relaxed) + 1;
        Self { looks: if 2 * running <= nr_cpus() { LOOKS } else { 0 } }
    }

    /// How often to look before sleeping.
    pub(crate) fn looks(&self) -> u32 {
        self.looks
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        RUNNING.fetch_sub(1, Ordering::Relaxed);
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
