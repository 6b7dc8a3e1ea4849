//! Write tracking: userfaultfd in asynchronous write-protect mode and the PAGEMAP_SCAN ioctl (Linux 6.7).
//!
//! Layouts and numbers: include/uapi/linux/userfaultfd.h.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};

use farspace_sys::page_scan::{
    self, PAGE_IS_WRITTEN, PM_SCAN_CHECK_WPASYNC, PM_SCAN_WP_MATCHING, PageRegion, Query,
};
use rustix::io::Errno;
use rustix::mm::UserfaultfdFlags;

use super::check;
use super::mapping::Mapping;

const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;

const PAGE: usize = 4096;

/// `struct uffdio_api`.
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`.
#[repr(C)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

const _: () = assert!(size_of::<UffdioApi>() == 24 && size_of::<UffdioRegister>() == 32);

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
/// EPERM from userfaultfd without privilege, EINVAL where the kernel lacks the asynchronous mode, ENOTTY where
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
fn register(pages: &Mapping) -> Result<OwnedFd, Errno> {
    // SAFETY: the descriptor affects only ranges registered through it, which are `pages`.
    let uffd = unsafe { rustix::mm::userfaultfd(UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK)? };
    let features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;
    let mut api = UffdioApi { api: UFFD_API, features, ioctls: 0 };
    // SAFETY: the ioctl reads and writes one `struct uffdio_api`.
    check(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, &raw mut api) }.into())?;
    let (start, len) = (pages.as_ptr() as u64, pages.len_bytes() as u64);
    let mut range = UffdioRegister { start, len, mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
    // SAFETY: the ioctl reads and writes one `struct uffdio_register`; the range is ours.
    check(unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_REGISTER, &raw mut range) }.into())?;
    Ok(uffd)
}

/// Returns the written ranges and protects them again.
fn scan(pagemap: &File, pages: &Mapping) -> Result<Vec<PageRegion>, Errno> {
    let mut found = [PageRegion::default(); 4];
    let start = pages.as_ptr() as u64;
    let (nr, _) = page_scan::scan(pagemap, WRITTEN, start..start + pages.len_bytes() as u64, &mut found)?;
    Ok(found.into_iter().take(nr).collect())
}
