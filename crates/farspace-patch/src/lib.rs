//! Rewriting of hot `syscall` sites: the guest jumps into a trampoline instead of trapping.
//!
//! Purpose: decide whether a site can be rewritten, say which bytes to write where and in which order, and know for
//! every patched or relocated byte what it stands for. Pure: the engine reads and writes the guest's memory; nothing
//! here makes a system call, contains unsafe code or knows another farspace crate.
//!
//! * [`Patches`]: the patches of one address space: [`plan`](Patches::plan), [`commit`](Patches::commit),
//!   [`undo`](Patches::undo), [`release`](Patches::release), and the lookups.
//! * [`Plan`], [`Site`], [`Step`], [`Landing`]: what is exchanged with the engine.
//! * [`Refusal`]: why a site stays as it is. The trap behind it goes on working.
//! * [`arch`]: what depends on the instruction set.
//!
//! # What is known, and what is not
//!
//! A site is the address S of a `syscall` whose trap was taken and whose call has returned, so S and S+2 are certain
//! instruction boundaries. Everything is concluded by decoding forward from there. A pattern such as `b8 10 00 00 00
//! 0f 05` says nothing about where instructions begin: it may be the tail of a longer one.
//!
//! The engine therefore doesn't ask for sites of calls that don't return to S+2 (exit, exit_group, rt_sigreturn,
//! execve), nor for the vDSO's, nor for shared or writable mappings.
//!
//! # How a site is rewritten
//!
//! The five bytes at S become `jmp rel32`. The trampoline's address is chosen such that each of the four bytes of
//! rel32 faults when executed as the first byte of an instruction ([`arch::x86_64::traps`]). So whoever jumps to, or
//! stands at, any address inside the patch traps, and [`Patches::landing`] tells where the same instruction is in the
//! trampoline. No other byte changes: what follows the five bytes stays, even if it is the tail of an instruction that
//! begins inside, so jumps into it mean what they always meant.
//!
//! # Order of writes
//!
//! 1. Map [`Plan::new_page`], if there is one; write [`Plan::trampoline`] to [`Site::trampoline`].
//! 2. [`Patches::commit`].
//! 3. The six [`Plan::steps`], each a store of one byte that every thread of the guest must see before the next (all of
//!    them stopped, or `membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE)` in the guest, between the steps). A
//!    thread that may begin to execute at any of the bytes then sees either the rest of the original or a trap.
//!
//! Undoing is the same backwards. A trampoline that was left by [`Patches::undo`] stays valid until the engine has seen
//! every thread outside and calls [`Patches::release`].

#![forbid(unsafe_code)]

pub mod arch;
mod arena;
mod patches;
mod refusal;
mod site;

pub use patches::{Patches, Stale, Undone};
pub use refusal::Refusal;
pub use site::{Landing, Plan, Site, Step};
