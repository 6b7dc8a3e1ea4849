//! Where the bytes go.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};

use farspace_abi::RemoteIoVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::net::AddressFamily;

use crate::transfer::Progress;

/// How often a pipe may be looked at before sleeping: some 30 us in all.
const LOOKS: u32 = 32;

/// Where the bytes go.
#[derive(Debug)]
pub struct Sink<'a> {
    pub(crate) fd: BorrowedFd<'a>,
    /// Where in the file the next byte goes.
    pub(crate) offset: Option<u64>,
    /// Where the next bytes go, last first; a stream or a plain file has none.
    extents: Vec<Extent>,
}

/// A place in a file for some of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Length in bytes, not 0.
    pub len: u64,
}

impl<'a> Sink<'a> {
    /// A socket, pipe or device: bytes go out one after the other.
    ///
    /// A stream socket that is O_NONBLOCK is filled by the agent itself, which is faster; in one that can block the
    /// agent would hear nobody.
    pub fn stream(fd: BorrowedFd<'a>) -> Self {
        Self { fd, offset: None, extents: Vec::new() }
    }

    /// A file, from `offset` bytes on; its own position is left alone.
    pub fn file_at(fd: BorrowedFd<'a>, offset: u64) -> Self {
        Self { fd, offset: Some(offset), extents: Vec::new() }
    }

    /// Places in a file, one after the other: one [`Target::splice`](crate::Target::splice) of many ranges can
    /// leave holes between them.
    pub fn scattered(fd: BorrowedFd<'a>, extents: &[Extent]) -> Self {
        let extents: Vec<_> = extents.iter().rev().copied().filter(|extent| extent.len > 0).collect();
        Self { fd, offset: extents.last().map(|extent| extent.offset), extents }
    }

    /// True if bytes go out one after the other, at no place of the caller's choice.
    pub(crate) fn is_plain_stream(&self) -> bool {
        self.offset.is_none() && self.extents.is_empty()
    }

    /// The pipe size that was fastest into this kind of sink. A TCP receiver copies what is still in the cache if
    /// little is under way; everything else gains by fewer hand-offs.
    pub(crate) fn best_pipe_bytes(&self) -> usize {
        let family = rustix::net::sockopt::socket_domain(self.fd);
        let is_tcp = matches!(family, Ok(AddressFamily::INET | AddressFamily::INET6));
        if is_tcp { 256 << 10 } else { usize::MAX }
    }

    /// How often either side may look for the other before it sleeps. To be put to sleep and woken costs more than
    /// that only where the bytes just vanish; a receiver or a file makes better use of the CPU.
    pub(crate) fn looks(&self) -> u32 {
        let stat = rustix::fs::fstat(self.fd);
        let is_device = stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice);
        if is_device { LOOKS } else { 0 }
    }

    /// Where in the file the ranges go, if it is one.
    pub(crate) fn places(&self, ranges: &[RemoteIoVec]) -> Vec<Extent> {
        match self.offset {
            Some(_) if !self.extents.is_empty() => self.extents.iter().rev().copied().collect(),
            Some(offset) => vec![Extent { offset, len: ranges.iter().map(|range| range.len).sum() }],
            None => Vec::new(),
        }
    }

    /// How many bytes may go to the present place.
    pub(crate) fn room(&self, wanted: usize) -> usize {
        self.extents.last().map_or(wanted, |extent| wanted.min(extent.len as usize))
    }

    /// Steps over bytes that have gone out, after the offset.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let Some(extent) = self.extents.last_mut() else { return };
        extent.len -= (bytes as u64).min(extent.len);
        if extent.len == 0 {
            self.extents.pop();
            if let Some(next) = self.extents.last() {
                self.offset = Some(next.offset);
            }
        }
    }

    /// Writes bytes that are here, and waits for room where the descriptor is O_NONBLOCK.
    ///
    /// # Errors
    ///
    /// As write(2).
    pub fn write_all(&mut self, bytes: &[u8]) -> std::result::Result<(), Errno> {
        self.write_asking(bytes, &mut |_| ControlFlow::Continue(()))
    }

    /// The same; `progress` is told 0 while nothing is taken, and can end it with EINTR.
    pub(crate) fn write_asking(
        &mut self,
        mut bytes: &[u8],
        progress: Progress<'_>,
    ) -> std::result::Result<(), Errno> {
        while !bytes.is_empty() {
            let room = self.room(bytes.len());
            let written = match self.offset {
                Some(offset) => rustix::io::pwrite(self.fd, &bytes[..room], offset),
                None => rustix::io::write(self.fd, bytes),
            };
            match written {
                Ok(n) => {
                    bytes = &bytes[n..];
                    if let Some(offset) = &mut self.offset {
                        *offset += n as u64;
                    }
                    self.advance(n);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    wait_a_while(self.fd, PollFlags::OUT)?;
                    if progress(0).is_break() {
                        return Err(Errno::INTR);
                    }
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// Waits until a descriptor is ready, or the caller should be asked whether to go on.
pub(crate) fn wait_a_while(fd: BorrowedFd<'_>, flags: PollFlags) -> std::result::Result<(), Errno> {
    const WHILE: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    match poll(&mut [PollFd::new(&fd.as_fd(), flags)], Some(&WHILE)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
