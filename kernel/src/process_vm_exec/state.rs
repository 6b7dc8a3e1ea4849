// SPDX-License-Identifier: GPL-2.0-only

//! What a task keeps for its calls, and the way over and back.

use super::context::Context;
use super::fpu::Fpu;
use super::known::Known;
use super::refused;
use super::segments::Segments;
use super::signals::Mask;
use super::task::Fields;
use crate::space::Space;
use core::mem::offset_of;
use core::ptr::null_mut;
use core::sync::atomic::{fence, AtomicUsize, Ordering};
use kernel::bindings;
use kernel::prelude::*;

/// What a guest has to be left for.
pub(crate) struct Event {
    /// What the caller is told.
    pub(crate) info: bindings::kernel_siginfo,
    /// An exception, of which the thread knows more.
    pub(crate) is_fault: bool,
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
    pub(crate) segments: Segments,
    pub(crate) fpu: Fpu,
    stash: Stash,
    /// Whom this belongs to.
    pub(crate) task: Fields,
    pub(crate) known: Option<Known>,
}

/// Fields of `task_struct` that hold addresses in the caller's memory, while the guest runs. Where the kernel is without
/// rseq(2) or probes the field's offset is 0.
struct Stash {
    rseq: usize,
    rseq_events: usize,
    mm_cid: i32,
    utask: usize,
}

impl Stash {
    const EMPTY: Self = Self { rseq: 0, rseq_events: 0, mm_cid: 0, utask: 0 };

    /// The kernel writes to this address on its own account; while away it is somebody else's.
    fn hide(&mut self, task: Fields) {
        if bindings::TASK_RSEQ == 0 {
            return;
        }
        self.rseq = task.replace(bindings::TASK_RSEQ, 0);
        self.rseq_events = take_events(task);
        self.mm_cid = mm_cid(task);
    }

    /// Undoes that. The caller's program hears of what has happened to it.
    fn show(&mut self, task: Fields) {
        if bindings::TASK_RSEQ == 0 {
            return;
        }
        task.write(bindings::TASK_RSEQ, self.rseq);
        let is_stale = task.read::<usize>(bindings::TASK_RSEQ_EVENTS) != 0 || mm_cid(task) != self.mm_cid;
        if self.rseq_events != 0 {
            events(task).fetch_or(self.rseq_events, Ordering::Relaxed);
        }
        if is_stale && self.rseq != 0 {
            task.notify();
        }
    }

    /// Probed instructions are carried out in a copy, which is in the memory that they are in.
    fn swap_probes(&mut self, task: Fields) {
        if bindings::TASK_UTASK != 0 {
            self.utask = task.replace(bindings::TASK_UTASK, self.utask);
        }
    }
}

/// The number that rseq(2) gives the task among those of its memory.
fn mm_cid(task: Fields) -> i32 {
    if bindings::TASK_MM_CID == 0 {
        0
    } else {
        task.read(bindings::TASK_MM_CID)
    }
}

/// What rseq(2) is to be told of. Set with preemption off, by the scheduler.
fn events(task: Fields) -> &'static AtomicUsize {
    // SAFETY: the field of a task that is there; all of its users but those with preemption off go by atomics.
    unsafe { AtomicUsize::from_ptr(task.at(bindings::TASK_RSEQ_EVENTS)) }
}

fn take_events(task: Fields) -> usize {
    // Mostly there are none, and then the one instruction is cheaper than the other.
    if task.read::<usize>(bindings::TASK_RSEQ_EVENTS) == 0 {
        0
    } else {
        events(task).swap(0, Ordering::Relaxed)
    }
}

impl State {
    /// Current's state, if it has one.
    ///
    /// # Safety
    ///
    /// The caller is the only one who has it: entry points call this once.
    pub(crate) unsafe fn existing<'a>() -> Option<&'a mut Self> {
        // SAFETY: current lives. The pointer is null or one that `of_current` has put there, and is used by this task alone.
        unsafe { Fields::of_current().read::<*mut Self>(bindings::TASK_VM_EXEC).as_mut() }
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
        // SAFETY: looks at the processor.
        if !unsafe { bindings::vm_exec_is_possible() } {
            return Err(refused());
        }
        let task = Fields::of_current();
        let new = KBox::new(
            Self {
                shared: bindings::vm_exec::default(),
                call: None,
                context: Context::EMPTY,
                event: None,
                home: bindings::pt_regs::default(),
                guest: bindings::pt_regs::default(),
                segments: Segments::new(0, 0),
                fpu: Fpu::new(),
                stash: Stash::EMPTY,
                task,
                known: None,
            },
            GFP_KERNEL,
        )?;
        let new = KBox::into_raw(new);
        // `vm_exec` is the first field. Only current writes the pointer.
        fence(Ordering::Release);
        task.write(bindings::TASK_VM_EXEC, new);
        // SAFETY: the state is complete, and of this task alone.
        Ok(unsafe { &mut *new })
    }

    /// True in the guest.
    pub(crate) fn is_in_guest(&self) -> bool {
        self.shared.place == bindings::vm_exec_place_VM_EXEC_GUEST
    }

    /// The task ends: gives everything back.
    pub(crate) fn forget(&mut self) {
        self.known = None;
        self.fpu.free();
        let lock = self.task.at(bindings::TASK_ALLOC_LOCK);
        // SAFETY: task_lock(), inside of which others look at `shared`, or as readers of RCU.
        unsafe {
            bindings::spin_lock(lock);
            self.task.write(bindings::TASK_VM_EXEC, 0usize);
            bindings::spin_unlock(lock);
            bindings::call_rcu(&mut self.shared.rcu, Some(free));
        }
    }

