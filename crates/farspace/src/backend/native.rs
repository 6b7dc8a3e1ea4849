//! A kernel that has the two system calls.
//!
//! Invariants: SAFETY.md, 14.

use std::sync::OnceLock;

use farspace_abi::native::{NR_PROCESS_VM_EXEC, NR_PROCESS_VMSPLICE};
use rustix::io::Errno;

use super::{Backend, ExecCall, SpliceCall};
use crate::probe;

/// True if the kernel has process_vmsplice; probed once.
pub fn has_vmsplice() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| probe::native_vmsplice().is_ok())
}

/// True if the kernel has process_vm_exec; probed once.
pub fn has_vm_exec() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    *FOUND.get_or_init(|| probe::native_vm_exec().is_ok())
}

/// The system calls.
#[derive(Debug)]
pub struct Native;

impl Backend for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    unsafe fn vmsplice(&self, call: &SpliceCall) -> Result<usize, Errno> {
        // The number may be that of something else there.
        if !has_vmsplice() {
            return Err(Errno::NOSYS);
        }
        let SpliceCall { pid, fd, iov, nr_segs, flags } = *call;
        // SAFETY: the kernel checks the pointer; whose descriptor it is is the caller's promise.
        let n = unsafe { libc::syscall(NR_PROCESS_VMSPLICE, pid, fd, iov, nr_segs, flags) };
        usize::try_from(n).map_err(|_| last_errno())
    }

    unsafe fn vm_exec(&self, call: &ExecCall) -> Result<(), Errno> {
        if !has_vm_exec() {
            return Err(Errno::NOSYS);
        }
        let ExecCall { pid, context, flags, info, mask, sizemask, are_references: _ } = *call;
        // SAFETY: the kernel checks every pointer; what they point to is the caller's promise.
        match unsafe { libc::syscall(NR_PROCESS_VM_EXEC, pid, context, flags, info, mask, sizemask) } {
            0 => Ok(()),
            _ => Err(last_errno()),
        }
    }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
