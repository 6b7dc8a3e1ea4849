// SPDX-License-Identifier: GPL-2.0-only

//! The caller's list of segments, in the kernel's memory.

use core::mem::MaybeUninit;
use core::ops::Deref;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::prelude::*;

/// Short lists are kept on the stack, as those of readv(2).
const FAST: usize = bindings::UIO_FASTIOV as usize;

/// Room for a short list.
pub(super) struct Fast(MaybeUninit<[bindings::iovec; FAST]>);

impl Fast {
    pub(super) fn new() -> Self {
        Self(MaybeUninit::uninit())
    }
}

/// A copy of a list of segments.
///
/// # Invariants
///
/// `list` points to `len` segments: the ones of `fast`, or, if `allocated`, some that belong to this object.
pub(super) struct Iov<'a> {
    list: NonNull<bindings::iovec>,
    len: usize,
    allocated: bool,
    _fast: &'a mut Fast,
}

impl<'a> Iov<'a> {
    /// Copies `len` segments (1 to UIO_MAXIOV) from the caller, whose `struct iovec` may be that of a 32-bit program.
    ///
    /// # Errors
    ///
    /// EFAULT: they can't be read; EINVAL: a length is negative; ENOMEM.
    pub(super) fn import(user: *const bindings::iovec, len: usize, fast: &'a mut Fast) -> Result<Self> {
        let on_stack = fast.0.as_mut_ptr().cast();
        // SAFETY: There is room for `FAST` segments at `on_stack`. `user` is checked, whatever it is.
        let list = unsafe {
            let compat = bindings::process_vm_in_compat_syscall();
            bindings::iovec_from_user(user, len, FAST, on_stack, compat)
        };
        let list = NonNull::new(from_err_ptr(list)?).ok_or(EFAULT)?;
        // INVARIANT: `iovec_from_user` has filled `len` segments: ours where they fit, else some from kmalloc().
        Ok(Self { list, len, allocated: list.as_ptr() != on_stack, _fast: fast })
    }
}

impl Deref for Iov<'_> {
    type Target = [bindings::iovec];

    fn deref(&self) -> &Self::Target {
        // SAFETY: By the type invariant; nobody changes them.
        unsafe { core::slice::from_raw_parts(self.list.as_ptr(), self.len) }
    }
}

impl Drop for Iov<'_> {
    fn drop(&mut self) {
        if self.allocated {
            // SAFETY: By the type invariant they are from kmalloc() and ours.
            unsafe { bindings::kfree(self.list.as_ptr().cast()) };
        }
    }
}
