//! The PAGEMAP_SCAN ioctl (Linux 6.7; Documentation/admin-guide/mm/pagemap.rst, include/uapi/linux/fs.h).

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use rustix::io::Errno;

/// Written since it was last protected.
pub const PAGE_IS_WRITTEN: u64 = 1 << 1;
/// A page of a file, or of shared memory.
pub const PAGE_IS_FILE: u64 = 1 << 2;
/// In memory.
pub const PAGE_IS_PRESENT: u64 = 1 << 3;
/// In swap.
pub const PAGE_IS_SWAPPED: u64 = 1 << 4;
/// The shared page of zeros.
pub const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// Mapped as a huge page.
pub const PAGE_IS_HUGE: u64 = 1 << 6;
/// Written since the soft-dirty bits were cleared.
pub const PAGE_IS_SOFT_DIRTY: u64 = 1 << 7;
/// Flag: write-protects what was found.
pub const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
/// Flag: fails where pages aren't protected asynchronously.
pub const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;

/// Neighbouring pages with the same categories: `struct page_region`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct PageRegion {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// PAGE_IS_* of these pages.
    pub categories: u64,
}

/// Which pages are looked for; all masks are of PAGE_IS_*.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// PM_SCAN_*.
    pub flags: u64,
    /// Categories that count as their opposite.
    pub category_inverted: u64,
    /// Pages have all of these.
    pub category_mask: u64,
    /// Pages have any of these, unless it is 0.
    pub category_anyof_mask: u64,
    /// Categories that are returned.
    pub return_mask: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
struct PmScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<PageRegion>() == 24 && size_of::<PmScanArg>() == 0x60);

/// Looks for pages in a range, on an open /proc/PID/pagemap. Returns how many regions were found, and where the walk
/// ended for want of room.
///
/// # Errors
///
/// ENOTTY: an older kernel; EINVAL: a flag or category that this one doesn't know; EFAULT: not addresses of programs;
/// EINTR.
pub fn scan(
    pagemap: &File,
    query: Query,
    range: Range<u64>,
    found: &mut [PageRegion],
) -> Result<(usize, u64), Errno> {
    let mut arg = PmScanArg {
        size: size_of::<PmScanArg>() as u64,
        flags: query.flags,
        start: range.start,
        end: range.end,
        walk_end: 0,
        // A pointer without a length is an error to some kernels.
        vec: if found.is_empty() { 0 } else { found.as_mut_ptr() as u64 },
        vec_len: found.len() as u64,
        max_pages: 0,
        category_inverted: query.category_inverted,
        category_mask: query.category_mask,
        category_anyof_mask: query.category_anyof_mask,
        return_mask: query.return_mask,
    };
    // SAFETY: `arg` and the array that it points to outlive the call, and the lengths are right.
    let n = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut arg) };
    match usize::try_from(n) {
        Ok(n) => Ok((n.min(found.len()), arg.walk_end)),
        Err(_) => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)),
    }
}
