//! The handle for those who operate on a target more than once.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use farspace_abi::RemoteIoVec;
use farspace_inject::{self as inject, Agent, Frozen, RemoteFd};
use farspace_sys::memory::Memory;
use farspace_sys::process::Mapping;
use farspace_sys::{memory, pipe};
use rustix::io::Errno;

use crate::share::FarCopy;
use crate::sink::Sink;
use crate::transfer::{Progress, Source, Transfer};
use crate::{Error, Mechanism, Report, Result, Snapshot, SpliceFlags, copy};

/// How to attach.
#[derive(Clone, Debug)]
pub struct AttachOptions {
    /// Uses this mechanism or fails; without it, the best that works.
    pub mechanism: Option<Mechanism>,
    /// How long to wait for a thread that can be stopped.
    pub stop_timeout: Duration,
    /// Bytes of the pipe through which [`Target::splice`] moves; fewer where the limits are lower.
    pub pipe_bytes: usize,
}

impl Default for AttachOptions {
    fn default() -> Self {
        Self { mechanism: None, stop_timeout: Duration::from_secs(2), pipe_bytes: 2 << 20 }
    }
}

/// A process whose memory is reached, until the handle is dropped or [detached](Target::detach).
///
/// One thread of the target is held for about 0.1 ms by the attach; nothing else stops it.
#[derive(Debug)]
pub struct Target {
    pid: i32,
    reach: Reach,
    report: Report,
    pipe_bytes: usize,
    pipe: Option<Arc<BoundedPipe>>,
}

/// The ways to reach the memory.
#[derive(Debug)]
enum Reach {
    Agent(Arc<Agent>),
    Copy(Memory),
    ReadV,
}

/// The pipe of the handle; made when first needed.
#[derive(Debug)]
pub(crate) struct BoundedPipe {
    pub(crate) read: OwnedFd,
    /// Bytes of room that it was made with, and that it has now.
    full: usize,
    room: AtomicUsize,
    /// The agent's write end. This process has none, so a dead agent is an end of file.
    pub(crate) write: RemoteFd,
}

impl BoundedPipe {
    /// Gives the empty pipe at most this much room.
    pub(crate) fn fit(&self, bytes: usize) {
        let wanted = self.full.min(bytes);
        if self.room() != wanted && rustix::pipe::fcntl_setpipe_size(&self.read, wanted).is_ok() {
            self.room.store(wanted, Ordering::Relaxed);
        }
    }

    /// Bytes of room.
    pub(crate) fn room(&self) -> usize {
        self.room.load(Ordering::Relaxed)
    }
}

impl Target {
    /// Attaches to a process by the best mechanism that works.
    ///
    /// # Errors
    ///
    /// ESRCH: no such process, a zombie, a kernel thread; EPERM: no ptrace access.
    pub fn attach(pid: i32) -> Result<Self> {
        Self::attach_with(pid, &AttachOptions::default())
    }

    /// Attaches as the options say.
    ///
    /// # Errors
    ///
    /// As [`Target::attach`]; with a mechanism that was asked for, also why it can't be.
    pub fn attach_with(pid: i32, options: &AttachOptions) -> Result<Self> {
        memory::check_access(pid)?;
        let mut reasons = Vec::new();
        let mut stop = Duration::ZERO;
        let (reach, mechanism) = match options.mechanism {
            Some(Mechanism::Native) => {
                return Err(Error::new("use the native system call on the memory", pid, Errno::NOSYS));
            }
            Some(Mechanism::PidMem) => (Reach::Copy(Memory::open(pid)?), Mechanism::PidMem),
            Some(Mechanism::ReadV) => (Reach::ReadV, Mechanism::ReadV),
            wanted => {
                reasons.push("native: this kernel has no process_vmsplice".to_owned());
                match inject::infect(pid, options.stop_timeout) {
                    Ok((agent, held)) => {
                        stop = held;
                        (Reach::Agent(agent), Mechanism::Agent)
                    }
                    Err(error) if wanted.is_some() || matches!(error, inject::Error::Gone { .. }) => {
                        return Err(error.into());
                    }
                    Err(error) => {
                        reasons.push(format!("agent: {error}"));
                        match Memory::open(pid) {
                            Ok(memory) => (Reach::Copy(memory), Mechanism::PidMem),
                            Err(error) => {
                                reasons.push(format!("pidmem: {error}"));
                                (Reach::ReadV, Mechanism::ReadV)
                            }
                        }
                    }
                }
            }
        };
        let report = Report { mechanism, reasons, stop };
        Ok(Self { pid, reach, report, pipe_bytes: options.pipe_bytes, pipe: None })
    }

    /// The target.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Which mechanism is in use, and why not a better one.
    pub fn report(&self) -> &Report {
        &self.report
    }

