//! Where pages are had from: the target itself, or its snapshot.

use farspace::{Progress, Result as TargetResult, Sink, Snapshot, Target, Transfer};
use farspace_sys::memory::Memory;
use farspace_sys::pagemap::Pagemap;
use farspace_sys::{RemoteAddr, RemoteIoVec};

use crate::Result;
use crate::plan::Route;

/// A process and the ways to its pages. Dropped, a snapshot ends.
pub(crate) struct Origin<'a> {
    /// The same memory by copy, whatever its protection is.
    pub(crate) memory: Memory,
    /// Which of its pages exist.
    pub(crate) pagemap: Pagemap,
    way: Way<'a>,
}

enum Way<'a> {
    Target(&'a mut Target),
    Snapshot(Snapshot),
}

impl<'a> Origin<'a> {
    /// The target as it is at each moment.
    pub(crate) fn target(target: &'a mut Target, memory: Memory) -> Result<Self> {
        Ok(Self { pagemap: Pagemap::open(target.pid())?, memory, way: Way::Target(target) })
    }

    /// The target as it was.
    pub(crate) fn snapshot(snapshot: Snapshot) -> Result<Self> {
        let memory = snapshot.memory()?;
        Ok(Self { pagemap: Pagemap::open(snapshot.pid())?, memory, way: Way::Snapshot(snapshot) })
    }

    /// Copies memory that isn't spliced; returns the bytes, none where it can't be had.
    pub(crate) fn copy(&self, route: Route, at: RemoteAddr, into: &mut [u8]) -> usize {
        if let (Way::Target(target), Route::Unreferenced) = (&self.way, route)
            && let Ok(n) = target.copy(at, into)
        {
            return n;
        }
        self.memory.read(at, into).unwrap_or(0)
    }

    /// Moves ranges into a sink without a copy, or by the best copy.
    pub(crate) fn splice(
        &mut self,
        ranges: &[RemoteIoVec],
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> TargetResult<Transfer> {
        match &mut self.way {
            Way::Target(target) => target.splice(ranges, sink, progress),
            Way::Snapshot(snapshot) => snapshot.splice(ranges, sink, progress),
        }
    }
}
