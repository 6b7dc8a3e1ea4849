// SPDX-License-Identifier: GPL-2.0-only

//! The caller's signals while its guest runs.
//!
//! Signals of the mask are unblocked, and are in `real_blocked` at the same time: so they interrupt the guest, are queued
//! even where they are ignored, and don't kill at the moment at which they are sent (complete_signal()).

use super::task::Fields;
use kernel::bindings;
use kernel::ffi::c_int;

/// SIGKILL and SIGSTOP, which no mask has an effect on.
const UNMASKABLE: usize = 1 << 8 | 1 << 18;

/// The mask of one call.
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    mask: usize,
    /// What the caller blocks. Set while the mask is in force.
    blocked: usize,
}

/// The lock of the running task's signals, held.
struct Locked(Fields);

impl Locked {
    fn new() -> Self {
        // SAFETY: no lock is held.
        unsafe { bindings::vm_exec_lock_signals() };
        Self(Fields::of_current())
    }

    /// Signals that are pending for the task or its process.
    fn pending(&self) -> usize {
        let shared: *mut u8 = self.0.read(bindings::TASK_SIGNAL);
        let shared = shared.wrapping_add(bindings::SIGNAL_SHARED_PENDING).cast::<usize>();
        // SAFETY: a task that runs has both, and the lock is held.
        unsafe { self.0.read::<usize>(bindings::TASK_PENDING) | shared.read() }
    }

    /// Whether a handler of the process's own is set.
    fn has_handler(&self, signal: usize) -> bool {
        let sighand: *mut bindings::sighand_struct = self.0.read(bindings::TASK_SIGHAND);
        // SAFETY: a task that runs has one, and the lock is held. No reference is made to the whole.
        let actions = unsafe { &*core::ptr::addr_of!((*sighand).action) };
        // SIG_DFL is 0, SIG_IGN 1.
        actions.get(signal).is_some_and(|action| action.sa.sa_handler.map_or(0, |f| f as usize) > 1)
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: it is held.
        unsafe { bindings::vm_exec_unlock_signals() };
    }
}

/// Whether a signal is pending whose handler would run.
pub(crate) fn handler_waits() -> bool {
    let locked = Locked::new();
    let pending = locked.pending() & !locked.0.read::<usize>(bindings::TASK_BLOCKED);
    (0..usize::BITS as usize).any(|signal| pending >> signal & 1 != 0 && locked.has_handler(signal))
}

impl Mask {
    pub(crate) fn new(mask: usize) -> Self {
        Self { mask: mask & !UNMASKABLE, blocked: 0 }
    }

    /// Takes a pending signal of the mask.
    pub(crate) fn take(&self) -> Option<bindings::kernel_siginfo> {
        if self.mask == 0 {
            return None;
        }
        let mut info = bindings::kernel_siginfo::default();
        let mut others = bindings::sigset_t { sig: [!self.mask] };
        let mut kind = 0;
        let locked = Locked::new();
        // SAFETY: all three are written to; the lock is held.
        let signal: c_int = unsafe { bindings::dequeue_signal(&mut others, &mut info, &mut kind) };
        drop(locked);
        (signal != 0).then_some(info)
    }

    /// The guest is about to run.
    pub(crate) fn open(&mut self) {
        if self.mask == 0 {
            return;
        }
        let locked = Locked::new();
        self.blocked = locked.0.read(bindings::TASK_BLOCKED);
        locked.0.write(bindings::TASK_REAL_BLOCKED, self.mask);
        locked.0.write(bindings::TASK_BLOCKED, self.blocked & !self.mask);
        // SAFETY: the lock is held.
        unsafe { bindings::recalc_sigpending() };
    }

    /// The guest is away, for the time of the caller's own signals or for ever (`is_over`). Until it is over the mask's
    /// signals wait.
    pub(crate) fn close(&self, is_over: bool) {
        if self.mask == 0 {
            return;
        }
        let mut now =
            bindings::sigset_t { sig: [if is_over { self.blocked } else { self.blocked | self.mask }] };
        // SAFETY: a set of its own; no lock is held.
        unsafe { bindings::set_current_blocked(&mut now) };
        if is_over {
            self.end();
        } else {
            // As sigsuspend(2): a handler's frame has the caller's mask, and so has the task if there is none.
            Fields::of_current().write(bindings::TASK_SAVED_SIGMASK, self.blocked);
            // SAFETY: the mask that is restored has just been set.
            unsafe { bindings::vm_exec_restore_mask_later() };
        }
    }

    /// What is left to do where the signal code has restored the mask itself.
    pub(crate) fn end(&self) {
        if self.mask != 0 {
            let locked = Locked::new();
            locked.0.write(bindings::TASK_REAL_BLOCKED, 0usize);
        }
    }

    /// Undoes `close`, if the signal code has not done so.
    pub(crate) fn restore(&self) {
        // SAFETY: no lock is held.
        unsafe { bindings::vm_exec_restore_mask() };
    }
}
