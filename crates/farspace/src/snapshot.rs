//! A frozen copy of the target's address space.

use std::os::fd::AsFd;
use std::sync::Arc;

use farspace_abi::RemoteIoVec;
use farspace_inject::Agent;
use farspace_sys::memory::Memory;
use farspace_sys::{pidfd, process};
use rustix::io::Errno;

use crate::share::FarCopy;
use crate::sink::Sink;
use crate::target::BoundedPipe;
use crate::transfer::{Progress, Source, Transfer};
use crate::{Error, Result};

/// A forked child of the agent that holds the address space as it was, and does nothing else.
///
/// It may outlive the handle that made it: the target is left when both are dropped.
///
/// Its pages are mapped into pipes, never written to and never unshared. Private memory from a pool of huge pages
/// (hugetlbfs) isn't in it. Dropped, the child ends and is reaped.
#[derive(Debug)]
pub struct Snapshot {
    target: i32,
    pid: i32,
    ns_pid: i32,
    agent: Arc<Agent>,
    pipe: Arc<BoundedPipe>,
    memory: Option<Memory>,
}

impl Snapshot {
    pub(crate) fn fork(target: i32, agent: &Arc<Agent>, pipe: &Arc<BoundedPipe>) -> Result<Self> {
        let ns_pid = agent.channel().fork()?;
        let status = process::status(agent.agent_pid())?;
        let (own_agent, pipe) = (agent.clone(), pipe.clone());
        let mut snapshot = Self { target, pid: 0, ns_pid, agent: own_agent, pipe, memory: None };
        snapshot.pid = process::pid_in_namespace(agent.agent_pid(), &status, ns_pid)
            .ok_or_else(|| Error::new("find the snapshot", target, Errno::SRCH))?;
        snapshot.memory = Some(Memory::open(snapshot.pid)?);
        if status.hugetlb_kib > 0 {
            snapshot.leave_the_pool()?;
        }
        Ok(snapshot)
    }

    /// Unmaps private memory from a pool of huge pages. While the child shared it, each write of the target would take another
    /// page from the pool: one that isn't there, or that somebody else counts on.
    fn leave_the_pool(&self) -> Result<()> {
        for mapping in process::mappings(self.pid)? {
            if mapping.permissions[3] == b'p' && process::is_hugetlb(self.pid, &mapping) {
                let args = [mapping.start.0, mapping.len_bytes(), 0, 0, 0, 0];
                let result = self.agent.snapshot_channel().syscall(libc::SYS_munmap as u64, args)?;
                if let Some(errno) = u16::try_from(-result).ok().filter(|&errno| errno > 0) {
                    let errno = Errno::from_raw_os_error(i32::from(errno));
                    return Err(
                        Error::new("unmap huge pages in the snapshot", self.target, errno).at(mapping.start)
                    );
                }
            }
        }
        Ok(())
    }

    /// The child's pid, under which /proc shows the frozen address space.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// True where the target takes in orphans and so is the child's parent. The exit signal is 0: only waits with
    /// __WALL or __WCLONE (wait(2)) see the child.
    pub fn is_child_of_target(&self) -> bool {
        self.agent.is_thread()
    }

    /// Opens the frozen memory for reading by copy.
    ///
    /// # Errors
    ///
    /// ESRCH: the child was killed.
    pub fn memory(&self) -> Result<Memory> {
        Ok(Memory::open(self.pid)?)
    }

    /// Moves ranges of the snapshot into a sink: [`Target::splice`](crate::Target::splice).
    ///
    /// # Errors
    ///
    /// As there.
    pub fn splice(
        &self,
        ranges: &[RemoteIoVec],
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        let channel = self.agent.snapshot_channel();
        let memory =
            self.memory.as_ref().ok_or_else(|| Error::new("read the snapshot", self.target, Errno::SRCH))?;
        let source =
            Source::Pages { channel, pipe: &self.pipe, agent: &self.agent, far: FarCopy::Memory(memory) };
        source.transfer(self.target, ranges, sink, progress)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        /// __WALL (wait(2)): the child's exit signal is 0.
        const WALL: u64 = 0x4000_0000;
        let child = pidfd::open(self.pid);
        // A child that doesn't answer is killed by its pidfd; only then can it be waited for.
        let _ = self.agent.snapshot_channel().quit();
        if let Ok(child) = child {
            pidfd::kill(child.as_fd());
        }
        let _ = self.agent.channel().syscall(libc::SYS_wait4 as u64, [self.ns_pid as u64, 0, WALL, 0, 0, 0]);
    }
}
