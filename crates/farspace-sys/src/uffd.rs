//! A userfaultfd in asynchronous write-protect mode (Linux 6.7): the kernel itself resolves writes to protected pages, so
//! nobody ever waits for the owner of the descriptor. When it is closed, the kernel takes all protection away.
//!
//! Layouts and numbers: include/uapi/linux/userfaultfd.h. Found pages are asked for with [`page_scan`](crate::page_scan).

use std::os::fd::{AsRawFd, OwnedFd};

use farspace_abi::RemoteIoVec;
use rustix::io::Errno;

/// Flag of userfaultfd(2): needs no privilege. Faults inside of the kernel aren't handed to the descriptor, which in
/// asynchronous mode none ever is.
pub const UFFD_USER_MODE_ONLY: u32 = 1;

const UFFD_API: u64 = 0xaa;
const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const UFFD_FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;
const UFFDIO_UNREGISTER: libc::c_ulong = 0x8010_aa01;

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

/// `struct uffdio_writeprotect`.
#[repr(C)]
struct UffdioWriteprotect {
    start: u64,
    len: u64,
    mode: u64,
}

/// `struct uffdio_range`.
#[repr(C)]
struct UffdioRange {
    start: u64,
    len: u64,
}

const _: () = assert!(
    size_of::<UffdioApi>() == 24
        && size_of::<UffdioRegister>() == 32
        && size_of::<UffdioWriteprotect>() == 24
        && size_of::<UffdioRange>() == 16
);

/// Ranges of one address space whose pages can be write-protected. Dropped, nothing of it stays protected.
#[derive(Debug)]
pub struct AsyncWriteProtect {
    fd: OwnedFd,
}

impl AsyncWriteProtect {
    /// Puts a new userfaultfd into asynchronous write-protect mode; it acts on the address space of the task that made it.
    ///
    /// # Errors
    ///
    /// EINVAL: a kernel without that mode.
    pub fn new(fd: OwnedFd) -> Result<Self, Errno> {
        let features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_UNPOPULATED | UFFD_FEATURE_WP_ASYNC;
        let mut api = UffdioApi { api: UFFD_API, features, ioctls: 0 };
        // SAFETY: the ioctl reads and writes one `struct uffdio_api`.
        check(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) })?;
        Ok(Self { fd })
    }

    /// Lets pages of a range be write-protected, by PAGEMAP_SCAN. None is yet.
    ///
    /// # Errors
    ///
    /// EBUSY: another userfaultfd has it; EINVAL: not mapped, or memory that can't be protected; EPERM: it can never
    /// be written to; ESRCH: the address space is gone.
    pub fn register(&self, range: RemoteIoVec) -> Result<(), Errno> {
        let (start, len) = (range.base.0, range.len);
        let mut range = UffdioRegister { start, len, mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
        // SAFETY: the ioctl reads and writes one `struct uffdio_register`; the addresses are the other process's,
        // whose memory keeps its contents.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_REGISTER, &raw mut range) })
    }

    /// Takes the protection away from all pages of a registered range, which stays registered.
    ///
    /// A page can have the bit without being protected: mremap(2) takes mappings out of the registration, and a write
    /// there leaves the bit as it is (wp_page_reuse, mm/memory.c).
    ///
    /// # Errors
    ///
    /// ENOENT: not all of it is registered; ESRCH: the address space is gone.
    pub fn unprotect(&self, range: RemoteIoVec) -> Result<(), Errno> {
        let mut range = UffdioWriteprotect { start: range.base.0, len: range.len, mode: 0 };
        // SAFETY: the ioctl reads one `struct uffdio_writeprotect`; as above.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_WRITEPROTECT, &raw mut range) })
    }

    /// Takes the protection and the registration of a range away.
    ///
    /// # Errors
    ///
    /// EINVAL: not mapped any more; ESRCH: the address space is gone.
    pub fn unregister(&self, range: RemoteIoVec) -> Result<(), Errno> {
        let mut range = UffdioRange { start: range.base.0, len: range.len };
        // SAFETY: the ioctl reads one `struct uffdio_range`; as above.
        check(unsafe { libc::ioctl(self.fd.as_raw_fd(), UFFDIO_UNREGISTER, &raw mut range) })
    }
}

fn check(value: libc::c_int) -> Result<(), Errno> {
    if value >= 0 {
        return Ok(());
    }
    Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO))
}
