//! Raw system calls, ptrace and registers of another process.
//!
//! The lowest layer of the host side, and the one where `unsafe` lives. Nothing in here knows of the agent.
//!
//! | module | what |
//! |---|---|
//! | [`error`] | the one error type: operation, pid, address, errno |
//! | [`ptrace`] | a traced thread as a type: [`Running`](ptrace::Running), [`Stopped`](ptrace::Stopped) |
//! | [`arch`] | registers, xsave area, restart of interrupted system calls |
//! | [`cpu`] | moving to another thread's CPU for a moment |
//! | [`memory`] | reading and writing another process's memory by copy |
//! | [`own`] | this process's own memory, where it may not be there |
//! | [`process`] | what /proc says of a process and its threads |
//! | [`pagemap`] | which pages of a process are there |
//! | [`page_scan`] | the PAGEMAP_SCAN ioctl |
//! | [`passing`] | sending descriptors to another process |
//! | [`pidfd`] | pidfds: open, take a descriptor, wait for the end |
//! | [`pipe`] | vmsplice(2), splice(2) and pipe sizes |
//! | [`shared`] | memory shared with the agent |
//! | [`signal`] | the calling thread's own signals |
//! | [`uffd`] | write protection that the kernel resolves by itself |

#[cfg(target_arch = "x86_64")]
#[path = "arch/x86_64/mod.rs"]
pub mod arch;
pub mod cpu;
pub mod error;
pub mod memory;
pub mod own;
pub mod page_scan;
pub mod pagemap;
pub mod passing;
pub mod pidfd;
pub mod pipe;
pub mod process;
pub mod ptrace;
pub mod shared;
pub mod signal;
pub mod uffd;

pub use error::{Error, Result};
pub use farspace_abi::{RemoteAddr, RemoteIoVec};
