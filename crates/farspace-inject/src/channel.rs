//! Requests to a task in the target, and waiting for the answers.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farspace_abi::mailbox::{AGENT, MAX_IOV, Mailbox, op, side, what};
use farspace_sys::RemoteIoVec;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::agent::{Agent, PROMPT, RemoteFd};
use crate::{Error, Result, kick};

/// How often a wait without a deadline asks whether it is to go on.
const ASK: Duration = Duration::from_millis(50);
/// A second at most, so that a doorbell that a hostile target has stolen only costs time.
const NAP: Duration = Duration::from_secs(1);

/// A task in the target that answers requests: the agent or its snapshot child.
#[derive(Debug, Clone, Copy)]
pub struct Channel<'a> {
    pub(crate) agent: &'a Agent,
    pub(crate) index: usize,
}

/// A request that was made and not yet answered; the mailbox is its own until then.
#[derive(Debug)]
pub struct Pending<'a> {
    channel: Channel<'a>,
    number: u32,
    _busy: std::sync::MutexGuard<'a, ()>,
}

/// A pipe of which only the agent has the ends.
#[derive(Debug)]
pub struct RemotePipe {
    /// Where it reads.
    pub read: RemoteFd,
    /// Where it writes.
    pub write: RemoteFd,
    /// Bytes of room.
    pub bytes: usize,
}

/// What came of a [`start_send`](Channel::start_send).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Bytes that the socket has taken, at most those asked for.
    pub bytes: u64,
    /// Why not all.
    pub failure: Option<SendFailure>,
}

/// What ended a [`start_send`](Channel::start_send) early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendFailure {
    /// The next page can't be had, or the request was given up.
    Memory(Errno),
    /// The socket.
    Socket(Errno),
}

impl<'a> Channel<'a> {
    fn mailbox(self) -> &'a Mailbox {
        self.agent.shared.mailbox(self.index)
    }

    /// One system call in the target's address space, by the agent; its raw result.
    ///
    /// # Errors
    ///
    /// The agent is gone or doesn't answer.
    pub fn syscall(self, nr: u64, args: [u64; 6]) -> Result<i64> {
        let [a, b, c, d, e, f] = args;
        self.request(op::SYSCALL, &[nr, a, b, c, d, e, f], &[])?.wait_raw("make a system call")
    }

    /// As [`Channel::syscall`], for a call that may block for as long as `go_on` allows: it is asked 20 times a
    /// second. When it says `Break`, a signal handler of this thread runs, or the target ends, the agent's call is
    /// interrupted.
    ///
    /// # Errors
    ///
    /// The agent is gone, or the call can't be interrupted.
    pub fn blocking_syscall(
        self,
        nr: u64,
        args: [u64; 6],
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<i64> {
        let [a, b, c, d, e, f] = args;
        let pending = self.request(op::SYSCALL, &[nr, a, b, c, d, e, f], &[])?;
        // In an address space that the target has left, the call has changed nothing of it. The agent can tell, or the
        // kernel: if that was of no use the last time, it is asked while the agent works.
        let there = match self.agent.is_home.load(Ordering::Relaxed) {
            true => None,
            false => Some(self.agent.check()),
        };
        let result = pending.wait_blocking("make a system call", go_on)?;
        let is_home = self.mailbox().answer.is_home.load(Ordering::Relaxed) == 1;
        self.agent.is_home.store(is_home, Ordering::Relaxed);
        match there {
            _ if is_home => Ok(result),
            Some(there) => there.map(|()| result),
            None => self.agent.check().map(|()| result),
        }
    }

    /// One vmsplice(2) of at most 1024 ranges of the target into a pipe; bytes.
    ///
    /// # Errors
    ///
    /// As vmsplice(2).
    pub fn vmsplice(self, pipe: &RemoteFd, ranges: &[RemoteIoVec], flags: u32) -> Result<usize> {
        let args = [pipe.number as u64, u64::from(flags)];
        let total: u64 = ranges.iter().fold(0, |sum, range| sum.saturating_add(range.len));
        let moved = self.request(op::VMSPLICE, &args, ranges)?.wait("map pages into the pipe")?;
        // The result lies in memory that the target can write to.
        if moved > total {
            Err(self.agent.error("map pages into the pipe", Errno::PROTO))
        } else {
            Ok(moved as usize)
        }
    }

    /// Starts to map all ranges into a pipe, waiting for its reader whenever it is full: first by looking for it so
    /// many times, about 1 us apart (never on a single CPU), then asleep.
    ///
    /// # Errors
    ///
    /// The agent is gone.
    pub fn start_stream(self, pipe: &RemoteFd, ranges: &[RemoteIoVec], looks: u32) -> Result<Pending<'a>> {
        let looks = if self.agent.spin > 0 { looks } else { 0 };
        self.request(op::STREAM, &[pipe.number as u64, u64::from(looks)], ranges)
    }

    /// True for the channel of the agent, which can be sent descriptors at any time.
    pub fn takes_descriptors(self) -> bool {
        self.index == AGENT
    }

    /// Starts to move all ranges through a pipe of the agent's into a stream socket that is O_NONBLOCK. The pipe must be
    /// empty; it is of no use after a failure.
    ///
    /// # Errors
    ///
    /// The agent is gone.
    pub fn start_send(
        self,
        pipe: &RemotePipe,
        socket: &RemoteFd,
        ranges: &[RemoteIoVec],
    ) -> Result<Pending<'a>> {
        let fds = [&pipe.write, &pipe.read, socket].map(|fd| fd.number as u64);
        self.request(op::SEND, &[fds[0], fds[1], fds[2], pipe.bytes as u64], ranges)
    }

    /// Forks the snapshot child (only on the agent's own channel); its pid in the target's namespace.
    ///
    /// # Errors
    ///
    /// EAGAIN, ENOMEM as fork(2).
    pub fn fork(self) -> Result<i32> {
        let pending = self.request(op::FORK, &[], &[])?;
        Ok(pending.wait("fork a snapshot")? as i32)
    }

    /// Asks the snapshot child to end.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn quit(self) -> Result<()> {
        self.request(op::QUIT, &[], &[]).map(drop)
    }

    pub(crate) fn request(self, op: u32, args: &[u64], ranges: &[RemoteIoVec]) -> Result<Pending<'a>> {
        assert!(ranges.len() <= MAX_IOV && args.len() <= 7, "callers split their lists");
        let busy = self.agent.busy[self.index].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mailbox = self.mailbox();
        for (to, from) in mailbox.iov.iter().zip(ranges) {
            to[0].store(from.base.0, Ordering::Relaxed);
            to[1].store(from.len, Ordering::Relaxed);
        }
        // Written only if they change: the line then stays in both caches.
        for (word, value) in
            [(&mailbox.doorbell.host_asleep, 0), (&mailbox.doorbell.spin_limit, self.agent.spin)]
        {
            if word.load(Ordering::Relaxed) != value {
                word.store(value, Ordering::Relaxed);
            }
        }
        // The line that the agent looks at, in one go: each look in between would take it away.
        let number = mailbox.body.request.load(Ordering::Relaxed).wrapping_add(1);
        mailbox.body.what.store(what(op, ranges.len()), Ordering::Relaxed);
        for (to, from) in mailbox.body.args.iter().zip(args) {
            to.store(*from, Ordering::Relaxed);
        }
        mailbox.body.request.store(number, Ordering::SeqCst);
        if mailbox.answer.agent_asleep.load(Ordering::SeqCst) != 0 {
            mailbox.answer.agent_asleep.store(0, Ordering::Relaxed);
            ring(self.agent.bells[self.index].ring.as_fd());
        }
        Ok(Pending { channel: self, number, _busy: busy })
    }
}

