//! The agent from the host's side: requests, descriptors, and its end.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use farspace_abi::boot::{AGENT_SOCKET_FD, placement};
use farspace_abi::mailbox::{self, op};
use farspace_abi::region::REGION_BYTES;
use farspace_sys::memory::Memory;
use farspace_sys::passing::send_fds;
use farspace_sys::process::Mapping;
use farspace_sys::ptrace::{Running, TRACE_SYSGOOD};
use farspace_sys::shared::SharedMemory;
use farspace_sys::{RemoteAddr, pidfd};
use rustix::io::Errno;

use crate::cave::Cave;
use crate::channel::Channel;
use crate::exit::Exit;
use crate::keeper::Keeper;
use crate::{Error, Result};

/// How long a request may take that doesn't wait for anything outside of the agent.
pub(crate) const PROMPT: Duration = Duration::from_secs(10);

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
    /// Addresses that are set aside for guests: the first, and their length.
    pub(crate) room: OnceLock<(RemoteAddr, u64)>,
    /// One request at a time: held while a mailbox is in use.
    pub(crate) busy: [Mutex<()>; mailbox::NR_MAILBOXES],
    /// It could tell the last time that the target is still in its memory.
    pub(crate) is_home: AtomicBool,
}

/// The two eventfds of a mailbox.
#[derive(Debug)]
pub(crate) struct Bells {
    pub(crate) ring: OwnedFd,
    pub(crate) answer: OwnedFd,
}

/// A descriptor of this process that the agent has a copy of.
#[derive(Debug)]
pub struct RemoteFd {
    agent: Arc<Agent>,
    pub(crate) number: i32,
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

    /// True if the agent has a tracer, which suspends the target's seccomp filter for it and for what it clones.
    pub fn is_traced(&self) -> bool {
        self.keeper.is_some()
    }

    /// The host's end of the agent's socket: the agent leaves once all copies of it are closed.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// True if there is a CPU for each side to look for the other without sleeping.
    pub fn may_spin(&self) -> bool {
        self.spin > 0
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

    /// Takes a descriptor that a call of the agent has made: it is moved from the agent's table to this process's,
    /// close-on-exec.
    ///
    /// # Errors
    ///
    /// EBADF: it isn't there; EMFILE here; or the agent is gone.
    pub fn fetch_fd(self: &Arc<Self>, number: i32) -> Result<OwnedFd> {
        if number <= AGENT_SOCKET_FD {
            return Err(self.error("hand over a descriptor", Errno::PROTO));
        }
        // Closed in the agent when this is dropped.
        let remote = RemoteFd { agent: Arc::clone(self), number };
        Ok(pidfd::take_fd(self.pidfd(), self.agent_pid, remote.number)?)
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

    /// Makes the agent end its guests' tasks and wait for its end.
    fn quit(&self) -> Result<()> {
        self.channel().request(op::QUIT, &[], &[])?.wait("end").map(drop)
    }

    /// What is needed to end the agent.
    pub(crate) fn exit(&self) -> Exit {
        let Self { pid, agent_pid, region, cave, placement, .. } = *self;
        Exit { pid, agent_pid, region, cave, placement }
    }

    /// True for the mappings that the agent has made in the target.
    pub fn owns(&self, mapping: &Mapping) -> bool {
        let is_in = |at: RemoteAddr, len: u64| mapping.start.0.wrapping_sub(at.0) < len;
        is_in(self.region, REGION_BYTES as u64) || self.room.get().is_some_and(|(at, len)| is_in(*at, *len))
    }

    pub(crate) fn error(&self, operation: &'static str, errno: Errno) -> Error {
        Error::Agent { pid: self.pid, operation, errno }
    }
}

impl RemoteFd {
    /// Its number in the agent's table.
    pub fn number(&self) -> i32 {
        self.number
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.leave();
    }
}

impl Drop for RemoteFd {
    fn drop(&mut self) {
        if !self.agent.gone.load(Ordering::Relaxed) {
            let _ = self.agent.channel().syscall(libc::SYS_close as u64, [self.number as u64, 0, 0, 0, 0, 0]);
        }
    }
}
