//! The error of this crate.

use std::fmt;

use farspace_abi::RemoteAddr;
use rustix::io::Errno;

/// A failed operation on another process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What was tried, as a verb phrase ("stop thread").
    pub operation: &'static str,
    /// On which process or thread.
    pub pid: i32,
    /// At which address of it, where there is one.
    pub address: Option<RemoteAddr>,
    /// What the kernel said.
    pub errno: Errno,
}

/// Result of an operation on another process.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without an address.
    pub fn new(operation: &'static str, pid: i32, errno: Errno) -> Self {
        Self { operation, pid, address: None, errno }
    }

    /// The same error at an address.
    #[must_use]
    pub fn at(mut self, address: RemoteAddr) -> Self {
        self.address = Some(address);
        self
    }

    /// The error that errno holds now.
    pub(crate) fn last(operation: &'static str, pid: i32) -> Self {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        Self::new(operation, pid, Errno::from_raw_os_error(code))
    }

    /// True where the process or thread is gone.
    pub fn is_gone(&self) -> bool {
        self.errno == Errno::SRCH
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} of pid {}", self.operation, self.pid)?;
        if let Some(address) = self.address {
            write!(f, " at {address}")?;
        }
        write!(f, ": {}", self.errno)
    }
}

impl std::error::Error for Error {}
