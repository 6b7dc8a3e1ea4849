// SPDX-License-Identifier: GPL-2.0-only

//! The process that a call is about.

use core::ffi::c_int;
use core::ptr::NonNull;
use kernel::bindings;
use kernel::error::from_err_ptr;
use kernel::prelude::*;
use kernel::task::Task;
use kernel::types::ARef;

/// How a caller names a process.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// By the number of one of its threads, in the caller's pid namespace.
    Pid(c_int),
    /// By a descriptor of pidfd_open(2).
    Pidfd(c_int),
}

impl Target {
    /// Finds the process.
    ///
    /// # Errors
    ///
    /// ESRCH: there is none; EBADF: the descriptor isn't a pidfd.
    pub(crate) fn task(self) -> Result<ARef<Task>> {
        let task = match self {
            // SAFETY: It takes any number, and finds nothing for most.
            Self::Pid(pid) => unsafe { bindings::find_get_task_by_vpid(pid) },
            Self::Pidfd(fd) => {
                let mut flags = 0;
                // SAFETY: It takes any number; `flags` is written to before it returns, if at all.
                from_err_ptr(unsafe { bindings::pidfd_get_task(fd, &mut flags) })?
            }
        };
        let task = NonNull::new(task.cast::<Task>()).ok_or(ESRCH)?;
        // SAFETY: Both functions return a reference of its own, which is given to the `ARef`. `Task` is a transparent
        // wrapper of `task_struct`.
        Ok(unsafe { ARef::from_raw(task) })
    }
}
