// SPDX-License-Identifier: GPL-2.0-only

//! Syscall mode: one system call of the caller's that acts on the target's memory.
//!
//! The caller's credentials, limits, descriptors and seccomp filter count: the task stays what it is. Only what the call
//! means by an address is the target's.

use super::context::Context;
use super::refused;
use super::state::State;
use crate::space::Space;
use kernel::bindings;
use kernel::ffi::c_long;
use kernel::prelude::*;

const ENOSYS: isize = -38;
const EINTR: isize = -4;
/// -ERESTARTSYS to -ERESTART_RESTARTBLOCK (include/linux/errno.h).
const RESTARTS: core::ops::RangeInclusive<isize> = -516..=-512;

/// Calls whose arguments are descriptors, numbers, and addresses that they are done with when they return.
const ALLOWED: &[u32] = &[
    bindings::__NR_read,
    bindings::__NR_write,
    bindings::__NR_mmap,
    bindings::__NR_mprotect,
    bindings::__NR_munmap,
    bindings::__NR_brk,
    bindings::__NR_pread64,
    bindings::__NR_pwrite64,
    bindings::__NR_readv,
    bindings::__NR_writev,
    bindings::__NR_mremap,
    bindings::__NR_msync,
    bindings::__NR_mincore,
    bindings::__NR_madvise,
    bindings::__NR_mlock,
    bindings::__NR_munlock,
    bindings::__NR_mlockall,
    bindings::__NR_munlockall,
    bindings::__NR_vmsplice,
    bindings::__NR_preadv,
    bindings::__NR_pwritev,
    bindings::__NR_memfd_create,
    bindings::__NR_userfaultfd,
    bindings::__NR_mlock2,
    bindings::__NR_preadv2,
    bindings::__NR_pwritev2,
];

fn allowed(nr: usize) -> Result<u32> {
    match ALLOWED.iter().find(|&&known| known as usize == nr) {
        Some(&nr) => Ok(nr),
        None => Err(refused()),
    }
}

/// Makes the call that the registers describe; its result is in RAX then.
pub(crate) fn run(
    regs: &mut bindings::pt_regs,
    state: &mut State,
    target: Space,
    address: usize,
) -> Result<c_long> {
    let result = match permitted(regs, &state.context)? {
        Ok((mut inner, nr)) => {
            state.pass_over(target.as_ptr());
            // SAFETY: the number is one of the table's; the function takes its arguments from the registers given.
            let result = unsafe { bindings::vm_exec_inner_call(&mut inner, nr) };
            state.come_back();
            result
        }
        Err(result) => result,
    };
    Context::write_result(address, if RESTARTS.contains(&result) { EINTR } else { result }).map(|()| 0)
}

/// Asks the caller's seccomp filters and tracer, who see the inner call as if it had been made directly. They may change
/// it, or say what it gives (the inner error).
fn permitted(
    regs: &mut bindings::pt_regs,
    context: &Context,
) -> Result<core::result::Result<(bindings::pt_regs, u32), isize>> {
    let nr = allowed(context.rax())?;
    let own = *regs;
    context.put_arguments(regs);
    regs.ax = ENOSYS as usize;
    // SAFETY: the registers are those of an entry.
    let is_denied = unsafe { bindings::vm_exec_seccomp(regs) } != 0;
    let seen = core::mem::replace(regs, own);
    if is_denied {
        // SECCOMP_RET_TRAP rolls back to the number; the handler can't make up a result here.
        return Ok(Err(if seen.ax == nr as usize { ENOSYS } else { seen.ax as isize }));
    }
    if seen.orig_ax as i32 == -1 {
        return Ok(Err(seen.ax as isize));
    }
    let nr = allowed(seen.orig_ax as i32 as usize)?;
    let mut inner = context.arguments();
    (inner.di, inner.si, inner.dx) = (seen.di, seen.si, seen.dx);
    (inner.r10, inner.r8, inner.r9) = (seen.r10, seen.r8, seen.r9);
    Ok(Ok((inner, nr)))
}
