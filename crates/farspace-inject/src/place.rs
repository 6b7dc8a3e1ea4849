//! Placing the agent: the steps from a thread that is chosen to an agent that answers.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use farspace_abi::boot::{BootContext, HOST_SOCKET_FD, NOT_IN_A_REAPER, THREAD_LEFT, placement};
use farspace_abi::mailbox;
use farspace_abi::region::MAGIC;
use farspace_sys::memory::Memory;
use farspace_sys::passing::send_fds;
use farspace_sys::pidfd;
use farspace_sys::process::{self, Status};
use farspace_sys::ptrace::{Running, SUSPEND_SECCOMP};
use farspace_sys::shared::SharedMemory;
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::agent::{Agent, Bells};
use crate::borrow::{self, Borrowed};
use crate::cave::Cave;
use crate::context::ContextBytes;
use crate::exec_watch::ExecWatch;
use crate::exit::Exit;
use crate::freeze::Stragglers;
use crate::keeper::{self, Keeper};
use crate::region::Region;
use crate::timing::{GO_TIMEOUT, HOLD, Patience, START, START_KEPT};
use crate::{BLOB, Error, Refusal, Result, freeze};

/// Looks of the host and the agent at their mailbox before they sleep, where a second CPU is free.
const SPIN: u32 = 4000;

/// An agent that was placed and hasn't been asked for anything yet.
pub(crate) struct Placed {
    agent: Agent,
    held: Duration,
    _lock: Lock,
}

/// Keeps other visits of a process away; they would use the same cave.
struct Lock {
    _pidfd: OwnedFd,
}

/// Places the agent. The calling thread goes on tracing one that is kept.
pub(crate) fn place(pid: i32, timeout: Duration, keeper: Option<Keeper>) -> Result<Placed> {
    require_kernel(pid)?;
    let target = pidfd::open(pid)?;
    let lock = Lock::take(pid, Instant::now() + timeout)?;
    let status = process::status(pid)?;
    let maps = process::mappings(pid)?;
    let memory = Memory::open_writable(pid)?;
    let cave = Cave::find(pid, &maps, &memory)?;
    let region = Region::choose(pid, &maps, &memory)?;
    let shared = SharedMemory::new().map_err(|e| Error::host(pid, e))?;
    let bells = [Bells::new(pid)?, Bells::new(pid)?];

    let may_wait = freeze::that_may_wait(pid)?;
    // Before the stop, which it would make longer.
    let _watch = (may_wait.len() > 1).then(|| ExecWatch::start(pid, None)).transpose()?;
    let tid_in_target =
        |tid: i32| process::status(tid).ok().and_then(|s| s.ns_pids.last().copied()).unwrap_or(0);
    let borrowed =
        borrow::borrow(pid, if keeper.is_some() { SUSPEND_SECCOMP } else { 0 }, Instant::now() + timeout)?;
    region.require_same(&borrowed, &memory)?;
    let tid = borrowed.thread.tid();
    let tid = if status.ns_pids.len() == 1 { tid } else { tid_in_target(tid) };
    let visit =
        Visit { pid, status: &status, memory: &memory, cave, region, may_wait, is_kept: keeper.is_some() };
    let thread = [*status.ns_pids.last().unwrap_or(&0), tid];
    let up = visit.boot(borrowed, thread).and_then(|(context, held)| {
        let connected = visit.connect(&context, &shared, &bells, &target)?;
        Ok((context.placement, held, connected))
    });
    let (placement, held, connected) = up.inspect_err(|_| visit.settle())?;
    let Connected { agent_pid, agent_pidfd, socket } = connected;
    let agent = Agent {
        pid,
        agent_pid,
        agent_pidfd,
        socket,
        shared,
        bells,
        region: region.at,
        cave,
        keeper,
        placement,
        spin: if std::thread::available_parallelism().is_ok_and(|n| n.get() > 1) { SPIN } else { 0 },
        gone: AtomicBool::new(false),
        room: OnceLock::new(),
        busy: [const { Mutex::new(()) }; mailbox::NR_MAILBOXES],
        is_home: AtomicBool::new(false),
    };
    Ok(Placed { agent, held, _lock: lock })
}

