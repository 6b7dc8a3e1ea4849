//! process_vm_exec as a safe function, and what stands behind it on stock kernels.
//!
//! | module | what |
//! |---|---|
//! | `raw` | the system call's own shape |
//! | `stock` | its checks, its copies, and its two modes |
//! | `table` | which targets this process is attached to |
//! | `attachment` | one of them, with the tasks that run guests in it |

mod attachment;
pub(crate) mod raw;
pub(crate) mod stock;
mod table;

use std::os::fd::AsRawFd;

use farspace_abi::exec::{SigContext, SigInfo};
use rustix::io::Errno;

use crate::backend::{self, ExecCall};
use crate::{Error, Result, TargetId};

bitflags::bitflags! {
    /// Flags of [`process_vm_exec`].
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
    pub struct ExecFlags: u64 {
        /// One system call instead of guest code.
        const SYSCALL = 1;
        /// `pid` is a pidfd (PROCESS_VM_EXEC_PIDFD).
        const PIDFD = 2;
    }
}

/// Runs code, or one system call, in another process's address space, until the code makes a system call, faults, or a
/// signal of `mask` (bit n - 1 for signal n) arrives.
///
/// # Errors
///
/// By [`Error::errno`]: as [`raw::process_vm_exec`].
pub fn process_vm_exec(
    target: TargetId<'_>,
    context: &mut SigContext,
    flags: ExecFlags,
    info: &mut SigInfo,
    mask: u64,
) -> Result<()> {
    let (id, flags) = match target {
        TargetId::Pid(pid) => (pid, flags - ExecFlags::PIDFD),
        TargetId::PidFd(pidfd) => (pidfd.as_raw_fd(), flags | ExecFlags::PIDFD),
    };
    let named = match target {
        TargetId::Pid(pid) => Some(pid),
        TargetId::PidFd(_) => None,
    };
    let call = ExecCall {
        pid: id,
        context,
        flags: flags.bits(),
        info,
        mask: &raw const mask,
        sizemask: 8,
        are_references: true,
    };
    // SAFETY: the three pointers are to the caller's own values, which outlive the call.
    let done = unsafe { backend::executing().vm_exec(&call) };
    done.map_err(|errno: Errno| Error::new("run code in the address space", named, errno))
}
