//! Any kernel: the agent in the target, or a copy where it can't be.

use std::os::fd::BorrowedFd;

use farspace_abi::RemoteIoVec;
use farspace_abi::mailbox::MAX_IOV;
use farspace_sys::{memory, pipe, process};
use rustix::io::Errno;

use super::{Backend, ExecCall, SpliceCall};
use crate::{Result, SpliceFlags, Target, exec, raw};

/// Bytes that one call moves at most (MAX_RW_COUNT, include/linux/fs.h).
const MAX_BYTES: u64 = 0x7fff_f000;

/// User space only.
#[derive(Debug)]
pub struct Stock;

impl Backend for Stock {
    fn name(&self) -> &'static str {
        "stock"
    }

    unsafe fn vmsplice(&self, call: &SpliceCall) -> std::result::Result<usize, Errno> {
        let SpliceCall { pid, fd, iov, nr_segs, flags } = *call;
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
        let pid = check_pipe_and_target(pid, fd, flags)?;
        let iov = read_own(iov, nr_segs)?;
        transfer(pid, fd, &iov, flags).map_err(|e| e.errno())
    }

    unsafe fn vm_exec(&self, call: &ExecCall) -> std::result::Result<(), Errno> {
        // SAFETY: as this function's.
        unsafe { exec::stock::vm_exec(call) }
    }
}

/// The checks on the pipe and the process, in SPEC's order; the pid behind a pidfd.
pub(crate) fn check_pipe_and_target(
    pid: i32,
    fd: BorrowedFd<'_>,
    flags: SpliceFlags,
) -> std::result::Result<i32, Errno> {
    if !pipe::is_pipe_writer(fd) {
        return Err(Errno::BADF);
    }
    let pid = if flags.contains(SpliceFlags::PIDFD) { raw::behind_pidfd(pid)? } else { raw::plain(pid)? };
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
) -> Result<usize> {
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
        return Ok(0);
    }
    let target = Target::attach_stock(pid)?;
    let bytes = target.vmsplice(fd, &clipped, flags - SpliceFlags::PIDFD)?;
    target.detach()?;
    Ok(bytes)
}

/// Copies the segments from this process's own memory, where they may not be.
fn read_own(iov: *const RemoteIoVec, nr_segs: usize) -> std::result::Result<Vec<RemoteIoVec>, Errno> {
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
