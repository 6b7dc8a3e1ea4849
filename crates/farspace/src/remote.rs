//! System calls in the target's address space, made by the agent.
//!
//! The agent is a task of its own that shares nothing with the target but the memory: what a call answers for a task
//! (getpid(2), credentials, limits, descriptors) it answers for the agent. Descriptors are therefore the *caller's*:
//! they are sent to the agent for the one call. [`syscalls`] says which calls there are.
//!
//! | module | what |
//! |---|---|
//! | `call` | one call: what is allowed, its descriptors, its result |
//! | `own` | keeping calls away from farspace's own memory in the target |
//! | `ready` | waiting for a descriptor that isn't ready |
//! | `memory` | typed calls: mmap, mprotect, munmap, mremap, madvise |
//! | `descriptor` | typed calls that make descriptors: memfd_create, userfaultfd |
//! | `scratch` | memory in the target for arguments and results |
//!
//! [`syscalls`]: crate::syscalls

mod call;
mod descriptor;
mod memory;
mod own;
mod ready;
mod scratch;

pub use call::{Arg, Permit, Returned};
pub use scratch::Scratch;
