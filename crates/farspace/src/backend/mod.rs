//! The two backends behind one trait, chosen at run time.
//!
//! `native` is used where the kernel has the system calls (probed, never assumed), `stock` otherwise. The
//! environment variable `FARSPACE_BACKEND=stock|native` forces one.

pub mod native;
pub mod stock;

use std::os::fd::BorrowedFd;
use std::sync::OnceLock;

use farspace_abi::RemoteIoVec;

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
