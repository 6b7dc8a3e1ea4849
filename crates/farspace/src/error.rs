//! The error of the public API.

use std::fmt;

use farspace_abi::RemoteAddr;
use farspace_inject as inject;
use rustix::io::Errno;

/// Result of an operation on a target.
pub type Result<T> = std::result::Result<T, Error>;

/// A failed operation on a target.
///
/// [`Error::errno`] is what the system call would have returned (SPEC: process_vmsplice).
#[derive(Debug)]
pub struct Error {
    operation: &'static str,
    pid: Option<i32>,
    address: Option<RemoteAddr>,
    errno: Errno,
    /// Why, where the errno's own text and advice would mislead.
    reason: Option<String>,
    source: Option<inject::Error>,
}

impl Error {
    pub(crate) fn new(operation: &'static str, pid: impl Into<Option<i32>>, errno: Errno) -> Self {
        Self { operation, pid: pid.into(), address: None, errno, reason: None, source: None }
    }

    pub(crate) fn at(mut self, address: RemoteAddr) -> Self {
        self.address = Some(address);
        self
    }

    pub(crate) fn because(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// What the kernel said, or would have said.
    pub fn errno(&self) -> Errno {
        self.errno
    }

    /// What was tried, as a verb phrase.
    pub fn operation(&self) -> &'static str {
        self.operation
    }

    /// The target.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Where in the target.
    pub fn address(&self) -> Option<RemoteAddr> {
        self.address
    }

    /// Why the target can't be visited, if that is what failed.
    pub fn refusal(&self) -> Option<inject::Refusal> {
        match &self.source {
            Some(inject::Error::Refused { refusal, .. }) => Some(*refusal),
            _ => None,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self.errno {
            Errno::SRCH => Some("check the pid; it has ended, is a zombie or a kernel thread"),
            Errno::PERM | Errno::ACCESS => {
                Some("run as the target's user or with CAP_SYS_PTRACE, and see kernel.yama.ptrace_scope")
            }
            Errno::FAULT => {
                Some("the address isn't mapped, or can't be read (PROT_NONE, device memory, secretmem)")
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{source}")?;
            if matches!(source, inject::Error::Refused { .. } | inject::Error::Gone { .. }) {
                return Ok(());
            }
        } else {
            write!(f, "cannot {}", self.operation)?;
            if let Some(pid) = self.pid {
                write!(f, " of pid {pid}")?;
            }
            if let Some(address) = self.address {
                write!(f, " at {address}")?;
            }
            if let Some(reason) = &self.reason {
                return write!(f, ": {reason}");
            }
            write!(f, ": {}", self.errno)?;
        }
        self.hint().map_or(Ok(()), |hint| write!(f, "; {hint}"))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|e| e as _)
    }
}

impl From<inject::Error> for Error {
    fn from(source: inject::Error) -> Self {
        let pid = match &source {
            inject::Error::Refused { pid, .. }
            | inject::Error::Gone { pid }
            | inject::Error::Agent { pid, .. } => *pid,
            inject::Error::Sys(e) => e.pid,
        };
        let address = match &source {
            inject::Error::Sys(e) => e.address,
            _ => None,
        };
        Self {
            operation: "visit the memory",
            pid: Some(pid),
            address,
            errno: source.errno(),
            reason: None,
            source: Some(source),
        }
    }
}

impl From<farspace_sys::Error> for Error {
    fn from(error: farspace_sys::Error) -> Self {
        Self {
            operation: error.operation,
            pid: Some(error.pid),
            address: error.address,
            errno: error.errno,
            reason: None,
            source: None,
        }
    }
}
