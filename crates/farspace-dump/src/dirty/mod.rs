//! Which pages of a running process have changed since the last look, from outside and without stopping it.
//!
//! ```text
//! Tracker::start(&target, None)?      probes, and takes the best way
//! tracker.arm(&target, &maps)?        from now on changes are noted; all that exists counts as changed
//!     copy what Changes::changed names
//! tracker.rescan(&target, &maps)?     changes since the last look, and noted anew, in one step
//!     copy, clear what Changes::gone names; again as often as needed
//! tracker.settle(&target, &maps)?     the same with all threads stopped, for the last time
//! tracker.disarm()                    nothing stays armed (nor does it if this process is killed)
//! ```
//!
//! `maps` are the mappings of interest at that moment (`farspace_sys::process::mappings` without those of
//! [`Target::owns`]); every look is given a fresh list.
//!
//! # Invariants
//!
//! * **A page that changed is never reported unchanged.** What was noted before a copy began is copied after the change;
//!   what changes during the copy is noted for the next look. A mapping that isn't known to be watched counts as changed as
//!   a whole: new, moved by mremap, taken over by another userfaultfd.
//! * **Memory that others can change is never watched**: shared mappings, and pages of private file mappings that the
//!   target hasn't written to. [`Changes::untracked`] and [`Coverage::OwnPages`] name them; as of a moment is only what is
//!   copied at that moment.
//! * Writes through page tables are seen: by the target's threads, by the kernel for them, by debuggers. What a device or
//!   io_uring writes into pages that it has pinned before a look and finishes after it is not.
//!
//! | module | what |
//! |---|---|
//! | `page_set` | sets of pages, by page table |
//! | `coverage` | which mappings can be watched |
//! | `protect` | write protection by userfaultfd, found by PAGEMAP_SCAN |
//! | `soft` | soft-dirty bits |
//! | `whole` | neither: all that exists counts as changed |

mod coverage;
mod page_set;
mod protect;
mod soft;
mod whole;

use std::time::Duration;

use farspace::Target;
use farspace_sys::RemoteIoVec;
use farspace_sys::process::Mapping;

pub use coverage::{Coverage, coverage};
pub use page_set::PageSet;

use crate::{Error, Result};

/// How changes are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracking {
    /// userfaultfd write protection in asynchronous mode, and PAGEMAP_SCAN (Linux 6.7): exact, without a stop.
    WriteProtect,
    /// Soft-dirty bits (CONFIG_MEM_SOFT_DIRTY): all threads are stopped during each look.
    SoftDirty,
    /// Not at all: all that exists counts as changed.
    Nothing,
}

impl Tracking {
    /// Name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::WriteProtect => "write-protect",
            Self::SoftDirty => "soft-dirty",
            Self::Nothing => "none",
        }
    }
}

/// What one look has found.
#[derive(Debug, Default)]
pub struct Changes {
    /// Pages that have contents of their own now and aren't known to be as they were: to be copied.
    pub changed: PageSet,
    /// Pages that had contents at the last look, and are zeros, a file's, unmapped, or untracked now.
    pub gone: PageSet,
    /// Mappings whose contents count as changed at any time, and why. What is copied of them isn't known here: it says
    /// nothing any more once they are tracked.
    pub untracked: Vec<(RemoteIoVec, &'static str)>,
    /// How long all threads were stopped for this look.
    pub stop: Duration,
}

/// Watches one address space. Dropped, nothing stays armed.
#[derive(Debug)]
pub struct Tracker {
    pid: i32,
    way: Way,
    reasons: Vec<String>,
}

#[derive(Debug)]
enum Way {
    WriteProtect(protect::WriteProtect),
    SoftDirty(soft::SoftDirty),
    Nothing(whole::Whole),
}

impl Tracker {
    /// Chooses how to watch the target: the best way that works, or this one. Nothing is armed yet.
    ///
    /// # Errors
    ///
    /// The way that was asked for doesn't work here; the target is gone.
    pub fn start(target: &Target, wanted: Option<Tracking>) -> Result<Self> {
        let pid = target.pid();
        let mut reasons = Vec::new();
        let unwanted = |tracking| wanted.is_some_and(|wanted| wanted != tracking);
        let mut way = None;
        if !unwanted(Tracking::WriteProtect) {
            match protect::WriteProtect::new(target) {
                Ok(found) => way = Some(Way::WriteProtect(found)),
                Err(reason) => reasons.push(format!("write-protect: {reason}")),
            }
        }
        if way.is_none() && !unwanted(Tracking::SoftDirty) {
            match soft::SoftDirty::new(pid) {
                Ok(found) => way = Some(Way::SoftDirty(found)),
                Err(reason) => reasons.push(format!("soft-dirty: {reason}")),
            }
        }
        if way.is_none() && !unwanted(Tracking::Nothing) {
            way = Some(Way::Nothing(whole::Whole::new(pid)?));
        }
        match way {
            Some(way) => Ok(Self { pid, way, reasons }),
            None => Err(Error::NoTracking { pid, reason: reasons.join("; ") }),
        }
    }

