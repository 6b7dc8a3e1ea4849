//! The agent from the host's side: requests, descriptors, and its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use farspace_abi::boot::placement;
use farspace_abi::mailbox::{self, MAX_IOV, Mailbox, op};
use farspace_abi::region::REGION_BYTES;
use farspace_sys::memory::Memory;
use farspace_sys::process::Mapping;
use farspace_sys::ptrace::{Running, TRACE_SYSGOOD};
use farspace_sys::shared::SharedMemory;
use farspace_sys::{RemoteAddr, RemoteIoVec, pidfd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::cave::Cave;
use crate::exit::Exit;
use crate::keeper::Keeper;
use crate::{Error, Result};

/// How long a request may take that doesn't wait for anything outside of the agent.
const PROMPT: Duration = Duration::from_secs(10);

/// An agent in a target. Dropped, it leaves the target.
#[derive(Debug)]
pub struct Agent {
    pub(crate) pid: i32,
    pub(crate) agent_pid: i32,
    pub(crate) agent_pidfd: OwnedFd,
    pub(crate) socket: OwnedFd,
    pub(crate) shared: SharedMemory,
    pub(crate) bells: [Bells; mailbox::NR_MAILBOXES],
    pub(crate) region: RemoteAddr,
    pub(crate) cave: Cave,
    pub(crate) placement: u32,
    pub(crate) spin: u32,
    /// Traces the agent of a target with a seccomp filter.
    pub(crate) keeper: Option<Keeper>,
    pub(crate) gone: AtomicBool,
    /// One request at a time: held while a mailbox is in use.
    pub(crate) busy: [Mutex<()>; mailbox::NR_MAILBOXES],
}

/// The two eventfds of a mailbox.
#[derive(Debug)]
pub(crate) struct Bells {
    pub(crate) ring: OwnedFd,
    pub(crate) answer: OwnedFd,
}

/// A task in the target that answers requests: the agent or its snapshot child.
#[derive(Debug, Clone, Copy)]
pub struct Channel<'a> {
    agent: &'a Agent,
    index: usize,
}

/// A request that was made and not yet answered; the mailbox is its own until then.
#[derive(Debug)]
pub struct Pending<'a> {
    channel: Channel<'a>,
    number: u32,
    _busy: std::sync::MutexGuard<'a, ()>,
}

/// A descriptor of this process that the agent has a copy of.
#[derive(Debug)]
pub struct RemoteFd {
    agent: Arc<Agent>,
    number: i32,
}

impl Agent {
    /// The target.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The agent's own pid.
    pub fn agent_pid(&self) -> i32 {
        self.agent_pid
    }

    /// True if the agent is a thread of the target; what it forks is a child of the target then.
    pub fn is_thread(&self) -> bool {
        self.placement == placement::THREAD
    }

