//! Which pages of a process are there (Documentation/admin-guide/mm/pagemap.rst).
//!
//! Invariants: SAFETY.md, 14.

use std::fs::File;
use std::os::unix::fs::FileExt;

use rustix::io::Errno;

use crate::page_scan::{PAGE_IS_PFNZERO, PAGE_IS_PRESENT, PAGE_IS_SWAPPED, PageRegion, Query, scan};
use crate::{Error, RemoteAddr, RemoteIoVec, Result};

const PAGE: u64 = 4096;
/// Ranges that one call returns at most: as many as the kernel collects before it copies them out.
const BATCH: usize = 512;
/// Bit of a pagemap entry: in memory.
pub const ENTRY_PRESENT: u64 = 1 << 63;
/// In swap.
pub const ENTRY_SWAPPED: u64 = 1 << 62;
/// Written since the bits were last cleared (Documentation/admin-guide/mm/soft-dirty.rst).
pub const ENTRY_SOFT_DIRTY: u64 = 1 << 55;
/// A page of a file, or of shared memory.
pub const ENTRY_FILE: u64 = 1 << 61;

/// The pages that are there: not the zero page, and any of the other two.
const POPULATED: Query = Query {
    flags: 0,
    category_inverted: PAGE_IS_PFNZERO,
    category_mask: PAGE_IS_PFNZERO,
    category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
    return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
};

/// An open /proc/PID/pagemap.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
    pid: i32,
    scan: bool,
}

impl Pagemap {
    /// Opens the page map of a process.
    ///
    /// # Errors
    ///
    /// ESRCH, EPERM.
    pub fn open(pid: i32) -> Result<Self> {
        let file = File::open(format!("/proc/{pid}/pagemap")).map_err(|e| {
            let errno = match Errno::from_io_error(&e) {
                Some(Errno::NOENT) | None => Errno::SRCH,
                Some(Errno::ACCESS) => Errno::PERM,
                Some(errno) => errno,
            };
            Error::new("open the page map", pid, errno)
        })?;
        Ok(Self { file, pid, scan: true })
    }

    /// Calls `each` with the runs of pages in `range` that are in memory or in swap; the shared zero page
    /// counts as absent where the kernel tells it apart (6.7 and newer).
    ///
    /// # Errors
    ///
    /// ESRCH: gone.
    pub fn populated(&mut self, range: RemoteIoVec, each: &mut dyn FnMut(RemoteIoVec)) -> Result<()> {
        if self.scan {
            match self.by_scan(range, each) {
                Err(e) if matches!(e.errno, Errno::NOTTY | Errno::INVAL) => self.scan = false,
                other => return other,
            }
        }
        self.by_entries(range, each)
    }

    fn by_scan(&self, range: RemoteIoVec, each: &mut dyn FnMut(RemoteIoVec)) -> Result<()> {
        self.scan(POPULATED, range, &mut |region| {
            each(RemoteIoVec::new(region.start, region.end - region.start));
        })
    }

    /// Calls `each` with the pages in `range` that the query finds, neighbours together, in order of address; the kernel
    /// can report a page twice.
    ///
    /// # Errors
    ///
    /// ENOTTY: an older kernel; EPERM: pages that PM_SCAN_CHECK_WPASYNC doesn't allow, and then it isn't known which
    /// pages were protected already; ESRCH: gone.
    pub fn scan(&self, query: Query, range: RemoteIoVec, each: &mut dyn FnMut(PageRegion)) -> Result<()> {
        let mut found = [PageRegion::default(); BATCH];
        let end = range.base.0 + range.len;
        let mut start = range.base.0;
        while start < end {
            let (n, walk_end) = match scan(&self.file, query, start..end, &mut found) {
                Ok(done) => done,
                Err(Errno::INTR) => continue,
                Err(errno) => {
                    return Err(Error::new("scan the page map", self.pid, errno).at(RemoteAddr(start)));
                }
            };
            found[..n].iter().for_each(|region| each(*region));
            if walk_end <= start {
                break;
            }
            start = walk_end;
        }
        Ok(())
    }

