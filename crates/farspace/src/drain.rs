//! Emptying a pipe that holds pages into a sink.

use std::os::fd::BorrowedFd;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use crate::sink::{Sink, wait_a_while};
use crate::transfer::Progress;

/// The read end of a pipe, and its room in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Drain<'a> {
    pub(crate) pipe: BorrowedFd<'a>,
    pub(crate) room: usize,
}

impl Drain<'_> {
    /// Moves pages to the sink; the bytes moved.
    ///
    /// # Errors
    ///
    /// EAGAIN: the pipe is empty; EINTR: the sink was full for a while, and it is to be tried again;
    /// and as splice(2).
    pub(crate) fn move_out(self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        let flags = SpliceFlags::MOVE | SpliceFlags::MORE | SpliceFlags::NONBLOCK;
        let room = sink.room(self.room);
        match splice(self.pipe, None, sink.fd, sink.offset.as_mut(), room, flags) {
            // EAGAIN is an empty pipe or a full, non-blocking socket.
            Err(Errno::AGAIN) if !self.is_empty()? => {
                wait_a_while(sink.fd, PollFlags::OUT)?;
                Err(Errno::INTR)
            }
            Ok(n) => {
                sink.advance(n);
                Ok(n)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Copies to the sink, for those that take no pages.
    ///
    /// # Errors
    ///
    /// EAGAIN: the pipe is empty; EINTR: `progress` has broken it off; and as write(2).
    pub(crate) fn copy_out(self, sink: &mut Sink<'_>, progress: Progress<'_>) -> Result<usize, Errno> {
        if self.is_empty()? {
            return Err(Errno::AGAIN);
        }
        let mut buffer = [0; 65536];
        let n = rustix::io::read(self.pipe, &mut buffer)?;
        sink.write_asking(&buffer[..n], progress)?;
        Ok(n)
    }

    /// True if nothing is in it.
    pub(crate) fn is_empty(self) -> Result<bool, Errno> {
        rustix::io::ioctl_fionread(self.pipe).map(|n| n == 0)
    }
}
