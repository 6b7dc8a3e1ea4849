// SPDX-License-Identifier: GPL-2.0-only

//! The address space of another process, as a type for each of the two ways to hold one.
//!
//! Lock order: `exec_update_lock` of the target (inside [`Space::of`]) is released before anything else is taken;
//! [`Locked`] is the mmap lock.

use core::marker::PhantomData;
use core::ptr::NonNull;
use core::sync::atomic::{AtomicI32, Ordering};
use kernel::bindings;
use kernel::error::{from_err_ptr, to_result};
use kernel::prelude::*;
use kernel::task::Task;

/// An address space whose mappings are there: they outlive the exit of their process.
///
/// So it is held for as long as work is done, never while waiting for somebody else: see [`Space::release`].
///
/// # Invariants
///
/// `mm` is valid, and one reference of its `mm_users` belongs to this object.
pub(crate) struct Space {
    mm: NonNull<bindings::mm_struct>,
}

impl Space {
    /// The address space of `task`, if the caller may attach to it with ptrace(2).
    ///
    /// # Errors
    ///
    /// ESRCH: it has none (a zombie, a kernel thread); EPERM: the caller may not; EINTR: it is being killed.
    pub(crate) fn of(task: &Task) -> Result<Self> {
        let task = core::ptr::from_ref(task).cast_mut().cast();
        // SAFETY: `Task` is a transparent wrapper of `task_struct`, and a `&Task` is a task that is referenced.
        let mm = unsafe { bindings::mm_access(task, bindings::PTRACE_MODE_ATTACH_REALCREDS) };
        match from_err_ptr(mm) {
            // INVARIANT: `mm_access` returns a reference of `mm_users` for its caller.
            Ok(mm) => NonNull::new(mm).map(|mm| Self { mm }).ok_or(ESRCH),
            // process_vm_readv(2) says EPERM, too.
            Err(EACCES) => Err(EPERM),
            Err(error) => Err(error),
        }
    }

    /// The C object, which lives as long as this value.
    #[cfg(CONFIG_PROCESS_VM_EXEC)]
    pub(crate) fn as_ptr(&self) -> *mut bindings::mm_struct {
        self.mm.as_ptr()
    }

    /// Lets go of the mappings, but not of the object: whoever owns them may end while the caller waits.
    pub(crate) fn release(self) -> Released {
        // SAFETY: By the type invariant `mm` is valid.
        unsafe { bindings::process_vm_mmgrab(self.mm.as_ptr()) };
        // INVARIANT: That was the reference of `mm_count`. The one of `mm_users` goes with `self`.
        Released { mm: self.mm }
    }

    /// A second hold, on the object alone.
    #[cfg(CONFIG_PROCESS_VM_EXEC)]
    pub(crate) fn released(&self) -> Released {
        // SAFETY: By the type invariant `mm` is valid.
        unsafe { bindings::process_vm_mmgrab(self.mm.as_ptr()) };
        // INVARIANT: That was the reference of `mm_count`.
        Released { mm: self.mm }
    }

    /// Takes the mmap lock for reading.
    ///
    /// # Errors
    ///
    /// EINTR: the caller is being killed.
    pub(crate) fn lock(&self) -> Result<Locked<'_>> {
        // SAFETY: By the type invariant `mm` is valid.
        to_result(unsafe { bindings::process_vm_mmap_read_lock_killable(self.mm.as_ptr()) })?;
        // INVARIANT: It has just been taken.
        Ok(Locked { mm: self.mm, held: 1, space: PhantomData })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        // The last one tears the mappings down, and may sleep for that.
        let more = |users| if users > 1 { Some(users - 1) } else { None };
        if users(self.mm).fetch_update(Ordering::Release, Ordering::Relaxed, more).is_err() {
            // SAFETY: By the type invariant the reference is ours; it isn't used after this.
            unsafe { bindings::mmput(self.mm.as_ptr()) };
        }
    }
}

/// `mm_users`, which the kernel counts by atomic instructions, too.
fn users<'a>(mm: NonNull<bindings::mm_struct>) -> &'a AtomicI32 {
    let count = mm.as_ptr().cast::<u8>().wrapping_add(bindings::MM_USERS);
    // SAFETY: There for as long as somebody has a reference of either kind, as both types here do.
    unsafe { AtomicI32::from_ptr(count.cast()) }
}

