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

use crate::backend::{self, Forced};
use crate::share::FarCopy;
use crate::sink::Sink;
use crate::transfer::{Progress, Source, Transfer};
use crate::{Error, Mechanism, Report, Result, Snapshot, SpliceFlags, copy, native};

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
/// By the kernel's own calls, nothing in the target is touched. Else one thread of it is held for about 0.1 ms by the
/// attach; nothing else stops it.
#[derive(Debug)]
pub struct Target {
    pid: i32,
    reach: Reach,
    report: Report,
    pipe_bytes: usize,
    pipe: Option<Arc<BoundedPipe>>,
    own_pipe: Option<OwnPipe>,
}

/// The ways to reach the memory.
#[derive(Debug)]
enum Reach {
    Native(native::Space),
    Agent(Arc<Agent>),
    Copy(Memory),
    ReadV,
}

/// The pipe of the handle; made when first needed.
#[derive(Debug)]
pub(crate) struct BoundedPipe<W = RemoteFd> {
    pub(crate) read: OwnedFd,
    /// Bytes of room that it was made with, and that it has now.
    full: usize,
    room: AtomicUsize,
    /// The agent's write end. This process has none, so a dead agent is an end of file.
    pub(crate) write: W,
}

/// The same where this process fills it itself.
pub(crate) type OwnPipe = BoundedPipe<OwnedFd>;

impl OwnPipe {
    pub(crate) fn reader(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    pub(crate) fn writer(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }
}

impl<W> BoundedPipe<W> {
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
        let mut found = match options.mechanism {
            Some(mechanism) => Found::one(pid, mechanism, options)?,
            None => Found::best(pid, options)?,
        };
        if let Reach::Native(space) = &found.reach {
            // A thread stands for its process.
            found.pid = space.pid();
        }
        let Found { pid, reach, mechanism, reasons, stop } = found;
        let report = Report { mechanism, reasons, stop };
        Ok(Self { pid, reach, report, pipe_bytes: options.pipe_bytes, pipe: None, own_pipe: None })
    }

    /// Attaches without the kernel's calls.
    pub(crate) fn attach_stock(pid: i32) -> Result<Self> {
        memory::check_access(pid)?;
        let options = AttachOptions::default();
        let Found { pid, reach, mechanism, reasons, stop } = Found::stock(pid, &options, Vec::new())?;
        let report = Report { mechanism, reasons, stop };
        Ok(Self { pid, reach, report, pipe_bytes: options.pipe_bytes, pipe: None, own_pipe: None })
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
        let agent = match &self.reach {
            Reach::Agent(agent) => agent,
            Reach::Native(space) => return self.vmsplice_by_kernel(space, pipe, iov, flags),
            Reach::Copy(_) | Reach::ReadV => return copy::vmsplice(self.pid, pipe, iov, flags),
        };
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

    fn vmsplice_by_kernel(
        &self,
        space: &native::Space,
        pipe: BorrowedFd<'_>,
        iov: &[RemoteIoVec],
        flags: SpliceFlags,
    ) -> Result<usize> {
        space.check()?;
        let done = space.vmsplice(pipe, iov, (flags - SpliceFlags::PIDFD).bits());
        // It has acted on what the process had at that moment.
        space.check()?;
        let at = iov.first().map_or_else(Default::default, |segment| segment.base);
        done.map_err(|errno| Error::new("map the memory", self.pid, errno).at(at))
    }

    /// Moves ranges of the target into a sink. `progress` is given the bytes of each step.
    ///
    /// Stops at the first page that can't be had and says where: [`Transfer::stopped`]. Until a page has left the pipe, and the
    /// socket, it is referred to: of a pool of huge pages (hugetlbfs), it is missing there if the target drops it.
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
        if let (Reach::Native(space), Some(pipe)) = (&self.reach, &self.own_pipe) {
            space.check()?;
            let stream = native::Stream { pid: self.pid, space, pipe };
            let done = Source::Native(stream).transfer(self.pid, ranges, sink, progress)?;
            space.check()?;
            return Ok(done);
        }
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
        self.present_agent().map(|agent| agent.agent_pid())
    }

    /// True for the mappings that farspace itself has made in the target.
    pub fn owns(&self, mapping: &Mapping) -> bool {
        self.present_agent().is_some_and(|agent| agent.owns(mapping))
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
        const WHAT: &str = "fork a snapshot without an agent";
        if self.pipe.is_none() {
            let agent = Arc::clone(self.agent(WHAT)?);
            self.pipe = Some(self.agents_pipe(&agent)?);
        }
        let (agent, pipe) = (self.agent(WHAT)?, self.pipe.as_ref());
        agent.check()?;
        let pipe = pipe.ok_or_else(|| Error::new(WHAT, self.pid, Errno::OPNOTSUPP))?;
        Snapshot::fork(self.pid, agent, pipe)
    }

    /// The agent, for what can't be done without one.
    pub(crate) fn agent(&self, operation: &'static str) -> Result<&Arc<Agent>> {
        match &self.reach {
            Reach::Agent(agent) => Ok(agent),
            Reach::Native(space) => space.agent(),
            Reach::Copy(_) | Reach::ReadV => {
                let error = Error::new(operation, self.pid, Errno::OPNOTSUPP);
                let why = self.report.reasons.iter().find_map(|reason| reason.strip_prefix("agent: "));
                let why = why.unwrap_or("another mechanism was asked for").to_owned();
                Err(error.because(format!("that takes an agent in the target, and there is none: {why}")))
            }
        }
    }