    /// The target.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// How changes are noticed.
    pub fn tracking(&self) -> Tracking {
        match &self.way {
            Way::WriteProtect(_) => Tracking::WriteProtect,
            Way::SoftDirty(_) => Tracking::SoftDirty,
            Way::Nothing(_) => Tracking::Nothing,
        }
    }

    /// Why better ways aren't used.
    pub fn reasons(&self) -> &[String] {
        &self.reasons
    }

    /// Begins to watch these mappings. All pages with contents of their own are in [`Changes::changed`].
    ///
    /// # Errors
    ///
    /// ESRCH: the target is gone; refused: a thread didn't stop (soft-dirty).
    pub fn arm(&mut self, target: &Target, maps: &[Mapping]) -> Result<Changes> {
        self.rescan(target, maps)
    }

    /// Says what has changed since the last look, and watches it anew: a page that is written to during this call is in
    /// this answer or in the next. Mappings that are new, and those that aren't watched any more, count as changed.
    ///
    /// # Errors
    ///
    /// As [`Tracker::arm`].
    pub fn rescan(&mut self, target: &Target, maps: &[Mapping]) -> Result<Changes> {
        match &mut self.way {
            Way::WriteProtect(way) => way.rescan(maps),
            Way::SoftDirty(way) => way.rescan(target, maps),
            Way::Nothing(way) => way.rescan(maps),
        }
    }

    /// As [`Tracker::rescan`], without [`Changes::gone`] where that takes time: for looks that are followed by another.
    ///
    /// # Errors
    ///
    /// As [`Tracker::arm`].
    pub fn glance(&mut self, target: &Target, maps: &[Mapping]) -> Result<Changes> {
        match &mut self.way {
            Way::WriteProtect(way) => way.glance(maps),
            _ => self.rescan(target, maps),
        }
    }

    /// Says what has changed since the last look, while the caller has all threads stopped; nothing is watched anew.
    ///
    /// # Errors
    ///
    /// ESRCH: the target is gone.
    pub fn settle(&mut self, maps: &[Mapping]) -> Result<Changes> {
        match &mut self.way {
            Way::WriteProtect(way) => way.settle(maps),
            Way::SoftDirty(way) => way.settle(maps),
            Way::Nothing(way) => way.rescan(maps),
        }
    }

    /// Pages that had contents of their own at the last look; after a [`glance`](Tracker::glance), also some that have
    /// none any more.
    pub fn known(&self) -> &PageSet {
        match &self.way {
            Way::WriteProtect(way) => way.known(),
            Way::SoftDirty(way) => way.known(),
            Way::Nothing(way) => way.known(),
        }
    }

    /// Ends the watching, a little at a time, so that the target is never kept waiting for long.
    pub fn disarm(self) {
        if let Way::WriteProtect(way) = self.way {
            way.disarm();
        }
    }
}
