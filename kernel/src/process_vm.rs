// SPDX-License-Identifier: GPL-2.0-only

//! System calls on the address space of another process.
//!
//! - `process_vmsplice` maps its pages into a pipe.
//! - `process_vm_exec` runs code in it.
//!
//! Both find the other process in the same way ([`target`]) and hold its address space by the same types ([`space`]).
//! The entry points are C (`SYSCALL_DEFINE` is a macro): `*_glue.c`, one file for each call.

mod space;
mod target;

#[cfg(CONFIG_PROCESS_VM_EXEC)]
mod process_vm_exec;
#[cfg(CONFIG_PROCESS_VMSPLICE)]
mod process_vmsplice;