impl Placed {
    /// Waits for the agent's first answer; returns it and how long the borrowed thread was held.
    ///
    /// Not on the thread that traces it: an agent that leaves needs that one.
    pub(crate) fn finish(self) -> Result<(Arc<Agent>, Duration)> {
        let Self { agent, held, _lock } = self;
        let pid = agent.pid;
        // The vDSO page is a private copy since the cave was written to; dropped, it is the kernel's own again.
        let dropped = agent.channel().syscall(
            libc::SYS_madvise as u64,
            [agent.cave.page().0, 4096, libc::MADV_DONTNEED as u64, 0, 0, 0],
        );
        dropped.map_err(|error| if matches!(error, Error::Gone { .. }) { lost(pid) } else { error })?;
        agent.check()?;
        Ok((Arc::new(agent), held))
    }

    /// The agent's end.
    pub(crate) fn exit(&self) -> Exit {
        self.agent.exit()
    }
}

/// Unmaps what a visit has left for which there was no agent in the end. Failing that, the next visit does.
pub(crate) fn clear(pid: i32, timeout: Duration) -> Result<()> {
    let deadline = Instant::now() + timeout;
    let _lock = Lock::take(pid, deadline)?;
    let maps = process::mappings(pid)?;
    let memory = Memory::open_writable(pid)?;
    let region = Region::choose(pid, &maps, &memory)?;
    if !region.is_left_over() {
        return Ok(());
    }
    let cave = Cave::find(pid, &maps, &memory)?;
    let options = if process::status(pid)?.seccomp == 0 { 0 } else { SUSPEND_SECCOMP };
    let borrowed = borrow::borrow(pid, options, deadline)?;
    region.require_same(&borrowed, &memory)?;
    region.unmap(borrowed, &memory, cave)?.give_back(Instant::now() + START)
}

impl Lock {
    /// Waits for other visits.
    ///
    /// The lock is on the pidfd, which has an inode per process since Linux 6.9; before, all visits share one.
    fn take(pid: i32, deadline: Instant) -> Result<Self> {
        let pidfd = pidfd::open(pid)?;
        loop {
            match rustix::fs::flock(&pidfd, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => break,
                Err(Errno::AGAIN | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(Errno::AGAIN | Errno::INTR) => return Err(Error::host(pid, Errno::TIMEDOUT)),
                // A kernel whose pidfds can't be locked.
                Err(_) => break,
            }
        }
        Ok(Self { _pidfd: pidfd })
    }
}

/// The agent that was placed isn't there any more: nobody said hello in time, or the target has ended.
fn lost(pid: i32) -> Error {
    Error::Agent { pid, operation: "start in time (a very busy machine? try again)", errno: Errno::TIMEDOUT }
}

/// What is known of the target while the agent is placed.
struct Visit<'a> {
    pid: i32,
    status: &'a Status,
    memory: &'a Memory,
    cave: Cave,
    region: Region,
    /// Threads that may look for children while the helper is one.
    may_wait: Vec<i32>,
    /// Whether what the thread clones is traced by this thread, which must go on to do so.
    is_kept: bool,
}

/// An agent that was found, and the other end of its socket.
struct Connected {
    agent_pid: i32,
    agent_pidfd: OwnedFd,
    socket: OwnedFd,
}

