//! A target that is attached to, for splicing and system calls.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use farspace::{AttachOptions, Mechanism, Sink, Target};
use farspace_abi::RemoteIoVec;
use rustix::fs::{FileType, OFlags, SeekFrom};
use rustix::io::Errno;

use super::Output;
use crate::cli::MechanismArg;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt;

/// An attached target; it is detached on drop.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(super) target: Target,
}

impl Attached {
    /// Attaches.
    pub(crate) fn new(pid: i32, mechanism: Option<MechanismArg>) -> Result<Self, Failure> {
        let options = AttachOptions { mechanism: mechanism.map(Mechanism::from), ..AttachOptions::default() };
        Ok(Self { target: Target::attach_with(pid, &options).map_err(|error| failure(&error))? })
    }

    /// Attaches so that system calls can be made: by the kernel's process_vm_exec, else by an agent.
    pub(crate) fn for_calls(pid: i32) -> Result<Self, Failure> {
        let is_native = farspace::backend_name() == Mechanism::Native.name();
        Self::new(pid, (!is_native).then_some(MechanismArg::Agent))
    }

    /// Who makes a call.
    pub(crate) fn mechanism_of(&self, call: crate::syscall::Call) -> String {
        self.target.mechanism_of_call(call.nr).to_string()
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
        let total = ranges.iter().map(|range| range.len).sum();
        let start = prepare_file(out.fd.as_fd(), total);
        let mut sink = match start {
            Some(offset) => Sink::file_at(out.fd.as_fd(), offset),
            None => Sink::stream(out.fd.as_fd()),
        };
        let transfer = self.target.splice(ranges, &mut sink, progress);
        if let Some(start) = start {
            // As after write(2): whoever shares the descriptor goes on behind these bytes. What is incomplete is
            // cut off, or it would look as if zeros had been read.
            let complete = transfer.as_ref().is_ok_and(|transfer| transfer.stopped.is_none());
            let end = if complete { start + total } else { start };
            let _ = rustix::fs::seek(&out.fd, SeekFrom::Start(end));
            if !complete {
                let _ = rustix::fs::ftruncate(&out.fd, start);
            }
        }
        let transfer = transfer.map_err(|error| {
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

/// Makes a regular file as long as it will be, so that it can be written from both ends; returns where the bytes go,
/// or `None` for everything else, and for a file that has more after that place.
fn prepare_file(fd: BorrowedFd<'_>, total: u64) -> Option<u64> {
    let stat = rustix::fs::fstat(fd).ok()?;
    let is_append = rustix::fs::fcntl_getfl(fd).ok()?.contains(OFlags::APPEND);
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || is_append {
        return None;
    }
    let start = rustix::fs::tell(fd).ok()?;
    if stat.st_size as u64 != start {
        return None;
    }
    rustix::fs::ftruncate(fd, start + total).ok()?;
    Some(start)
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
