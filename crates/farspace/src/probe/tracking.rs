//! Write tracking: userfaultfd in asynchronous write-protect mode and the PAGEMAP_SCAN ioctl (Linux 6.7).

use std::fs::File;

use farspace_sys::RemoteIoVec;
use farspace_sys::page_scan::{
    self, PAGE_IS_WRITTEN, PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING, PageRegion, Query,
};
use farspace_sys::uffd::{AsyncWriteProtect, UFFD_USER_MODE_ONLY};
use rustix::io::Errno;
use rustix::mm::UserfaultfdFlags;

use super::mapping::Mapping;

const PAGE: usize = 4096;

/// What was written since the last look; from this one on it counts anew.
const WRITTEN: Query = Query {
    flags: PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
    category_inverted: 0,
    category_mask: PAGE_IS_WRITTEN,
    category_anyof_mask: 0,
    return_mask: PAGE_IS_WRITTEN,
};

/// What a trial of write tracking showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteTracking {
    /// After one page of four was written, the scan named that page and no other.
    pub exact: bool,
}

/// Arms four own pages, writes one, and scans for written pages.
///
/// # Errors
///
/// EPERM from userfaultfd in a container that forbids it, EINVAL where the kernel lacks the asynchronous mode, ENOTTY where
/// it lacks the scan.
pub fn write_tracking() -> Result<WriteTracking, Errno> {
    let mut pages = Mapping::anonymous(4 * PAGE)?;
    for page in 0..4 {
        pages.poke(page * PAGE, 1);
    }
    let _uffd = register(&pages)?;
    let pagemap =
        File::open("/proc/self/pagemap").map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
    scan(&pagemap, &pages)?;
    pages.poke(2 * PAGE, 2);
    let written = scan(&pagemap, &pages)?;
    let third = pages.as_ptr() as u64 + 2 * PAGE as u64;
    let exact =
        matches!(written.as_slice(), [only] if only.start == third && only.end == third + PAGE as u64);
    Ok(WriteTracking { exact })
}

/// Registers the pages for asynchronous write protection; tracking ends when the descriptor closes.
fn register(pages: &Mapping) -> Result<AsyncWriteProtect, Errno> {
    let flags = UserfaultfdFlags::CLOEXEC
        | UserfaultfdFlags::NONBLOCK
        | UserfaultfdFlags::from_bits_retain(UFFD_USER_MODE_ONLY);
    // SAFETY: the descriptor affects only ranges registered through it, which are `pages`.
    let uffd = AsyncWriteProtect::new(unsafe { rustix::mm::userfaultfd(flags)? })?;
    uffd.register(RemoteIoVec::new(pages.as_ptr() as u64, pages.len_bytes() as u64))?;
    Ok(uffd)
}

/// Returns the written ranges and protects them again.
fn scan(pagemap: &File, pages: &Mapping) -> Result<Vec<PageRegion>, Errno> {
    let mut found = [PageRegion::default(); 4];
    let start = pages.as_ptr() as u64;
    let (nr, _) = page_scan::scan(pagemap, WRITTEN, start..start + pages.len_bytes() as u64, &mut found)?;
    Ok(found.into_iter().take(nr).collect())
}
