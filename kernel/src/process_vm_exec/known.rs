// SPDX-License-Identifier: GPL-2.0-only

//! The target that was allowed last, so that the next call needs no lookup and no access check.
//!
//! Whether a task may attach to another depends on the credentials of both, on the dumpability of the other's memory,
//! and on what security modules go by beside these. Credentials never change while somebody has a reference, so where
//! the same objects are found again the first two are the same. For the third an answer holds no longer than until the
//! clock's next tick, as it might if the check had come a moment earlier.
//!
//! The other's exec replaces its memory, its end takes it away, and both are seen before the old memory is entered. What is
//! kept is the object, not its mappings.

use super::task::Fields;
use crate::space::{Released, Space};
use crate::target::Target;
use core::ptr::{addr_of, NonNull};
use core::sync::atomic::{fence, Ordering};
use kernel::bindings;
use kernel::ffi::{c_int, c_ulong};
use kernel::prelude::*;
use kernel::task::Task;
use kernel::types::ARef;

/// A reference to credentials.
///
/// # Invariants
///
/// It is valid, and a reference belongs to this object.
struct Cred(NonNull<bindings::cred>);

impl Cred {
    /// The objective ones of a task.
    fn of(task: Fields) -> Option<Self> {
        // SAFETY: by the type invariant of `Fields`.
        let cred = unsafe { bindings::get_task_cred(task.as_ptr()) };
        // INVARIANT: that was a reference.
        NonNull::new(cred.cast_mut()).map(Self)
    }

    /// Whether a task has the same at this moment.
    fn is_of(&self, task: Fields) -> bool {
        task.read::<*mut bindings::cred>(bindings::TASK_REAL_CRED) == self.0.as_ptr()
    }
}

impl Drop for Cred {
    fn drop(&mut self) {
        // SAFETY: by the type invariant; it isn't used after this.
        unsafe { bindings::vm_exec_put_cred(self.0.as_ptr()) };
    }
}

/// A reference to the number of a task.
///
/// # Invariants
///
/// It is valid, and a reference belongs to this object.
struct Number(NonNull<bindings::pid>);

impl Number {
    /// What the caller means by a number.
    fn find(id: c_int) -> Option<Self> {
        // SAFETY: it takes any. INVARIANT: it returns a reference.
        NonNull::new(unsafe { bindings::find_get_pid(id) }).map(Self)
    }

    /// The task that has it.
    fn task(&self) -> Option<ARef<Task>> {
        // SAFETY: by the type invariant.
        let task = unsafe { bindings::get_pid_task(self.0.as_ptr(), bindings::pid_type_PIDTYPE_PID) };
        // SAFETY: that was a reference, and `Task` is a transparent wrapper.
        NonNull::new(task.cast()).map(|task| unsafe { ARef::from_raw(task) })
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        // SAFETY: by the type invariant; it isn't used after this.
        unsafe { bindings::put_pid(self.0.as_ptr()) };
    }
}

/// A target, and what made it an allowed one.
pub(crate) struct Known {
    /// As the caller called it.
    id: c_int,
    task: ARef<Task>,
    /// While the task has it nobody else can be called so.
    number: Number,
    own: Cred,
    others: Cred,
    memory: Released,
    tick: c_ulong,
}

fn now() -> c_ulong {
    // SAFETY: it may change at any time, and is read once.
    unsafe { addr_of!(bindings::jiffies).read_volatile() }
}

fn fields(task: &ARef<Task>) -> Fields {
    let task: *const Task = &**task;
    // SAFETY: the `ARef` has a reference, and `Task` is a transparent wrapper.
    unsafe { Fields::of(task.cast_mut().cast()) }
}

/// Whether the running task's credentials are those that others know it by: nothing is overridden.
fn is_plain(current: Fields) -> bool {
    let cred: *mut bindings::cred = current.read(bindings::TASK_CRED);
    cred == current.read(bindings::TASK_REAL_CRED)
}

impl Known {
    /// Finds a target and asks whether the caller may attach to it. What is found out is kept in `known`.
    ///
    /// # Errors
    ///
    /// As [`Target::task`] and [`Space::of`].
    pub(crate) fn open(known: &mut Option<Self>, current: Fields, target: Target) -> Result<Space> {
        let id = match target {
            Target::Pid(id) => id,
            // The descriptor has to be looked at anyway.
            Target::Pidfd(_) => return Space::of(&*target.task()?),
        };
        if let Some(space) = known.as_ref().and_then(|known| known.again(current, id)) {
            return Ok(space);
        }
        *known = None;
        let number = Number::find(id).ok_or(ESRCH)?;
        let task = number.task().ok_or(ESRCH)?;
        // Before the check, so that it is these which were checked if they are still there after it.
        let (own, others) = (Cred::of(current), Cred::of(fields(&task)));
        let tick = now();
        let space = Space::of(&task)?;
        if let (Some(own), Some(others), true) = (own, others, is_plain(current)) {
            *known = Some(Self { id, task, number, own, others, memory: space.released(), tick });
        }
        Ok(space)
    }

    /// The target's memory, if nothing has changed since the last call.
    fn again(&self, current: Fields, id: c_int) -> Option<Space> {
        let task = fields(&self.task);
        let is_same = self.id == id
            && self.tick == now()
            && task.read::<*mut bindings::pid>(bindings::TASK_THREAD_PID) == self.number.0.as_ptr()
            && is_plain(current)
            && self.own.is_of(current)
            && self.others.is_of(task);
        // Dumpability is read after the credentials, as in the check itself.
        fence(Ordering::Acquire);
        // A target that visits somebody itself is left to the check.
        let is_there = is_same
            && task.read::<*mut bindings::vm_exec>(bindings::TASK_VM_EXEC).is_null()
            && task.read::<*mut bindings::mm_struct>(bindings::TASK_MM) == self.memory.as_ptr();
        if is_there && self.memory.is_dumpable() {
            self.memory.again()
        } else {
            None
        }
    }
}
