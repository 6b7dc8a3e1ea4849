//! One system call.

use std::ops::ControlFlow;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use farspace_inject::{Agent, RemoteFd};
use farspace_sys::{arch, pidfd};
use rustix::io::Errno;

use super::{own, ready};
use crate::syscalls::{self, Call, Gives};
use crate::{Error, Mechanism, Result, Target, native};

/// [`Error::operation`] of calls that are refused or can't be made.
const MAKE: &str = "make a system call in the memory";

/// How long a call may take that waits for nobody: the kernel may have much memory to map or give back.
const PATIENCE: Duration = Duration::from_secs(30);

/// An argument of a system call.
#[derive(Clone, Copy, Debug)]
pub enum Arg<'a> {
    /// A number, or an address of the target. In the place of a descriptor: the number of one of this process.
    Word(u64),
    /// A descriptor of this process, of which the agent gets a copy for the call.
    Fd(BorrowedFd<'a>),
}

impl Arg<'_> {
    /// The number, or 0 in the place of a descriptor.
    fn word(self) -> u64 {
        match self {
            Self::Word(word) => word,
            Self::Fd(_) => 0,
        }
    }
}

impl From<u64> for Arg<'_> {
    fn from(word: u64) -> Self {
        Self::Word(word)
    }
}

/// Which calls are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Those of [`syscalls::ALLOWED`].
    Listed,
    /// All but those that would harm the target or the agent ([`syscalls::forbidden`]). Numbers of descriptors
    /// in calls that aren't listed are the agent's.
    Any,
}

/// What a call has returned.
#[derive(Debug)]
pub enum Returned {
    /// Its result.
    Value(u64),
    /// A descriptor that it has made, moved to this process; close-on-exec.
    Fd(OwnedFd),
    /// It failed.
    Errno(Errno),
}

impl Returned {
    /// As the kernel returns it: a negative errno, or the result. A descriptor becomes the caller's to close.
    pub fn into_raw(self) -> i64 {
        match self {
            Self::Value(value) => value as i64,
            Self::Fd(fd) => i64::from(fd.into_raw_fd()),
            Self::Errno(errno) => -i64::from(errno.raw_os_error()),
        }
    }
}

