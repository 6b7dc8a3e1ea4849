//! The engine: the first steward, of which all created spaces are forks.

use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use farspace_abi::vcpu::{KICK, RESERVED_BASE, RESERVED_END, STUB_BYTES, VCPU_CODE};
use farspace_sys::pidfd;
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use rustix::io::Errno;

use crate::arch::VcpuCode;
use crate::arch::image;
use crate::orders::Orders;
use crate::pace::Pace;
use crate::patching::Patching;
use crate::shell::Shell;
use crate::space::Space;
use crate::steward::{Line, RECEIVED, Steward};
use crate::{Error, Result};

/// First address above user space with four-level page tables, less the guard page (TASK_SIZE).
pub(crate) const TASK_END: u64 = 0x7fff_ffff_f000;

/// Empty shells that are kept.
const SPARE: usize = 8;

/// Makes address spaces. Dropped, it leaves those that exist alone.
///
/// One small process, a child of the caller's, from which spaces are forked. It shares nothing with the caller but
/// the memory that the two talk over; its descriptors are three. It ends with the engine, and with the calling process
/// even if that is killed. (A caller that waits for any child by waitpid(-1) sees its end.)
#[derive(Debug)]
pub struct Engine {
    root: Arc<Root>,
}

#[derive(Debug)]
pub(crate) struct Root {
    pub(crate) steward: Mutex<Steward>,
    /// Numbers of the calls that the stub makes itself.
    pub(crate) direct: Vec<u32>,
    child: Mutex<Child>,
    /// Of spaces that were dropped, for the next ones.
    spare: Mutex<Vec<Arc<Shell>>>,
    /// Seccomp filters that stewards inherit from the caller; a vCPU has one more.
    pub(crate) filters: u32,
}

impl Engine {
    /// Starts one.
    ///
    /// # Errors
    ///
    /// EAGAIN, ENOMEM, EMFILE; Unsupported: no FSGSBASE, Syscall User Dispatch (Linux 5.11) or seccomp filters.
    pub fn new() -> Result<Self> {
        Self::with_direct(&[])
    }

    /// As [`Engine::new`]; system calls of these numbers (of [`MAY_BE_DIRECT`]) don't come out of the guest, but are made
    /// by the vCPU's task itself, with the guest's arguments. They cost little more than they would natively. Guests learn
    /// from them what the task is: its pid, its clock, its user.
    ///
    /// # Errors
    ///
    /// EINVAL: a number that may not be among them; otherwise as [`Engine::new`].
    pub fn with_direct(direct: &[u32]) -> Result<Self> {
        require_fsgsbase()?;
        let error = |errno| Error::new("start the first steward", errno);
        if !direct.iter().all(|nr| MAY_BE_DIRECT.contains(nr)) {
            return Err(error(Errno::INVAL));
        }
        let program = program(direct).map_err(error)?;
        let (line, far) = Line::new()?;
        let memory = line.memory.fd().try_clone_to_owned().map_err(|e| error(errno_of(&e)))?;
        let bell = line.bell().try_clone_to_owned().map_err(|e| error(errno_of(&e)))?;
        let child = Command::new(format!("/proc/self/fd/{}", program.as_raw_fd()))
            .env_clear()
            .stdin(Stdio::from(far))
            .stdout(Stdio::from(memory))
            .stderr(Stdio::from(bell))
            .spawn()
            .map_err(|e| error(errno_of(&e)))?;
        let pid = child.id() as i32;
        let pidfd = pidfd::open(pid).map_err(|e| error(e.errno))?;
        let steward = Steward::new(pid, pidfd, line, Pace::new(pid));
        // The caller's own, inherited: it isn't privileged to change them.
        let filters = crate::birth::filters(pid).map_err(error)?;
        let (steward, child) = (Mutex::new(steward), Mutex::new(child));
        let root = Root { steward, direct: direct.to_vec(), child, spare: Mutex::default(), filters };
        let engine = Self { root: Arc::new(root) };
        engine.settle()?;
        Ok(engine)
    }

    /// A new, empty address space.
    ///
    /// # Errors
    ///
    /// EAGAIN, ENOMEM, EMFILE.
    pub fn space(&self) -> Result<Space> {
        while let Some(shell) = self.root.take_spare() {
            if shell.is_alive() {
                return Ok(Space::within(&self.root, shell, Patching::default()));
            }
        }
        Space::fork_of(&self.root, &self.root.steward, Patching::default())
    }

