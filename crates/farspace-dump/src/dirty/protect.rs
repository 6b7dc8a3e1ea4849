//! Write protection by userfaultfd in asynchronous mode, and changes found by PAGEMAP_SCAN.
//!
//! A page is *armed* when its entry in the page table says so (`_PAGE_UFFD_WP`). The kernel takes that away at the first
//! write, and no fault ever waits for us. Only pages with contents of their own are armed; one that appears later isn't,
//! and so counts as written. What the scan doesn't show is a page that has vanished together with its page table (a huge
//! page, or 2 MiB at once): for that one page of each table is looked at.
//!
//! Only private memory is registered. In memory without a file the kernel never leaves a marker where an armed page was; in
//! private file mappings it does, and those few pages are asked for twice.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use farspace::Target;
use farspace_sys::RemoteIoVec;
use farspace_sys::page_scan::{
    PAGE_IS_FILE, PAGE_IS_HUGE, PAGE_IS_PFNZERO, PAGE_IS_PRESENT, PAGE_IS_SWAPPED, PAGE_IS_WRITTEN,
    PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING, Query,
};
use farspace_sys::pagemap::{Pagemap, residence};
use farspace_sys::process::Mapping;
use farspace_sys::uffd::{AsyncWriteProtect, UFFD_USER_MODE_ONLY};
use rustix::io::Errno;
use rustix::mm::UserfaultfdFlags;

use super::page_set::{PAGE, TABLE};
use super::{Changes, Coverage, PageSet, coverage};
use crate::Result;

const THERE: u64 = PAGE_IS_PRESENT | PAGE_IS_SWAPPED;

/// Not armed: written since. Arms what it finds.
const ARM: Query = Query {
    flags: PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
    category_inverted: 0,
    category_mask: PAGE_IS_WRITTEN,
    category_anyof_mask: THERE,
    return_mask: THERE | PAGE_IS_PFNZERO,
};

/// The same, for the pages of a private file mapping that aren't the file's.
const ARM_OWN: Query = Query {
    category_inverted: PAGE_IS_FILE,
    category_mask: PAGE_IS_WRITTEN | PAGE_IS_FILE,
    return_mask: THERE | PAGE_IS_PFNZERO | PAGE_IS_FILE,
    ..ARM
};

/// Not armed, or not there, in a page table that is. The kernel has a short cut for exactly this question
/// (pagemap_scan_pmd_entry, fs/proc/task_mmu.c).
const UNARMED: Query = Query {
    flags: PM_SCAN_CHECK_WPASYNC,
    category_inverted: 0,
    category_mask: PAGE_IS_WRITTEN,
    category_anyof_mask: 0,
    return_mask: PAGE_IS_WRITTEN,
};

/// Looks armed.
const ARMED: Query = Query {
    flags: PM_SCAN_CHECK_WPASYNC,
    category_inverted: PAGE_IS_WRITTEN,
    category_mask: PAGE_IS_WRITTEN,
    category_anyof_mask: THERE,
    return_mask: THERE,
};

/// Contents of its own that aren't armed.
const UNARMED_OWN: Query = Query { flags: PM_SCAN_CHECK_WPASYNC, ..ARM_OWN };

/// Contents of its own.
const OWN: Query = Query {
    flags: 0,
    category_inverted: PAGE_IS_PFNZERO | PAGE_IS_FILE,
    category_mask: PAGE_IS_PFNZERO | PAGE_IS_FILE,
    category_anyof_mask: THERE,
    return_mask: THERE,
};

/// The same, and what decides whether it is in doubt.
const OWN_OF_FILE: Query = Query { return_mask: PAGE_IS_HUGE | PAGE_IS_SWAPPED, ..OWN };

/// Runs of at most so many unarmed pages are taken for changed without a second question.
const SHORT: u64 = 8 * PAGE;
/// Addresses that one thread looks at in one go, at the end.
const PIECE: u64 = 32 * TABLE;
/// Less than this isn't worth a thread.
const WORTHWHILE: u64 = 512 << 20;
/// How often a page that may be on the move is looked at, and how long it is given in between.
const LOOKS: usize = 3;
const BETWEEN_LOOKS: Duration = Duration::from_micros(300);
/// What PM_SCAN_CHECK_WPASYNC says of a range that isn't registered.
const UNWATCHED: Errno = Errno::PERM;
/// What is armed in one go.
const STEP: u64 = 16 << 20;
/// What is disarmed in one go: the target's own calls on its mappings wait for less than a millisecond.
const DISARM: u64 = 8 << 20;

