//! Which pages of a process have changed since its parent image.
//!
//! What CRIU's own dump reads are the soft-dirty bits, so where the kernel has them they are what links one predump to
//! the next: cleared first, copied second. To read them and to clear them are two steps, and a write between the two would
//! be lost. Therefore, during these two steps alone, writes are also noted by write protection:
//!
//! ```text
//! arm write protection         every page's next write is noted
//! read the soft-dirty bits     written since the parent
//! clear them                   the next predump's, or CRIU's, count from here
//! ask write protection         written since it was armed: among them what was written between the two steps
//! disarm, and copy both
//! ```
//!
//! Nothing is stopped for it. Where there is no write protection all threads are stopped for the two steps instead. Where
//! there are no soft-dirty bits, write protection alone links the iterations of one run, and CRIU can't go on from them.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use farspace::Target;
use farspace_sys::RemoteIoVec;
use farspace_sys::page_scan::{
    PAGE_IS_FILE, PAGE_IS_HUGE, PAGE_IS_PFNZERO, PAGE_IS_PRESENT, PAGE_IS_SOFT_DIRTY, PAGE_IS_SWAPPED, Query,
};
use farspace_sys::pagemap::{ENTRY_FILE, ENTRY_PRESENT, ENTRY_SOFT_DIRTY, ENTRY_SWAPPED, Pagemap};
use farspace_sys::process::Mapping;
use rustix::io::Errno;

use super::areas::{self, Area};
use crate::Result;
use crate::dirty::{Changes, PageSet, Tracker, Tracking};

const PAGE: u64 = 4096;
const THERE: u64 = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;

/// There, and written since the bits were cleared.
const SOFT_DIRTY: Query = Query {
    flags: 0,
    category_inverted: 0,
    category_mask: PAGE_IS_SOFT_DIRTY,
    category_anyof_mask: THERE,
    return_mask: PAGE_IS_SOFT_DIRTY,
};

/// Contents of its own.
const OWN: Query = Query {
    flags: 0,
    category_inverted: PAGE_IS_PFNZERO | PAGE_IS_FILE,
    category_mask: PAGE_IS_PFNZERO | PAGE_IS_FILE,
    category_anyof_mask: THERE,
    return_mask: 0,
};

/// The huge page of zeros. Unlike the small one CRIU takes it for contents, and wants it in the parent.
const HUGE_ZEROS: Query = Query {
    flags: 0,
    category_inverted: 0,
    category_mask: PAGE_IS_PFNZERO | PAGE_IS_HUGE,
    category_anyof_mask: 0,
    return_mask: PAGE_IS_PFNZERO,
};

/// How changed pages are told from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Linkage {
    /// Soft-dirty bits, and write protection while they are read and cleared.
    SoftDirty,
    /// Soft-dirty bits, with all threads stopped while they are read and cleared.
    SoftDirtyStopped,
    /// Write protection since the iteration before, which CRIU can't go on from.
    WriteProtect,
    /// Not at all: everything is written.
    Nothing,
}

impl Linkage {
    /// Name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::SoftDirty => "soft-dirty",
            Self::SoftDirtyStopped => "soft-dirty (stopped)",
            Self::WriteProtect => "write-protect",
            Self::Nothing => "none",
        }
    }
}

/// What is there, and what of it has changed.
#[derive(Debug)]
pub(super) struct Look {
    /// The mappings, as of the look's end.
    pub(super) areas: Vec<Area>,
    /// Pages with contents of their own.
    pub(super) there: PageSet,
    /// Those that aren't known to be as they were; where nothing is linked, all.
    pub(super) changed: PageSet,
    /// How that is known.
    pub(super) linkage: Linkage,
    /// How long all threads were stopped for it.
    pub(super) stop: Duration,
    /// Why not in a better way.
    pub(super) reasons: Vec<String>,
}

/// Looks at a process on a kernel with soft-dirty bits; from here on they count anew.
pub(super) fn by_soft_dirty(target: &Target, has_parent: bool, timeout: Duration) -> Result<Look> {
    let pid = target.pid();
    let pagemap = Pagemap::open(pid)?;
    let mut clear = SoftDirty::open(pid)?;
    if !has_parent {
        // What changes from here on changes before or after it is copied, and is noted either way.
        clear.clear()?;
        return Look::new(target, &pagemap, Linkage::SoftDirty);
    }
    let maps = areas::with_pages(&areas::read(target)?);
    let mut tracker = match Tracker::start(target, Some(Tracking::WriteProtect)) {
        Ok(tracker) => tracker,
        Err(error) => {
            let frozen = target.freeze(timeout)?;
            let found = soft_dirty(&pagemap, &maps).and_then(|found| clear.clear().map(|()| found));
            let stop = frozen.thaw();
            let look = Look::new(target, &pagemap, Linkage::SoftDirtyStopped)?;
            return Ok(Look { changed: found?, stop, reasons: vec![error.to_string()], ..look });
        }
    };
    tracker.arm(target, &maps)?;
    let mut changed = soft_dirty(&pagemap, &maps)?;
    clear.clear()?;
    // What was mapped since isn't watched, and counts as changed.
    let areas = areas::read(target)?;
    let since = tracker.rescan(target, &areas::with_pages(&areas))?;
    note(&since, &mut changed);
    let there = known(&tracker, &since, &pagemap)?;
    tracker.disarm();
    let (linkage, stop, reasons) = (Linkage::SoftDirty, Duration::ZERO, Vec::new());
    Ok(Look { areas, there, changed, linkage, stop, reasons })
}