    /// What all spaces inherit: an address space with nothing but the stub, handlers, no privileges to gain.
    fn settle(&self) -> Result<()> {
        let mut orders = Orders::new();
        // Whatever the caller lets its children inherit: what a steward receives must get the next number.
        orders.call(libc::SYS_close_range, &[RECEIVED, u64::from(u32::MAX), 0]);
        // A terminal's signals are not for us (a session of its own would be scheduled as a group of its own); orphaned
        // tasks come here and vanish.
        orders.call(libc::SYS_setpgid, &[0, 0]);
        orders.call(libc::SYS_prctl, &[libc::PR_SET_CHILD_SUBREAPER as u64, 1]);
        orders.call(libc::SYS_prctl, &[libc::PR_SET_NO_NEW_PRIVS as u64, 1]);
        // No core dumps of guests: 1 byte, as a limit of 0 doesn't hold for a pipe (core(5); do_coredump, fs/coredump.c).
        let no_core = orders.data(&[1u64.to_le_bytes(), 1u64.to_le_bytes()].concat());
        orders.try_call(libc::SYS_prlimit64, &[0, u64::from(libc::RLIMIT_CORE), no_core]);
        // Children of whom nobody hears.
        let ignore = orders.data(&action(libc::SIG_IGN as u64, 0));
        orders.call(libc::SYS_rt_sigaction, &[libc::SIGCHLD as u64, ignore, 0, 8]);
        let handler = VCPU_CODE + VcpuCode::get().handler;
        let catch = orders.data(&action(handler, SIGNAL_FLAGS));
        for signal in CAUGHT {
            orders.call(libc::SYS_rt_sigaction, &[signal as u64, catch, 0, 8]);
        }
        // No signal from outside makes a steward, or a vCPU that isn't one yet, run the handler: its frame would lie
        // where guests can write, and no filter would hold whoever returns from it.
        let everything = orders.data(&u64::MAX.to_le_bytes());
        orders.call(libc::SYS_rt_sigprocmask, &[libc::SIG_SETMASK as u64, everything, 0, 8]);
        orders.call(libc::SYS_munmap, &[0x1000, RESERVED_BASE - 0x1000]);
        orders.call(libc::SYS_munmap, &[RESERVED_END, TASK_END - RESERVED_END]);
        // Linux 6.10: not even orders could change the stub then.
        orders.try_call(libc::SYS_mseal, &[RESERVED_BASE, STUB_BYTES, 0]);
        let mut steward = self.root.steward.lock().unwrap_or_else(PoisonError::into_inner);
        steward.order(&orders, "prepare the first steward").map(drop)
    }
}

impl Root {
    fn take_spare(&self) -> Option<Arc<Shell>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Empties a shell and keeps it, if there is room for one more. Otherwise, or if anything isn't in order, it ends.
    pub(crate) fn keep(&self, shell: &Arc<Shell>) {
        let has_room = || self.spare.lock().unwrap_or_else(PoisonError::into_inner).len() < SPARE;
        if has_room() && shell.empty().is_ok() {
            self.spare.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(shell));
        }
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Numbers of system calls that the stub may make itself: they name no descriptor, change no mapping, and reach no other
/// process.
pub const MAY_BE_DIRECT: [u32; 16] = [
    libc::SYS_sched_yield as u32,
    libc::SYS_nanosleep as u32,
    libc::SYS_getpid as u32,
    libc::SYS_uname as u32,
    libc::SYS_gettimeofday as u32,
    libc::SYS_getrusage as u32,
    libc::SYS_sysinfo as u32,
    libc::SYS_times as u32,
    libc::SYS_getuid as u32,
    libc::SYS_getgid as u32,
    libc::SYS_gettid as u32,
    libc::SYS_time as u32,
    libc::SYS_clock_gettime as u32,
    libc::SYS_clock_getres as u32,
    libc::SYS_clock_nanosleep as u32,
    libc::SYS_getrandom as u32,
];

/// Signals that guest code can cause, and the kick.
pub(crate) const CAUGHT: [i32; 7] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, libc::SIGSYS, KICK];

/// SA_SIGINFO | SA_ONSTACK | SA_RESTORER.
pub(crate) const SIGNAL_FLAGS: u64 = 4 | 0x0800_0000 | 0x0400_0000;

/// `struct kernel_sigaction`: handler, flags, restorer, mask. The handler returns by itself.
pub(crate) fn action(handler: u64, flags: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (place, word) in bytes.chunks_exact_mut(8).zip([handler, flags, handler, u64::MAX]) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn program(direct: &[u32]) -> std::result::Result<OwnedFd, Errno> {
    let file = memfd_create("farspace-stub", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut image = &image::program(direct)[..];
    while !image.is_empty() {
        image = &image[rustix::io::write(&file, image)?..];
    }
    rustix::fs::fcntl_add_seals(&file, SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(file)
}

/// AT_HWCAP2 bit 1 (arch/x86/include/uapi/asm/hwcap2.h): rdfsbase and wrfsbase in user mode, Linux 5.9.
pub(crate) fn require_fsgsbase() -> Result<()> {
    // SAFETY: reads the auxiliary vector of this process.
    if unsafe { libc::getauxval(libc::AT_HWCAP2) } & 2 == 0 {
        return Err(Error::Unsupported { missing: "the FSGSBASE instructions (Linux 5.9, Ivy Bridge)" });
    }
    Ok(())
}

pub(crate) fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}