/// An address space that is watched.
#[derive(Debug)]
pub(super) struct WriteProtect {
    pid: i32,
    uffd: AsyncWriteProtect,
    pagemap: Pagemap,
    known: PageSet,
    /// What has been registered, for disarming; some of it may be gone.
    registered: Vec<RemoteIoVec>,
    /// Registered, but it wasn't possible to begin with a clean slate.
    unclean: Vec<RemoteIoVec>,
}

/// What to do about unarmed pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unknown {
    /// Only find out which of the known pages are gone.
    Skipped,
    /// All are wanted. A few that are zeros may be among them.
    Found,
}

/// What was found in one range.
#[derive(Debug, Default)]
struct Found {
    changed: PageSet,
    gone: PageSet,
}

impl WriteProtect {
    /// Has a userfaultfd made in the target, or says why that can't be.
    pub(super) fn new(target: &Target) -> std::result::Result<Self, String> {
        let flags = UserfaultfdFlags::CLOEXEC
            | UserfaultfdFlags::NONBLOCK
            | UserfaultfdFlags::from_bits_retain(UFFD_USER_MODE_ONLY);
        let fd = target.userfaultfd(flags).map_err(|e| e.to_string())?;
        let uffd = AsyncWriteProtect::new(fd)
            .map_err(|e| format!("this kernel has no asynchronous write protection (Linux 6.7): {e}"))?;
        let pagemap = Pagemap::open(target.pid()).map_err(|e| e.to_string())?;
        // An empty range: only the question counts.
        match pagemap.knows(OWN) {
            Ok(()) => Ok(Self {
                pid: target.pid(),
                uffd,
                pagemap,
                known: PageSet::default(),
                registered: Vec::new(),
                unclean: Vec::new(),
            }),
            Err(e) => Err(format!("this kernel has no PAGEMAP_SCAN (Linux 6.7): {e}")),
        }
    }

    pub(super) fn known(&self) -> &PageSet {
        &self.known
    }

    /// Changes since the last look, armed anew.
    pub(super) fn rescan(&mut self, maps: &[Mapping]) -> Result<Changes> {
        let mut changes = self.glance(maps)?;
        for mapping in maps.iter().filter(|mapping| coverage(mapping) == Coverage::Full) {
            match self.look(range(mapping), Unknown::Skipped) {
                // What has changed in the meantime is found again by the next look, which arms it.
                Ok(found) => {
                    self.known.subtract(&found.gone);
                    changes.gone.add(&found.gone);
                }
                Err(e) if is_unwatched(&e) => {}
                Err(e) => return Err(e.into()),
            }
        }
        changes.changed.subtract(&changes.gone);
        Ok(changes)
    }

    /// The same, but for some of the pages that are gone.
    pub(super) fn glance(&mut self, maps: &[Mapping]) -> Result<Changes> {
        let mut changes = Changes { gone: self.forget_unmapped(maps), ..Changes::default() };
        for mapping in maps {
            let range = range(mapping);
            let found = match coverage(mapping) {
                Coverage::None(why) => {
                    changes.untracked.push((range, why));
                    continue;
                }
                Coverage::OwnPages => self.watch(ARM_OWN, range),
                Coverage::Full => self.watch(ARM, range),
            };
            match found? {
                Ok(found) => {
                    self.known.subtract(&found.gone);
                    self.known.add(&found.changed);
                    changes.gone.add(&found.gone);
                    changes.changed.add(&found.changed);
                }
                Err(why) => {
                    let lost = self.known.within(range.base.0..range.base.0 + range.len);
                    self.known.subtract(&lost);
                    changes.gone.add(&lost);
                    changes.untracked.push((range, why));
                }
            }
        }
        Ok(changes)
    }

