//! Moving ranges into a socket by the agent alone.
//!
//! The agent maps pages into a pipe of its own and splices them on into the socket: one task does both, so nobody waits
//! for a hand-off, and the CPU that this process would need is the receiver's. This side only looks on.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use farspace_abi::RemoteIoVec;
use farspace_inject::{Agent, Channel, Pending, RemoteFd, RemotePipe, SendFailure};
use farspace_sys::pipe;
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use crate::share::locate;
use crate::sink::Sink;
use crate::transfer::{Progress, Transfer, WRITE_OUT, interrupted};
use crate::{Error, Result};

/// Bytes of the agent's pipe: as much as was fastest. What is in it is still in a cache when the receiver copies it.
const PIPE_BYTES: usize = 256 << 10;
/// Fewer bytes than this aren't worth sending descriptors.
const WORTHWHILE: u64 = PIPE_BYTES as u64;
/// How often the caller hears of the progress, and may break it off.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// A socket that the agent has a copy of, and its pipe.
pub(crate) struct Send<'a> {
    pid: i32,
    channel: Channel<'a>,
    pipe: RemotePipe,
    socket: RemoteFd,
}

impl<'a> Send<'a> {
    /// Hands the socket to the agent, or nothing if the bytes have to go another way: what isn't a stream socket, or
    /// can block (in the socket the agent would hear neither this process nor its end), or few bytes.
    ///
    /// # Errors
    ///
    /// Gone.
    pub(crate) fn new(
        pid: i32,
        channel: Channel<'a>,
        agent: &Arc<Agent>,
        sink: &Sink<'_>,
        ranges: &[RemoteIoVec],
    ) -> Result<Option<Self>> {
        let total = ranges.iter().fold(0u64, |sum, range| sum.saturating_add(range.len));
        if !channel.takes_descriptors() || total < WORTHWHILE || !takes_pages_at_once(sink) {
            return Ok(None);
        }
        let Ok((read, write, bytes)) = pipe::with_room(PIPE_BYTES) else { return Ok(None) };
        let mut sent = Vec::with_capacity(3);
        for fd in [read.as_fd(), write.as_fd(), sink.fd] {
            match agent.send_fd(fd) {
                Ok(fd) => sent.push(fd),
                // The target's limit of descriptors.
                Err(farspace_inject::Error::Agent { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        let Ok([read, write, socket]) = <[RemoteFd; 3]>::try_from(sent) else { return Ok(None) };
        Ok(Some(Self { pid, channel, pipe: RemotePipe { read, write, bytes }, socket }))
    }

    /// Moves at most 1024 ranges; `None` if this socket takes no pages, and nothing was moved.
    ///
    /// # Errors
    ///
    /// As [`Target::splice`](crate::Target::splice).
    pub(crate) fn run(&self, ranges: &[RemoteIoVec], progress: Progress<'_>) -> Result<Option<Transfer>> {
        let ranges: Vec<_> = ranges.iter().copied().filter(|range| range.len > 0).collect();
        let expected: u64 = ranges.iter().map(|range| range.len).sum();
        let pending = self.channel.start_send(&self.pipe, &self.socket, &ranges)?;
        let mut told = 0;
        let followed = self.follow(&pending, expected, &mut told, progress);
        if followed.is_err() {
            // The mailbox is the agent's until it answers.
            pending.cancel();
        }
        let sent = pending.wait_sent(expected);
        followed?;
        let sent = sent?;
        if progress(sent.bytes.saturating_sub(told)).is_break() {
            return Err(interrupted(self.pid));
        }
        let stopped = match sent.failure {
            None => None,
            Some(SendFailure::Socket(Errno::INVAL)) if sent.bytes == 0 => return Ok(None),
            Some(SendFailure::Socket(errno)) => return Err(Error::new(WRITE_OUT, self.pid, errno)),
            Some(SendFailure::Memory(errno)) => locate(&ranges, sent.bytes).map(|at| (at, errno)),
        };
        Ok(Some(Transfer { bytes: sent.bytes, stopped }))
    }

    /// Reports what the agent has moved until it is through.
    fn follow(
        &self,
        pending: &Pending<'_>,
        expected: u64,
        told: &mut u64,
        progress: Progress<'_>,
    ) -> Result<()> {
        while !pending.wait_a_while(BETWEEN_LOOKS)? {
            // The target can write there: never more than is asked for, never less than before.
            let moved = pending.moved().clamp(*told, expected);
            let step = moved - std::mem::replace(told, moved);
            if progress(step).is_break() {
                return Err(interrupted(self.pid));
            }
        }
        Ok(())
    }
}

/// True for a stream socket that never blocks.
fn takes_pages_at_once(sink: &Sink<'_>) -> bool {
    let families = [AddressFamily::UNIX, AddressFamily::INET, AddressFamily::INET6];
    sink.is_plain_stream()
        && sockopt::socket_type(sink.fd) == Ok(SocketType::STREAM)
        && sockopt::socket_domain(sink.fd).is_ok_and(|family| families.contains(&family))
        && rustix::fs::fcntl_getfl(sink.fd).is_ok_and(|flags| flags.contains(OFlags::NONBLOCK))
}
