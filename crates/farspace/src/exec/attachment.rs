//! One attached target, and the tasks that run guests in it.
//!
//! Tasks are made when they are first needed, one for each call that runs at the same time, and kept for later calls.

use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use farspace_abi::RemoteIoVec;
use farspace_abi::exec::SigContext;
use farspace_abi::vcpu::{AREA_BYTES, ROOM_BYTES, STUB_BYTES};
use farspace_exec::{ForeignSpace, ForeignVcpu, Outcome, Signals, Task};
use farspace_inject::{self as inject, Agent, RemoteFd, RemoteTask};
use farspace_sys::signal::SignalFd;
use farspace_sys::{memory, pidfd, process};
use rustix::io::Errno;

use crate::{Arg, AttachOptions, Mechanism, Target};

/// PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_FIXED.
const STUB: (u64, u64) = (5, 0x12);
/// PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED.
const AREA: (u64, u64) = (3, 0x11);

/// A target with an agent in it. Dropped, it is left as it was.
#[derive(Debug)]
pub(super) struct Attachment {
    target: Target,
    agent: Arc<Agent>,
    /// Made when the first guest is to run.
    room: OnceLock<Result<Room, Errno>>,
    idle: Mutex<Vec<Guest>>,
    is_used: AtomicBool,
}

/// What guests need in the target.
#[derive(Debug)]
struct Room {
    space: Arc<ForeignSpace>,
    /// The memory of the areas.
    memory: RemoteFd,
    /// The agent's pid as its children see it.
    parent: u64,
}

/// A task for guests, and what watches the caller's signals meanwhile.
#[derive(Debug)]
pub(super) struct Guest {
    pub(super) vcpu: ForeignVcpu,
    signals: Option<SignalFd>,
    watches: bool,
}

impl Attachment {
    /// Attaches.
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP: it can't be visited; ESRCH, EPERM, ENOMEM.
    pub(super) fn new(pid: i32) -> Result<Self, Errno> {
        let options = AttachOptions { mechanism: Some(Mechanism::Agent), ..AttachOptions::default() };
        let target = Target::attach_with(pid, &options).map_err(|error| public(error.errno()))?;
        let agent = target.agent("run guests in the memory").map_err(|error| public(error.errno()))?;
        let agent = Arc::clone(agent);
        Ok(Self {
            target,
            agent,
            room: OnceLock::new(),
            idle: Mutex::new(Vec::new()),
            is_used: AtomicBool::new(true),
        })
    }

    /// The agent.
    pub(super) fn agent(&self) -> &Arc<Agent> {
        &self.agent
    }

    /// True if the memory of `pid` can be read, and is this: the stub is where it was mapped, with the number that was
    /// chosen for it. False also where there is no stub yet.
    pub(super) fn is_reached(&self, pid: i32) -> bool {
        self.is_used.store(true, Ordering::Relaxed);
        let Some(Ok(room)) = self.room.get() else { return false };
        let (address, number) = room.space.token();
        let mut bytes = [0; 8];
        let range = [RemoteIoVec { base: address, len: 8 }];
        memory::process_vm_readv(pid, &range, &mut bytes) == Ok(8) && u64::from_ne_bytes(bytes) == number
    }

    /// True if `pid` is still the process whose memory this is; false after its exec or its end, or where the agent
    /// has ended.
    pub(super) fn is_of(&self, pid: i32) -> bool {
        self.is_used.store(true, Ordering::Relaxed);
        pidfd::same_memory(pid, self.agent.agent_pid()) == Some(true)
    }

    /// True if it was used since the last time this was asked.
    pub(super) fn was_used(&self) -> bool {
        self.is_used.swap(false, Ordering::Relaxed)
    }

    /// Syscall mode: makes the call that the registers describe, as [`Target::syscall`]; its result goes to RAX.
    ///
    /// # Errors
    ///
    /// EOPNOTSUPP: it isn't allowed, or would change what is ours there; ESRCH.
    pub(super) fn syscall(&self, registers: &mut SigContext) -> Result<(), Errno> {
        let SigContext { rax, rdi, rsi, rdx, r10, r8, r9, .. } = *registers;
        let args = [rdi, rsi, rdx, r10, r8, r9].map(Arg::Word);
        let returned = self.target.syscall(rax, args).map_err(|error| public(error.errno()))?;
        registers.rax = returned.into_raw() as u64;
        Ok(())
    }

    /// A task for one guest.
    ///
    /// # Errors
    ///
    /// ENOMEM: no more tasks; EOPNOTSUPP: the kernel lacks something, or the target has a seccomp filter; ESRCH.
    pub(super) fn guest(&self) -> Result<Guest, Errno> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(guest) if guest.vcpu.is_ready() => return Ok(guest),
                // Killed meanwhile.
                Some(_) => {}
                None => break,
            }
        }
        let room = self.room.get_or_init(|| Room::new(&self.agent)).as_ref().map_err(|errno| *errno)?;
        let vcpu = room.task(&self.agent)?;
        Ok(Guest { vcpu, signals: None, watches: false })
    }

    /// Keeps a task for later.
    pub(super) fn give_back(&self, guest: Guest) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(guest);
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        // All tasks at once; what is dropped after this has nothing left to do. An agent that can't be made to leave
        // does so by itself as soon as it gets a CPU.
        let _ = self.agent.leave();
    }
}

