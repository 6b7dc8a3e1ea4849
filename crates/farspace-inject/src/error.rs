//! Why the agent can't be there.

use farspace_sys as sys;
use rustix::io::Errno;

/// Result of a visit.
pub type Result<T> = std::result::Result<T, Error>;

/// A visit that failed, or wasn't begun.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The target is in a state in which it can't be visited; copying may still work.
    #[error("pid {pid}: {refusal}")]
    Refused {
        /// The target.
        pid: i32,
        /// Why.
        refusal: Refusal,
    },
    /// A system call failed.
    #[error(transparent)]
    Sys(#[from] sys::Error),
    /// The target ended or executed another program meanwhile.
    #[error("pid {pid} ended or executed another program meanwhile; start again with the new process")]
    Gone {
        /// The target.
        pid: i32,
    },
    /// The agent didn't do its part.
    #[error("the agent in pid {pid} failed to {operation}: {errno}")]
    Agent {
        /// The target.
        pid: i32,
        /// What it was to do.
        operation: &'static str,
        /// How it failed.
        errno: Errno,
    },
}

/// States in which a target is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another tracer is there.
    #[error("already traced by pid {tracer}; detach that debugger first")]
    Traced {
        /// The other tracer.
        tracer: i32,
    },
    /// A 32-bit program, or a thread in 32-bit mode.
    #[error("a 32-bit program; farspace visits 64-bit programs only")]
    Not64Bit,
    /// No thread can be stopped.
    #[error("every thread is in an uninterruptible sleep (state D), so none can be stopped; try again later")]
    Uninterruptible,
    /// The vDSO is missing or has no room for a hundred bytes of code.
    #[error("its vDSO is missing or full, so there is no safe place to start from")]
    NoCave,
    /// A seccomp filter and no right to suspend it.
    #[error("it has a seccomp filter, and suspending that needs CAP_SYS_ADMIN; run as root")]
    Seccomp,
    /// A seccomp filter and orphans to take in: the agent would have to be a thread that the filter can kill.
    #[error("it has a seccomp filter and takes in orphans (an init or a child subreaper)")]
    FilteredReaper,
    /// The process or task limit is reached.
    #[error("it can't have another task: {0}; raise its RLIMIT_NPROC or its cgroup's pids.max")]
    NoTask(Errno),
    /// An init or a child subreaper on a kernel whose pidfds can't name a thread.
    #[error("it takes in orphans (an init or a child subreaper), which needs Linux 6.9 to be visited")]
    Reaper,
    /// An init or a child subreaper that is stopped: its agent would be stopped as well.
    #[error("it takes in orphans (an init or a child subreaper) and is stopped; continue it first (SIGCONT)")]
    StoppedReaper,
    /// Kernel older than 5.16: a dying agent would take the target along.
    #[error("this kernel is older than 5.16, where a visit can't be ended safely")]
    OldKernel,
}

impl Error {
    pub(crate) fn refused(pid: i32, refusal: Refusal) -> Self {
        Self::Refused { pid, refusal }
    }

    /// What this process lacks for a visit.
    pub(crate) fn host(pid: i32, errno: Errno) -> Self {
        Self::Sys(sys::Error::new("prepare a visit", pid, errno))
    }

    /// The nearest errno.
    pub fn errno(&self) -> Errno {
        match self {
            Self::Refused { refusal: Refusal::Traced { .. }, .. } => Errno::PERM,
            Self::Refused { refusal: Refusal::Uninterruptible, .. } => Errno::TIMEDOUT,
            Self::Refused { refusal: Refusal::NoTask(errno), .. } | Self::Agent { errno, .. } => *errno,
            Self::Refused { .. } => Errno::OPNOTSUPP,
            Self::Sys(error) => error.errno,
            Self::Gone { .. } => Errno::SRCH,
        }
    }

    /// ESRCH as what it means here.
    pub(crate) fn for_target(self, pid: i32) -> Self {
        match self {
            Self::Sys(error) if error.is_gone() => Self::Gone { pid },
            other => other,
        }
    }
}
