//! The copying fallbacks: the same results as without a copy, but for the copy.
//!
//! Invariants: SAFETY.md, 14.

use std::os::fd::BorrowedFd;

use farspace_abi::RemoteIoVec;
use farspace_sys::{memory, pipe};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::{Error, Result, SpliceFlags};

const PAGE: u64 = 4096;

/// Fresh pages of this process; what is in a pipe survives the unmapping.
struct Pages {
    at: *mut core::ffi::c_void,
    len: usize,
}

impl Pages {
    fn new(len: usize) -> std::result::Result<Self, Errno> {
        // SAFETY: a new private mapping at an address of the kernel's choice.
        let at = unsafe {
            mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)?
        };
        Ok(Self { at, len })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is this value's own, `len` bytes, zeroed by the kernel, exclusively borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.at.cast(), self.len) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        // SAFETY: this value's own mapping, to which no reference is left.
        let _ = unsafe { munmap(self.at, self.len) };
    }
}

/// One process_vmsplice by copy: the pages are copied by process_vm_readv(2) into fresh pages at the same
/// offset within the page, and these are mapped into the pipe. So slots, counts, waiting and signals are those
/// of vmsplice(2).
pub(crate) fn vmsplice(
    pid: i32,
    fd: BorrowedFd<'_>,
    iov: &[RemoteIoVec],
    flags: SpliceFlags,
) -> Result<usize> {
    let error = |errno| Error::new("copy the memory", pid, errno);
    // No more than this fits, whatever the pipe's occupancy is.
    let room = rustix::pipe::fcntl_getpipe_size(fd).map_err(error)? as u64;
    let mut left = room;
    let mut at = 0;
    let mut places = Vec::new();
    for segment in iov {
        let len = segment.len.min(left);
        if len == 0 {
            break;
        }
        left -= len;
        let offset = at + segment.base.0 % PAGE;
        places.push((RemoteIoVec { base: segment.base, len }, offset));
        at = (offset + len).next_multiple_of(PAGE);
    }
    let mut pages = Pages::new(at as usize).map_err(error)?;
    let start = pages.at as u64;
    let bytes = pages.bytes();
    let mut local = Vec::new();
    for (segment, offset) in places {
        let into = &mut bytes[offset as usize..(offset + segment.len) as usize];
        let copied = match memory::process_vm_readv(pid, &[segment], into) {
            Ok(copied) => copied as u64,
            Err(e) if e.errno == Errno::FAULT => 0,
            Err(e) => return Err(e.into()),
        };
        if copied > 0 {
            local.push(RemoteIoVec::new(start + offset, copied));
        }
        if copied < segment.len {
            break;
        }
    }
    if local.is_empty() {
        wait_writable(fd, flags).map_err(error)?;
        return Err(error(Errno::FAULT).at(iov.first().map_or_else(Default::default, |s| s.base)));
    }
    // SAFETY: the ranges lie in `pages`, which nothing writes to any more.
    unsafe { pipe::vmsplice(fd, &local, (flags - SpliceFlags::PIDFD).bits()) }.map_err(error)
}

/// Waits until the pipe has a free slot; a pipe without readers counts as free.
pub(crate) fn wait_writable(fd: BorrowedFd<'_>, flags: SpliceFlags) -> std::result::Result<(), Errno> {
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let timeout = flags.contains(SpliceFlags::NONBLOCK).then_some(&now);
    match poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], timeout)? {
        0 => Err(Errno::AGAIN),
        _ => Ok(()),
    }
}