    /// Whether the kernel understands a query.
    ///
    /// # Errors
    ///
    /// ENOTTY: it has no PAGEMAP_SCAN; EINVAL: it doesn't know a flag or a category.
    pub fn knows(&self, query: Query) -> Result<()> {
        match scan(&self.file, query, 0..0, &mut []) {
            Ok(_) => Ok(()),
            Err(errno) => Err(Error::new("scan the page map", self.pid, errno)),
        }
    }

    /// Whether the query finds the page at an address.
    ///
    /// # Errors
    ///
    /// As [`Pagemap::scan`].
    pub fn has(&self, query: Query, at: u64) -> Result<bool> {
        let mut found = [PageRegion::default()];
        loop {
            match scan(&self.file, query, at..at + PAGE, &mut found) {
                Ok((n, _)) => return Ok(n > 0),
                Err(Errno::INTR) => {}
                Err(errno) => {
                    return Err(Error::new("scan the page map", self.pid, errno).at(RemoteAddr(at)));
                }
            }
        }
    }

    /// Calls `each` with the address and the raw entry of every page in `range`.
    ///
    /// # Errors
    ///
    /// ESRCH: gone.
    pub fn entries(&self, range: RemoteIoVec, each: &mut dyn FnMut(RemoteAddr, u64)) -> Result<()> {
        let mut buffer = [0; 8 * 512];
        let end = range.base.0 + range.len;
        let mut start = range.base.0;
        while start < end {
            let pages = ((end - start) / PAGE).min(512) as usize;
            let bytes = &mut buffer[..pages * 8];
            self.file.read_exact_at(bytes, start / PAGE * 8).map_err(|e| {
                let errno = Errno::from_io_error(&e).unwrap_or(Errno::SRCH);
                Error::new("read the page map", self.pid, errno).at(RemoteAddr(start))
            })?;
            for entry in bytes.chunks_exact(8) {
                each(RemoteAddr(start), entry.try_into().map(u64::from_le_bytes).unwrap_or(0));
                start += PAGE;
            }
        }
        Ok(())
    }

    fn by_entries(&self, range: RemoteIoVec, each: &mut dyn FnMut(RemoteIoVec)) -> Result<()> {
        let mut run = RemoteIoVec::new(range.base.0, 0);
        self.entries(range, &mut |at, entry| {
            if entry & (ENTRY_PRESENT | ENTRY_SWAPPED) == 0 {
                return;
            }
            if run.base.0 + run.len != at.0 {
                if run.len > 0 {
                    each(run);
                }
                run = RemoteIoVec { base: at, len: 0 };
            }
            run.len += PAGE;
        })?;
        if run.len > 0 {
            each(run);
        }
        Ok(())
    }
}

/// Which pages of a process are in memory, many of them in one call (move_pages(2) without destinations): a number below 0
/// for each that isn't, or is the shared page of zeros.
///
/// # Errors
///
/// ENOSYS: a kernel without CONFIG_NUMA; EPERM, ESRCH.
pub fn residence(pid: i32, pages: &[u64]) -> Result<Vec<i32>> {
    let mut status = vec![-1; pages.len()];
    let (count, null) = (pages.len(), std::ptr::null::<libc::c_int>());
    // SAFETY: both arrays have `count` elements and outlive the call; the addresses are the other process's.
    let n = unsafe {
        libc::syscall(libc::SYS_move_pages, pid, count, pages.as_ptr(), null, status.as_mut_ptr(), 0)
    };
    if n < 0 { Err(Error::last("look for pages", pid)) } else { Ok(status) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_find_the_touched_pages() {
        let len = 16 * PAGE as usize;
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let at = unsafe {
            let (read_write, flags) =
                (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            libc::mmap(std::ptr::null_mut(), len, read_write, flags, -1, 0).cast::<u8>()
        };
        for page in [1, 2, 7] {
            // SAFETY: within the mapping.
            unsafe { at.add(page * PAGE as usize).write_volatile(1) };
        }
        let start = at as u64;
        let expected = [RemoteIoVec::new(start + PAGE, 2 * PAGE), RemoteIoVec::new(start + 7 * PAGE, PAGE)];
        let mut map = Pagemap::open(std::process::id() as i32).expect("our own");
        for scan in [true, false] {
            map.scan = scan;
            let mut found = Vec::new();
            map.populated(RemoteIoVec::new(start, len as u64), &mut |run| found.push(run)).expect("our own");
            assert_eq!(found, expected, "scan: {scan}");
        }
    }
}
