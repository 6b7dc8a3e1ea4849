//! Tasks that the agent clones into the target's address space to run guest code.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use farspace_abi::RemoteAddr;
use farspace_abi::mailbox::op;
use farspace_abi::vcpu::AREA_BYTES;
use farspace_sys::{pidfd, signal};
use rustix::io::Errno;

use crate::region::places;
use crate::{Agent, Result};

/// Sets addresses aside in the target for such tasks, aligned to an area of theirs; once for each agent.
///
/// The agent unmaps them when it leaves, and whatever was mapped there since.
///
/// # Errors
///
/// ENOMEM; EBUSY: done before.
pub fn reserve(agent: &Agent, len_bytes: u64) -> Result<RemoteAddr> {
    const OPERATION: &str = "set addresses aside";
    for at in places(agent.region.0, AREA_BYTES) {
        match agent.channel().request(op::RESERVE, &[at.0, len_bytes], &[])?.wait(OPERATION) {
            Err(error) if error.errno() == Errno::EXIST => {}
            done => return done.map(|_| agent.room.get_or_init(|| (at, len_bytes)).0),
        }
    }
    Err(agent.error(OPERATION, Errno::NOMEM))
}

/// A task that shares the target's memory and nothing else, a child of the agent. Dropped, it ends.
#[derive(Debug)]
pub struct RemoteTask {
    agent: Arc<Agent>,
    /// Its pidfd in the agent's table.
    number: u64,
    pidfd: OwnedFd,
    pid: i32,
}

impl RemoteTask {
    /// Clones one that begins at `entry`, with `argument` in RDI, all signals blocked and no stack; the kernel clears
    /// the word at `clear` when it ends.
    ///
    /// # Errors
    ///
    /// EAGAIN: the limit of processes; EMFILE: too many tasks or descriptors.
    pub fn spawn(
        agent: &Arc<Agent>,
        clear: RemoteAddr,
        entry: RemoteAddr,
        argument: RemoteAddr,
    ) -> Result<Self> {
        const OPERATION: &str = "clone a task";
        let args = [clear.0, entry.0, argument.0];
        let number = agent.channel().request(op::SPAWN, &args, &[])?.wait(OPERATION)?;
        match pidfd::take_fd(agent.pidfd(), agent.agent_pid(), number as i32) {
            Ok(pidfd) => {
                // Not there if it has ended already.
                let pid = pidfd::pid_of(pidfd.as_fd()).unwrap_or(0);
                Ok(Self { agent: Arc::clone(agent), number, pidfd, pid })
            }
            Err(error) => {
                reap(agent, number);
                Err(error.into())
            }
        }
    }

    /// Its pid here; 0 if it had ended by the time it was asked for.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Stands for the task; readable once it has ended.
    pub fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// Sends it a signal: by ourselves, or by the agent where we are another user without CAP_KILL.
    pub fn signal(&self, signal: i32) {
        if signal::send(self.pidfd.as_fd(), signal) == Err(Errno::PERM) {
            let args = [self.number, signal as u64, 0, 0, 0, 0];
            let _ = self.agent.channel().syscall(libc::SYS_pidfd_send_signal as u64, args);
        }
    }
}

impl Drop for RemoteTask {
    fn drop(&mut self) {
        // An agent that leaves ends its tasks by itself.
        if !self.agent.gone.load(Ordering::Relaxed) {
            reap(&self.agent, self.number);
        }
    }
}

fn reap(agent: &Agent, number: u64) {
    if let Ok(pending) = agent.channel().request(op::REAP, &[number], &[]) {
        let _ = pending.wait("end a task");
    }
}