impl Visit<'_> {
    /// Maps the region, lets the thread make the agent, and gives the thread back.
    fn boot(&self, mut borrowed: Borrowed, ids: [i32; 2]) -> Result<(BootContext, Duration)> {
        let Self { pid, memory, cave, region, .. } = *self;
        borrow::abort_rseq(&borrowed.thread, memory, &mut borrowed.resume)?;
        let since = borrowed.since;
        let borrowed = region.map(pid, borrowed, memory, cave)?;
        // From here to the thread's entry nothing fails but with the thread itself.
        let thread = borrowed.thread.tid();
        let can_be_thread = !self.is_kept && self.status.state != 'T' && pidfd::open_thread(thread).is_ok();
        self.write_region(&borrowed, can_be_thread, ids)?;
        let Borrowed { thread, resume, near, .. } = borrowed;

        // Nobody else may look for children while the helper is one.
        let others: Vec<i32> = self.may_wait.iter().copied().filter(|&tid| tid != thread.tid()).collect();
        let soon = Instant::now() + HOLD;
        let held = freeze::hold(pid, &others, soon, Stragglers::Leave).unwrap_or_default();

        if self.is_kept {
            thread.set_options(keeper::BORROWED)?;
        }
        let mut entry = resume;
        entry.set_instruction(region.at);
        entry.forget_syscall();
        thread.set_registers(&entry)?;
        let running = thread.resume_without_signal()?;
        // From here on the thread gets through by itself, whatever happens to this process.
        let look = || {
            let context = self.context()?;
            Ok((context.thread_done != 0).then_some(context))
        };
        let tid = running.tid();
        running.leave_to_events();
        let done =
            if self.is_kept { keeper::run_until(tid, START_KEPT, look) } else { run_until(tid, START, look) };
        let running = Running::from_events(tid);
        drop(held);
        running.interrupt()?;
        let thread = running.wait_interrupted(Instant::now() + START)?;
        let is_inside = region.contains(thread.registers()?.instruction());
        if !is_inside {
            // It wasn't taken back in time and goes on by itself: this stop must be hidden like the first.
            borrow::hide_stop(pid, &thread)?;
        }
        let context = self.context();
        if context.as_ref().is_ok_and(|context| context.thread_done == 0) {
            // It goes through by itself; taken back in the middle, it would miss the rest.
            thread.detach()?;
            return Err(done.err().unwrap_or_else(|| lost(pid)));
        }
        // Before anything else can fail: an agent that is on its own takes the region away. Nor does it before this; a host
        // that is killed in between leaves the thread to get through by itself.
        let resume = if is_inside {
            let _ = memory.write(region.thread_done(), &THREAD_LEFT.to_ne_bytes());
            thread.set_registers(&resume)?;
            resume
        } else {
            thread.registers()?
        };
        done?;
        let context = context?;
        let failed = [context.helper_pid, context.agent_pid].into_iter().find(|result| *result < 0);
        if let Some(result) = failed {
            let again = Borrowed { thread, resume, since, near };
            region.unmap(again, memory, cave)?.give_back(Instant::now() + START)?;
            return Err(Error::refused(pid, self.refusal(result)));
        }
        thread.detach()?;
        let held = since.elapsed();
        Ok((self.wait_ready()?, held))
    }

    /// What the thread and the agent have noted.
    fn context(&self) -> Result<BootContext> {
        BootContext::read(self.memory, self.region.context()).map_err(|error| match &error {
            // An agent that was left alone for too long has taken the region away.
            Error::Sys(e) if e.errno == Errno::IO => lost(self.pid),
            _ => error,
        })
    }

    /// Why there is no agent.
    fn refusal(&self, result: i64) -> Refusal {
        match result {
            NOT_IN_A_REAPER if self.is_kept => Refusal::FilteredReaper,
            NOT_IN_A_REAPER if self.status.state == 'T' => Refusal::StoppedReaper,
            NOT_IN_A_REAPER => Refusal::Reaper,
            result => Refusal::NoTask(Errno::from_raw_os_error((-result) as i32)),
        }
    }

    fn write_region(&self, borrowed: &Borrowed, can_be_thread: bool, ids: [i32; 2]) -> Result<()> {
        let resume = borrowed.resume.restarted();
        let context = BootContext {
            magic: MAGIC,
            resume_rip: resume.instruction().0,
            resume: resume.syscall_registers(),
            all_signals: u64::MAX,
            go_timeout: [0, GO_TIMEOUT.as_nanos() as i64],
            placement: placement::ORPHAN,
            clone_flags: placement::ORPHAN_FLAGS,
            is_reaper: u32::from(process::is_init(self.status)),
            thread_flags: if can_be_thread { u64::from(placement::THREAD_FLAGS) } else { 0 },
            thread: ids,
            ..BootContext::default()
        };
        self.memory.write(self.region.at, BLOB)?;
        Ok(self.memory.write(self.region.context(), &context.to_bytes())?)
    }

    /// Finds the agent and gives it what it works with.
    fn connect(
        &self,
        context: &BootContext,
        shared: &SharedMemory,
        bells: &[Bells; mailbox::NR_MAILBOXES],
        target: &OwnedFd,
    ) -> Result<Connected> {
        let pid = self.pid;
        let ns_pid = context.agent_pid as i32;
        let found = match context.placement {
            placement::THREAD => process::tid_in_namespace(pid, ns_pid),
            _ => process::pid_in_namespace(pid, self.status, ns_pid),
        };
        let agent_pid = found.ok_or_else(|| lost(pid))?;
        let agent_pidfd = match context.placement {
            placement::THREAD => pidfd::open_thread(agent_pid),
            _ => pidfd::open(agent_pid),
        };
        let or_lost = |error: farspace_sys::Error| if error.is_gone() { lost(pid) } else { error.into() };
        let agent_pidfd = agent_pidfd.map_err(or_lost)?;
        let socket = pidfd::take_fd(agent_pidfd.as_fd(), agent_pid, HOST_SOCKET_FD).map_err(or_lost)?;
        let [own, snapshot] = bells;
        let memfd = shared.memfd();
        let fds = [&own.ring, &snapshot.ring, &own.answer, &snapshot.answer, target];
        let fds: Vec<_> = std::iter::once(memfd.as_fd()).chain(fds.map(AsFd::as_fd)).collect();
        send_fds(socket.as_fd(), &fds).map_err(|errno| match errno {
            Errno::PIPE | Errno::CONNRESET => lost(pid),
            errno => Error::Agent { pid, operation: "take its mailbox", errno },
        })?;
        Ok(Connected { agent_pid, agent_pidfd, socket })
    }

    /// After a failure: waits until nothing of this visit is at work in the target any more. An agent that nobody greets
    /// leaves by itself.
    fn settle(&self) {
        let look = || Ok(Region::is_at_rest(self.region.at, self.pid, self.memory).then_some(()));
        let _ = self.wait_for(2 * START, look);
    }

    /// As the function of this name; where the agent is kept, it and the helper are let run meanwhile.
    fn wait_for<T>(&self, limit: Duration, look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
        if self.is_kept { keeper::run_until(self.pid, limit, look) } else { wait_for(limit, look) }
    }

    fn wait_ready(&self) -> Result<BootContext> {
        let pid = self.pid;
        let look = || {
            let context = self.context()?;
            Ok((context.agent_ready != 0 && context.agent_pid != 0).then_some(context))
        };
        match self.wait_for(START, look)? {
            Some(context) if context.agent_ready == 1 => Ok(context),
            Some(context) => {
                let errno = Errno::from_raw_os_error((context.agent_ready as i32).wrapping_neg());
                Err(Error::Agent { pid, operation: "make its socket", errno })
            }
            None => Err(lost(pid)),
        }
    }
}

impl Bells {
    fn new(pid: i32) -> Result<Self> {
        let new =
            || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| Error::host(pid, e));
        Ok(Self { ring: new()?, answer: new()? })
    }
}

/// Lets the borrowed thread run until `look` finds something; signals that it is sent meanwhile are delivered.
fn run_until<T>(tid: i32, limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    wait_for(limit, || {
        match Running::from_events(tid).poll()? {
            Ok(stopped) => stopped.resume()?,
            Err(running) => running,
        }
        .leave_to_events();
        look()
    })
}

/// Looks until there is something to see: without sleep at first, for what takes microseconds.
fn wait_for<T>(limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let begin = Instant::now();
    let mut patience = Patience::new(limit);
    loop {
        // First the time, so that the last look is one after the end.
        let is_over = patience.is_over();
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if is_over {
            return Ok(None);
        }
        if begin.elapsed() < Duration::from_millis(1) {
            std::thread::yield_now();
        } else {
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

fn require_kernel(pid: i32) -> Result<()> {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < (5, 16) { Err(Error::refused(pid, Refusal::OldKernel)) } else { Ok(()) }
}
