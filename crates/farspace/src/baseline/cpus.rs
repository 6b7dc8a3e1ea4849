//! Who runs where.

use farspace_sys::cpu::Pinned;
use rustix::io::Errno;
use rustix::process::Pid;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{Error, Result};

/// The CPUs of a pair: the thread that measures, and its child.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cpus {
    host: Option<usize>,
    peer: Option<usize>,
}

impl Cpus {
    /// Both on the first CPU that is allowed; `None` if it isn't known.
    pub fn one() -> Option<Self> {
        let first = allowed().next();
        first.map(|cpu| Self { host: Some(cpu), peer: Some(cpu) })
    }

    /// Each on one of the first two CPUs that are allowed, whether these are cores of their own or threads of one
    /// core; `None` if only one is allowed.
    pub fn two() -> Option<Self> {
        let mut cpus = allowed();
        Some(Self { host: Some(cpus.next()?), peer: Some(cpus.next()?) })
    }

    /// Both wherever the scheduler puts them.
    pub const fn unpinned() -> Self {
        Self { host: None, peer: None }
    }

    /// Whether both share one CPU.
    pub fn is_one(self) -> bool {
        self.host.is_some() && self.host == self.peer
    }

    /// Keeps the calling thread on its CPU until the answer is dropped.
    ///
    /// # Errors
    ///
    /// EINVAL: the CPU isn't allowed.
    pub fn pin_host(self) -> Result<Option<Pinned>> {
        let pin = |cpu| Pinned::to(cpu).ok_or(Error::new("move to a CPU", None, Errno::INVAL));
        self.host.map(pin).transpose()
    }

    /// Keeps the child on its CPU.
    ///
    /// # Errors
    ///
    /// ESRCH, EPERM.
    pub fn pin_peer(self, pid: i32) -> Result<()> {
        let (Some(cpu), Some(pid)) = (self.peer, Pid::from_raw(pid)) else { return Ok(()) };
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(Some(pid), &only)
            .map_err(|e| Error::new("choose the CPU", pid.as_raw_nonzero().get(), e))
    }
}

/// The CPUs that the calling thread may run on.
fn allowed() -> impl Iterator<Item = usize> {
    let set = sched_getaffinity(None).unwrap_or_default();
    (0..CpuSet::MAX_CPU).filter(move |cpu| set.is_set(*cpu))
}
