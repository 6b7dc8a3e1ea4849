//! The error of a dump.

use std::io;
use std::path::PathBuf;

use crate::stream::StreamError;

/// Result of a dump.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A dump that failed. No file has the output's name then, unless one had it before.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The target can't be visited, or is gone.
    #[error(transparent)]
    Target(#[from] farspace::Error),
    /// The target ended or executed another program meanwhile.
    #[error(
        "pid {pid} ended or executed another program while it was dumped; start again with the new process"
    )]
    Gone {
        /// The target.
        pid: i32,
    },
    /// The output exists.
    #[error("{} exists; choose another name, or overwrite it with --force", .path.display())]
    Exists {
        /// The output.
        path: PathBuf,
    },
    /// The output directory has something in it, or isn't one.
    #[error("{} exists and isn't an empty directory; choose another name", .path.display())]
    NotEmpty {
        /// The output.
        path: PathBuf,
    },
    /// The output can't be written.
    #[error("cannot {operation} {}: {source}{}", .path.display(), hint(.source))]
    Output {
        /// What was tried.
        operation: &'static str,
        /// The output.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the parent's can't be used.
    #[error("cannot use {} as an image of the parent: {source}; give the directory of an earlier predump, or none", .path.display())]
    Parent {
        /// The file.
        path: PathBuf,
        /// Why.
        source: farspace_image::criu::CriuError,
    },
    /// The caller's own process.
    #[error("pid {pid} is farspace itself, which can't stop itself to be dumped; name another process")]
    Own {
        /// The pid.
        pid: i32,
    },
    /// A core can't describe this process.
    #[error("cannot describe pid {pid} in a core: {source}")]
    Layout {
        /// The target.
        pid: i32,
        /// Why.
        source: farspace_image::core_file::LayoutError,
    },
    /// The caller's progress function broke it off.
    #[error("interrupted; the target runs on and no output was left")]
    Interrupted,
    /// The stop would have been longer than it may be.
    #[error(
        "no dump of pid {pid}: {reason}; allow more with --max-downtime, or choose --on-miss frozen or snapshot"
    )]
    Downtime {
        /// The target.
        pid: i32,
        /// What it would have been.
        reason: String,
    },
    /// Changes can't be noticed in the way that was asked for.
    #[error("cannot watch pid {pid} for changes as asked: {reason}; leave the choice to farspace")]
    NoTracking {
        /// The target.
        pid: i32,
        /// Why.
        reason: String,
    },
    /// The other side of a stream.
    #[error("{peer}: {source}")]
    Stream {
        /// The address, or who connected.
        peer: String,
        /// What went wrong.
        source: StreamError,
    },
    /// The processes of a tree are made faster than they can be stopped.
    #[error(
        "cannot stop the tree of pid {pid} together: after {stopped} processes there were still new ones; \
         try again, or dump the processes one by one"
    )]
    Grows {
        /// The process that the tree begins with.
        pid: i32,
        /// Processes that were stopped by then.
        stopped: usize,
    },
    /// A snapshot needs the agent.
    #[error("cannot take a snapshot of pid {pid}: {reason}; --level frozen works without the agent")]
    NoSnapshot {
        /// The target.
        pid: i32,
        /// Why.
        reason: String,
    },
}

impl From<farspace_sys::Error> for Error {
    fn from(error: farspace_sys::Error) -> Self {
        Self::Target(error.into())
    }
}

/// What to do about it.
fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "; free some space or write elsewhere",
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; choose a directory you can write to"
        }
        io::ErrorKind::NotFound => "; create the directory first",
        io::ErrorKind::FileTooLarge => "; raise the file size limit (ulimit -f) or write elsewhere",
        io::ErrorKind::IsADirectory => "; give a file name, not a directory",
        io::ErrorKind::QuotaExceeded => "; the disk quota is used up",
        _ => "",
    }
}
