//! Stopping threads of a target together.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use farspace_sys::arch::Registers;
use farspace_sys::process;
use farspace_sys::ptrace::{Running, Stopped};
use rustix::io::Errno;

use crate::borrow::hide_stop;
use crate::{Error, Refusal, Result};

/// All threads of a target, stopped; let go when dropped.
#[derive(Debug)]
pub struct Frozen {
    pid: i32,
    threads: Vec<FrozenThread>,
    since: Instant,
}

/// One of them.
#[derive(Debug)]
pub struct FrozenThread {
    /// The thread.
    pub thread: Stopped,
    /// Its registers as a debugger would have found them.
    pub registers: Registers,
}

impl Frozen {
    /// Stops all threads of a process. Threads that are made meanwhile are found and stopped, too.
    ///
    /// # Errors
    ///
    /// Refused: traced, 32-bit, or a thread doesn't stop before the timeout. Gone. Nothing stays stopped then.
    pub fn stop(pid: i32, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        let mut seen = HashSet::new();
        let mut frozen = Self { pid, threads: Vec::new(), since: Instant::now() };
        loop {
            // Once a look at the list finds nothing new, every thread that could make one is stopped.
            let new: Vec<i32> = process::threads(pid)
                .map_err(|e| Error::from(e).for_target(pid))?
                .into_iter()
                .filter(|tid| seen.insert(*tid))
                .collect();
            if new.is_empty() {
                break;
            }
            let mut running = Vec::with_capacity(new.len());
            for tid in new {
                match Running::seize(tid, 0) {
                    Ok(thread) => running.push(thread),
                    Err(e) if e.is_gone() => {}
                    Err(e) if e.errno == Errno::PERM => {
                        let status = process::status(tid);
                        if status.as_ref().is_ok_and(|s| matches!(s.state, 'Z' | 'X')) {
                            continue;
                        }
                        let tracer = status.map_or(0, |s| s.tracer);
                        if tracer != 0 {
                            return Err(Error::refused(pid, Refusal::Traced { tracer }));
                        }
                        return Err(e.into());
                    }
                    Err(e) => return Err(e.into()),
                }
            }
            if frozen.threads.is_empty() {
                frozen.since = Instant::now();
            }
            running.retain(|thread| thread.interrupt().is_ok());
            for thread in running {
                match thread.wait_interrupted(deadline) {
                    Ok(stopped) => match hide_stop(pid, &stopped) {
                        Ok(registers) => frozen.threads.push(FrozenThread { thread: stopped, registers }),
                        Err(Error::Sys(e)) if e.is_gone() => {}
                        Err(e) => return Err(e),
                    },
                    Err(e) if e.is_gone() => {}
                    Err(e) if e.errno == Errno::TIMEDOUT => {
                        return Err(Error::refused(pid, Refusal::Uninterruptible));
                    }
                    Err(e) => return Err(e.into()),
                }
            }
        }
        if frozen.threads.is_empty() {
            return Err(Error::Gone { pid });
        }
        // The leader first, as in every list of threads.
        frozen.threads.sort_by_key(|frozen| (frozen.thread.tid() != pid, frozen.thread.tid()));
        Ok(frozen)
    }

    /// The stopped threads, the leader first.
    pub fn threads(&self) -> &[FrozenThread] {
        &self.threads
    }

    /// The target.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Lets all threads go; returns how long the first of them was stopped.
    pub fn thaw(self) -> Duration {
        let Self { threads, since, .. } = self;
        for frozen in threads {
            // A thread that was killed meanwhile needs nothing.
            let _ = frozen.thread.detach();
        }
        since.elapsed()
    }
}
