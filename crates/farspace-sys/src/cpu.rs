//! Moving to another thread's CPU for a moment.

use std::marker::PhantomData;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Keeps the calling thread on one CPU; dropped, it may run where it could before.
///
/// A hand-off between two threads on one CPU is a context switch; across CPUs it is an interrupt and a wake-up,
/// several times slower in a virtual machine.
#[derive(Debug)]
pub struct Pinned {
    before: CpuSet,
    // The affinity is the calling thread's.
    _not_send: PhantomData<*const ()>,
}

impl Pinned {
    /// Moves to the CPU on which the thread ran last; `None` where that isn't allowed or known.
    pub fn beside(tid: i32) -> Option<Self> {
        Self::to(last_cpu(tid)?)
    }

    /// Moves to this CPU; `None` where that isn't allowed.
    pub fn to(cpu: usize) -> Option<Self> {
        let before = sched_getaffinity(None).ok()?;
        if cpu >= CpuSet::MAX_CPU || !before.is_set(cpu) {
            return None;
        }
        let mut only = CpuSet::new();
        only.set(cpu);
        sched_setaffinity(None, &only).ok()?;
        Some(Self { before, _not_send: PhantomData })
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = sched_setaffinity(None, &self.before);
    }
}

/// Field 39 of /proc/TID/stat, counted after the name, which may contain anything.
fn last_cpu(tid: i32) -> Option<usize> {
    let text = std::fs::read_to_string(format!("/proc/{tid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    rest.split(' ').nth(36)?.parse().ok()
}