/// An address space that may have lost its mappings.
///
/// # Invariants
///
/// `mm` is valid, and one reference of its `mm_count` belongs to this object.
pub(crate) struct Released {
    mm: NonNull<bindings::mm_struct>,
}

impl Released {
    /// Holds the mappings again.
    ///
    /// # Errors
    ///
    /// ESRCH: the last process that had them is gone.
    pub(crate) fn acquire(self) -> Result<Space> {
        // The reference of `mm_count` goes with `self`.
        self.again().ok_or(ESRCH)
    }

    /// Holds the mappings, too, if the last process that had them isn't gone.
    pub(crate) fn again(&self) -> Option<Space> {
        let more = |users| if users > 0 { Some(users + 1) } else { None };
        let got = users(self.mm).fetch_update(Ordering::SeqCst, Ordering::Relaxed, more);
        // INVARIANT: That was the reference of `mm_users`.
        got.ok().map(|_| Space { mm: self.mm })
    }

    /// The C object, which lives as long as this value.
    #[cfg(CONFIG_PROCESS_VM_EXEC)]
    pub(crate) fn as_ptr(&self) -> *mut bindings::mm_struct {
        self.mm.as_ptr()
    }

    /// Whether the dumpability alone forbids nobody to look (SUID_DUMP_USER).
    #[cfg(CONFIG_PROCESS_VM_EXEC)]
    pub(crate) fn is_dumpable(&self) -> bool {
        let flags = self.mm.as_ptr().cast::<u8>().wrapping_add(bindings::MM_FLAGS).cast::<usize>();
        // SAFETY: By the type invariant; it may change at any time, and is read once.
        let flags = unsafe { flags.read_volatile() };
        flags & bindings::MMF_DUMPABLE_MASK as usize == bindings::SUID_DUMP_USER as usize
    }
}

impl Drop for Released {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours; it isn't used after this.
        unsafe { bindings::process_vm_mmdrop(self.mm.as_ptr()) };
    }
}

/// The mmap lock of an address space, held for reading until [`Locked::pages`] says otherwise.
///
/// # Invariants
///
/// `mm` is valid for as long as the borrow of its [`Space`]; the lock is held if `held` is 1.
pub(crate) struct Locked<'a> {
    mm: NonNull<bindings::mm_struct>,
    held: i32,
    space: PhantomData<&'a Space>,
}

impl Locked<'_> {
    /// Whether the lock is still held: a fault that has to wait for somebody drops it.
    pub(crate) fn is_held(&self) -> bool {
        self.held == 1
    }

    /// Takes a reference to each of the pages from `address` on, faulting them in for reading, and returns how many
    /// there were before one couldn't be had.
    ///
    /// # Errors
    ///
    /// Where already the first can't be had. EFAULT: nothing is mapped there, it may not be read, or it isn't memory;
    /// ERESTARTSYS: a signal came while somebody else was to provide it; ENOMEM. EFAULT, too, if the lock isn't held.
    pub(crate) fn pages(&mut self, address: usize, pages: &mut [*mut bindings::page]) -> Result<usize> {
        if !self.is_held() {
            return Err(EFAULT);
        }
        // SAFETY: By the type invariants `mm` is valid and its lock is held, which is what `held` says, too. There is
        // room for `pages.len()` pointers, and none is written behind the count that is returned.
        let got = unsafe {
            bindings::get_user_pages_remote(
                self.mm.as_ptr(),
                address,
                pages.len(),
                bindings::FOLL_INTERRUPTIBLE,
                pages.as_mut_ptr(),
                &mut self.held,
            )
        };
        // INVARIANT: `held` has become 0 if the lock was dropped.
        match got {
            1.. => Ok((got as usize).min(pages.len())),
            0 => Err(EFAULT),
            _ => Err(match Error::from_errno(got as i32) {
                EINTR => ERESTARTSYS,
                ENOMEM => ENOMEM,
                // Whatever else keeps a page from being read (hardware poison, memory of a device) is no memory to the
                // caller.
                _ => EFAULT,
            }),
        }
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        if self.is_held() {
            // SAFETY: By the type invariants `mm` is valid and its lock is held.
            unsafe { bindings::process_vm_mmap_read_unlock(self.mm.as_ptr()) };
        }
    }
}
