//! Choosing a thread of the target and stopping it so that it won't notice.

use std::time::Instant;

use farspace_sys::RemoteAddr;
use farspace_sys::arch::Registers;
use farspace_sys::cpu::Pinned;
use farspace_sys::memory::Memory;
use farspace_sys::process::{self, Activity};
use farspace_sys::ptrace::{Running, SUSPEND_SECCOMP, Stopped, TRACE_SYSGOOD};
use rustix::io::Errno;

use crate::exec_watch::ExecWatch;
use crate::{Error, Refusal, Result};

/// A stopped thread and the registers with which it must go on.
///
/// # Invariants
///
/// Whenever the host could die, the thread's registers are either `resume`, or lead to code that loads them.
#[derive(Debug)]
pub struct Borrowed {
    /// The thread.
    pub thread: Stopped,
    /// Where and how it goes on.
    pub resume: Registers,
    /// When it was asked to stop.
    pub since: Instant,
    /// Keeps this thread beside it.
    pub near: Option<Pinned>,
}

/// System calls in which a thread is the last choice. Most give EINTR instead of restarting (signal(7)): the stop
/// hides that, but a finite timeout begins anew. A write that has moved some bytes returns their number.
const DELICATE: [u64; 19] = [
    0,   // read: inotify
    1,   // write
    20,  // writev
    40,  // sendfile
    44,  // sendto
    45,  // recvfrom
    46,  // sendmsg
    47,  // recvmsg
    65,  // semop
    128, // rt_sigtimedwait
    208, // io_getevents
    220, // semtimedop
    232, // epoll_wait
    281, // epoll_pwait
    288, // accept4
    299, // recvmmsg
    333, // io_pgetevents
    426, // io_uring_enter
    441, // epoll_pwait2
];

/// The threads of a process, those first that lose least by a stop: asleep in a call that restarts exactly,
/// then running, then the delicate ones. Threads in uninterruptible sleep are left out.
///
/// # Errors
///
/// ESRCH: gone.
pub fn candidates(pid: i32) -> Result<Vec<i32>> {
    let mut ranked = Vec::new();
    for tid in process::threads(pid)? {
        let Ok(status) = process::status(tid) else { continue };
        if matches!(status.state, 'D' | 'Z' | 'X') {
            continue;
        }
        let rank = match process::activity(pid, tid) {
            Activity::Blocked { nr } if !DELICATE.contains(&nr) => 0,
            Activity::Running => 1,
            _ => 2,
        };
        ranked.push((rank, tid));
    }
    ranked.sort_unstable();
    Ok(ranked.into_iter().map(|(_, tid)| tid).collect())
}

