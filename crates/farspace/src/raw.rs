//! The system call's own shape.
//!
//! Invariants: SAFETY.md, 14.

use std::os::fd::BorrowedFd;

use farspace_abi::RemoteIoVec;
use farspace_sys::pidfd;
use rustix::io::Errno;

use crate::backend::{self, SpliceCall};

pub use crate::exec::raw::{leave_idle, process_vm_exec};

/// process_vmsplice with the arguments of the system call, checked in the order of SPEC (by the kernel, if it has it).
///
/// # Errors
///
/// EINVAL: unknown flag, more than 1024 segments, a negative length. EBADF: `fd` isn't the write end of a
/// pipe. ESRCH: no such process, a zombie, a kernel thread, a stale pidfd. EPERM: no ptrace access. EFAULT:
/// `iov` can't be read, or the first page of the target can't. EAGAIN: the pipe is full, with NONBLOCK. EINTR:
/// a signal while waiting. EPIPE (and SIGPIPE): no reader.
///
/// # Safety
///
/// None of the caller's memory is written to; `iov` may point anywhere. What is unsafe is `fd`, which must be
/// the caller's to write to.
pub unsafe fn process_vmsplice(
    pid: i32,
    fd: i32,
    iov: *const RemoteIoVec,
    nr_segs: usize,
    flags: u32,
) -> Result<usize, Errno> {
    // SAFETY: as this function's.
    unsafe { backend::splicing().vmsplice(&SpliceCall { pid, fd, iov, nr_segs, flags }) }
}

/// The pid that a pidfd, given by its number, stands for.
pub(crate) fn behind_pidfd(number: i32) -> Result<i32, Errno> {
    if number < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: only looked up; a closed descriptor gives EBADF.
    pidfd::pid_of(unsafe { BorrowedFd::borrow_raw(number) })
}

/// A pid that can be one.
pub(crate) fn plain(pid: i32) -> Result<i32, Errno> {
    if pid > 0 { Ok(pid) } else { Err(Errno::SRCH) }
}
