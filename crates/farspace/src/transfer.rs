//! Moving ranges into a file or a socket: page by page through a bounded pipe, or by copy.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use farspace_abi::mailbox::MAX_IOV;
use farspace_abi::{RemoteAddr, RemoteIoVec};
use farspace_inject::{self as inject, Agent, Channel, Pending};
use farspace_sys::memory::{self, Memory};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::pipe::{SpliceFlags, splice};

use crate::share::{FarCopy, Work, locate};
use crate::target::BoundedPipe;
use crate::{Error, Result};

/// [`Error::operation`] where the sink, not the target, is what failed.
pub const WRITE_OUT: &str = "write out the memory";

/// Given the bytes of each step; `Break` ends the transfer with EINTR.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// How often a pipe is looked at before sleeping, and the pauses in between: some 30 us in all.
const LOOKS: u32 = 32;
const BETWEEN_LOOKS: u32 = 16;

/// Bytes of the buffer of the copying mechanisms.
const BUFFER_BYTES: usize = 1 << 20;

/// Where the bytes go.
#[derive(Debug)]
pub struct Sink<'a> {
    fd: BorrowedFd<'a>,
    offset: Option<u64>,
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

    /// The pipe size that was fastest into this kind of sink. A TCP receiver copies what is still in the cache if
    /// little is under way; everything else gains by fewer hand-offs.
    fn best_pipe_bytes(&self) -> usize {
        let family = rustix::net::sockopt::socket_domain(self.fd);
        let is_tcp = matches!(family, Ok(AddressFamily::INET | AddressFamily::INET6));
        if is_tcp { 256 << 10 } else { usize::MAX }
    }

    /// How often either side may look for the other before it sleeps. To be put to sleep and woken costs more than
    /// that only where the bytes just vanish; a receiver or a file makes better use of the CPU.
    fn looks(&self) -> u32 {
        let stat = rustix::fs::fstat(self.fd);
        let is_device = stat.is_ok_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::CharacterDevice);
        if is_device { LOOKS } else { 0 }
    }

    /// Where in the file the ranges go, if it is one.
    fn places(&self, ranges: &[RemoteIoVec]) -> Vec<Extent> {
        match self.offset {
            Some(_) if !self.extents.is_empty() => self.extents.iter().rev().copied().collect(),
            Some(offset) => vec![Extent { offset, len: ranges.iter().map(|range| range.len).sum() }],
            None => Vec::new(),
        }
    }

    /// How many bytes may go to the present place.
    fn room(&self, wanted: usize) -> usize {
        self.extents.last().map_or(wanted, |extent| wanted.min(extent.len as usize))
    }

    /// Steps over bytes that have gone out, after the offset.
    fn advance(&mut self, bytes: usize) {
        let Some(extent) = self.extents.last_mut() else { return };
        extent.len -= (bytes as u64).min(extent.len);
        if extent.len == 0 {
            self.extents.pop();
            if let Some(next) = self.extents.last() {
                self.offset = Some(next.offset);
            }
        }
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> std::result::Result<(), Errno> {
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
                Err(Errno::AGAIN) => wait_for(self.fd, PollFlags::OUT)?,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// What has been moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Bytes that have reached the sink.
    pub bytes: u64,
    /// The first address that couldn't be had, and why; `None` if all of it was.
    pub stopped: Option<(RemoteAddr, Errno)>,
}

/// Where the bytes come from.
pub(crate) enum Source<'a> {
    /// A task in the address space maps its pages into the pipe.
    Pages { channel: Channel<'a>, pipe: &'a BoundedPipe, agent: &'a Arc<Agent>, far: FarCopy<'a> },
    /// /proc/PID/mem.
    Memory(&'a Memory),
    /// process_vm_readv(2).
    ReadV,
}

impl Source<'_> {
    pub(crate) fn transfer(
        &self,
        pid: i32,
        ranges: &[RemoteIoVec],
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        if let Self::Pages { pipe, .. } = self {
            pipe.fit(sink.best_pipe_bytes());
        }
        match Work::shared(ranges, &sink.places(ranges), sink.fd) {
            Some(work) => self.share(pid, ranges, &work, sink, progress),
            None => self.alone(pid, ranges, sink, progress),
        }
    }

    fn alone(
        &self,
        pid: i32,
        ranges: &[RemoteIoVec],
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        let mut total = 0;
        for chunk in ranges.chunks(MAX_IOV) {
            let done = match self {
                Self::Pages { channel, pipe, agent, .. } => {
                    PageStream { pid, channel: *channel, pipe, agent }.run(chunk, sink, progress)
                }
                Self::Memory(memory) => {
                    by_copy(pid, chunk, sink, progress, |at, buffer| memory.read(at, buffer))
                }
                Self::ReadV => by_copy(pid, chunk, sink, progress, |at, buffer| {
                    memory::process_vm_readv(
                        pid,
                        &[RemoteIoVec { base: at, len: buffer.len() as u64 }],
                        buffer,
                    )
                }),
            }?;
            total += done.bytes;
            if done.stopped.is_some() {
                return Ok(Transfer { bytes: total, stopped: done.stopped });
            }
        }
        Ok(Transfer { bytes: total, stopped: None })
    }

    /// Splices the near end while a helper copies the far end.
    fn share(
        &self,
        pid: i32,
        ranges: &[RemoteIoVec],
        work: &Work,
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        let copy = match self {
            Self::Pages { far, .. } => Some(*far),
            Self::Memory(memory) => Some(FarCopy::Memory(memory)),
            Self::ReadV => None,
        };
        let file = sink.fd.try_clone_to_owned().ok();
        let near = std::thread::scope(|scope| {
            if let (Some(copy), Some(file)) = (copy, &file) {
                // Without the thread the near end simply gets there by itself.
                let helper = std::thread::Builder::new().name("farspace-copy".to_owned());
                let _ = helper.spawn_scoped(scope, move || work.copy_far_end(copy, file));
            }
            let done = self.near_end(pid, work, sink, progress);
            work.ended.store(true, Ordering::Relaxed);
            done
        });
        let near = near?;
        if near.stopped.is_some() {
            return Ok(near);
        }
        if let Self::Pages { agent, far: FarCopy::ReadV(_), .. } = self
            && work.copied.load(Ordering::Relaxed) > 0
        {
            // That went by pid: it must have been the same program to the end.
            agent.check()?;
        }
        let total = ranges.iter().map(|range| range.len).sum();
        Ok(Transfer { bytes: total, stopped: None })
    }

    fn near_end(
        &self,
        pid: i32,
        work: &Work,
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        let mut bytes = 0;
        let mut told = 0;
        while let Some((ranges, places)) = work.take_near() {
            let mut part = Sink::scattered(sink.fd, &places);
            let done = self.alone(pid, &ranges, &mut part, progress)?;
            bytes += done.bytes;
            if done.stopped.is_some() {
                return Ok(Transfer { bytes, stopped: done.stopped });
            }
            let copied = work.copied.load(Ordering::Relaxed);
            if progress(copied - told).is_break() {
                return Err(interrupted(pid));
            }
            told = copied;
        }
        Ok(Transfer { bytes, stopped: None })
    }
}