/// Looks at a process with a tracker that is kept from one iteration to the next.
pub(super) fn by_tracker(tracker: &mut Tracker, target: &Target) -> Result<Look> {
    let areas = areas::read(target)?;
    let changes = tracker.rescan(target, &areas::with_pages(&areas))?;
    let mut changed = PageSet::default();
    note(&changes, &mut changed);
    let there = known(tracker, &changes, &Pagemap::open(target.pid())?)?;
    let linkage = match tracker.tracking() {
        Tracking::WriteProtect => Linkage::WriteProtect,
        Tracking::SoftDirty => Linkage::SoftDirtyStopped,
        Tracking::Nothing => Linkage::Nothing,
    };
    Ok(Look { areas, there, changed, linkage, stop: changes.stop, reasons: tracker.reasons().to_vec() })
}

/// Looks at a process without knowing what was before.
pub(super) fn by_nothing(target: &Target, reason: String) -> Result<Look> {
    let look = Look::new(target, &Pagemap::open(target.pid())?, Linkage::Nothing)?;
    Ok(Look { reasons: vec![reason], ..look })
}

impl Look {
    /// All that is there now counts as changed.
    fn new(target: &Target, pagemap: &Pagemap, linkage: Linkage) -> Result<Self> {
        let areas = areas::read(target)?;
        let mut there = PageSet::default();
        areas::with_pages(&areas).iter().try_for_each(|map| own(pagemap, range(map), &mut there))?;
        let changed = there.clone();
        Ok(Self { areas, there, changed, linkage, stop: Duration::ZERO, reasons: Vec::new() })
    }
}

/// The pages of the huge page of zeros, which no look has.
pub(super) fn huge_zeros(pagemap: &Pagemap, maps: &[Mapping]) -> Result<PageSet> {
    let mut found = PageSet::default();
    for mapping in maps.iter().filter(|mapping| mapping.len_bytes() >= 2 << 20) {
        match pagemap.scan(HUGE_ZEROS, range(mapping), &mut |region| found.insert(region.start..region.end)) {
            // An older kernel, whose zero pages can't be told from others: they are in the look.
            Err(e) if matches!(e.errno, Errno::NOTTY | Errno::INVAL) => break,
            other => other?,
        }
    }
    Ok(found)
}

fn note(changes: &Changes, changed: &mut PageSet) {
    changed.add(&changes.changed);
    for (range, _) in &changes.untracked {
        changed.insert(range.base.0..range.base.0 + range.len);
    }
}

/// What a tracker knows to be there; not watched is not absent.
fn known(tracker: &Tracker, changes: &Changes, pagemap: &Pagemap) -> Result<PageSet> {
    let mut there = tracker.known().clone();
    changes.untracked.iter().try_for_each(|(range, _)| own(pagemap, *range, &mut there))?;
    Ok(there)
}

fn soft_dirty(pagemap: &Pagemap, maps: &[Mapping]) -> Result<PageSet> {
    let mut found = PageSet::default();
    for mapping in maps {
        let range = range(mapping);
        match pagemap.scan(SOFT_DIRTY, range, &mut |region| found.insert(region.start..region.end)) {
            Err(e) if matches!(e.errno, Errno::NOTTY | Errno::INVAL) => {
                pagemap.entries(range, &mut |at, entry| {
                    if entry & ENTRY_SOFT_DIRTY != 0 && entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 {
                        found.insert(at.0..at.0 + PAGE);
                    }
                })?;
            }
            other => other?,
        }
    }
    Ok(found)
}

/// The pages with contents of their own: there, and neither the zero page nor a file's.
fn own(pagemap: &Pagemap, range: RemoteIoVec, there: &mut PageSet) -> Result<()> {
    let found = pagemap.scan(OWN, range, &mut |region| there.insert(region.start..region.end));
    match found {
        Err(e) if matches!(e.errno, Errno::NOTTY | Errno::INVAL) => {
            pagemap.entries(range, &mut |at, entry| {
                if entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 && entry & ENTRY_FILE == 0 {
                    there.insert(at.0..at.0 + PAGE);
                }
            })?;
        }
        other => other?,
    }
    Ok(())
}

fn range(mapping: &Mapping) -> RemoteIoVec {
    RemoteIoVec { base: mapping.start, len: mapping.len_bytes() }
}

/// The soft-dirty bits of one process.
#[derive(Debug)]
struct SoftDirty {
    file: File,
    pid: i32,
}

impl SoftDirty {
    fn open(pid: i32) -> Result<Self> {
        let file = OpenOptions::new().write(true).open(format!("/proc/{pid}/clear_refs"));
        Ok(Self { file: file.map_err(|e| Self::error(pid, &e))?, pid })
    }

    /// Clears the bits, of the program that runs now (proc(5), clear_refs: 4).
    fn clear(&mut self) -> Result<()> {
        self.file.write_all(b"4").map_err(|e| Self::error(self.pid, &e).into())
    }

    fn error(pid: i32, error: &std::io::Error) -> farspace_sys::Error {
        let errno = match Errno::from_io_error(error) {
            Some(Errno::NOENT) | None => Errno::SRCH,
            Some(errno) => errno,
        };
        farspace_sys::Error::new("clear the soft-dirty bits", pid, errno)
    }
}

/// Whether this kernel has soft-dirty bits: a page of ours that was just written has its bit then.
pub(super) fn has_soft_dirty() -> bool {
    let page = vec![1_u8; 2 * PAGE as usize];
    let address = std::hint::black_box(page.as_ptr()) as u64 + PAGE;
    let mut entry = [0; 8];
    let read =
        File::open("/proc/self/pagemap").and_then(|map| map.read_exact_at(&mut entry, address / PAGE * 8));
    read.is_ok() && u64::from_le_bytes(entry) & ENTRY_SOFT_DIRTY != 0
}
