//! A target that is attached to, for splicing.

use std::time::Duration;

use farspace_abi::RemoteIoVec;

use super::Output;
use crate::cli::MechanismArg;
use crate::demo::baseline;
use crate::failure::Failure;

/// An attached target; it is detached on drop.
#[derive(Debug)]
pub(crate) struct Attached {
    pid: i32,
    reasons: Vec<String>,
}

impl Attached {
    /// Attaches.
    pub(crate) fn new(pid: i32, _mechanism: Option<MechanismArg>) -> anyhow::Result<Self> {
        let raw = rustix::process::Pid::from_raw(pid);
        let exists = raw.ok_or(rustix::io::Errno::SRCH).and_then(rustix::process::test_kill_process);
        exists.map_err(|errno| Failure::target(format!("attach to process {pid}"), errno))?;
        Ok(Self { pid, reasons: vec!["this build has no agent yet".to_owned()] })
    }

    /// How memory is read.
    pub(crate) fn mechanism(&self) -> String {
        "readv".to_owned()
    }

    /// Why not in a better way.
    pub(crate) fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// How long attaching stopped the target.
    pub(crate) fn stop(&self) -> Duration {
        Duration::ZERO
    }

    /// Sends the ranges to the output, in order, and returns the bytes sent.
    pub(crate) fn splice(&mut self, ranges: &[RemoteIoVec], out: &Output) -> anyhow::Result<u64> {
        let clone = out.fd.try_clone().map_err(|e| Failure::output(format!("write {}", out.name), &e))?;
        baseline::copy(self.pid, ranges, &mut std::fs::File::from(clone))
    }
}
