//! A target that is reached by the kernel's own calls: nothing is injected, nothing is stopped.
//!
//! | module | what |
//! |---|---|
//! | `calls` | the two system calls |
//! | `space` | which address space, and that it is still the same |
//! | `stream` | moving ranges of it |
//!
//! What the calls can't do (a snapshot, a system call that isn't on memory) is done by an agent, attached when it is
//! first asked for.

mod calls;
mod space;
mod stream;

pub(crate) use space::Space;
pub(crate) use stream::Stream;
