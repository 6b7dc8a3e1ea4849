//! Patches executed natively, in this process: what runs through a trampoline ends with the same registers and memory
//! as the original.
//!
//! * [`harness`]: executable pages, running code with given registers, catching faults, applying plans. All of the unsafe code.
//! * [`cases`]: hand-written instructions after a system call.
//! * [`property`]: random ones.
//! * [`threads`]: patching while another thread runs through.
//! * [`traps`]: each byte of the trap set, followed by anything.

#![cfg(all(target_arch = "x86_64", target_os = "linux"))]

mod cases;
mod harness;
mod property;
mod threads;
mod traps;
