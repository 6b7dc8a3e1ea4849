//! Waiting on the caller's side for a descriptor that isn't ready.
//!
//! An agent that waits in a system call can be interrupted, but not by the death of this process: it would go on
//! waiting, with a copy of the descriptor. So calls that move bytes through a pipe, a socket or a terminal wait here
//! first, with poll(2), and the agent is asked only when it needn't wait. What remains is that another reader is
//! faster, or that a write is larger than what there is room for.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::call::Arg;
use crate::Result;
use crate::syscalls::Call;

/// How often a wait asks whether it is to go on.
const ASK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// Waits until the call has something to do. EINTR: `go_on` said `Break`, or a signal handler has run.
///
/// `check` is asked as often, and its error ends the wait.
pub(super) fn wait(
    call: &Call,
    args: &[Arg<'_>; 6],
    go_on: &mut dyn FnMut() -> ControlFlow<()>,
    check: impl Fn() -> Result<()>,
) -> Result<std::result::Result<(), Errno>> {
    let Some((fd, events)) = may_block(call, args) else { return Ok(Ok(())) };
    loop {
        match poll(&mut [PollFd::from_borrowed_fd(fd, events)], Some(&ASK)) {
            Ok(0) => check()?,
            // Also where it can't be polled: the call says more.
            Ok(_) => return Ok(Ok(())),
            Err(Errno::INTR) => return Ok(Err(Errno::INTR)),
            Err(_) => return Ok(Ok(())),
        }
        if go_on().is_break() {
            return Ok(Err(Errno::INTR));
        }
    }
}

/// What to wait for, where the call would block and not fail at once.
fn may_block<'a>(call: &Call, args: &[Arg<'a>; 6]) -> Option<(BorrowedFd<'a>, PollFlags)> {
    let (&Arg::Fd(fd), &Arg::Word(amount)) = (&args[call.fd?], &args[2]) else { return None };
    let flags = rustix::fs::fcntl_getfl(fd).ok()?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(fd).ok()?.st_mode);
    let mode = flags & OFlags::RWMODE;
    let reads = mode != OFlags::WRONLY;
    let writes = mode != OFlags::RDONLY;
    let events = match i64::try_from(call.nr).ok()? {
        libc::SYS_read | libc::SYS_readv if reads => PollFlags::IN,
        libc::SYS_write | libc::SYS_writev if writes => PollFlags::OUT,
        libc::SYS_vmsplice if kind == FileType::Fifo && !has_nonblock(&args[3]) => {
            if writes {
                PollFlags::OUT
            } else {
                PollFlags::IN
            }
        }
        // pread and the like fail at once on what can be waited for.
        _ => return None,
    };
    let is_instant = matches!(kind, FileType::RegularFile | FileType::Directory | FileType::BlockDevice);
    (amount > 0 && !is_instant && !flags.intersects(OFlags::NONBLOCK | OFlags::PATH)).then_some((fd, events))
}

fn has_nonblock(flags: &Arg<'_>) -> bool {
    matches!(flags, Arg::Word(flags) if flags & u64::from(libc::SPLICE_F_NONBLOCK) != 0)
}