    /// Readable once the agent has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.agent_pidfd.as_fd()
    }

    /// The agent's channel.
    pub fn channel(&self) -> Channel<'_> {
        Channel { agent: self, index: mailbox::AGENT }
    }

    /// The channel of the snapshot child, if there is one.
    pub fn snapshot_channel(&self) -> Channel<'_> {
        Channel { agent: self, index: mailbox::SNAPSHOT }
    }

    /// Checks that the agent still lives in the target's address space.
    ///
    /// # Errors
    ///
    /// Gone: the target has ended or executed another program.
    pub fn check(&self) -> Result<()> {
        if pidfd::same_memory(self.pid, self.agent_pid) == Some(false) {
            return Err(Error::Gone { pid: self.pid });
        }
        Ok(())
    }

    /// Gives the agent a copy of a descriptor.
    ///
    /// # Errors
    ///
    /// EMFILE in the target, or the agent is gone.
    pub fn send_fd(self: &Arc<Self>, fd: BorrowedFd<'_>) -> Result<RemoteFd> {
        let pending = self.channel().request(op::RECEIVE_FD, &[], &[])?;
        send_fds(self.socket.as_fd(), &[fd]).map_err(|errno| self.error("receive a descriptor", errno))?;
        let number = pending.wait("receive a descriptor")?;
        Ok(RemoteFd { agent: Arc::clone(self), number: number as i32 })
    }

    /// Makes the agent leave the target: its mappings are unmapped, its task ends. The target is not stopped.
    ///
    /// # Errors
    ///
    /// The agent doesn't end in time (a frozen cgroup); it is told to leave by itself then.
    pub fn leave(&self) -> Result<()> {
        if self.gone.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let unmapped = self.quit().and_then(|()| match &self.keeper {
            Some(keeper) => {
                keeper.end_agent(self.agent_pidfd.as_fd());
                Ok(())
            }
            None => {
                let running = Running::seize(self.agent_pid, TRACE_SYSGOOD)?;
                running.interrupt()?;
                self.exit().unmap(running.wait_interrupted(Instant::now() + PROMPT)?)
            }
        });
        if unmapped.is_err() {
            // It sees the end of the socket and removes itself, or is dead already.
            rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).ok();
        }
        if !pidfd::wait_end(self.agent_pidfd.as_fd(), PROMPT) {
            return Err(self.error("end", Errno::TIMEDOUT));
        }
        if self.placement == placement::THREAD {
            // Where the target is gone, so is the cave.
            let _ = Memory::open_writable(self.pid).map(|memory| self.cave.clear(&memory));
        }
        Ok(())
    }

    /// Makes the agent unmap the mailboxes and wait for its end.
    fn quit(&self) -> Result<()> {
        let bell = &self.bells[mailbox::AGENT].answer;
        let mut count = [0; 8];
        let _ = rustix::io::read(bell, &mut count);
        let pending = self.channel().request(op::QUIT, &[], &[])?;
        let deadline = Instant::now() + PROMPT;
        loop {
            let mut fds = [PollFd::new(bell, PollFlags::IN), PollFd::new(&self.agent_pidfd, PollFlags::IN)];
            let nap = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match poll(&mut fds, Some(&nap)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error("end", errno)),
            }
            if !fds[1].revents().is_empty() {
                return Err(Error::Gone { pid: self.pid });
            }
            if !fds[0].revents().is_empty() {
                drop(pending);
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.error("end", Errno::TIMEDOUT));
            }
        }
    }

    /// What is needed to end the agent.
    pub(crate) fn exit(&self) -> Exit {
        let Self { pid, agent_pid, region, cave, placement, .. } = *self;
        Exit { pid, agent_pid, region, cave, placement }
    }

    /// True for the mappings that the agent has made in the target.
    pub fn owns(&self, mapping: &Mapping) -> bool {
        let in_region = mapping.start.0.wrapping_sub(self.region.0) < REGION_BYTES as u64;
        in_region
            || mapping.inode == self.shared.inode() && mapping.name.starts_with(b"/memfd:farspace-mailbox")
    }

    /// True once the agent was told to leave.
    pub fn has_left(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(crate) fn error(&self, operation: &'static str, errno: Errno) -> Error {
        Error::Agent { pid: self.pid, operation, errno }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.leave();
    }
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

    /// Starts to map all ranges into a pipe, waiting for its reader whenever it is full.
    ///
    /// # Errors
    ///
    /// The agent is gone.
    pub fn start_stream(self, pipe: &RemoteFd, ranges: &[RemoteIoVec]) -> Result<Pending<'a>> {
        self.request(op::STREAM, &[pipe.number as u64], ranges)
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
        mailbox.body.op.store(op, Ordering::Relaxed);
        mailbox.body.nr_iov.store(ranges.len() as u32, Ordering::Relaxed);
        for (to, from) in mailbox.body.args.iter().zip(args) {
            to.store(*from, Ordering::Relaxed);
        }
        for (to, from) in mailbox.iov.iter().zip(ranges) {
            to[0].store(from.base.0, Ordering::Relaxed);
            to[1].store(from.len, Ordering::Relaxed);
        }
        mailbox.doorbell.host_asleep.store(0, Ordering::Relaxed);
        mailbox.doorbell.spin_limit.store(self.agent.spin, Ordering::Relaxed);
        let number = mailbox.doorbell.request.load(Ordering::Relaxed).wrapping_add(1);
        mailbox.doorbell.request.store(number, Ordering::SeqCst);
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
        if result < 0 {
            let code = i32::try_from(-result).ok().filter(|code| *code < 4096).unwrap_or(libc::EPROTO);
            return Err(agent.error(operation, Errno::from_raw_os_error(code)));
        }
        Ok(result as u64)
    }

    /// Waits for the answer, whatever it is.
    ///
    /// # Errors
    ///
    /// The agent is gone, or doesn't answer in time.
    pub fn wait_raw(self, operation: &'static str) -> Result<i64> {
        let agent = self.channel.agent;
        let mailbox = self.channel.mailbox();
        for _ in 0..agent.spin {
            if self.is_done() {
                return Ok(mailbox.answer.result.load(Ordering::Relaxed));
            }
            std::hint::spin_loop();
        }
        let deadline = Instant::now() + PROMPT;
        loop {
            mailbox.doorbell.host_asleep.store(1, Ordering::SeqCst);
            if mailbox.answer.reply.load(Ordering::SeqCst) == self.number {
                return Ok(mailbox.answer.result.load(Ordering::Relaxed));
            }
            let bell = &agent.bells[self.channel.index].answer;
            let mut fds = [PollFd::new(bell, PollFlags::IN), PollFd::new(&agent.agent_pidfd, PollFlags::IN)];
            // A second at most, so that a doorbell that a hostile target has stolen only costs time.
            let nap = Timespec { tv_sec: 1, tv_nsec: 0 };
            match poll(&mut fds, Some(&nap)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(agent.error(operation, errno)),
            }
            let (rung, dead) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
            if rung {
                let mut count = [0; 8];
                let _ = rustix::io::read(bell, &mut count);
            }
            if self.is_done() {
                continue;
            }
            if dead {
                return Err(Error::Gone { pid: agent.pid });
            }
            if Instant::now() > deadline {
                return Err(agent.error(operation, Errno::TIMEDOUT));
            }
        }
    }
}

impl Drop for RemoteFd {
    fn drop(&mut self) {
        if !self.agent.gone.load(Ordering::Relaxed) {
            let _ = self.agent.channel().syscall(libc::SYS_close as u64, [self.number as u64, 0, 0, 0, 0, 0]);
        }
    }
}

/// Sends descriptors over a socket, with one byte of data.
pub(crate) fn send_fds(socket: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> std::result::Result<(), Errno> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let data = [rustix::io::IoSlice::new(b"F")];
    sendmsg(socket, &data, &mut control, SendFlags::NOSIGNAL).map(drop)
}

/// Rings a doorbell: adds 1 to an eventfd.
fn ring(bell: BorrowedFd<'_>) {
    // A full counter is rung as well.
    let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
}