    /// process_vmsplice on the attached process: [`process_vmsplice`](crate::process_vmsplice).
    ///
    /// # Errors
    ///
    /// EAGAIN, EINTR, EPIPE (and SIGPIPE), EFAULT; ESRCH where the target has ended or executed another
    /// program since the attach.
    pub fn vmsplice(&self, pipe: BorrowedFd<'_>, iov: &[RemoteIoVec], flags: SpliceFlags) -> Result<usize> {
        if iov.len() > farspace_abi::mailbox::MAX_IOV {
            return Err(Error::new("map the memory", self.pid, Errno::INVAL));
        }
        let Reach::Agent(agent) = &self.reach else { return copy::vmsplice(self.pid, pipe, iov, flags) };
        agent.check()?;
        let remote = agent.send_fd(pipe)?;
        loop {
            // The agent never waits, so that a signal to this thread is felt.
            match agent.channel().vmsplice(&remote, iov, SpliceFlags::NONBLOCK.bits()) {
                Ok(bytes) => return Ok(bytes),
                Err(inject::Error::Agent { errno: Errno::AGAIN, .. })
                    if !flags.contains(SpliceFlags::NONBLOCK) =>
                {
                    copy::wait_writable(pipe, flags)
                        .map_err(|e| Error::new("map the memory", self.pid, e))?;
                }
                Err(inject::Error::Agent { errno, .. }) => {
                    if errno == Errno::PIPE {
                        raise_sigpipe();
                    }
                    let at = iov.first().map_or_else(Default::default, |segment| segment.base);
                    return Err(Error::new("map the memory", self.pid, errno).at(at));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Moves ranges of the target into a sink. `progress` is given the bytes of each step.
    ///
    /// Stops at the first page that can't be had and says where: [`Transfer::stopped`].
    ///
    /// # Errors
    ///
    /// What the sink says (ENOSPC, EPIPE...), that the target is gone, or EINTR where `progress` broke it off.
    pub fn splice(
        &mut self,
        ranges: &[RemoteIoVec],
        sink: &mut Sink<'_>,
        progress: Progress<'_>,
    ) -> Result<Transfer> {
        self.open_pipe()?;
        let source = match (&self.reach, &self.pipe) {
            (Reach::Agent(agent), Some(pipe)) => {
                agent.check()?;
                Source::Pages { channel: agent.channel(), pipe, agent, far: FarCopy::ReadV(self.pid) }
            }
            (Reach::Copy(memory), _) => Source::Memory(memory),
            _ => Source::ReadV,
        };
        source.transfer(self.pid, ranges, sink, progress)
    }

    /// The agent's own pid, if there is one: a process of its own, or a thread of the target.
    pub fn agent_pid(&self) -> Option<i32> {
        match &self.reach {
            Reach::Agent(agent) => Some(agent.agent_pid()),
            _ => None,
        }
    }

    /// True for the mappings that farspace itself has made in the target.
    pub fn owns(&self, mapping: &Mapping) -> bool {
        matches!(&self.reach, Reach::Agent(agent) if agent.owns(mapping))
    }

    /// Stops all threads of the target until the result is dropped or thawed.
    ///
    /// # Errors
    ///
    /// Refused: traced, or a thread that doesn't stop. ESRCH.
    pub fn freeze(&self, timeout: Duration) -> Result<Frozen> {
        Ok(Frozen::stop(self.pid, self.agent_pid(), timeout)?)
    }

    /// Forks a copy-on-write snapshot of the address space; it is the agent's child, not the target's.
    ///
    /// Memory that a fork doesn't copy isn't frozen by it: MAP_SHARED goes on changing, MADV_DONTFORK and
    /// MADV_WIPEONFORK memory isn't there.
    ///
    /// # Errors
    ///
    /// EAGAIN, ENOMEM as fork(2); EOPNOTSUPP without an agent.
    pub fn snapshot(&mut self) -> Result<Snapshot> {
        self.open_pipe()?;
        match (&self.reach, &self.pipe) {
            (Reach::Agent(agent), Some(pipe)) => {
                agent.check()?;
                Snapshot::fork(self.pid, agent, pipe)
            }
            _ => Err(Error::new("fork a snapshot without an agent", self.pid, Errno::OPNOTSUPP)),
        }
    }

    /// The agent, for what can't be done without one.
    pub(crate) fn agent(&self, operation: &'static str) -> Result<&Arc<Agent>> {
        match &self.reach {
            Reach::Agent(agent) => Ok(agent),
            _ => {
                let error = Error::new(operation, self.pid, Errno::OPNOTSUPP);
                let why = self.report.reasons.iter().find_map(|reason| reason.strip_prefix("agent: "));
                let why = why.unwrap_or("another mechanism was asked for").to_owned();
                Err(error.because(format!("that takes an agent in the target, and there is none: {why}")))
            }
        }
    }

    fn open_pipe(&mut self) -> Result<()> {
        if let (Reach::Agent(agent), None) = (&self.reach, &self.pipe) {
            let (read, write, room) = pipe::with_room(self.pipe_bytes)
                .map_err(|e| Error::new("make a pipe for the memory", self.pid, e))?;
            let write = agent.send_fd(write.as_fd())?;
            let pipe = BoundedPipe { read, full: room, room: AtomicUsize::new(room), write };
            self.pipe = Some(Arc::new(pipe));
        }
        Ok(())
    }

    /// Leaves the target as it was.
    ///
    /// # Errors
    ///
    /// The agent doesn't end in time; it removes itself as soon as it runs again.
    pub fn detach(mut self) -> Result<()> {
        self.pipe = None;
        match &self.reach {
            Reach::Agent(agent) => Ok(agent.leave()?),
            _ => Ok(()),
        }
    }
}

/// What the kernel does on a write to a pipe without readers.
fn raise_sigpipe() {
    // SAFETY: no pointers; the signal goes to this thread.
    unsafe { libc::raise(libc::SIGPIPE) };
}
