//! From a socket into a file, without a copy by this process.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{SpliceFlags, splice};

use super::StreamError;
use super::connection::{Connection, Trouble};

/// Bytes of the pipe between the two.
const PIPE_BYTES: usize = 1 << 20;

/// A pipe between sockets and files; empty but during a move.
pub(crate) struct Pump {
    read: OwnedFd,
    write: OwnedFd,
    room: usize,
}

/// Which side failed.
#[derive(Debug)]
pub(crate) enum Leak {
    /// The socket, or the caller.
    Trouble(Trouble),
    /// The file.
    File(io::Error),
}

impl Pump {
    pub(crate) fn new() -> Result<Self, StreamError> {
        let (read, write, room) = farspace_sys::pipe::with_room(PIPE_BYTES).map_err(StreamError::of)?;
        Ok(Self { read, write, room })
    }

    /// Moves exactly `len` bytes to a place in a file. `step` is told the bytes of each step, 0 where nothing moves; `Break`
    /// ends it.
    pub(crate) fn run(
        &self,
        from: &Connection,
        to: &File,
        offset: u64,
        len: u64,
        step: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<(), Leak> {
        let (mut at, end) = (offset, offset + len);
        let mut deadline = Instant::now() + from.timeout();
        let flags = SpliceFlags::MOVE | SpliceFlags::MORE | SpliceFlags::NONBLOCK;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(self.room);
            match splice(from.fd(), None, &self.write, None, want, flags) {
                Ok(0) => return Err(Leak::Trouble(StreamError::Closed.into())),
                Ok(n) => {
                    self.empty(to, at, n).map_err(Leak::File)?;
                    at += n as u64;
                    deadline = Instant::now() + from.timeout();
                    if step(n as u64).is_break() {
                        return Err(Leak::Trouble(Trouble::Interrupted));
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    from.wait(PollFlags::IN, deadline, &mut || step(0)).map_err(Leak::Trouble)?;
                }
                Err(errno) => return Err(Leak::Trouble(StreamError::of(errno).into())),
            }
        }
        Ok(())
    }

    fn empty(&self, to: &File, offset: u64, len: usize) -> io::Result<()> {
        let (mut at, end) = (offset, offset + len as u64);
        while at < end {
            let left = (end - at) as usize;
            match splice(self.read.as_fd(), None, to, Some(&mut at), left, SpliceFlags::MOVE) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) | Err(Errno::INTR) => {}
                // A file system that takes no pages.
                Err(Errno::INVAL) => {
                    let mut buffer = vec![0; left.min(64 << 10)];
                    let n = rustix::io::read(&self.read, &mut buffer)?;
                    to.write_all_at(&buffer[..n], at)?;
                    at += n as u64;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(())
    }
}
