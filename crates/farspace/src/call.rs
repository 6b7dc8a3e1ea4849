//! process_vmsplice as a safe function.
//!
//! Invariants: SAFETY.md, 14.

use std::os::fd::{AsRawFd, BorrowedFd};

use farspace_abi::RemoteIoVec;
use farspace_abi::mailbox::MAX_IOV;
use rustix::io::Errno;

use crate::backend::native::Native;
use crate::backend::{self, Backend as _, SpliceCall, stock};
use crate::{Error, Result, SpliceFlags};

/// Names a process.
#[derive(Clone, Copy, Debug)]
pub enum TargetId<'a> {
    /// By its pid, or the tid of any of its threads.
    Pid(i32),
    /// By a pidfd (pidfd_open(2)), which can't come to mean another process.
    PidFd(BorrowedFd<'a>),
}

/// Maps ranges of another process's memory into the pipe whose write end is `fd`; returns the bytes mapped.
///
/// Waits only for the first free slot of the pipe, then inserts what fits: short counts are normal. The bytes
/// are those of the page during or after the call; a later write by the target may still show until the pipe
/// is drained. A page from a pool of huge pages (hugetlbfs) that the target drops is missing in the pool until then. On a
/// stock kernel each call attaches to the target and detaches again; [`Target`](crate::Target) does that
/// once.
///
/// # Errors
///
/// By [`Error::errno`]: as [`raw::process_vmsplice`].
pub fn process_vmsplice(
    target: TargetId<'_>,
    fd: BorrowedFd<'_>,
    iov: &[RemoteIoVec],
    flags: SpliceFlags,
) -> Result<usize> {
    let (id, flags) = match target {
        TargetId::Pid(pid) => (pid, flags - SpliceFlags::PIDFD),
        TargetId::PidFd(pidfd) => (pidfd.as_raw_fd(), flags | SpliceFlags::PIDFD),
    };
    let named = match target {
        TargetId::Pid(pid) => Some(pid),
        TargetId::PidFd(_) => None,
    };
    let error = |errno| Error::new("map the memory", named, errno);
    if SpliceFlags::from_bits(flags.bits()).is_none() || iov.len() > MAX_IOV {
        return Err(error(Errno::INVAL));
    }
    if iov.is_empty() {
        return Ok(0);
    }
    let backend = backend::splicing();
    if backend.name() == Native.name() {
        let (pid, fd, iov, nr_segs) = (id, fd.as_raw_fd(), iov.as_ptr(), iov.len());
        // SAFETY: the slice and the descriptor are the caller's, and outlive the call.
        let done = unsafe { backend.vmsplice(&SpliceCall { pid, fd, iov, nr_segs, flags: flags.bits() }) };
        return done.map_err(error);
    }
    let pid = stock::check_pipe_and_target(id, fd, flags).map_err(error)?;
    stock::transfer(pid, fd, iov, flags)
}
