//! A kernel that has process_vmsplice as a system call.
//!
//! Invariants: SAFETY.md, 12.

use std::os::fd::{AsRawFd, BorrowedFd};

use farspace_abi::RemoteIoVec;
use rustix::io::Errno;

use super::{Backend, ExecCall};
use crate::{Error, Mechanism, Report, Result, SpliceFlags};

/// Number of process_vmsplice in farspace's own kernels; other kernels answer ENOSYS.
const NR_PROCESS_VMSPLICE: libc::c_long = 548;

/// Number of process_vm_exec there.
const NR_PROCESS_VM_EXEC: libc::c_long = 549;

/// True if the kernel has process_vmsplice: a call without segments returns 0 whatever its arguments are, and
/// an unknown flag gives EINVAL.
pub fn is_there() -> bool {
    // SAFETY: no pointer is passed; without segments nothing is done.
    let (none, unknown) = unsafe {
        let none = libc::syscall(NR_PROCESS_VMSPLICE, -1, -1, 0usize, 0usize, 0u32);
        (none, libc::syscall(NR_PROCESS_VMSPLICE, -1, -1, 0usize, 0usize, u32::MAX))
    };
    none == 0 && unknown == -1 && std::io::Error::last_os_error().raw_os_error() == Some(libc::EINVAL)
}

/// The system call.
#[derive(Debug)]
pub struct Native;

impl Backend for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn vmsplice(
        &self,
        pid: i32,
        pipe: BorrowedFd<'_>,
        iov: &[RemoteIoVec],
        flags: SpliceFlags,
    ) -> Result<(usize, Report)> {
        // SAFETY: the slice is laid out as an array of `struct iovec`; its addresses are the target's.
        let n = unsafe {
            libc::syscall(NR_PROCESS_VMSPLICE, pid, pipe.as_raw_fd(), iov.as_ptr(), iov.len(), flags.bits())
        };
        if n < 0 {
            let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
            return Err(Error::new("map the memory", pid, Errno::from_raw_os_error(code)));
        }
        let report =
            Report { mechanism: Mechanism::Native, reasons: Vec::new(), stop: std::time::Duration::ZERO };
        Ok((n as usize, report))
    }

    unsafe fn vm_exec(&self, call: &ExecCall) -> std::result::Result<(), Errno> {
        let ExecCall { pid, context, flags, info, mask, sizemask } = *call;
        // SAFETY: the kernel checks every pointer; what they point to is the caller's promise.
        let done = unsafe { libc::syscall(NR_PROCESS_VM_EXEC, pid, context, flags, info, mask, sizemask) };
        if done == 0 {
            return Ok(());
        }
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Err(Errno::from_raw_os_error(code))
    }
}
