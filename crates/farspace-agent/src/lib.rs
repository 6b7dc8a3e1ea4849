//! The code that farspace places in a target's address space.
//!
//! This crate is compiled twice: as an ordinary `no_std` library, so that it is linted and documented with
//! the rest, and by the build script of `farspace-inject` as a flat, position-independent blob (root:
//! `blob.rs`). It has no libc, no allocation, no panic path (the blob doesn't link if there is one), no
//! writable statics and no relocations.
//!
//! | file | what |
//! |---|---|
//! | `arch/x86_64/boot.rs` | what a borrowed thread of the target runs: make the helper, reap it, resume |
//! | `arch/x86_64/syscall.rs` | the system call instruction, and leaving for good |
//! | `life.rs` | from the first instruction of the agent to its last |
//! | `arch/x86_64/prefetch.rs` | bringing memory near |
//! | `serve.rs` | the request loop |
//! | `ranges.rs` | the ranges of a request, and how far they have been moved |
//! | `stream.rs` | ranges into a pipe that the host empties |
//! | `send.rs` | ranges into a socket |
//! | `guests.rs` | tasks that run guest code, from their clone to their end |

#![no_std]

#[cfg(target_arch = "x86_64")]
#[path = "arch/x86_64/mod.rs"]
mod arch;
mod guests;
mod life;
mod ranges;
mod send;
mod serve;
mod stream;
