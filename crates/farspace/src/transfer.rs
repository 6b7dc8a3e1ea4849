//! Moving ranges into a file or a socket: page by page through a bounded pipe, or by copy.

use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use farspace_abi::mailbox::MAX_IOV;
use farspace_abi::{RemoteAddr, RemoteIoVec};
use farspace_inject::{self as inject, Agent, Channel, Pending};
use farspace_sys::memory::{self, Memory};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::drain::Drain;
use crate::native;
use crate::send::Send;
use crate::share::{FarCopy, Work, locate};
use crate::sink::Sink;
use crate::target::BoundedPipe;
use crate::{Error, Result};

/// [`Error::operation`] where the sink, not the target, is what failed.
pub const WRITE_OUT: &str = "write out the memory";

/// Given the bytes of each step, 0 where nothing moves; `Break` ends the transfer with EINTR.
pub type Progress<'a> = &'a mut dyn FnMut(u64) -> ControlFlow<()>;

/// Pauses between two looks at a pipe: about 1 us.
const BETWEEN_LOOKS: u32 = 16;

/// Bytes of the buffer of the copying mechanisms.
const BUFFER_BYTES: usize = 1 << 20;

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
    /// The kernel does that itself.
    Native(native::Stream<'a>),
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
        match self {
            Self::Pages { pipe, .. } => pipe.fit(sink.best_pipe_bytes()),
            Self::Native(stream) => stream.pipe.fit(sink.best_pipe_bytes()),
            Self::Memory(_) | Self::ReadV => {}
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
        let mut send = match self {
            Self::Pages { channel, agent, .. } => Send::new(pid, *channel, agent, sink, ranges)?,
            _ => None,
        };
        for chunk in ranges.chunks(MAX_IOV) {
            let sent = match &send {
                Some(send) => send.run(chunk, progress)?,
                None => None,
            };
            let done = match sent {
                Some(done) => done,
                None => {
                    send = None;
                    self.chunk(pid, chunk, sink, progress)?
                }
            };
            total += done.bytes;
            if done.stopped.is_some() {
                return Ok(Transfer { bytes: total, stopped: done.stopped });
            }
        }
        Ok(Transfer { bytes: total, stopped: None })
    }

    /// Moves at most 1024 ranges.
    fn chunk(
        &self,
        pid: i32,
        ranges: &[RemoteIoVec],
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        match self {
            Self::Pages { channel, pipe, agent, .. } => {
                PageStream { pid, channel: *channel, pipe, agent }.run(ranges, sink, progress)
            }
            Self::Native(stream) => stream.run(ranges, sink, progress),
            Self::Memory(memory) => {
                by_copy(pid, ranges, sink, progress, |at, buffer| memory.read(at, buffer))
            }
            Self::ReadV => by_copy(pid, ranges, sink, progress, |at, buffer| {
                let from = [RemoteIoVec { base: at, len: buffer.len() as u64 }];
                memory::process_vm_readv(pid, &from, buffer)
            }),
        }
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
            Self::Native(_) => Some(FarCopy::ReadV(pid)),
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
        if let Self::Native(stream) = self {
            stream.space.check()?;
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
            let step =
                if copying { self.drain().copy_out(sink, progress) } else { self.drain().move_out(sink) };
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
                    if self.wait_filled(pending).map_err(error)? && self.drain().is_empty().map_err(error)? {
                        return Ok(());
                    }
                }
                // The sink is full, or a signal came.
                Err(Errno::INTR) => {
                    if progress(0).is_break() {
                        return Err(interrupted(self.pid));
                    }
                }
                // This file or device takes no pages (a terminal, O_APPEND): copy from the pipe.
                Err(Errno::INVAL) if !copying => copying = true,
                Err(errno) => return Err(error(errno)),
            }
            looks = may_look;
        }
        Ok(())
    }

    fn drain(&self) -> Drain<'_> {
        Drain { pipe: self.pipe.read.as_fd(), room: self.pipe.room() }
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
            match self.drain().move_out(&mut nowhere) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    if self.wait_filled(pending).map_err(error)? && self.drain().is_empty().map_err(error)? {
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
            sink.write_asking(&buffer[..n], progress).map_err(|errno| Error::new(WRITE_OUT, pid, errno))?;
            done += n as u64;
            bytes += n as u64;
            if progress(n as u64).is_break() {
                return Err(interrupted(pid));
            }
        }
    }
    Ok(Transfer { bytes, stopped: None })
}

pub(crate) fn interrupted(pid: i32) -> Error {
    Error::new("go on with the memory", pid, Errno::INTR)
}
