//! The address space that a handle stands for.
//!
//! The kernel's calls name a process, and act on the memory that it has at that moment. A handle stands for one
//! program: so what tells a program from the next one that the process executes is looked at before and after.
//!
//! Invariants: SAFETY.md, 14.

use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use farspace_abi::{RemoteAddr, RemoteIoVec};
use farspace_inject::{self as inject, Agent};
use farspace_sys::memory::{self, Memory};
use farspace_sys::{pidfd, process};
use rustix::io::Errno;

use super::calls;
use crate::syscalls::{Call, Gives};
use crate::{Error, Result, Returned};

/// AT_RANDOM (getauxval(3)): the address of 16 bytes that are other ones after each exec.
const AT_RANDOM: u64 = 25;
/// MFD_CLOEXEC; userfaultfd(2) has O_CLOEXEC in its first argument.
const MEMFD_CLOEXEC: u64 = libc::MFD_CLOEXEC as u64;

/// A process, and the program that it ran when this was made.
#[derive(Debug)]
pub(crate) struct Space {
    pid: i32,
    pidfd: OwnedFd,
    /// Bound to the address space, not to the process.
    memory: Memory,
    random: Option<(RemoteAddr, [u8; 16])>,
    stop_timeout: Duration,
    agent: OnceLock<Arc<Agent>>,
    /// Held while the agent is attached.
    attaching: Mutex<()>,
}

impl Space {
    /// The space of a process, or of the one that a thread belongs to.
    ///
    /// # Errors
    ///
    /// ESRCH: no such process, a zombie, a kernel thread; EPERM: no ptrace access.
    pub(crate) fn of(pid: i32, stop_timeout: Duration) -> Result<Self> {
        let pid = process::status(pid)?.tgid;
        let pidfd = pidfd::open(pid)?;
        let memory = Memory::open(pid)?;
        let random = random_at(pid).and_then(|at| Some((at, read_random(&memory, at)?)));
        let (agent, attaching) = (OnceLock::new(), Mutex::new(()));
        Ok(Self { pid, pidfd, memory, random, stop_timeout, agent, attaching })
    }

    /// The process.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// That the process still runs the same program.
    ///
    /// # Errors
    ///
    /// ESRCH: it has ended, or executed another one.
    pub(crate) fn check(&self) -> Result<()> {
        let gone = || Error::new("find the memory", self.pid, Errno::SRCH);
        let Some((at, known)) = self.random else {
            // Nothing to go by: the address space is there, whoever's it is now.
            return match self.memory.read(RemoteAddr(0), &mut [0]) {
                Err(error) if error.errno == Errno::SRCH => Err(gone()),
                _ => Ok(()),
            };
        };
        let mut now = [0; 16];
        let range = [RemoteIoVec { base: at, len: 16 }];
        if memory::process_vm_readv(self.pid, &range, &mut now).is_ok_and(|n| n == 16) && now == known {
            return Ok(());
        }
        // A program may have written over them: then they are the same in what was opened at the begin.
        let is_same = random_at(self.pid) == Some(at) && read_random(&self.memory, at) == Some(now);
        if is_same { Ok(()) } else { Err(gone()) }
    }

    /// process_vmsplice.
    ///
    /// # Errors
    ///
    /// As the system call; ESRCH after an exec.
    pub(crate) fn vmsplice(
        &self,
        pipe: BorrowedFd<'_>,
        iov: &[RemoteIoVec],
        flags: u32,
    ) -> std::result::Result<usize, Errno> {
        calls::vmsplice(self.pidfd.as_fd(), pipe, iov, flags)
    }

    /// A call on memory, with the caller's descriptors by their numbers.
    ///
    /// # Errors
    ///
    /// Of process_vm_exec itself.
    pub(crate) fn syscall(&self, call: &Call, mut args: [u64; 6]) -> std::result::Result<Returned, Errno> {
        match call.nr as libc::c_long {
            libc::SYS_memfd_create => args[1] |= MEMFD_CLOEXEC,
            libc::SYS_userfaultfd => args[0] |= libc::O_CLOEXEC as u64,
            _ => {}
        }
        match calls::syscall(self.pidfd.as_fd(), call.nr, args)? {
            error @ -4095..=-1 => Ok(Returned::Errno(Errno::from_raw_os_error(-error as i32))),
            fd if call.gives == Gives::Fd => {
                // SAFETY: the call has just made it, in this process, and nobody else knows its number.
                Ok(Returned::Fd(unsafe { OwnedFd::from_raw_fd(fd as i32) }))
            }
            value => Ok(Returned::Value(value as u64)),
        }
    }

    /// The agent, attached now if it wasn't yet.
    ///
    /// # Errors
    ///
    /// Why it can't be.
    pub(crate) fn agent(&self) -> Result<&Arc<Agent>> {
        let _attaching = self.attaching.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(agent) = self.agent.get() {
            return Ok(agent);
        }
        self.check()?;
        let (agent, _) = inject::infect(self.pid, self.stop_timeout)?;
        Ok(self.agent.get_or_init(|| agent))
    }

    /// The agent, if there is one.
    pub(crate) fn present_agent(&self) -> Option<&Arc<Agent>> {
        self.agent.get()
    }
}

fn random_at(pid: i32) -> Option<RemoteAddr> {
    let auxv = std::fs::read(format!("/proc/{pid}/auxv")).ok()?;
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).unwrap_or(0);
    let entry = auxv.chunks_exact(16).find(|pair| word(&pair[..8]) == AT_RANDOM)?;
    Some(RemoteAddr(word(&entry[8..])))
}

fn read_random(memory: &Memory, at: RemoteAddr) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    memory.read_exact(at, &mut bytes).ok()?;
    Some(bytes)
}
