//! The two backends behind one trait, chosen at run time.
//!
//! `native` is used where the kernel has the system calls (probed, never assumed), `stock` otherwise. The
//! environment variable `FARSPACE_BACKEND=stock|native` forces one.

pub mod native;
pub mod stock;

use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use farspace_abi::RemoteIoVec;
use farspace_abi::exec::{SigContext, SigInfo};
use rustix::io::Errno;

use crate::{Report, Result, SpliceFlags};

/// What a backend does. The checks that come before (SPEC, process_vmsplice) are made by the caller.
pub trait Backend: Sync {
    /// Name in reports: `native` or `stock`.
    fn name(&self) -> &'static str;

    /// One process_vmsplice: waits for the first free slot of the pipe, inserts what fits, returns the bytes
    /// and how it was done.
    ///
    /// # Errors
    ///
    /// EAGAIN, EINTR, EPIPE, EFAULT, ESRCH, EPERM as in SPEC.
    fn vmsplice(
        &self,
        pid: i32,
        pipe: BorrowedFd<'_>,
        iov: &[RemoteIoVec],
        flags: SpliceFlags,
    ) -> Result<(usize, Report)>;

    /// One process_vm_exec, with all its checks.
    ///
    /// # Errors
    ///
    /// As [`raw::process_vm_exec`](crate::raw::process_vm_exec).
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn vm_exec(&self, call: &ExecCall) -> std::result::Result<(), Errno>;
}

/// The arguments of one process_vm_exec, unchecked.
#[derive(Clone, Copy, Debug)]
pub struct ExecCall {
    /// The target, or a pidfd.
    pub pid: i32,
    /// Registers, in and out.
    pub context: *mut SigContext,
    /// [`ExecFlags`](crate::ExecFlags), or anything.
    pub flags: u64,
    /// Out.
    pub info: *mut SigInfo,
    /// Signals that are returned.
    pub mask: *const u64,
    /// Bytes of the mask.
    pub sizemask: usize,
}

/// The backend in use.
pub fn current() -> &'static dyn Backend {
    static CHOICE: OnceLock<&'static dyn Backend> = OnceLock::new();
    *CHOICE.get_or_init(|| match std::env::var("FARSPACE_BACKEND").as_deref() {
        Ok("stock") => &stock::Stock,
        Ok("native") => &native::Native,
        _ if native::is_there() => &native::Native,
        _ => &stock::Stock,
    })
}

/// Name of the backend in use.
pub fn name() -> &'static str {
    current().name()
}