impl Target {
    /// Makes one system call in the target's address space; one that blocks, blocks until a signal arrives.
    ///
    /// A signal whose handler runs on this thread ends a call that blocks, with EINTR. The wait for a pipe, socket or
    /// terminal to be ready is this thread's; only what blocks beyond that (a write of more than there is room for,
    /// a futex) blocks the agent, and then the other calls on this handle wait for it.
    ///
    /// # Errors
    ///
    /// What the call itself says is no error here: [`Returned::Errno`]. EOPNOTSUPP: the call isn't allowed, or the
    /// target has no agent. EBUSY: it would change farspace's own memory in the target. ESRCH: the target has
    /// ended or executed another program.
    pub fn syscall(&self, nr: u64, args: [Arg<'_>; 6]) -> Result<Returned> {
        self.syscall_with(nr, args, Permit::Listed, &mut || ControlFlow::Continue(()))
    }

    /// As [`Target::syscall`], for a call that waits for nobody: an agent that doesn't answer in time is asked to break it
    /// off, and given up.
    pub(super) fn prompt_syscall(&self, nr: libc::c_long, args: [Arg<'_>; 6]) -> Result<Returned> {
        let begin = Instant::now();
        let mut go_on = || match begin.elapsed() < PATIENCE {
            true => ControlFlow::Continue(()),
            false => ControlFlow::Break(()),
        };
        self.syscall_with(nr as u64, args, Permit::Listed, &mut go_on)
    }

    /// As [`Target::syscall`], also for other calls. While the call blocks, `go_on` is asked 20 times a second;
    /// `Break` ends it with EINTR.
    ///
    /// # Errors
    ///
    /// As [`Target::syscall`].
    pub fn syscall_with(
        &self,
        nr: u64,
        args: [Arg<'_>; 6],
        permit: Permit,
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Returned> {
        let call = self.check_allowed(nr, &args, permit)?;
        if let (Some(space), Some(call)) = (self.native_calls(), call) {
            return self.by_kernel(space, call, args, go_on);
        }
        let agent = self.agent(MAKE)?;
        let owned = match own_descriptor(call, &args) {
            Ok(owned) => owned,
            Err(errno) => return Ok(Returned::Errno(errno)),
        };
        let mut args: [Arg<'_>; 6] = args;
        if let (Some(i), Some(fd)) = (call.and_then(|call| call.fd), &owned) {
            args[i] = Arg::Fd(fd.as_fd());
        }
        own::check(self.pid(), agent, nr, call, &args.map(Arg::word))?;
        if let Some(call) = call
            && let Err(errno) = ready::wait(call, &args, go_on, || Ok(agent.check()?))?
        {
            return Ok(Returned::Errno(errno));
        }
        let sent = Sent::new(agent, args)?;
        let result = agent.channel().blocking_syscall(nr, sent.words, go_on)?;
        if arch::is_restart(result) || result == -i64::from(libc::EINTR) {
            // The end of the target interrupts, too.
            agent.check()?;
            return Ok(Returned::Errno(Errno::INTR));
        }
        match result {
            -4095..=-1 => Ok(Returned::Errno(Errno::from_raw_os_error(-result as i32))),
            fd if call.is_some_and(|call| call.gives == Gives::Fd) => {
                let number = i32::try_from(fd).unwrap_or(-1);
                Ok(Returned::Fd(agent.fetch_fd(number)?))
            }
            value => Ok(Returned::Value(value as u64)),
        }
    }

    /// The mechanism that makes a call with this number: the kernel's process_vm_exec where there is one and the call
    /// is one on memory, else the agent.
    pub fn mechanism_of_call(&self, nr: u64) -> Mechanism {
        let is_native = self.native_calls().is_some() && syscalls::find(nr).is_some();
        if is_native { Mechanism::Native } else { Mechanism::Agent }
    }

    /// By process_vm_exec in syscall mode: descriptors are this process's own.
    fn by_kernel(
        &self,
        space: &native::Space,
        call: &Call,
        args: [Arg<'_>; 6],
        go_on: &mut dyn FnMut() -> ControlFlow<()>,
    ) -> Result<Returned> {
        let words = args.map(|arg| match arg {
            Arg::Word(word) => word,
            Arg::Fd(fd) => fd.as_raw_fd() as u64,
        });
        space.check()?;
        if let Some(agent) = space.present_agent() {
            own::check(self.pid(), agent, call.nr, Some(call), &words)?;
        }
        if let Err(errno) = ready::wait(call, &args, go_on, || space.check())? {
            return Ok(Returned::Errno(errno));
        }
        let done = space.syscall(call, words);
        space.check()?;
        match done {
            Ok(returned) => Ok(returned),
            Err(Errno::INTR) => Ok(Returned::Errno(Errno::INTR)),
            Err(errno) => Err(Error::new(MAKE, self.pid(), errno)),
        }
    }

    fn check_allowed(&self, nr: u64, args: &[Arg<'_>; 6], permit: Permit) -> Result<Option<&'static Call>> {
        let call = syscalls::find(nr);
        let words = args.map(Arg::word);
        let reason = match (call, permit) {
            (Some(_), _) => return Ok(call),
            (None, _) if let Some(why) = syscalls::forbidden(nr, &words) => why,
            (None, Permit::Any) => return Ok(None),
            (None, Permit::Listed) => "it is none of the calls on memory that are allowed",
        };
        let error = Error::new(MAKE, self.pid(), Errno::OPNOTSUPP);
        Err(error.because(format!("call {nr} is not made: {reason}")))
    }
}

/// Arguments with the agent's numbers of descriptors, which are closed there when this is dropped.
struct Sent {
    words: [u64; 6],
    _fds: Vec<RemoteFd>,
}

impl Sent {
    fn new(agent: &Arc<Agent>, args: [Arg<'_>; 6]) -> Result<Self> {
        let mut words = args.map(Arg::word);
        let mut fds = Vec::new();
        for (word, arg) in words.iter_mut().zip(args) {
            if let Arg::Fd(fd) = arg {
                let remote = agent.send_fd(fd)?;
                *word = remote.number() as u64;
                fds.push(remote);
            }
        }
        Ok(Self { words, _fds: fds })
    }
}

/// The descriptor that a listed call names by its number in this process. A number that is none gives EBADF, as the
/// call would; a negative one (mmap's -1) and that of an anonymous mmap are left to the kernel.
fn own_descriptor(call: Option<&Call>, args: &[Arg<'_>; 6]) -> std::result::Result<Option<OwnedFd>, Errno> {
    let Some(call) = call else { return Ok(None) };
    let is_anonymous = call.nr == libc::SYS_mmap as u64 && args[3].word() & libc::MAP_ANONYMOUS as u64 != 0;
    match call.fd.map(|i| args[i]) {
        // The kernel takes the low 32 bits.
        Some(Arg::Word(word)) if word as i32 >= 0 && !is_anonymous => own_fd(word as i32).map(Some),
        _ => Ok(None),
    }
}

/// A copy of a descriptor of this process that is known by its number only: pidfd_getfd(2) looks it up without any
/// promise that it is open.
fn own_fd(number: i32) -> std::result::Result<OwnedFd, Errno> {
    let own = std::process::id() as i32;
    let pidfd = pidfd::open(own).map_err(|error| error.errno)?;
    pidfd::take_fd(pidfd.as_fd(), own, number).map_err(|error| error.errno)
}
