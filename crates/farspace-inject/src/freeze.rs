//! Stopping threads of a target together.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use farspace_sys::arch::Registers;
use farspace_sys::process::{self, Activity};
use farspace_sys::ptrace::{Running, Stopped};
use rustix::io::Errno;

use crate::borrow::hide_stop;
use crate::exec_watch::ExecWatch;
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
    /// Stops all threads of a process, but for an agent that is one. Threads that are made meanwhile are found and
    /// stopped, too.
    ///
    /// # Errors
    ///
    /// Refused: traced, 32-bit, or a thread doesn't stop before the timeout. Gone. Nothing stays stopped then, but
    /// a thread that didn't stop in time is let go only with the end of the calling thread: see
    /// [`on_own_thread`](crate::on_own_thread).
    pub fn stop(pid: i32, agent: Option<i32>, timeout: Duration) -> Result<Self> {
        let deadline = Instant::now() + timeout;
        let mut seen: HashSet<i32> = agent.into_iter().collect();
        let mut watch = None;
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
            if watch.is_none() && (new.len() > 1 || !frozen.threads.is_empty()) {
                watch = Some(ExecWatch::start(pid, agent)?);
            }
            if frozen.threads.is_empty() {
                frozen.since = Instant::now();
            }
            frozen.threads.extend(hold(pid, &new, deadline, Stragglers::Fail)?);
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

    /// How long the first of them has been stopped.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
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

/// What to do about threads that don't stop in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stragglers {
    /// Give up.
    Fail,
    /// Do without them: what sleeps uninterruptibly makes no system calls.
    Leave,
}

/// Stops these threads of a process, all at once; those that have ended are left out. Where more than one thread is traced
/// by then, an [`ExecWatch`] is needed.
///
/// # Errors
///
/// As [`Frozen::stop`]; nothing stays stopped then.
pub(crate) fn hold(
    pid: i32,
    tids: &[i32],
    deadline: Instant,
    stragglers: Stragglers,
) -> Result<Vec<FrozenThread>> {
    let mut running = Vec::with_capacity(tids.len());
    for &tid in tids {
        match Running::seize(tid, 0) {
            Ok(thread) => running.push(thread),
            Err(e) if e.is_gone() => {}
            Err(e) if e.errno == Errno::PERM => {
                let status = process::status(tid);
                if status.as_ref().is_ok_and(|s| matches!(s.state, 'Z' | 'X')) {
                    continue;
                }
                let tracer = status.map_or(0, |s| s.tracer);
                return Err(if tracer == 0 {
                    e.into()
                } else {
                    Error::refused(pid, Refusal::Traced { tracer })
                });
            }
            Err(e) => return Err(e.into()),
        }
    }
    running.retain(|thread| thread.interrupt().is_ok());
    let mut held = Vec::with_capacity(running.len());
    for thread in running {
        match thread.wait_interrupted(deadline) {
            Ok(stopped) => match hide_stop(pid, &stopped) {
                Ok(registers) => held.push(FrozenThread { thread: stopped, registers }),
                Err(Error::Sys(e)) if e.is_gone() => {}
                Err(e) => return Err(e),
            },
            Err(e) if e.is_gone() => {}
            Err(e) if e.errno == Errno::TIMEDOUT && stragglers == Stragglers::Leave => {}
            Err(e) if e.errno == Errno::TIMEDOUT => {
                return Err(Error::refused(pid, Refusal::Uninterruptible));
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(held)
}

/// The threads that may look for children of the target right now. Of a process with many threads only those that
/// run or wait for a child: one that wakes up and then does so within the next 0.1 ms is left out.
pub(crate) fn that_may_wait(pid: i32) -> Result<Vec<i32>> {
    const WAITS: [u64; 2] = [libc::SYS_wait4 as u64, libc::SYS_waitid as u64];
    const MANY: usize = 32;
    let mut tids = process::threads(pid)?;
    if tids.len() <= MANY {
        return Ok(tids);
    }
    tids.retain(|&tid| match process::activity(pid, tid) {
        Activity::Running => true,
        Activity::Blocked { nr } => WAITS.contains(&nr),
        Activity::Unknown => false,
    });
    Ok(tids)
}