    /// The agent, if there is one.
    pub(crate) fn present_agent(&self) -> Option<&Arc<Agent>> {
        match &self.reach {
            Reach::Agent(agent) => Some(agent),
            Reach::Native(space) => space.present_agent(),
            Reach::Copy(_) | Reach::ReadV => None,
        }
    }

    /// The address space, where the kernel makes calls in it.
    pub(crate) fn native_calls(&self) -> Option<&native::Space> {
        match &self.reach {
            Reach::Native(space) if backend::native::has_vm_exec() => Some(space),
            _ => None,
        }
    }

    /// Makes the pipe for [`Target::splice`], if there is none yet.
    fn open_pipe(&mut self) -> Result<()> {
        match &self.reach {
            Reach::Native(_) if self.own_pipe.is_none() => {
                let (read, write, full) = self.bare_pipe()?;
                self.own_pipe = Some(BoundedPipe { read, full, room: AtomicUsize::new(full), write });
            }
            Reach::Agent(agent) if self.pipe.is_none() => {
                let agent = Arc::clone(agent);
                self.pipe = Some(self.agents_pipe(&agent)?);
            }
            _ => {}
        }
        Ok(())
    }

    fn agents_pipe(&self, agent: &Arc<Agent>) -> Result<Arc<BoundedPipe>> {
        let (read, write, full) = self.bare_pipe()?;
        let write = agent.send_fd(write.as_fd())?;
        Ok(Arc::new(BoundedPipe { read, full, room: AtomicUsize::new(full), write }))
    }

    fn bare_pipe(&self) -> Result<(OwnedFd, OwnedFd, usize)> {
        pipe::with_room(self.pipe_bytes).map_err(|e| Error::new("make a pipe for the memory", self.pid, e))
    }

    /// Leaves the target as it was.
    ///
    /// # Errors
    ///
    /// The agent doesn't end in time; it removes itself as soon as it runs again.
    pub fn detach(mut self) -> Result<()> {
        self.pipe = None;
        match self.present_agent() {
            Some(agent) => Ok(agent.leave()?),
            None => Ok(()),
        }
    }
}

/// What an attach has found.
struct Found {
    pid: i32,
    reach: Reach,
    mechanism: Mechanism,
    reasons: Vec<String>,
    stop: Duration,
}

impl Found {
    fn new(pid: i32, reach: Reach, mechanism: Mechanism, reasons: Vec<String>) -> Self {
        Self { pid, reach, mechanism, reasons, stop: Duration::ZERO }
    }

    /// What was asked for, or why it can't be.
    fn one(pid: i32, mechanism: Mechanism, options: &AttachOptions) -> Result<Self> {
        let reach = match mechanism {
            Mechanism::Native if backend::native::has_vmsplice() => {
                Reach::Native(native::Space::of(pid, options.stop_timeout)?)
            }
            Mechanism::Native => {
                return Err(Error::new("use the native system call on the memory", pid, Errno::NOSYS));
            }
            Mechanism::Agent => return Self::agent(pid, options, Vec::new()),
            Mechanism::PidMem => Reach::Copy(Memory::open(pid)?),
            Mechanism::ReadV => Reach::ReadV,
        };
        Ok(Self::new(pid, reach, mechanism, Vec::new()))
    }

    /// The best that works.
    fn best(pid: i32, options: &AttachOptions) -> Result<Self> {
        let refused = |errno, why: String| {
            Err(Error::new("use the native system call on the memory", pid, errno).because(why))
        };
        let reason = match backend::forced() {
            Forced::Unknown | Forced::Native if backend::check().is_err() => {
                return refused(Errno::NOSYS, backend::check().err().unwrap_or_default());
            }
            Forced::Stock => format!("native: {}=stock asks for another", backend::VARIABLE),
            Forced::Native | Forced::No | Forced::Unknown if backend::native::has_vmsplice() => {
                match native::Space::of(pid, options.stop_timeout) {
                    Ok(space) => {
                        return Ok(Self::new(pid, Reach::Native(space), Mechanism::Native, Vec::new()));
                    }
                    Err(error) if error.errno() == Errno::SRCH => return Err(error),
                    Err(error) => format!("native: {error}"),
                }
            }
            _ => "native: this kernel has no process_vmsplice".to_owned(),
        };
        Self::stock(pid, options, vec![reason])
    }

    /// The best that works without the kernel's calls.
    fn stock(pid: i32, options: &AttachOptions, mut reasons: Vec<String>) -> Result<Self> {
        match Self::agent(pid, options, reasons.clone()) {
            Err(error) if error.errno() != Errno::SRCH => reasons.push(format!("agent: {error}")),
            done => return done,
        }
        match Memory::open(pid) {
            Ok(memory) => Ok(Self::new(pid, Reach::Copy(memory), Mechanism::PidMem, reasons)),
            Err(error) => {
                reasons.push(format!("pidmem: {error}"));
                Ok(Self::new(pid, Reach::ReadV, Mechanism::ReadV, reasons))
            }
        }
    }

    fn agent(pid: i32, options: &AttachOptions, reasons: Vec<String>) -> Result<Self> {
        let (agent, stop) = inject::infect(pid, options.stop_timeout)?;
        Ok(Self { stop, ..Self::new(pid, Reach::Agent(agent), Mechanism::Agent, reasons) })
    }
}

/// What the kernel does on a write to a pipe without readers.
fn raise_sigpipe() {
    // SAFETY: no pointers; the signal goes to this thread.
    unsafe { libc::raise(libc::SIGPIPE) };
}
