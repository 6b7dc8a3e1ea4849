//! What can go wrong.

use farspace_abi::RemoteAddr;
use rustix::io::Errno;

/// Result of this crate.
pub type Result<T> = core::result::Result<T, Error>;

/// An error of the engine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A system call failed, here or in the space.
    #[error("cannot {operation}: {}", reason(.errno))]
    System {
        /// What was to be done.
        operation: &'static str,
        /// Why not.
        errno: Errno,
    },
    /// As `System`, for a range of the space.
    #[error("cannot {operation} at {at} in the space: {}", reason(.errno))]
    Memory {
        /// What was to be done.
        operation: &'static str,
        /// The first address concerned.
        at: RemoteAddr,
        /// Why not.
        errno: Errno,
    },
    /// A task of the space has ended: killed from outside, or by the guest's own doing.
    #[error("task {pid} of the space has ended; drop the space and create another")]
    Ended {
        /// The task.
        pid: i32,
    },
    /// A task of the space did not answer within its deadline and was killed.
    #[error(
        "task {pid} of the space did not answer in time and was killed; drop the space and create another"
    )]
    Unresponsive {
        /// The task.
        pid: i32,
    },
    /// The guest has written to the engine's part of its memory in a way that no running guest can cause by itself.
    #[error("the guest of task {pid} has damaged its own control area ({what}); it was killed")]
    Damaged {
        /// The task.
        pid: i32,
        /// What was found.
        what: &'static str,
    },
    /// The kernel or the machine lacks something.
    #[error("this machine can't run guests: {missing}")]
    Unsupported {
        /// What it lacks, and since when Linux has it.
        missing: &'static str,
    },
}

impl Error {
    pub(crate) fn new(operation: &'static str, errno: Errno) -> Self {
        Self::System { operation, errno }
    }

    /// The errno, where there is one.
    pub fn errno(&self) -> Errno {
        match self {
            Self::System { errno, .. } | Self::Memory { errno, .. } => *errno,
            Self::Ended { .. } | Self::Damaged { .. } => Errno::SRCH,
            Self::Unresponsive { .. } => Errno::TIMEDOUT,
            Self::Unsupported { .. } => Errno::OPNOTSUPP,
        }
    }
}

fn reason(errno: &Errno) -> std::io::Error {
    std::io::Error::from_raw_os_error(errno.raw_os_error())
}
