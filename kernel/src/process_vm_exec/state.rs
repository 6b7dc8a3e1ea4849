// SPDX-License-Identifier: GPL-2.0-only

//! What a task keeps for its calls, and the way over and back.

use super::context::Context;
use super::signals::Mask;
use crate::space::Space;
use core::ptr;
use kernel::bindings;
use kernel::prelude::*;

/// What a guest has to be left for.
pub(crate) enum Event {
    /// An exception.
    Fault(bindings::kernel_siginfo),
    /// A system call.
    Call(bindings::kernel_siginfo),
    /// A signal of the mask.
    Signal(bindings::kernel_siginfo),
}

/// One call, from its begin to its end.
pub(crate) struct Call {
    /// Addresses in the caller.
    pub(crate) context_at: usize,
    pub(crate) info_at: usize,
    pub(crate) mask: Mask,
    pub(crate) target: Space,
}

/// A task's state: made at its first call, given back at its end.
///
/// # Invariants
///
/// Only the task itself uses it, but for `shared`, whose `home_mm` others read. `call` is there unless the place is
/// VM_EXEC_HOME.
#[repr(C)]
pub(crate) struct State {
    shared: bindings::vm_exec,
    pub(crate) call: Option<Call>,
    /// What was read at the begin of a call; the guest's registers at its end.
    pub(crate) context: Context,
    /// A fault or a call by the vsyscall page: seen by the next way to user mode.
    pub(crate) event: Option<Event>,
    /// The caller's registers, while the guest's are in `pt_regs`, and to compare with while it is away.
    pub(crate) home: bindings::pt_regs,
    /// The guest's, while it is away.
    pub(crate) guest: bindings::pt_regs,
    /// Those of the side that doesn't run.
    pub(crate) segments: bindings::vm_exec_segments,
    pub(crate) fpu: bindings::vm_exec_fpu,
    stash: bindings::vm_exec_stash,
}

impl State {
    /// Current's state, if it has one.
    ///
    /// # Safety
    ///
    /// The caller is the only one who has it: entry points call this once.
    pub(crate) unsafe fn existing<'a>() -> Option<&'a mut Self> {
        // SAFETY: current lives. The pointer is null or one that `of_current` has put there, and is used by this task alone.
        unsafe { (*bindings::vm_exec_slot()).cast::<Self>().as_mut() }
    }

    /// Current's state, made if there is none.
    ///
    /// # Safety
    ///
    /// As [`Self::existing`].
    pub(crate) unsafe fn of_current<'a>() -> Result<&'a mut Self> {
        // SAFETY: as this function's.
        if let Some(state) = unsafe { Self::existing() } {
            return Ok(state);
        }
        let new = KBox::new(
            Self {
                shared: bindings::vm_exec::default(),
                call: None,
                context: Context::EMPTY,
                event: None,
                home: bindings::pt_regs::default(),
                guest: bindings::pt_regs::default(),
                segments: bindings::vm_exec_segments::default(),
                fpu: bindings::vm_exec_fpu::default(),
                stash: bindings::vm_exec_stash::default(),
            },
            GFP_KERNEL,
        )?;
        let new = KBox::into_raw(new);
        // SAFETY: `vm_exec` is the first field. Only current writes the pointer; the state is complete.
        unsafe {
            *bindings::vm_exec_slot() = new.cast();
            Ok(&mut *new)
        }
    }

    /// True in the guest.
    pub(crate) fn is_in_guest(&self) -> bool {
        self.shared.place == bindings::vm_exec_place_VM_EXEC_GUEST
    }

    /// The task ends: gives everything back.
    pub(crate) fn forget(&mut self) {
        // SAFETY: nobody uses the buffer; readers of `shared` are waited for.
        unsafe {
            bindings::vm_exec_fpu_free(&mut self.fpu);
            bindings::vm_exec_forget(&mut self.shared);
        }
    }

    /// The task's memory is the target's from now on.
    pub(crate) fn pass_over(&mut self, target: &Space) {
        // SAFETY: the target lives; the caller's mm is kept in `home_mm`, whose reference this task has.
        unsafe { bindings::vm_exec_pass_over(&mut self.shared, target.as_ptr()) };
    }

    /// The task's memory is its own again.
    pub(crate) fn come_back(&mut self) {
        // SAFETY: follows `pass_over`.
        unsafe { bindings::vm_exec_come_back(&mut self.shared) };
    }

    /// Everything but the vector state and `pt_regs` becomes the guest's.
    pub(crate) fn enter(&mut self) {
        let Some(call) = &mut self.call else { return };
        call.mask.open();
        // SAFETY: the target lives as long as the call; each of these is undone by `leave`.
        unsafe {
            bindings::vm_exec_hide(&mut self.stash);
            bindings::vm_exec_pass_over(&mut self.shared, call.target.as_ptr());
            bindings::vm_exec_swap_probes(&mut self.stash);
            bindings::vm_exec_swap_segments(&mut self.segments);
            bindings::vm_exec_catch(true);
        }
        self.shared.place = bindings::vm_exec_place_VM_EXEC_GUEST;
    }

    /// Undoes `enter`; before this, a guest's `regs` must be stored.
    ///
    /// `is_over`: the guest will not go on; what kernel code did for it is given up.
    pub(crate) fn leave(&mut self, regs: &mut bindings::pt_regs, is_over: bool) {
        copy(regs, &self.home);
        // SAFETY: follows `enter`. The guest's probes are given up in its own memory.
        unsafe {
            bindings::vm_exec_catch(false);
            if is_over {
                bindings::vm_exec_free_probes();
            }
            bindings::vm_exec_swap_probes(&mut self.stash);
            bindings::vm_exec_come_back(&mut self.shared);
            bindings::vm_exec_swap_segments(&mut self.segments);
            bindings::vm_exec_show(&mut self.stash);
        }
        self.shared.place = bindings::vm_exec_place_VM_EXEC_AWAY;
    }

    /// Gives up a guest that is away.
    pub(crate) fn give_up(&mut self) {
        self.shared.place = bindings::vm_exec_place_VM_EXEC_HOME;
        self.event = None;
        let Some(call) = self.call.take() else { return };
        if !self.stash.utask.is_null() {
            // SAFETY: what is freed is the guest's, in the guest's memory; then all is as before.
            unsafe {
                bindings::vm_exec_pass_over(&mut self.shared, call.target.as_ptr());
                bindings::vm_exec_swap_probes(&mut self.stash);
                bindings::vm_exec_free_probes();
                bindings::vm_exec_swap_probes(&mut self.stash);
                bindings::vm_exec_come_back(&mut self.shared);
            }
            self.stash.utask = ptr::null_mut();
        }
    }
}

/// Copies registers, which are too few for a string instruction.
pub(crate) fn copy(to: &mut bindings::pt_regs, from: &bindings::pt_regs) {
    const WORDS: usize = core::mem::size_of::<bindings::pt_regs>() / 8;
    let (to, from): (*mut bindings::pt_regs, *const bindings::pt_regs) = (to, from);
    for n in 0..WORDS {
        // SAFETY: inside the structures, which consist of words.
        unsafe { to.cast::<usize>().add(n).write_volatile(from.cast::<usize>().add(n).read()) };
    }
}
