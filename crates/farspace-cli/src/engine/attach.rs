//! A target that is attached to, for splicing.

use std::os::fd::AsFd as _;
use std::time::Duration;

use farspace::{AttachOptions, Mechanism, Sink, Target};
use farspace_abi::RemoteIoVec;
use rustix::io::Errno;

use super::Output;
use crate::cli::MechanismArg;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt;

/// An attached target; it is detached on drop.
#[derive(Debug)]
pub(crate) struct Attached {
    target: Target,
}

impl Attached {
    /// Attaches.
    pub(crate) fn new(pid: i32, mechanism: Option<MechanismArg>) -> Result<Self, Failure> {
        let options = AttachOptions { mechanism: mechanism.map(Mechanism::from), ..AttachOptions::default() };
        Ok(Self { target: Target::attach_with(pid, &options).map_err(|error| failure(&error))? })
    }

    /// How memory is read.
    pub(crate) fn mechanism(&self) -> String {
        self.target.report().mechanism.to_string()
    }

    /// Why not in a better way.
    pub(crate) fn reasons(&self) -> &[String] {
        &self.target.report().reasons
    }

    /// How long attaching stopped the target.
    pub(crate) fn stop(&self) -> Duration {
        self.target.report().stop
    }

    /// Sends the ranges to the output, in order, and returns the bytes sent; `progress` is told those of each step.
    ///
    /// Memory that can't be had is a failure here: a user who names a range wants all of it.
    pub(crate) fn splice(
        &mut self,
        ranges: &[RemoteIoVec],
        out: &Output,
        progress: farspace::Progress<'_>,
    ) -> Result<u64, Failure> {
        let mut sink = Sink::stream(out.fd.as_fd());
        let transfer = self.target.splice(ranges, &mut sink, progress).map_err(|error| {
            if error.operation() == farspace::WRITE_OUT && interrupt::flow().is_continue() {
                return Failure::output(format!("cannot write {}", out.name), &error.errno().into());
            }
            match error.errno() {
                Errno::SRCH if interrupt::flow().is_continue() => {
                    let what =
                        format!("pid {} ended or executed another program meanwhile", self.target.pid());
                    Failure::new(Exit::Failed, what).next("start again with the new process")
                }
                _ => failure(&error),
            }
        })?;
        match transfer.stopped {
            None => Ok(transfer.bytes),
            Some((address, errno)) => {
                let pid = self.target.pid();
                let what = format!("cannot read pid {pid} at {address}");
                let next =
                    format!("see /proc/{pid}/maps: not mapped, PROT_NONE, device memory or memfd_secret");
                Err(Failure::new(Exit::Failed, what).cause(errno).next(next))
            }
        }
    }
}

/// The library describes the failure itself; its errno and its refusal decide the exit code.
pub(super) fn failure(error: &farspace::Error) -> Failure {
    if interrupt::flow().is_break() {
        return interrupt::failure();
    }
    let exit = error.refusal().map(|_| Exit::Refused);
    Failure::library(error.to_string(), error.errno(), exit)
}

impl From<MechanismArg> for Mechanism {
    fn from(arg: MechanismArg) -> Self {
        match arg {
            MechanismArg::Native => Self::Native,
            MechanismArg::Agent => Self::Agent,
            MechanismArg::Pidmem => Self::PidMem,
            MechanismArg::Readv => Self::ReadV,
        }
    }
}
