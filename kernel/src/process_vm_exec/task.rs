// SPDX-License-Identifier: GPL-2.0-only

//! The fields of a task that the calls use.
//!
//! bindgen misplaces what is behind an empty structure with an alignment, so where they are comes from the C compiler
//! (bindings.h), and no reference to a whole `task_struct` is made.

use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};
use kernel::bindings;

/// Bits of `thread_info.flags`.
pub(crate) const NOTIFY_RESUME: usize = bindings::_TIF_NOTIFY_RESUME as usize;
pub(crate) const SIGPENDING: usize = bindings::_TIF_SIGPENDING as usize;
pub(crate) const NOTIFY_SIGNAL: usize = bindings::_TIF_NOTIFY_SIGNAL as usize;

/// A task, as a pointer.
///
/// # Invariants
///
/// It is valid for as long as this is used: it is current's, or the owner of this has a reference.
#[derive(Clone, Copy)]
pub(crate) struct Fields(*mut bindings::task_struct);

impl Fields {
    /// The running task.
    pub(crate) fn of_current() -> Self {
        // SAFETY: always there. INVARIANT: a task outlives its own execution.
        Self(unsafe { bindings::get_current() })
    }

    /// Another task.
    ///
    /// # Safety
    ///
    /// The caller has a reference for as long as it uses this.
    pub(crate) unsafe fn of(task: *mut bindings::task_struct) -> Self {
        // INVARIANT: by the contract.
        Self(task)
    }

    pub(crate) fn as_ptr(self) -> *mut bindings::task_struct {
        self.0
    }

    /// Where a field is. `T` must be what C has at that offset.
    pub(crate) fn at<T>(self, offset: usize) -> *mut T {
        self.0.cast::<u8>().wrapping_add(offset).cast()
    }

    /// Reads a field once that others may change.
    pub(crate) fn read<T: Copy>(self, offset: usize) -> T {
        // SAFETY: by the type invariant; `T` is the field's type at each use.
        unsafe { self.at::<T>(offset).read_volatile() }
    }

    /// Writes a field of the running task's.
    pub(crate) fn write<T>(self, offset: usize, value: T) {
        // SAFETY: by the type invariant; `T` is the field's type at each use, and only the task itself writes to those.
        unsafe { self.at::<T>(offset).write_volatile(value) }
    }

    /// Exchanges a field of the running task's for another value.
    pub(crate) fn replace<T: Copy>(self, offset: usize, value: T) -> T {
        let old = self.read(offset);
        self.write(offset, value);
        old
    }

    /// `thread_info`, which is the first field.
    fn info(self) -> *mut bindings::thread_info {
        self.0.cast()
    }

    fn flags(self) -> &'static AtomicUsize {
        // SAFETY: by the type invariant; everybody changes it by atomic instructions.
        unsafe { AtomicUsize::from_ptr(ptr::addr_of_mut!((*self.info()).flags)) }
    }

    fn syscall_work(self) -> &'static AtomicUsize {
        // SAFETY: as above.
        unsafe { AtomicUsize::from_ptr(ptr::addr_of_mut!((*self.info()).syscall_work)) }
    }

    /// Whether one of these flags is set.
    pub(crate) fn has(self, flags: usize) -> bool {
        self.flags().load(Ordering::Relaxed) & flags != 0
    }

    /// Makes the way to user mode look for work.
    pub(crate) fn notify(self) {
        self.flags().fetch_or(NOTIFY_RESUME, Ordering::Relaxed);
    }

    /// Whether system calls are the guest's.
    pub(crate) fn catch_calls(self, is_on: bool) {
        let bit = 1 << bindings::syscall_work_bit_SYSCALL_WORK_BIT_VM_EXEC;
        if is_on {
            self.syscall_work().fetch_or(bit, Ordering::Relaxed);
        } else {
            self.syscall_work().fetch_and(!bit, Ordering::Relaxed);
        }
    }

    /// Whether the guest came by a 32-bit entry. Nothing after this may take the caller's own call for one.
    pub(crate) fn take_compat(self) -> bool {
        // SAFETY: by the type invariant; only the task itself uses it.
        unsafe {
            let status = ptr::addr_of_mut!((*self.info()).status);
            let is_compat = status.read() & bindings::TS_COMPAT != 0;
            if is_compat {
                status.write(status.read() & !bindings::TS_COMPAT);
            }
            is_compat
        }
    }
}
