//! The engine's side of a steward: giving orders and waiting for the answer.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farspace_abi::vcpu::{ORDERS, SCRATCH, orders};
use farspace_sys::passing::send_fds;
use farspace_sys::pidfd;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fs::SeekFrom;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, send, socketpair};

use crate::memory::SpaceMemory;
use crate::orders::Orders;
use crate::pace::{Pace, YIELDS};
use crate::{Error, Result};

/// How long orders may take. They are short system calls; only a loaded machine makes them slow.
const DEADLINE: Duration = Duration::from_secs(10);

/// Descriptors that the message in the scratch page has room for.
const MAX_FDS: usize = 4;

/// Where `struct msghdr` lies in the scratch page.
const MESSAGE: u64 = SCRATCH + 0x100;
/// The first descriptor that a steward receives: 0 to 2 are its own.
pub(crate) const RECEIVED: u64 = 3;

/// The three descriptors of a steward, the same numbers in each: socket, memory file, eventfd.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) memory: Arc<SpaceMemory>,
    socket: OwnedFd,
    bell: OwnedFd,
}

impl Line {
    /// A line, and the steward's end of the socket.
    pub(crate) fn new() -> Result<(Self, OwnedFd)> {
        let error = |errno| Error::new("make a line to a new space", errno);
        let memory = Arc::new(SpaceMemory::new().map_err(error)?);
        let (socket, far) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(error)?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC).map_err(error)?;
        Ok((Self { memory, socket, bell }, far))
    }

    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Prepares `struct msghdr` (recvmsg(2)) in the scratch page: one byte of data, room for the descriptors. The
    /// kernel writes to it, and so may the guest; the steward reads none of it.
    fn prepare_message(&self) {
        let words = [0, 0, MESSAGE + 0x40, 1, MESSAGE + 0x80, 64, 0, 0, MESSAGE + 0xf0, 1];
        for (index, word) in words.iter().enumerate() {
            let offset = (MESSAGE - ORDERS) as usize + 8 * index;
            self.memory.u64(offset).store(*word, Ordering::Relaxed);
        }
    }
}

/// A task that makes system calls in a space on our orders.
#[derive(Debug)]
pub(crate) struct Steward {
    pid: i32,
    pidfd: OwnedFd,
    pub(crate) line: Line,
    number: u32,
    pace: Pace,
}

impl Steward {
    pub(crate) fn new(pid: i32, pidfd: OwnedFd, line: Line, pace: Pace) -> Self {
        Self { pid, pidfd, line, number: 0, pace }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// The pace of a child, which is on the same CPU.
    pub(crate) fn pace_of_child(&self, pid: i32) -> Pace {
        self.pace.of_child(pid)
    }

    /// Has orders carried out; the answer is the result that they keep, or the first error.
    pub(crate) fn order(&mut self, orders: &Orders, operation: &'static str) -> Result<u64> {
        self.order_with(orders, &[], operation)
    }

    /// As [`Steward::order`], for orders that begin with [`receive`].
    pub(crate) fn order_with(
        &mut self,
        orders: &Orders,
        fds: &[BorrowedFd<'_>],
        operation: &'static str,
    ) -> Result<u64> {
        self.number = (self.number + 1) & 0x7fff_ffff;
        self.number = self.number.max(1);
        orders.publish(&self.line.memory, self.number);
        // The caller only waits meanwhile, and a hand-off on one CPU costs a third of one across CPUs.
        self.pace.tie();
        let error = |errno| match errno {
            Errno::PIPE | Errno::CONNRESET => Error::Ended { pid: self.pid },
            errno => Error::new(operation, errno),
        };
        self.line.prepare_message();
        send(&self.line.socket, b"o", SendFlags::NOSIGNAL).map_err(error)?;
        if fds.len() > MAX_FDS {
            return Err(error(Errno::INVAL));
        }
        if !fds.is_empty() {
            send_fds(self.line.socket.as_fd(), fds).map_err(error)?;
        }
        match self.answer(operation)? {
            result if result < 0 => {
                Err(Error::new(operation, Errno::from_raw_os_error(-result.max(-4095) as i32)))
            }
            result => Ok(result as u64),
        }
    }

    /// True if it hasn't ended.
    pub(crate) fn is_alive(&self) -> bool {
        !pidfd::wait_end(self.pidfd.as_fd(), Duration::ZERO)
    }

    fn answer(&self, operation: &'static str) -> Result<i64> {
        // It is on this CPU: to let it run is often all it takes.
        for _ in 0..YIELDS {
            rustix::thread::sched_yield();
            if let Some(result) = self.look(operation)? {
                return Ok(result);
            }
        }
        let deadline = Instant::now() + DEADLINE;
        loop {
            let mut fds =
                [PollFd::new(&self.line.bell, PollFlags::IN), PollFd::new(&self.pidfd, PollFlags::IN)];
            let nap = Timespec { tv_sec: 1, tv_nsec: 0 };
            match poll(&mut fds, Some(&nap)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::new(operation, errno)),
            }
            if !fds[0].revents().is_empty() {
                let mut count = [0; 8];
                let _ = rustix::io::read(&self.line.bell, &mut count);
            }
            if let Some(result) = self.look(operation)? {
                return Ok(result);
            }
            if !fds[1].revents().is_empty() {
                return Err(Error::Ended { pid: self.pid });
            }
            if Instant::now() > deadline {
                pidfd::kill(self.pidfd.as_fd());
                return Err(Error::Unresponsive { pid: self.pid });
            }
        }
    }

    /// The answer, if it is there.
    fn look(&self, operation: &'static str) -> Result<Option<i64>> {
        let offset = rustix::fs::seek(self.line.memory.fd(), SeekFrom::Current(0))
            .map_err(|errno| Error::new(operation, errno))?;
        // Sign-extended from the bits that hold it.
        let shift = 64 - orders::RESULT_BITS;
        let is_answer = offset >> orders::RESULT_BITS == u64::from(self.number & 0x7fff);
        Ok(is_answer.then_some((offset as i64) << shift >> shift))
    }
}

impl Drop for Steward {
    fn drop(&mut self) {
        // Its vCPUs end with it (PR_SET_PDEATHSIG).
        pidfd::kill(self.pidfd.as_fd());
    }
}

/// Begins orders that come with descriptors; they become [`RECEIVED`] and the numbers after it.
///
/// Whatever earlier orders left behind when they failed half-way is closed first: the numbers would be others.
pub(crate) fn receive(orders: &mut Orders) {
    orders.call(libc::SYS_close_range, &[RECEIVED, u64::from(u32::MAX), 0]);
    // MSG_CMSG_CLOEXEC
    orders.call(libc::SYS_recvmsg, &[0, MESSAGE, 0x4000_0000]);
}