    /// The task's memory is the target's from now on. No concurrency id is in use while away: nothing there is allowed to
    /// depend on one.
    pub(crate) fn pass_over(&mut self, target: *mut bindings::mm_struct) {
        #[cfg(CONFIG_SCHED_MM_CID)]
        // SAFETY: current's.
        unsafe {
            bindings::sched_mm_cid_before_execve(self.task.as_ptr())
        };
        self.load_memory(target, self.task.read(bindings::TASK_MM));
    }

    /// The task's memory is its own again.
    pub(crate) fn come_back(&mut self) {
        let target: *mut bindings::mm_struct = self.task.read(bindings::TASK_MM);
        self.load_memory(self.shared.home_mm, null_mut());
        #[cfg(CONFIG_SCHED_MM_CID)]
        // SAFETY: current's.
        unsafe {
            bindings::sched_mm_cid_after_execve(self.task.as_ptr())
        };
        #[cfg(CONFIG_MEMCG)]
        if is_owner(self.task, target) {
            // SAFETY: the target lives as long as the call. We may have been made its owner; that must be somebody who stays.
            unsafe { bindings::mm_update_next_owner(target) };
        }
    }

    fn load_memory(&mut self, mm: *mut bindings::mm_struct, home: *mut bindings::mm_struct) {
        // SAFETY: both live: the one as long as the call, the other as long as the task.
        unsafe { bindings::vm_exec_load_mm(mm, &mut self.shared, home) };
    }

    /// Everything but the vector state and `pt_regs` becomes the guest's.
    pub(crate) fn enter(&mut self) {
        let Some(call) = &mut self.call else { return };
        call.mask.open();
        let target = call.target.as_ptr();
        self.stash.hide(self.task);
        self.pass_over(target);
        self.stash.swap_probes(self.task);
        self.segments.swap();
        self.task.catch_calls(true);
        self.shared.place = bindings::vm_exec_place_VM_EXEC_GUEST;
    }

    /// Undoes `enter`; before this, a guest's `regs` must be stored.
    ///
    /// `is_over`: the guest will not go on; what kernel code did for it is given up.
    pub(crate) fn leave(&mut self, regs: &mut bindings::pt_regs, is_over: bool) {
        copy(regs, &self.home);
        self.task.catch_calls(false);
        if is_over {
            self.free_probes();
        }
        self.stash.swap_probes(self.task);
        self.come_back();
        self.segments.swap();
        self.stash.show(self.task);
        self.shared.place = bindings::vm_exec_place_VM_EXEC_AWAY;
    }

    /// Undoes what is half done of a probed instruction.
    pub(crate) fn abort_probe(&mut self, regs: &mut bindings::pt_regs) {
        if bindings::TASK_UTASK != 0 {
            // SAFETY: in the guest, whose registers these are.
            unsafe { bindings::vm_exec_abort_probe(regs) };
        }
    }

    /// Gives up the guest's probes, in its own memory.
    fn free_probes(&mut self) {
        if bindings::TASK_UTASK != 0 && self.task.read::<usize>(bindings::TASK_UTASK) != 0 {
            // SAFETY: they are current's.
            unsafe { bindings::vm_exec_free_probes() };
        }
    }

    /// Gives up a guest that is away.
    pub(crate) fn give_up(&mut self) {
        self.shared.place = bindings::vm_exec_place_VM_EXEC_HOME;
        self.event = None;
        let Some(call) = self.call.take() else { return };
        if self.stash.utask != 0 {
            self.give_up_probes(&call.target);
        }
    }

    #[cold]
    fn give_up_probes(&mut self, target: &Space) {
        self.pass_over(target.as_ptr());
        self.stash.swap_probes(self.task);
        self.free_probes();
        self.stash.swap_probes(self.task);
        self.come_back();
    }
}

/// Whether a memory is accounted to the cgroup of this task.
#[cfg(CONFIG_MEMCG)]
fn is_owner(task: Fields, mm: *mut bindings::mm_struct) -> bool {
    let owner = mm.cast::<u8>().wrapping_add(bindings::MM_OWNER).cast::<*mut bindings::task_struct>();
    // SAFETY: the callers' mms live; it may change at any time, and is read once.
    unsafe { owner.read_volatile() == task.as_ptr() }
}

/// Nobody looks at it any more.
unsafe extern "C" fn free(head: *mut bindings::callback_head) {
    let offset = offset_of!(State, shared) + offset_of!(bindings::vm_exec, rcu);
    let state = head.cast::<u8>().wrapping_sub(offset).cast::<State>();
    // SAFETY: `of_current` has made it so, and `forget` has given it up.
    drop(unsafe { KBox::from_raw(state) });
}

/// Copies registers, which are too few for a string instruction.
#[inline(always)]
pub(crate) fn copy(to: &mut bindings::pt_regs, from: &bindings::pt_regs) {
    const WORDS: usize = core::mem::size_of::<bindings::pt_regs>() / 8;
    let (to, from): (*mut bindings::pt_regs, *const bindings::pt_regs) = (to, from);
    for n in 0..WORDS {
        // SAFETY: inside the structures, which consist of words.
        unsafe { to.cast::<usize>().add(n).write_volatile(from.cast::<usize>().add(n).read()) };
    }
}
