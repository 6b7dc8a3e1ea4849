//! vmsplice(2), splice(2) and pipe sizes.
//!
//! Invariants: SAFETY.md, 14.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use farspace_abi::RemoteIoVec;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;

/// Makes a pipe with room for `bytes` where allowed (pipe(7), F_SETPIPE_SZ), less otherwise: read end, write
/// end, bytes of room.
///
/// # Errors
///
/// EMFILE, ENFILE, ENOMEM.
pub fn with_room(bytes: usize) -> Result<(OwnedFd, OwnedFd, usize), Errno> {
    let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let mut wanted = bytes.max(4096);
    // Above pipe-max-size without CAP_SYS_RESOURCE: EPERM; above the user's pages: EPERM or EBUSY.
    while wanted > 65536 && rustix::pipe::fcntl_setpipe_size(&write, wanted).is_err() {
        wanted /= 2;
    }
    let room = rustix::pipe::fcntl_getpipe_size(&write)?;
    Ok((read, write, room))
}

/// Maps pages of this process into a pipe (vmsplice(2)).
///
/// # Errors
///
/// As in the man page.
///
/// # Safety
///
/// The kernel keeps the pages; what is written to them later shows up in the pipe. The addresses are only
/// read, so they may be any.
pub unsafe fn vmsplice(pipe: BorrowedFd<'_>, iov: &[RemoteIoVec], flags: u32) -> Result<usize, Errno> {
    // SAFETY: the slice is laid out as an array of `struct iovec`; the rest is the caller's promise.
    let n = unsafe { libc::vmsplice(pipe.as_raw_fd(), iov.as_ptr().cast::<libc::iovec>(), iov.len(), flags) };
    if n < 0 {
        let code = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
        return Err(Errno::from_raw_os_error(code));
    }
    Ok(n as usize)
}

/// True if the descriptor is the write end of a pipe.
pub fn is_pipe_writer(fd: BorrowedFd<'_>) -> bool {
    let pipe = rustix::pipe::fcntl_getpipe_size(fd).is_ok();
    let mode = rustix::fs::fcntl_getfl(fd).map(|flags| flags & rustix::fs::OFlags::RWMODE);
    pipe && matches!(mode, Ok(rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::RDWR))
}
