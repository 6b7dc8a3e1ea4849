//! Any kernel: the agent in the target, or a copy where it can't be.

use std::os::fd::BorrowedFd;

use farspace_abi::RemoteIoVec;
use rustix::io::Errno;

use super::{Backend, ExecCall};
use crate::{AttachOptions, Report, Result, SpliceFlags, Target, exec};

/// User space only.
#[derive(Debug)]
pub struct Stock;

impl Backend for Stock {
    fn name(&self) -> &'static str {
        "stock"
    }

    fn vmsplice(
        &self,
        pid: i32,
        pipe: BorrowedFd<'_>,
        iov: &[RemoteIoVec],
        flags: SpliceFlags,
    ) -> Result<(usize, Report)> {
        let target = Target::attach_with(pid, &AttachOptions::default())?;
        let bytes = target.vmsplice(pipe, iov, flags)?;
        let report = target.report().clone();
        target.detach()?;
        Ok((bytes, report))
    }

    unsafe fn vm_exec(&self, call: &ExecCall) -> std::result::Result<(), Errno> {
        // SAFETY: as this function's.
        unsafe { exec::stock::vm_exec(call) }
    }
}
