//! Operate on another process's address space.
//!
//! [`process_vmsplice`] maps the memory of another process into a pipe, so that it can be written to a file or
//! a socket without a copy and without stopping the process. [`Target`] is the handle for those who do it
//! often.
//!
//! ```no_run
//! use std::os::fd::AsFd;
//! use farspace::{RemoteIoVec, SpliceFlags, TargetId, process_vmsplice};
//!
//! let (reader, writer) = std::io::pipe()?;
//! let ranges = [RemoteIoVec::new(0x7f00_0000_0000, 4096)];
//! let bytes = process_vmsplice(TargetId::Pid(1234), writer.as_fd(), &ranges, SpliceFlags::empty())?;
//! # drop(reader); let _ = bytes;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Two backends stand behind one trait ([`backend`]): a kernel that has the system call, and any other kernel
//! from 5.16 on, where a small agent in the target does the work.

pub mod backend;
pub mod baseline;
mod call;
mod copy;
mod drain;
mod error;
mod exec;
mod flags;
mod native;
pub mod probe;
pub mod raw;
mod remote;
mod report;
mod send;
mod share;
mod sink;
mod snapshot;
pub mod syscalls;
mod target;
mod transfer;

pub use backend::name as backend_name;
pub use call::{TargetId, process_vmsplice};
pub use error::{Error, Result};
pub use exec::{ExecFlags, process_vm_exec};
pub use farspace_abi::exec::{SigContext, SigInfo};
pub use farspace_abi::{RemoteAddr, RemoteIoVec};
pub use farspace_exec as engine;
pub use farspace_inject::{Frozen, FrozenThread, Refusal, on_own_thread};
pub use flags::SpliceFlags;
pub use remote::{Arg, Permit, Returned, Scratch};
pub use report::{Mechanism, Report};
pub use sink::{Extent, Sink};
pub use snapshot::Snapshot;
pub use target::{AttachOptions, Target};
pub use transfer::{Progress, Transfer, WRITE_OUT};
