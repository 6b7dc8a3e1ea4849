//! The two system calls, by pidfd.
//!
//! Invariants: SAFETY.md, 14.

use std::os::fd::{AsRawFd, BorrowedFd};

use farspace_abi::RemoteIoVec;
use farspace_abi::exec::{PIDFD, SYSCALL, SigContext, SigInfo};
use farspace_abi::native::PROCESS_VM_PIDFD;
use rustix::io::Errno;

use crate::backend::native::Native;
use crate::backend::{Backend as _, ExecCall, SpliceCall};

/// process_vmsplice.
pub(super) fn vmsplice(
    pidfd: BorrowedFd<'_>,
    pipe: BorrowedFd<'_>,
    iov: &[RemoteIoVec],
    flags: u32,
) -> Result<usize, Errno> {
    let call = SpliceCall {
        pid: pidfd.as_raw_fd(),
        fd: pipe.as_raw_fd(),
        iov: iov.as_ptr(),
        nr_segs: iov.len(),
        flags: flags | PROCESS_VM_PIDFD,
    };
    // SAFETY: the slice and the descriptors are borrowed for the call.
    unsafe { Native.vmsplice(&call) }
}

/// process_vm_exec in syscall mode: the call's result, a negative errno if it failed.
///
/// # Errors
///
/// Of process_vm_exec itself.
pub(super) fn syscall(pidfd: BorrowedFd<'_>, nr: u64, args: [u64; 6]) -> Result<i64, Errno> {
    let [rdi, rsi, rdx, r10, r8, r9] = args;
    let mut context = SigContext { rax: nr, rdi, rsi, rdx, r10, r8, r9, ..SigContext::default() };
    let mut info = SigInfo::default();
    let mask = 0_u64;
    let call = ExecCall {
        pid: pidfd.as_raw_fd(),
        context: &raw mut context,
        flags: SYSCALL | PIDFD,
        info: &raw mut info,
        mask: &raw const mask,
        sizemask: size_of::<u64>(),
        are_references: true,
    };
    // SAFETY: all three are locals. Numbers of descriptors among the arguments are the caller's own, as for the call
    // that is made.
    unsafe { Native.vm_exec(&call) }?;
    Ok(context.rax as i64)
}
