//! A thread that no signal and no tracer reaches: it waits for a page, inside a system call.
//!
//! The page is registered with a userfaultfd that nobody serves. A fault of the kernel's own, made for a system call,
//! is retried when a signal comes instead of being given up (fault_signal_pending, include/linux/sched/signal.h).

use crate::sys;
use std::os::fd::{AsRawFd, OwnedFd};

/// ioctls and constants of include/uapi/linux/userfaultfd.h.
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;

/// The thread; it comes free when this is dropped.
pub(crate) struct Stuck {
    _userfault: OwnedFd,
}

impl Stuck {
    /// Sends a thread into the fault.
    ///
    /// # Errors
    /// Where the kernel has no userfaultfd for faults of its own, or doesn't allow it.
    pub(crate) fn new() -> Result<Self, String> {
        // SAFETY: no memory is involved; the descriptor is owned at once.
        let userfault = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
        let userfault = sys::owned("userfaultfd", userfault as i32)?;
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping; the two structures are as the kernel wants them and live through the calls.
        let page = unsafe {
            let page = libc::mmap(std::ptr::null_mut(), crate::PAGE, prot, flags, -1, 0);
            if page == libc::MAP_FAILED {
                return Err(format!("mmap: {}", std::io::Error::last_os_error()));
            }
            let mut api = [UFFD_API, 0, 0];
            sys::os("UFFDIO_API", libc::ioctl(userfault.as_raw_fd(), UFFDIO_API, api.as_mut_ptr()))?;
            let mut range = [page as u64, crate::PAGE as u64, UFFDIO_REGISTER_MODE_MISSING, 0];
            let registered = libc::ioctl(userfault.as_raw_fd(), UFFDIO_REGISTER, range.as_mut_ptr());
            sys::os("UFFDIO_REGISTER", registered)?;
            page as usize
        };
        let thread = std::thread::Builder::new().name("stuck".to_owned()).spawn(move || {
            // SAFETY: the kernel writes to a page of this program that nothing refers to.
            unsafe { libc::syscall(libc::SYS_getcwd, page, crate::PAGE) };
            loop {
                std::thread::park();
            }
        });
        thread.map_err(|e| format!("stuck thread: {e}"))?;
        sys::sleep(std::time::Duration::from_millis(50))?;
        Ok(Self { _userfault: userfault })
    }
}