/// The agent fills the pipe while this thread empties it.
struct PageStream<'a> {
    pid: i32,
    channel: Channel<'a>,
    pipe: &'a BoundedPipe,
    agent: &'a Arc<Agent>,
}

impl PageStream<'_> {
    fn run(&self, ranges: &[RemoteIoVec], sink: &mut Sink<'_>, progress: Progress<'_>) -> Result<Transfer> {
        let expected: u64 = ranges.iter().map(|range| range.len).sum();
        if expected == 0 {
            return Ok(Transfer { bytes: 0, stopped: None });
        }
        let pending = self.channel.start_stream(&self.pipe.write, ranges, sink.looks())?;
        let mut bytes = 0;
        let outcome = self.empty(&pending, expected, &mut bytes, sink, progress);
        if outcome.is_err() {
            // The agent may be waiting for room: take what it has until it is through.
            self.discard(&pending)?;
        }
        outcome?;
        match pending.wait("map pages into the pipe") {
            Ok(_) => Ok(Transfer { bytes, stopped: None }),
            Err(inject::Error::Agent { errno, .. }) => {
                Ok(Transfer { bytes, stopped: locate(ranges, bytes).map(|at| (at, errno)) })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn empty(
        &self,
        pending: &Pending<'_>,
        expected: u64,
        bytes: &mut u64,
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> Result<()> {
        let error = |errno| Error::new(WRITE_OUT, self.pid, errno);
        let mut copying = false;
        let may_look = if self.agent.may_spin() { sink.looks() } else { 0 };
        let mut looks = may_look;
        while *bytes < expected {
            let step = if copying { self.copy_out(sink) } else { self.move_out(sink) };
            match step {
                Ok(0) => return Err(inject::Error::Gone { pid: self.pid }.into()),
                Ok(n) => {
                    *bytes += n as u64;
                    if progress(n as u64).is_break() {
                        return Err(interrupted(self.pid));
                    }
                }
                Err(Errno::AGAIN) if looks > 0 && !pending.is_done() => {
                    looks -= 1;
                    for _ in 0..BETWEEN_LOOKS {
                        std::hint::spin_loop();
                    }
                    continue;
                }
                Err(Errno::AGAIN) => {
                    if self.wait_filled(pending).map_err(error)? && self.is_empty().map_err(error)? {
                        return Ok(());
                    }
                }
                Err(Errno::INTR) => {}
                // This file or device takes no pages (a terminal, O_APPEND): copy from the pipe.
                Err(Errno::INVAL) if !copying => copying = true,
                Err(errno) => return Err(error(errno)),
            }
            looks = may_look;
        }
        Ok(())
    }

    fn move_out(&self, sink: &mut Sink<'_>) -> std::result::Result<usize, Errno> {
        let flags = SpliceFlags::MOVE | SpliceFlags::MORE | SpliceFlags::NONBLOCK;
        let room = sink.room(self.pipe.room());
        match splice(&self.pipe.read, None, sink.fd, sink.offset.as_mut(), room, flags) {
            // EAGAIN is an empty pipe or a full, non-blocking socket.
            Err(Errno::AGAIN) if !self.is_empty()? => {
                wait_for(sink.fd, PollFlags::OUT)?;
                Err(Errno::INTR)
            }
            Ok(n) => {
                sink.advance(n);
                Ok(n)
            }
            Err(errno) => Err(errno),
        }
    }

    fn copy_out(&self, sink: &mut Sink<'_>) -> std::result::Result<usize, Errno> {
        if self.is_empty()? {
            return Err(Errno::AGAIN);
        }
        let mut buffer = [0; 65536];
        let n = rustix::io::read(&self.pipe.read, &mut buffer)?;
        sink.write_all(&buffer[..n])?;
        Ok(n)
    }

    fn is_empty(&self) -> std::result::Result<bool, Errno> {
        rustix::io::ioctl_fionread(&self.pipe.read).map(|n| n == 0)
    }

    /// Sleeps until the pipe has something (false) or the agent is through (true).
    fn wait_filled(&self, pending: &Pending<'_>) -> std::result::Result<bool, Errno> {
        if pending.ask_for_bell() {
            return Ok(true);
        }
        let bell = pending.bell();
        let ended = self.agent.pidfd();
        let mut fds = [
            PollFd::new(&self.pipe.read, PollFlags::IN),
            PollFd::new(&bell, PollFlags::IN),
            PollFd::new(&ended, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        if !fds[1].revents().is_empty() {
            let mut count = [0; 8];
            let _ = rustix::io::read(bell, &mut count);
        }
        Ok(!fds[2].revents().is_empty() || pending.is_done())
    }

    /// Throws away what the agent still puts into the pipe.
    fn discard(&self, pending: &Pending<'_>) -> Result<()> {
        let error = |errno| Error::new("empty the pipe", self.pid, errno);
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let null = rustix::fs::open("/dev/null", flags, Mode::empty()).map_err(error)?;
        let mut nowhere = Sink::stream(null.as_fd());
        loop {
            match self.move_out(&mut nowhere) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if self.wait_filled(pending).map_err(error)? && self.is_empty().map_err(error)? {
                        return Ok(());
                    }
                }
                Err(errno) => return Err(error(errno)),
            }
        }
    }
}

fn by_copy(
    pid: i32,
    ranges: &[RemoteIoVec],
    sink: &mut Sink<'_>,
    progress: Progress<'_>,
    read: impl Fn(RemoteAddr, &mut [u8]) -> farspace_sys::Result<usize>,
) -> Result<Transfer> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut bytes = 0;
    for range in ranges {
        let mut done = 0;
        while done < range.len {
            let want = (range.len - done).min(BUFFER_BYTES as u64) as usize;
            let at = RemoteAddr(range.base.0.wrapping_add(done));
            let n = match read(at, &mut buffer[..want]) {
                Ok(0) => return Ok(Transfer { bytes, stopped: Some((at, Errno::FAULT)) }),
                Ok(n) => n,
                Err(e) if matches!(e.errno, Errno::FAULT | Errno::IO) => {
                    return Ok(Transfer { bytes, stopped: Some((at, Errno::FAULT)) });
                }
                Err(e) => return Err(e.into()),
            };
            sink.write_all(&buffer[..n]).map_err(|errno| Error::new(WRITE_OUT, pid, errno))?;
            done += n as u64;
            bytes += n as u64;
            if progress(n as u64).is_break() {
                return Err(interrupted(pid));
            }
        }
    }
    Ok(Transfer { bytes, stopped: None })
}

fn interrupted(pid: i32) -> Error {
    Error::new("go on with the memory", pid, Errno::INTR)
}

fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags) -> std::result::Result<(), Errno> {
    match poll(&mut [PollFd::new(&fd.as_fd(), flags)], None) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(errno) => Err(errno),
    }
}
