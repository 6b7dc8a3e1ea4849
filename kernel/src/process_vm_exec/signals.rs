// SPDX-License-Identifier: GPL-2.0-only

//! The caller's signals while its guest runs.
//!
//! Signals of the mask are unblocked, and are in `real_blocked` at the same time: so they interrupt the guest, are queued
//! even where they are ignored, and don't kill at the moment at which they are sent (complete_signal()).

use kernel::bindings;

/// SIGKILL and SIGSTOP, which no mask has an effect on.
const UNMASKABLE: usize = 1 << 8 | 1 << 18;

/// The mask of one call.
#[derive(Clone, Copy)]
pub(crate) struct Mask {
    mask: usize,
    /// What the caller blocks. Set while the mask is in force.
    blocked: usize,
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
        // SAFETY: `info` is written to; no lock is held.
        let signal = unsafe { bindings::vm_exec_take_signal(self.mask, &mut info) };
        (signal != 0).then_some(info)
    }

    /// The guest is about to run.
    pub(crate) fn open(&mut self) {
        if self.mask == 0 {
            return;
        }
        // SAFETY: changes current's own mask; no lock is held.
        self.blocked = unsafe { bindings::vm_exec_open_mask(self.mask) };
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
        unsafe {
            bindings::set_current_blocked(&mut now);
            if !is_over {
                bindings::vm_exec_block_until_return(self.blocked);
            }
        }
        if is_over {
            self.end();
        }
    }

    /// What is left to do where the signal code has restored the mask itself.
    pub(crate) fn end(&self) {
        if self.mask != 0 {
            // SAFETY: no lock is held.
            unsafe { bindings::vm_exec_close_mask() };
        }
    }

    /// Undoes `close`, if the signal code has not done so.
    pub(crate) fn restore(&self) {
        // SAFETY: no lock is held.
        unsafe { bindings::vm_exec_restore_blocked() };
    }
}