    /// Arms what isn't; or says why that can't be.
    fn watch(
        &mut self,
        query: Query,
        range: RemoteIoVec,
    ) -> Result<std::result::Result<Found, &'static str>> {
        let (mut found, mut zeros) = (Found::default(), PageSet::default());
        let known = self.known.within(range.base.0..range.base.0 + range.len);
        let armed = self.trusted(range).and_then(|()| self.arm(query, range, &mut found.changed, &mut zeros));
        match armed {
            Ok(()) => {}
            Err(e) if is_unwatched(&e) => {
                if let Err(why) = self.register(query, range)? {
                    return Ok(Err(why));
                }
                // Whatever was armed in there before says nothing.
                found.changed = self.own(query, range)?;
                zeros = known.clone();
                zeros.subtract(&found.changed);
            }
            Err(e) => return Err(e.into()),
        }
        // The page of zeros in the place of another is armed by now, and wouldn't be found again.
        found.gone = zeros.common(&known);
        if query == ARM_OWN {
            let (own, in_doubt) = self.own_of_file(range)?;
            found.changed.add(&in_doubt);
            found.gone.add(&known);
            found.gone.subtract(&own);
        }
        Ok(Ok(found))
    }

    /// Changes since the last look, of a target that stands still; nothing is armed.
    pub(super) fn settle(&mut self, maps: &[Mapping]) -> Result<Changes> {
        let mut changes = Changes { gone: self.forget_unmapped(maps), ..Changes::default() };
        let mut full = Vec::new();
        for mapping in maps {
            let range = range(mapping);
            match coverage(mapping) {
                Coverage::None(why) => changes.untracked.push((range, why)),
                Coverage::OwnPages => {
                    let (own, in_doubt) = self.own_of_file(range)?;
                    let mut gone = self.known.within(range.base.0..range.base.0 + range.len);
                    gone.subtract(&own);
                    changes.gone.add(&gone);
                    changes.changed.add(&in_doubt);
                    let mut zeros = PageSet::default();
                    let unarmed = self
                        .trusted(range)
                        .and_then(|()| self.arm(UNARMED_OWN, range, &mut changes.changed, &mut zeros));
                    match unarmed {
                        Ok(()) => {}
                        Err(e) if is_unwatched(&e) => changes.changed.add(&own),
                        Err(e) => return Err(e.into()),
                    }
                }
                Coverage::Full => full.push(range),
            }
        }
        for found in self.look_at_all(&full)? {
            changes.changed.add(&found.changed);
            changes.gone.add(&found.gone);
        }
        self.known.subtract(&changes.gone);
        self.known.add(&changes.changed);
        Ok(changes)
    }

    pub(super) fn disarm(self) {
        for range in &self.registered {
            let end = range.base.0 + range.len;
            let step = DISARM.max(range.len / 4096).next_multiple_of(TABLE);
            for start in (range.base.0..end).step_by(step as usize) {
                // What can't be, because it is unmapped in parts, is disarmed with the end of the descriptor.
                let _ = self.uffd.unregister(RemoteIoVec::new(start, step.min(end - start)));
            }
        }
    }

    /// Looks at all ranges, with a second thread where that is worth it.
    fn look_at_all(&self, ranges: &[RemoteIoVec]) -> Result<Vec<Found>> {
        let mut pieces = Vec::new();
        for range in ranges {
            let end = range.base.0 + range.len;
            let mut start = range.base.0;
            while start < end {
                let until = end.min((start / PIECE + 1) * PIECE);
                pieces.push(RemoteIoVec::new(start, until - start));
                start = until;
            }
        }
        let next = AtomicUsize::new(0);
        let work = || -> Result<Vec<Found>> {
            let mut all = Vec::new();
            while let Some(&piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                all.push(match self.trusted(piece).and_then(|()| self.look(piece, Unknown::Found)) {
                    Ok(found) => found,
                    Err(e) if is_unwatched(&e) => {
                        let mut found = Found { changed: self.own(ARM, piece)?, ..Found::default() };
                        found.gone = self.known.within(piece.base.0..piece.base.0 + piece.len);
                        found.gone.subtract(&found.changed);
                        found
                    }
                    Err(e) => return Err(e.into()),
                });
            }
            Ok(all)
        };
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get()).min(8);
        if cpus < 2 || self.known.bytes() < WORTHWHILE {
            return work();
        }
        std::thread::scope(|scope| {
            // Without a thread the others do its part.
            let helpers: Vec<_> = (1..cpus)
                .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let mut all = work()?;
            for helper in helpers {
                all.extend(helper.join().unwrap_or_else(|_| Ok(Vec::new()))?);
            }
            Ok(all)
        })
    }

    /// What isn't armed any more in memory without a file, and what isn't there any more.
    fn look(&self, range: RemoteIoVec, unknown: Unknown) -> farspace_sys::Result<Found> {
        let mut found = Found::default();
        let mut long = Vec::new();
        let mut unarmed = PageSet::default();
        self.pagemap.scan(UNARMED, range, &mut |region| {
            unarmed.insert(region.start..region.end);
            let run = RemoteIoVec::new(region.start, region.end - region.start);
            match unknown {
                Unknown::Skipped if self.known.within(region.start..region.end).is_empty() => {}
                Unknown::Found if run.len <= SHORT => found.changed.insert(region.start..region.end),
                _ => long.push(run),
            }
        })?;
        for run in long {
            found.changed.add(&self.own(ARM, run)?);
        }
        found.gone = self.known.common(&unarmed);
        found.gone.subtract(&found.changed);
        // A page table that is gone shows nothing at all.
        let end = range.base.0 + range.len;
        let mut shown = unarmed.first_pages(range.base.0..end).map(|page| page / TABLE).peekable();
        let mut asked: Vec<u64> = Vec::new();
        for page in self.known.first_pages(range.base.0..end) {
            while shown.next_if(|&table| table < page / TABLE).is_some() {}
            if shown.peek() != Some(&(page / TABLE)) {
                asked.push(page);
            }
        }
        // One call for all is four times as fast as one scan each; those that aren't in memory may be in swap.
        let resident = residence(self.pid, &asked).unwrap_or_else(|_| vec![-1; asked.len()]);
        for (&page, _) in asked.iter().zip(&resident).filter(|(_, status)| **status < 0) {
            if self.pagemap.has(OWN, page)? {
                continue;
            }
            let (start, until) = (page / TABLE * TABLE, page / TABLE * TABLE + TABLE);
            let start = start.max(range.base.0);
            let table = RemoteIoVec::new(start, end.min(until) - start);
            let mut gone = self.known.within(table.base.0..table.base.0 + table.len);
            gone.subtract(&self.own(ARM, table)?);
            found.gone.add(&gone);
        }
        Ok(found)
    }

    /// As a scan of something that isn't registered, where a clean slate is missing.
    fn trusted(&self, range: RemoteIoVec) -> farspace_sys::Result<()> {
        if self.unclean.iter().any(|other| overlap(range, *other)) {
            return Err(farspace_sys::Error::new("trust the page map", self.pid, UNWATCHED).at(range.base));
        }
        Ok(())
    }

    /// Notes the pages that the query finds, and arms them if it says so.
    fn arm(
        &self,
        query: Query,
        range: RemoteIoVec,
        changed: &mut PageSet,
        zeros: &mut PageSet,
    ) -> farspace_sys::Result<()> {
        let end = range.base.0 + range.len;
        // A part at a time, for the target's own calls on its mappings wait for each; but not too many parts.
        let step = STEP.max(range.len / 4096).next_multiple_of(TABLE);
        let mut start = range.base.0;
        while start < end {
            let until = end.min(start.saturating_add(step) / TABLE * TABLE);
            self.pagemap.scan(query, RemoteIoVec::new(start, until - start), &mut |region| {
                let pages =
                    if region.categories & PAGE_IS_PFNZERO == 0 { &mut *changed } else { &mut *zeros };
                pages.insert(region.start..region.end);
            })?;
            start = until;
        }
        Ok(())
    }

    /// Begins to watch a range; or why that can't be.
    fn register(
        &mut self,
        query: Query,
        range: RemoteIoVec,
    ) -> Result<std::result::Result<(), &'static str>> {
        match self.uffd.register(range) {
            Ok(()) => {}
            Err(Errno::BUSY) => return Ok(Err("watched by another userfaultfd")),
            Err(Errno::SRCH) => {
                return Err(farspace_sys::Error::new("watch the memory", self.pid, Errno::SRCH).into());
            }
            Err(_) => return Ok(Err("can't be write-protected")),
        }
        self.registered.push(range);
        // What looks armed now is not (AsyncWriteProtect::unprotect). Until that is mended, nothing that is said of these
        // pages counts.
        self.unclean.push(range);
        // Rarely any: to look for them takes far less time than to take the protection away from all.
        let mut stale = PageSet::default();
        let looked = self.arm(ARMED, range, &mut stale, &mut PageSet::default());
        if looked.is_ok() && stale.runs().any(|run| self.uffd.unprotect(run).is_err()) {
            return Ok(Err("is being remapped"));
        }
        let armed =
            looked.and_then(|()| self.arm(query, range, &mut PageSet::default(), &mut PageSet::default()));
        match armed {
            Ok(()) => {
                self.unclean.pop();
                self.unclean.retain(|other| !covers(range, *other));
                Ok(Ok(()))
            }
            Err(e) if is_unwatched(&e) => Ok(Err("is being remapped")),
            Err(e) => Err(e.into()),
        }
    }

    /// The pages with contents of their own, by the query that arms them.
    fn own(&self, query: Query, range: RemoteIoVec) -> farspace_sys::Result<PageSet> {
        if query == ARM_OWN {
            return Ok(self.own_of_file(range)?.0);
        }
        let mut own = PageSet::default();
        self.pagemap.scan(OWN, range, &mut |region| own.insert(region.start..region.end))?;
        Ok(own)
    }

    /// The pages with contents of their own in a private file mapping, and those among them that count as changed each
    /// time, because the kernel leaves a marker where an armed page was dropped (MADV_DONTNEED):
    ///
    /// * it looks like a page in swap;
    /// * in hugetlbfs, which is never in swap, it looks like a page that is being moved, and a page of zeros that is read in
    ///   its place is armed.
    fn own_of_file(&self, range: RemoteIoVec) -> farspace_sys::Result<(PageSet, PageSet)> {
        let (mut own, mut in_doubt) = (PageSet::default(), PageSet::default());
        let mut moving = vec![range];
        for look in 0..LOOKS {
            for range in std::mem::take(&mut moving) {
                self.pagemap.scan(OWN_OF_FILE, range, &mut |region| {
                    let (is_huge, is_swapped) =
                        (region.categories & PAGE_IS_HUGE != 0, region.categories & PAGE_IS_SWAPPED != 0);
                    if is_huge && is_swapped {
                        moving.push(RemoteIoVec::new(region.start, region.end - region.start));
                        return;
                    }
                    own.insert(region.start..region.end);
                    if is_huge || is_swapped {
                        in_doubt.insert(region.start..region.end);
                    }
                })?;
            }
            if moving.is_empty() {
                break;
            }
            if look + 1 < LOOKS {
                std::thread::sleep(BETWEEN_LOOKS);
            }
        }
        Ok((own, in_doubt))
    }

    /// Drops the pages that are in none of the mappings; they were known.
    fn forget_unmapped(&mut self, maps: &[Mapping]) -> PageSet {
        let unmapped = self.known.outside(
            maps.iter()
                .filter(|mapping| !matches!(coverage(mapping), Coverage::None(_)))
                .map(|mapping| mapping.start.0..mapping.end.0),
        );
        self.known.subtract(&unmapped);
        unmapped
    }
}

fn range(mapping: &Mapping) -> RemoteIoVec {
    RemoteIoVec { base: mapping.start, len: mapping.len_bytes() }
}

fn overlap(a: RemoteIoVec, b: RemoteIoVec) -> bool {
    a.base.0 < b.base.0 + b.len && b.base.0 < a.base.0 + a.len
}

/// Whether `a` has all of `b`.
fn covers(a: RemoteIoVec, b: RemoteIoVec) -> bool {
    a.base.0 <= b.base.0 && b.base.0 + b.len <= a.base.0 + a.len
}

/// PM_SCAN_CHECK_WPASYNC: something in the range isn't registered with us.
fn is_unwatched(error: &farspace_sys::Error) -> bool {
    error.errno == UNWATCHED
}
