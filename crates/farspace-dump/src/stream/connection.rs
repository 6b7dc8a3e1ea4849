//! A socket that never blocks, and waits with a limit.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::StreamError;
use super::frame::{HEAD, MAX_TEXT, Reply, readable};

/// How often the caller is asked whether to go on.
const ASK: Duration = Duration::from_millis(50);
/// Fewer bytes in a whole time limit than this are none: else a byte now and then would hold the other side for ever.
const PROGRESS: usize = 4096;

/// Why waiting ended early.
#[derive(Debug)]
pub(crate) enum Trouble {
    /// The caller wants to end.
    Interrupted,
    /// The stream.
    Stream(StreamError),
}

impl<E: Into<StreamError>> From<E> for Trouble {
    fn from(error: E) -> Self {
        Self::Stream(error.into())
    }
}

pub(crate) type Wait<T> = std::result::Result<T, Trouble>;

/// Asked while nothing moves.
pub(crate) type Ask<'a> = &'a mut dyn FnMut() -> ControlFlow<()>;

/// More bytes follow at once, or these are to go out now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Push {
    Later,
    Now,
}

/// One side of a stream.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: OwnedFd,
    /// How long nothing may move.
    timeout: Duration,
}

impl Connection {
    /// Takes a connected socket and makes it O_NONBLOCK.
    pub(crate) fn new(socket: OwnedFd, timeout: Duration) -> Result<Self, StreamError> {
        rustix::io::ioctl_fionbio(&socket, true).map_err(StreamError::of)?;
        // A Unix socket has no such thing; what must go out at once says so.
        let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
        Ok(Self { socket, timeout })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Sends all of `bytes`.
    pub(crate) fn send(&self, mut bytes: &[u8], push: Push, ask: Ask<'_>) -> Wait<()> {
        let more = if push == Push::Later { SendFlags::MORE } else { SendFlags::empty() };
        let mut deadline = Instant::now() + self.timeout;
        while !bytes.is_empty() {
            match send(&self.socket, bytes, SendFlags::NOSIGNAL | more) {
                Ok(n) => {
                    bytes = &bytes[n..];
                    deadline = Instant::now() + self.timeout;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT, deadline, ask)?,
                Err(errno) => return Err(StreamError::of(errno).into()),
            }
        }
        Ok(())
    }

    /// Fills `buffer` before the limit, which begins anew with each 4 KiB.
    pub(crate) fn receive(&self, buffer: &mut [u8], ask: Ask<'_>) -> Wait<()> {
        let mut done = 0;
        for piece in buffer.chunks_mut(PROGRESS) {
            self.receive_until(piece, Instant::now() + self.timeout, ask).map_err(
                |trouble| match trouble {
                    // Nothing at all is a clean end for who asked for the first byte.
                    Trouble::Stream(StreamError::Closed) if done > 0 => StreamError::Closed.into(),
                    trouble => trouble,
                },
            )?;
            done += piece.len();
        }
        Ok(())
    }

    /// Fills `buffer` before the deadline.
    pub(crate) fn receive_until(&self, buffer: &mut [u8], deadline: Instant, ask: Ask<'_>) -> Wait<()> {
        let mut done = 0;
        while done < buffer.len() {
            match recv(&self.socket, &mut buffer[done..], RecvFlags::empty()) {
                Ok((_, 0)) => return Err(StreamError::Closed.into()),
                Ok((_, n)) => done += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN, deadline, ask)?,
                Err(errno) => return Err(StreamError::of(errno).into()),
            }
        }
        Ok(())
    }

    /// Waits until the socket is ready.
    pub(crate) fn wait(&self, events: PollFlags, deadline: Instant, ask: Ask<'_>) -> Wait<()> {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(StreamError::Stalled(self.timeout).into());
            }
            let step = left.min(ASK);
            let step = Timespec { tv_sec: step.as_secs() as i64, tv_nsec: step.subsec_nanos().into() };
            match poll(&mut [PollFd::new(&self.socket, events)], Some(&step)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(errno) => return Err(StreamError::of(errno).into()),
            }
            if ask().is_break() {
                return Err(Trouble::Interrupted);
            }
        }
    }

    /// The next reply of a receiver; what it gives up with is an error.
    pub(crate) fn reply(&self, ask: Ask<'_>) -> Wait<Reply> {
        let mut head = [0; HEAD];
        self.receive_until(&mut head, Instant::now() + self.timeout, ask)?;
        match Reply::decode(&head)? {
            Reply::Refused { text_len } => {
                let mut text = vec![0; text_len.min(MAX_TEXT)];
                self.receive_until(&mut text, Instant::now() + self.timeout, ask)?;
                Err(StreamError::Peer(readable(&text)).into())
            }
            reply => Ok(reply),
        }
    }

    /// What the receiver has to say out of turn: only that it gives up.
    pub(crate) fn check(&self, ask: Ask<'_>) -> Wait<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&now)) {
            Ok(0) | Err(Errno::INTR) => Ok(()),
            Ok(_) => {
                self.reply(ask)?;
                // Nothing was asked.
                Err(super::frame::Malformed::Protocol.into())
            }
            Err(errno) => Err(StreamError::of(errno).into()),
        }
    }

    /// Why sending failed: what the other side has said last, if it said something.
    pub(crate) fn explain(&self, error: StreamError) -> StreamError {
        match self.reply(&mut || ControlFlow::Break(())) {
            Err(Trouble::Stream(peer @ StreamError::Peer(_))) => peer,
            _ => error,
        }
    }

    /// Sends a last word, and takes what is still coming for a moment, or the reset that unread bytes cause would
    /// overtake it.
    pub(crate) fn part(&self, head: &[u8], text: &[u8]) {
        const PATIENCE: Duration = Duration::from_secs(1);
        let deadline = Instant::now() + PATIENCE;
        let ask = &mut || {
            if Instant::now() < deadline { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        if self.send(head, Push::Later, ask).and_then(|()| self.send(text, Push::Now, ask)).is_err() {
            return;
        }
        let _ = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write);
        let mut buffer = vec![0; 64 << 10];
        while Instant::now() < deadline {
            match recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((_, 0)) => return,
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if self.wait(PollFlags::IN, deadline, ask).is_ok() => {}
                Err(_) => return,
            }
        }
    }
}
