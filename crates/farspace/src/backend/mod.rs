//! The two backends behind one trait, chosen at run time and for each call by itself.
//!
//! `native` is used where the kernel has the system call (probed, never assumed), `stock` otherwise. The
//! environment variable `FARSPACE_BACKEND=stock|native` forces one.

pub mod native;
pub mod stock;

use std::sync::OnceLock;

use farspace_abi::RemoteIoVec;
use farspace_abi::exec::{SigContext, SigInfo};
use rustix::io::Errno;

use crate::probe;

/// The variable that forces a backend.
pub const VARIABLE: &str = "FARSPACE_BACKEND";

/// What a backend does.
pub trait Backend: Sync {
    /// Name in reports: `native` or `stock`.
    fn name(&self) -> &'static str;

    /// One process_vmsplice, with all its checks.
    ///
    /// # Errors
    ///
    /// As [`raw::process_vmsplice`](crate::raw::process_vmsplice).
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn vmsplice(&self, call: &SpliceCall) -> Result<usize, Errno>;

    /// One process_vm_exec, with all its checks.
    ///
    /// # Errors
    ///
    /// As [`raw::process_vm_exec`](crate::raw::process_vm_exec).
    ///
    /// # Safety
    ///
    /// As there.
    unsafe fn vm_exec(&self, call: &ExecCall) -> Result<(), Errno>;
}

/// The arguments of one process_vmsplice, unchecked.
#[derive(Clone, Copy, Debug)]
pub struct SpliceCall {
    /// The target, or a pidfd.
    pub pid: i32,
    /// The write end of a pipe.
    pub fd: i32,
    /// Ranges of the target.
    pub iov: *const RemoteIoVec,
    /// How many.
    pub nr_segs: usize,
    /// [`SpliceFlags`](crate::SpliceFlags), or anything.
    pub flags: u32,
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
    /// The pointers are to values of the caller's own, and needn't be tried.
    pub are_references: bool,
}

/// What [`VARIABLE`] asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forced {
    /// Nothing: what is best.
    No,
    /// The agent, whatever the kernel has.
    Stock,
    /// The kernel's calls, or an error.
    Native,
    /// Something that is no backend.
    Unknown,
}

/// What [`VARIABLE`] asks for, read once.
pub fn forced() -> Forced {
    static FORCED: OnceLock<Forced> = OnceLock::new();
    *FORCED.get_or_init(|| match std::env::var(VARIABLE).as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("") => Forced::No,
        Ok("stock") => Forced::Stock,
        Ok("native") => Forced::Native,
        _ => Forced::Unknown,
    })
}

/// Whether what [`VARIABLE`] asks for can be had.
///
/// # Errors
///
/// A sentence that says why not, and what to do.
pub fn check() -> Result<(), String> {
    let missing =
        [("process_vmsplice", probe::native_vmsplice()), ("process_vm_exec", probe::native_vm_exec())];
    let missing = missing.into_iter().find_map(|(name, found)| Some((name, found.err()?)));
    match (forced(), missing) {
        (Forced::Unknown, _) => {
            Err(format!("{VARIABLE} is neither stock nor native; set it to one of them, or unset it"))
        }
        (Forced::Native, Some((name, errno))) => Err(format!(
            "{VARIABLE}=native, but this kernel has no {name} ({errno}); unset it, or boot a kernel that has the call"
        )),
        _ => Ok(()),
    }
}

/// The backend of process_vmsplice.
pub fn splicing() -> &'static dyn Backend {
    choose(native::has_vmsplice())
}

/// The backend of process_vm_exec.
pub fn executing() -> &'static dyn Backend {
    choose(native::has_vm_exec())
}

fn choose(is_there: bool) -> &'static dyn Backend {
    match forced() {
        // Where it isn't there it says so by ENOSYS.
        Forced::Native => &native::Native,
        Forced::No if is_there => &native::Native,
        Forced::No | Forced::Stock | Forced::Unknown => &stock::Stock,
    }
}

/// Name of the backend in use; of both, where the kernel has one of the calls only.
pub fn name() -> &'static str {
    match (splicing().name(), executing().name()) {
        (one, other) if one == other => one,
        ("native", _) => "native process_vmsplice, stock process_vm_exec",
        _ => "stock process_vmsplice, native process_vm_exec",
    }
}
