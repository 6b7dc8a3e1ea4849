//! Passing descriptors to another process (unix(7), SCM_RIGHTS).

use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use rustix::io::{Errno, IoSlice};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

/// Descriptors that one message carries at most.
const MOST: usize = 8;

/// Sends at most eight descriptors over a Unix socket, with one byte of data.
///
/// # Errors
///
/// EINVAL: more than eight; EPIPE, ECONNRESET: the other end is closed (without a SIGPIPE); EAGAIN.
pub fn send_fds(socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    sendmsg(socket, &[IoSlice::new(b"F")], &mut control, SendFlags::NOSIGNAL).map(drop)
}
