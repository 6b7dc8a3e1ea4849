//! The system call's own shape.
//!
//! Invariants: SAFETY.md, 12.

use std::os::fd::BorrowedFd;

use farspace_abi::RemoteIoVec;
use farspace_abi::mailbox::MAX_IOV;
use farspace_sys::{memory, pidfd, pipe, process};
use rustix::io::Errno;

use crate::{Report, SpliceFlags, backend};

pub use crate::exec::raw::{leave_idle, process_vm_exec};

/// Bytes that one call moves at most (MAX_RW_COUNT, include/linux/fs.h).
const MAX_BYTES: u64 = 0x7fff_f000;

/// process_vmsplice with the arguments of the system call, checked in the order of SPEC.
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
    let flags = SpliceFlags::from_bits(flags).ok_or(Errno::INVAL)?;
    if nr_segs > MAX_IOV {
        return Err(Errno::INVAL);
    }
    if nr_segs == 0 {
        return Ok(0);
    }
    if fd < 0 {
        return Err(Errno::BADF);
    }
    // SAFETY: only looked up; a closed descriptor gives EBADF.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    check_pipe_and_target(pid, fd, flags).and_then(|pid| {
        let iov = read_own(iov, nr_segs)?;
        transfer(pid, fd, &iov, flags).map(|(bytes, _)| bytes).map_err(|e| e.errno())
    })
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

/// The checks on the pipe and the process, in SPEC's order; the pid behind a pidfd.
pub(crate) fn check_pipe_and_target(pid: i32, fd: BorrowedFd<'_>, flags: SpliceFlags) -> Result<i32, Errno> {
    if !pipe::is_pipe_writer(fd) {
        return Err(Errno::BADF);
    }
    let pid = if flags.contains(SpliceFlags::PIDFD) { behind_pidfd(pid)? } else { plain(pid)? };
    memory::check_access(pid).map_err(|e| e.errno)?;
    // A thread stands for its process.
    process::status(pid).map(|status| status.tgid).map_err(|e| e.errno)
}

/// The checks on the segments and the transfer itself.
pub(crate) fn transfer(
    pid: i32,
    fd: BorrowedFd<'_>,
    iov: &[RemoteIoVec],
    flags: SpliceFlags,
) -> crate::Result<(usize, Option<Report>)> {
    if iov.iter().any(|segment| segment.len > i64::MAX as u64) {
        return Err(crate::Error::new("map the memory", pid, Errno::INVAL));
    }
    let mut left = MAX_BYTES;
    let clipped: Vec<_> = iov
        .iter()
        .map(|segment| {
            let len = segment.len.min(left);
            left -= len;
            RemoteIoVec { base: segment.base, len }
        })
        .filter(|segment| segment.len > 0)
        .collect();
    if clipped.is_empty() {
        return Ok((0, None));
    }
    let flags = flags - SpliceFlags::PIDFD;
    let (bytes, report) = backend::current().vmsplice(pid, fd, &clipped, flags)?;
    Ok((bytes, Some(report)))
}

/// Copies the segments from this process's own memory, where they may not be.
fn read_own(iov: *const RemoteIoVec, nr_segs: usize) -> Result<Vec<RemoteIoVec>, Errno> {
    let mut bytes = vec![0; nr_segs * size_of::<RemoteIoVec>()];
    let from = [RemoteIoVec::new(iov as u64, bytes.len() as u64)];
    match memory::process_vm_readv(std::process::id() as i32, &from, &mut bytes) {
        Ok(n) if n == bytes.len() => {}
        _ => return Err(Errno::FAULT),
    }
    let word = |b: &[u8]| b.try_into().map(u64::from_le_bytes).unwrap_or(0);
    Ok(bytes
        .chunks_exact(size_of::<RemoteIoVec>())
        .map(|segment| RemoteIoVec::new(word(&segment[..8]), word(&segment[8..])))
        .collect())
}
