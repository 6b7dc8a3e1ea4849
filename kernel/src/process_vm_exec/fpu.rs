// SPDX-License-Identifier: GPL-2.0-only

//! A first look at the vector state that a caller gives. The rest is in process_vm_exec_fpu.c, where the accessors are.

use core::mem::size_of;
use core::ptr::addr_of;
use kernel::bindings;
use kernel::error::to_result;
use kernel::prelude::*;

/// The marks of an area (arch/x86/include/uapi/asm/sigcontext.h).
const MAGIC1: u32 = bindings::FP_XSTATE_MAGIC1;
const MAGIC2: u32 = bindings::FP_XSTATE_MAGIC2;
/// `sw_reserved` in `struct fxregs_state`.
const MARKS: usize = 464;

/// Copies a value that is any bytes.
///
/// # Safety
///
/// All bytes are a value of `T`.
unsafe fn read<T: Default>(address: usize) -> Result<T> {
    let mut value = T::default();
    // SAFETY: as many bytes are written to.
    let left = unsafe {
        bindings::copy_from_user((&mut value as *mut T).cast(), address as *const _, size_of::<T>() as _)
    };
    if left == 0 {
        Ok(value)
    } else {
        Err(EFAULT)
    }
}

/// Makes the guest's buffer, or a new one where a dynamic feature has made the old one grow.
///
/// # Errors
///
/// ENOMEM.
pub(crate) fn make(fpu: &mut bindings::vm_exec_fpu) -> Result {
    // SAFETY: it doesn't change after boot; a buffer that is there is the task's own.
    let is_there = unsafe {
        let size = addr_of!(bindings::fpu_kernel_cfg.default_size).read();
        !fpu.guest.is_null() && addr_of!((*fpu.guest).size).read() == size
    };
    if is_there {
        return Ok(());
    }
    // SAFETY: the task's own; the guest's state isn't in use.
    to_result(unsafe { bindings::vm_exec_fpu_make(fpu) })
}

/// Says early whether an area looks like that of a signal frame; what loads it checks everything else.
///
/// # Errors
///
/// EFAULT: it can't be read; EINVAL: it is none, or of another size.
pub(crate) fn check(area: usize) -> Result {
    // SAFETY: it doesn't change after boot.
    let size = unsafe { addr_of!(bindings::fpu_user_cfg.default_size).read() };
    // SAFETY: integers.
    let marks: bindings::_fpx_sw_bytes = unsafe { read(area.wrapping_add(MARKS))? };
    if marks.magic1 != MAGIC1 || marks.xstate_size != size {
        return Err(EINVAL);
    }
    // SAFETY: an integer.
    let end: u32 = unsafe { read(area.wrapping_add(size as usize))? };
    if end == MAGIC2 {
        Ok(())
    } else {
        Err(EINVAL)
    }
}
