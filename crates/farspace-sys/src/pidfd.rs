//! pidfds: open, take a descriptor, wait for the end.
//!
//! Invariants: SAFETY.md, 7.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal};

use crate::{Error, Result};

/// Opens a pidfd for a process (pidfd_open(2)).
///
/// # Errors
///
/// ESRCH: no such process; EINVAL: not the leader of a thread group.
pub fn open(pid: i32) -> Result<OwnedFd> {
    let raw = Pid::from_raw(pid).ok_or(Error::new("open a pidfd", pid, Errno::SRCH))?;
    rustix::process::pidfd_open(raw, PidfdFlags::empty()).map_err(|e| Error::new("open a pidfd", pid, e))
}

/// Opens a pidfd for one thread (PIDFD_THREAD, Linux 6.9). A signal sent through it can end the whole process.
///
/// # Errors
///
/// ESRCH: no such thread; EINVAL: an older kernel.
pub fn open_thread(tid: i32) -> Result<OwnedFd> {
    let raw = Pid::from_raw(tid).ok_or(Error::new("open a pidfd", tid, Errno::SRCH))?;
    // PIDFD_THREAD is O_EXCL (include/uapi/linux/pidfd.h).
    let flags = PidfdFlags::from_bits_retain(libc::O_EXCL as u32);
    rustix::process::pidfd_open(raw, flags).map_err(|e| Error::new("open a pidfd", tid, e))
}

/// The pid that a pidfd stands for, as seen from here, or ESRCH if it was reaped.
///
/// # Errors
///
/// EBADF if `pidfd` isn't one, ESRCH if its process is gone or not visible here.
pub fn pid_of(pidfd: BorrowedFd<'_>) -> std::result::Result<i32, Errno> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))
        .map_err(|_| Errno::BADF)?;
    let line = text.lines().find_map(|l| l.strip_prefix("Pid:")).ok_or(Errno::BADF)?;
    match line.trim().parse::<i32>() {
        Ok(pid) if pid > 0 => Ok(pid),
        _ => Err(Errno::SRCH),
    }
}

/// Takes a copy of descriptor `fd` of the process (pidfd_getfd(2)).
///
/// # Errors
///
/// EBADF: no such descriptor there; EPERM: no ptrace access; ESRCH: gone.
pub fn take_fd(pidfd: BorrowedFd<'_>, pid: i32, fd: i32) -> Result<OwnedFd> {
    rustix::process::pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty())
        .map_err(|e| Error::new("take a descriptor", pid, e))
}

/// Waits until the process has ended; false after the timeout.
pub fn wait_end(pidfd: BorrowedFd<'_>, timeout: Duration) -> bool {
    let deadline = std::time::Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&left)) {
            Ok(n) => return n > 0,
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Kills the process.
pub fn kill(pidfd: BorrowedFd<'_>) {
    // ESRCH means that it is done already.
    let _ = rustix::process::pidfd_send_signal(pidfd.as_fd(), Signal::KILL);
}

/// True if both processes have the same address space (kcmp(2), KCMP_VM); `None` where kcmp isn't there.
pub fn same_memory(a: i32, b: i32) -> Option<bool> {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: no pointers are passed.
    match unsafe { libc::syscall(libc::SYS_kcmp, a, b, KCMP_VM, 0, 0) } {
        0 => Some(true),
        1..=3 => Some(false),
        _ => match Error::last("compare", a).errno {
            Errno::SRCH => Some(false),
            _ => None,
        },
    }
}
