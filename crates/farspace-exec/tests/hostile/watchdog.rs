//! Kills a vCPU that has hidden in the stub's own code, where an interruption doesn't stop it: the engine would do so
//! after seconds, which is too long for a million attempts.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long an attempt may take.
const PATIENCE: Duration = Duration::from_millis(30);

/// One guarded vCPU.
#[derive(Debug)]
pub(crate) struct Watchdog {
    origin: Instant,
    pid: AtomicI32,
    since_us: AtomicU64,
    pub(crate) kills: AtomicU64,
    is_over: AtomicBool,
}

impl Watchdog {
    pub(crate) fn new() -> Self {
        Self {
            origin: Instant::now(),
            pid: AtomicI32::new(0),
            since_us: AtomicU64::new(0),
            kills: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Guards what `work` does with a vCPU.
    pub(crate) fn guard<T>(&self, pid: i32, work: impl FnOnce() -> T) -> T {
        self.since_us.store(self.origin.elapsed().as_micros() as u64, Ordering::SeqCst);
        self.pid.store(pid, Ordering::SeqCst);
        let outcome = work();
        self.pid.store(0, Ordering::SeqCst);
        outcome
    }

    /// Watches until [`Watchdog::end`].
    pub(crate) fn watch(&self) {
        while !self.is_over.load(Ordering::Relaxed) {
            std::thread::sleep(PATIENCE / 4);
            let since = Duration::from_micros(self.since_us.load(Ordering::SeqCst));
            if self.origin.elapsed().saturating_sub(since) < PATIENCE {
                continue;
            }
            let pid = self.pid.swap(0, Ordering::SeqCst);
            if pid > 0 {
                // SAFETY: no pointers are passed. The vCPU exists: it is being guarded.
                unsafe { libc::kill(pid, libc::SIGKILL) };
                self.kills.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    pub(crate) fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}