/// Stops one thread of the target: the first of [`candidates`] that stops in time. `options` are those of the
/// tracing; they suspend a seccomp filter or are empty.
///
/// # Errors
///
/// Refused: traced, 32-bit, or nothing stops before `deadline`. Gone.
pub fn borrow(pid: i32, options: u32, deadline: Instant) -> Result<Borrowed> {
    let mut denied = None;
    let mut watch = None;
    loop {
        for tid in candidates(pid)? {
            let attempt =
                Instant::now() + (deadline - Instant::now()).min(std::time::Duration::from_millis(250));
            match stop(pid, tid, options, attempt) {
                Err(Error::Sys(e)) if e.is_gone() || e.errno == Errno::TIMEDOUT => {}
                Err(Error::Sys(e)) if e.errno == Errno::PERM => {
                    let tracer = process::status(tid).map_or(0, |s| s.tracer);
                    if tracer != 0 {
                        return Err(Error::refused(pid, Refusal::Traced { tracer }));
                    }
                    // A thread that is ending gives EPERM as well: look again.
                    denied = Some(match options & SUSPEND_SECCOMP {
                        0 => Error::from(e),
                        _ => Error::refused(pid, Refusal::Seccomp),
                    });
                }
                Err(Error::Sys(e)) if e.errno == Errno::INVAL && options & SUSPEND_SECCOMP != 0 => {
                    return Err(Error::refused(pid, Refusal::Seccomp));
                }
                other => return other,
            }
            // The thread may still be traced when the next one is.
            if watch.is_none() {
                watch = Some(ExecWatch::start(pid, None)?);
            }
        }
        // ESRCH: it has no memory any more.
        farspace_sys::memory::check_access(pid)?;
        if let Some(denied) = denied {
            return Err(denied);
        }
        if Instant::now() >= deadline {
            return Err(Error::refused(pid, Refusal::Uninterruptible));
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Stops one thread and works out how it must go on.
fn stop(pid: i32, tid: i32, options: u32, deadline: Instant) -> Result<Borrowed> {
    let near = Pinned::beside(tid);
    let running = Running::seize(tid, options | TRACE_SYSGOOD)?;
    let since = Instant::now();
    running.interrupt()?;
    let thread = running.wait_interrupted(deadline)?;
    hide_stop(pid, &thread)?;
    let resume = thread.registers()?;
    Ok(Borrowed { thread, resume, since, near })
}

/// Stops a thread that was borrowed and runs, anew.
///
/// # Errors
///
/// Gone; it doesn't stop in time.
pub(crate) fn stop_again(
    running: Running,
    since: Instant,
    near: Option<Pinned>,
    deadline: Instant,
) -> Result<Borrowed> {
    running.interrupt()?;
    let thread = running.wait_interrupted(deadline)?;
    hide_stop(thread.tid(), &thread)?;
    let resume = thread.registers()?;
    Ok(Borrowed { thread, resume, since, near })
}

impl Borrowed {
    /// Lets the thread go on as if nothing had been.
    ///
    /// # Errors
    ///
    /// Gone.
    pub(crate) fn give_back(self, deadline: Instant) -> Result<()> {
        // Only in a stop on the way to a signal does the kernel restart an interrupted call.
        let running = self.thread.resume()?;
        running.interrupt()?;
        let thread = running.wait_interrupted(deadline)?;
        if thread.registers()?.instruction() == self.resume.restarted().instruction() {
            thread.set_registers(&self.resume)?;
        } else {
            // It was faster, and is in another call by now.
            hide_stop(thread.tid(), &thread)?;
        }
        Ok(thread.detach()?)
    }
}

/// Hides the stop from the thread: an EINTR becomes a restart, at once, so that it holds even if the host dies
/// now. Returns the registers as they were found.
///
/// # Errors
///
/// Gone; refused: 32-bit.
pub fn hide_stop(pid: i32, thread: &Stopped) -> Result<Registers> {
    thread.hide().map_err(|e| match e.errno {
        Errno::OPNOTSUPP => Error::refused(pid, Refusal::Not64Bit),
        _ => e.into(),
    })
}

/// Leads a thread that was stopped inside a restartable sequence to its abort handler.
///
/// The kernel does that by itself when a preempted thread returns into the sequence (rseq(2)), but not if it
/// returns elsewhere first, as a borrowed thread does.
///
/// # Errors
///
/// Gone, or the thread's rseq area can't be read.
pub fn abort_rseq(thread: &Stopped, memory: &Memory, registers: &mut Registers) -> Result<()> {
    /// Offset of `rseq_cs` in `struct rseq` (include/uapi/linux/rseq.h).
    const RSEQ_CS: u64 = 8;
    let Some(area) = thread.rseq() else { return Ok(()) };
    let section = memory.read_u64(RemoteAddr(area.0.wrapping_add(RSEQ_CS)))?;
    if section == 0 {
        return Ok(());
    }
    // struct rseq_cs: version and flags, start_ip, post_commit_offset, abort_ip.
    let field = |index: u64| memory.read_u64(RemoteAddr(section.wrapping_add(8 * index)));
    let (start, length, abort) = (field(1)?, field(2)?, field(3)?);
    if registers.instruction().0.wrapping_sub(start) < length {
        registers.set_instruction(RemoteAddr(abort));
        thread.set_registers(registers)?;
    }
    Ok(())
}