impl Pending<'_> {
    /// Asks for a doorbell when the answer is there; true if it is there already.
    pub fn ask_for_bell(&self) -> bool {
        self.channel.mailbox().doorbell.host_asleep.store(1, Ordering::SeqCst);
        self.channel.mailbox().answer.reply.load(Ordering::SeqCst) == self.number
    }

    /// Readable once the doorbell was rung.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.channel.agent.bells[self.channel.index].answer.as_fd()
    }

    /// Bytes that a stream has moved so far, as the agent says.
    pub fn moved(&self) -> u64 {
        self.channel.mailbox().answer.moved.load(Ordering::Relaxed)
    }

    /// True once the answer is there.
    pub fn is_done(&self) -> bool {
        self.channel.mailbox().answer.reply.load(Ordering::Acquire) == self.number
    }

    /// Waits for the answer; a negative one is an error.
    ///
    /// # Errors
    ///
    /// What the agent got, or that it is gone.
    pub fn wait(self, operation: &'static str) -> Result<u64> {
        let agent = self.channel.agent;
        let result = self.wait_raw(operation)?;
        match errno_of(result) {
            Some(errno) => Err(agent.error(operation, errno)),
            None => Ok(result as u64),
        }
    }

    /// Waits for the answer to a [`start_send`](Channel::start_send) of so many bytes.
    ///
    /// # Errors
    ///
    /// The agent is gone, or says what can't be.
    pub fn wait_sent(self, expected: u64) -> Result<Sent> {
        const OPERATION: &str = "send the memory";
        let (agent, mailbox) = (self.channel.agent, self.channel.mailbox());
        let result = self.wait_raw(OPERATION)?;
        let bytes = mailbox.answer.moved.load(Ordering::Relaxed);
        let side = mailbox.answer.side.load(Ordering::Relaxed);
        let failure = errno_of(result).map(|errno| match side {
            side::SINK => SendFailure::Socket(errno),
            _ => SendFailure::Memory(errno),
        });
        // All of this lies in memory that the target can write to.
        if bytes > expected || failure.is_none() && bytes < expected {
            return Err(agent.error(OPERATION, Errno::PROTO));
        }
        match failure {
            Some(SendFailure::Memory(Errno::SRCH)) => Err(Error::Gone { pid: agent.pid }),
            failure => Ok(Sent { bytes, failure }),
        }
    }

    /// Sleeps until the answer is there, but not longer than so; true if it is.
    ///
    /// # Errors
    ///
    /// The agent is gone.
    pub fn wait_a_while(&self, at_most: Duration) -> Result<bool> {
        if self.ask_for_bell() {
            return Ok(true);
        }
        let agent = self.channel.agent;
        let bell = self.bell();
        let mut fds = [PollFd::new(&bell, PollFlags::IN), PollFd::new(&agent.agent_pidfd, PollFlags::IN)];
        let nap = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        match poll(&mut fds, Some(&nap)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(agent.error("send the memory", errno)),
        }
        let (rung, dead) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if rung {
            let mut count = [0; 8];
            let _ = rustix::io::read(bell, &mut count);
        }
        if dead && !self.is_done() {
            return Err(Error::Gone { pid: agent.pid });
        }
        Ok(self.is_done())
    }

    /// Gives the request up: the answer comes at once, if it is one of those that wait for somebody else.
    pub fn cancel(&self) {
        self.channel.mailbox().doorbell.cancel.store(self.number, Ordering::SeqCst);
        ring(self.channel.agent.bells[self.channel.index].ring.as_fd());
    }

    /// Waits for the answer, whatever it is.
    ///
    /// # Errors
    ///
    /// The agent is gone, or doesn't answer in time.
    pub fn wait_raw(self, operation: &'static str) -> Result<i64> {
        if let Some(result) = self.spin() {
            return Ok(result);
        }
        let deadline = Instant::now() + PROMPT;
        loop {
            if let Look::Answered(result) = self.nap(operation, NAP)? {
                return Ok(result);
            }
            if Instant::now() > deadline {
                return Err(self.channel.agent.error(operation, Errno::TIMEDOUT));
            }
        }
    }

    /// Waits without a deadline, until `go_on` says `Break` or a signal handler runs; then interrupts the agent, so
    /// that the answer comes anyway.
    fn wait_blocking(
        &self,
        operation: &'static str,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<i64> {
        if let Some(result) = self.spin() {
            return Ok(result);
        }
        let mut deadline = None;
        loop {
            let look = self.nap(operation, ASK)?;
            if let Look::Answered(result) = look {
                return Ok(result);
            }
            let agent = self.channel.agent;
            // An agent that waits doesn't notice the end of the target by itself.
            let mut is_over = || agent.check().is_err() || go_on().is_break();
            if deadline.is_none() && (look == Look::Signal || is_over()) {
                deadline = Some(Instant::now() + PROMPT);
            }
            match deadline {
                Some(deadline) if Instant::now() > deadline => {
                    return Err(agent.error(operation, Errno::TIMEDOUT));
                }
                // Again at each look: the agent may not have begun with the call the last time.
                Some(_) => kick::kick(agent),
                None => {}
            }
        }
    }

    fn spin(&self) -> Option<i64> {
        for _ in 0..self.channel.agent.spin {
            if self.is_done() {
                return Some(self.channel.mailbox().answer.result.load(Ordering::Relaxed));
            }
            std::hint::spin_loop();
        }
        None
    }

    /// Sleeps until there may be an answer.
    fn nap(&self, operation: &'static str, at_most: Duration) -> Result<Look> {
        let agent = self.channel.agent;
        let mailbox = self.channel.mailbox();
        mailbox.doorbell.host_asleep.store(1, Ordering::SeqCst);
        if mailbox.answer.reply.load(Ordering::SeqCst) == self.number {
            return Ok(Look::Answered(mailbox.answer.result.load(Ordering::Relaxed)));
        }
        let bell = &agent.bells[self.channel.index].answer;
        let mut fds = [PollFd::new(bell, PollFlags::IN), PollFd::new(&agent.agent_pidfd, PollFlags::IN)];
        let nap = Timespec { tv_sec: at_most.as_secs() as i64, tv_nsec: i64::from(at_most.subsec_nanos()) };
        let signal = match poll(&mut fds, Some(&nap)) {
            Ok(_) => false,
            Err(Errno::INTR) => true,
            Err(errno) => return Err(agent.error(operation, errno)),
        };
        let (rung, dead) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if rung {
            let mut count = [0; 8];
            let _ = rustix::io::read(bell, &mut count);
        }
        if self.is_done() {
            return Ok(Look::Answered(mailbox.answer.result.load(Ordering::Relaxed)));
        }
        match dead {
            true => Err(Error::Gone { pid: agent.pid }),
            false if signal => Ok(Look::Signal),
            false => Ok(Look::Nothing),
        }
    }
}

/// What a nap has brought.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Answered(i64),
    /// A signal handler has run on this thread.
    Signal,
    Nothing,
}

/// The error that an answer stands for.
fn errno_of(result: i64) -> Option<Errno> {
    let code = result.checked_neg().and_then(|code| i32::try_from(code).ok()).filter(|code| *code < 4096);
    (result < 0).then(|| code.map_or(Errno::PROTO, Errno::from_raw_os_error))
}

/// Rings a doorbell: adds 1 to an eventfd.
fn ring(bell: BorrowedFd<'_>) {
    // A full counter is rung as well.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}