impl Room {
    fn new(agent: &Arc<Agent>) -> Result<Self, Errno> {
        // Such an agent, and what it clones, lives under a tracer that passes signals on.
        if agent.is_traced() || has_shadow_stack(agent.agent_pid()) {
            return Err(Errno::OPNOTSUPP);
        }
        let base = inject::reserve(agent, ROOM_BYTES).map_err(|error| public(error.errno()))?;
        let space = ForeignSpace::new(base).map_err(|error| public(error.errno()))?;
        let stub = agent.send_fd(space.stub()).map_err(|error| public(error.errno()))?;
        map(agent, base.0, STUB_BYTES, STUB, &stub, 0)?;
        let memory = agent.send_fd(space.memory()).map_err(|error| public(error.errno()))?;
        let parent = call(agent, libc::SYS_getpid, [0; 6])?;
        Ok(Self { space, memory, parent })
    }

    fn task(&self, agent: &Arc<Agent>) -> Result<ForeignVcpu, Errno> {
        let place = self.space.take().ok_or(Errno::NOMEM)?;
        map(agent, place.address().0, AREA_BYTES, AREA, &self.memory, place.offset())?;
        let unborn = place.prepare().map_err(|error| public(error.errno()))?;
        let bell = agent.send_fd(unborn.bell()).map_err(|error| public(error.errno()))?;
        unborn.write(self.parent, bell.number() as u64);
        let (entry, argument) = unborn.entry();
        let task = RemoteTask::spawn(agent, unborn.clear(), entry, argument)
            .map_err(|error| public(error.errno()))?;
        unborn.born(Box::new(Remote(task))).map_err(|error| match error.errno() {
            // A step of its start has failed, and the agent lives.
            Errno::SRCH if agent.check().is_ok() => Errno::OPNOTSUPP,
            errno => public(errno),
        })
    }
}

impl Guest {
    /// Prepares to watch the signals of a mask.
    ///
    /// # Errors
    ///
    /// ENOMEM: also no more descriptors.
    pub(super) fn watch(&mut self, mask: u64) -> Result<(), Errno> {
        self.watches = mask != 0;
        match &mut self.signals {
            _ if mask == 0 => Ok(()),
            Some(signals) => signals.set(mask).map_err(public),
            empty => {
                *empty = Some(SignalFd::new(mask).map_err(public)?);
                Ok(())
            }
        }
    }

    /// Runs what is loaded.
    ///
    /// # Errors
    ///
    /// As [`ForeignVcpu::run`].
    pub(super) fn run(&mut self, signals: Signals) -> farspace_exec::Result<Outcome> {
        self.vcpu.run(signals, self.signals.as_ref().filter(|_| self.watches))
    }
}

#[derive(Debug)]
struct Remote(RemoteTask);

impl Task for Remote {
    fn pid(&self) -> i32 {
        self.0.pid()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.0.pidfd()
    }

    fn signal(&self, signal: i32) {
        self.0.signal(signal);
    }
}

/// Maps a piece of a file over reserved addresses; no child of the target inherits it.
fn map(
    agent: &Agent,
    at: u64,
    len_bytes: u64,
    (protection, flags): (u64, u64),
    file: &RemoteFd,
    offset: u64,
) -> Result<(), Errno> {
    let number = file.number() as u64;
    if call(agent, libc::SYS_mmap, [at, len_bytes, protection, flags, number, offset])? != at {
        return Err(Errno::NOMEM);
    }
    call(agent, libc::SYS_madvise, [at, len_bytes, libc::MADV_DONTFORK as u64, 0, 0, 0]).map(drop)
}

/// One system call of the agent.
fn call(agent: &Agent, nr: libc::c_long, args: [u64; 6]) -> Result<u64, Errno> {
    match agent.channel().syscall(nr as u64, args) {
        Ok(error @ -4095..=-1) => Err(public(Errno::from_raw_os_error(-error as i32))),
        Ok(result) => Ok(result as u64),
        Err(error) => Err(public(error.errno())),
    }
}

/// True if a task's returns are checked by the processor against a second stack: a signal handler that runs on a stack
/// without one isn't possible then.
fn has_shadow_stack(pid: i32) -> bool {
    process::features(pid).is_some_and(|features| features.split_whitespace().any(|name| name == "shstk"))
}

/// The errno of the call, where the cause has another.
fn public(errno: Errno) -> Errno {
    match errno {
        Errno::SRCH | Errno::PERM | Errno::NOMEM | Errno::INVAL | Errno::INTR => errno,
        Errno::AGAIN | Errno::MFILE | Errno::NFILE => Errno::NOMEM,
        Errno::ACCESS => Errno::PERM,
        _ => Errno::OPNOTSUPP,
    }
}
