//! process_vm_exec in the system call's own shape.
//!
//! Invariants: SAFETY.md, 14.

use farspace_abi::exec::{SigContext, SigInfo};
use rustix::io::Errno;

use super::table;
use crate::backend::{self, ExecCall};

/// process_vm_exec with the arguments of the system call, checked in the order of SPEC.
///
/// The first call for a target attaches to it; later ones don't. An attachment that isn't used for about a second is
/// given up, and the target is as it was then ([`leave_idle`] does that at once). While there are any, this process has a
/// thread more, with all signals blocked. A child of fork(2) has none of its parent's attachments.
///
/// Signals of `mask` must be blocked by the caller where one that comes between two calls would do harm. They can't
/// come to this process's other threads if those block them as well.
///
/// A system call by the vsyscall page is reported with `si_call_addr` at its entry there, and `rip` and `rsp` as after
/// its return. One by `sysenter` from 64-bit code has lost its address in the processor: `rip` is of no use then.
///
/// # Errors
///
/// EINVAL: unknown flag, `sizemask` isn't 8, RIP, RSP or a segment base not canonical, an `fpstate` that isn't the XSAVE
/// area of a signal frame. EFAULT: one of the pointers. ESRCH: no such process, or the task that ran the guest was
/// killed. EPERM: no ptrace access, or another tracer is there. ENOMEM: also a limit of tasks or descriptors.
/// EOPNOTSUPP: a state that can't be visited safely (the caller itself, a target with a seccomp filter), or a system
/// call that isn't allowed. EINTR: a signal that isn't in the mask was handled; the context is saved, so the call can be
/// made again.
///
/// # Safety
///
/// `context` (with its `fpstate`, if that isn't 0) and `info` must be the caller's to write to, if they are valid; they
/// and `mask` may point anywhere. In syscall mode the call acts on the caller's descriptors by their numbers.
pub unsafe fn process_vm_exec(
    pid: i32,
    context: *mut SigContext,
    flags: u64,
    info: *mut SigInfo,
    mask: *const u64,
    sizemask: usize,
) -> Result<(), Errno> {
    let call = ExecCall { pid, context, flags, info, mask, sizemask, are_references: false };
    // SAFETY: as this function's.
    unsafe { backend::executing().vm_exec(&call) }
}

/// Leaves the targets that calls of [`process_vm_exec`] keep attached, but for those in which one runs.
pub fn leave_idle() {
    table::leave_idle();
}
