//! A forked child to try things on, and the same child held by ptrace.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::ptr;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, WaitOptions};

use super::{KCMP_VM, check, last_errno};

const PTRACE_O_SUSPEND_SECCOMP: usize = 1 << 21;
const NT_X86_XSTATE: usize = 0x202;

/// A value that every copy of this program holds at the same address until one of them changes it.
static MARK: AtomicU64 = AtomicU64::new(0x6661_7273_7061_6365);
/// The same in read-only memory, which only a forced write can change.
static READ_ONLY_MARK: [u64; 2] = [0x0123_4567_89ab_cdef, 0xfedc_ba98_7654_3210];

/// A child that does nothing but wait for its parent to go away; it is killed and reaped on drop.
#[derive(Debug)]
pub struct ProbeChild {
    pid: Pid,
    /// The number of the descriptor that the child waits on, in the child.
    child_fd: RawFd,
    /// The child reads from the other end, so that it ends even when this process is killed.
    _lifeline: OwnedFd,
}

impl ProbeChild {
    /// Forks it.
    ///
    /// # Errors
    ///
    /// What pipe2 or fork fail with (EAGAIN: too many processes).
    pub fn start() -> Result<Self, Errno> {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        // SAFETY: the child runs only `wait_for_end`, which uses nothing but system calls, so it is no matter
        // which locks other threads of this process held at the time.
        match unsafe { libc::fork() } {
            -1 => Err(last_errno()),
            0 => wait_for_end(reader.as_raw_fd(), writer.as_raw_fd()),
            raw => {
                let pid = Pid::from_raw(raw).ok_or(Errno::CHILD)?;
                Ok(Self { pid, child_fd: reader.as_raw_fd(), _lifeline: writer })
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Opens a pidfd on it.
    ///
    /// # Errors
    ///
    /// ENOSYS before Linux 5.3.
    pub fn pidfd(&self) -> Result<OwnedFd, Errno> {
        rustix::process::pidfd_open(self.pid, PidfdFlags::empty())
    }

    /// Takes a duplicate of one of its descriptors.
    ///
    /// # Errors
    ///
    /// ENOSYS before Linux 5.6, EPERM without ptrace access.
    pub fn pidfd_getfd(&self) -> Result<(), Errno> {
        let pidfd = self.pidfd()?;
        rustix::process::pidfd_getfd(&pidfd, self.child_fd, PidfdGetfdFlags::empty())?;
        Ok(())
    }

    /// Reads from it by process_vm_readv(2).
    ///
    /// # Errors
    ///
    /// EPERM without ptrace access, ENOSYS without CONFIG_CROSS_MEMORY_ATTACH; EIO for wrong bytes.
    pub fn process_vm_readv(&self) -> Result<(), Errno> {
        let mut seen = 0u64;
        let local = libc::iovec { iov_base: (&raw mut seen).cast(), iov_len: 8 };
        let remote = libc::iovec { iov_base: MARK.as_ptr().cast(), iov_len: 8 };
        // SAFETY: the kernel writes eight bytes to `seen`; the remote address is only read, in the child.
        let read =
            unsafe { libc::process_vm_readv(self.pid(), &raw const local, 1, &raw const remote, 1, 0) };
        check(read as libc::c_long)?;
        if seen == MARK.load(Ordering::Relaxed) { Ok(()) } else { Err(Errno::IO) }
    }

    /// Reads from it through /proc/PID/mem.
    ///
    /// # Errors
    ///
    /// EACCES without ptrace access; EIO for wrong bytes.
    pub fn proc_mem_read(&self) -> Result<(), Errno> {
        let mut seen = [0u8; 8];
        let mem = File::open(format!("/proc/{}/mem", self.pid())).map_err(as_errno)?;
        mem.read_exact_at(&mut seen, MARK.as_ptr() as u64).map_err(as_errno)?;
        if u64::from_ne_bytes(seen) == MARK.load(Ordering::Relaxed) { Ok(()) } else { Err(Errno::IO) }
    }

    /// Writes to its read-only memory through /proc/PID/mem (FOLL_FORCE), and reads it back.
    ///
    /// # Errors
    ///
    /// EIO where the kernel forbids it (the proc_mem.force_override= parameter of Linux 6.12).
    pub fn proc_mem_force_write(&self) -> Result<(), Errno> {
        let address = READ_ONLY_MARK.as_ptr() as u64;
        let path = format!("/proc/{}/mem", self.pid());
        let mem = File::options().read(true).write(true).open(path).map_err(as_errno)?;
        mem.write_all_at(&7u64.to_ne_bytes(), address).map_err(as_errno)?;
        let mut seen = [0u8; 8];
        mem.read_exact_at(&mut seen, address).map_err(as_errno)?;
        if u64::from_ne_bytes(seen) == 7 { Ok(()) } else { Err(Errno::IO) }
    }

    /// Compares its address space with this process's by kcmp(2).
    ///
    /// # Errors
    ///
    /// ENOSYS without CONFIG_KCMP, EPERM without ptrace access.
    pub fn kcmp(&self) -> Result<(), Errno> {
        let own = rustix::process::getpid().as_raw_nonzero().get();
        // SAFETY: no pointers.
        let order = check(unsafe { libc::syscall(libc::SYS_kcmp, own, self.pid(), KCMP_VM, 0, 0) })?;
        if order == 0 { Err(Errno::IO) } else { Ok(()) }
    }

    /// Stops it by PTRACE_SEIZE and PTRACE_INTERRUPT; dropping the answer lets it go.
    ///
    /// # Errors
    ///
    /// EPERM where Yama, a capability or a container's filter forbids tracing.
    pub fn seize(&self) -> Result<SeizedChild<'_>, Errno> {
        self.ptrace(libc::PTRACE_SEIZE, 0, 0)?;
        let seized = SeizedChild { child: self };
        self.ptrace(libc::PTRACE_INTERRUPT, 0, 0)?;
        rustix::process::waitpid(Some(self.pid), WaitOptions::UNTRACED)?;
        Ok(seized)
    }

    fn ptrace(&self, request: libc::c_uint, address: usize, data: usize) -> Result<u64, Errno> {
        // SAFETY: the requests used in this file write only where `data` says, and their callers pass
        // buffers that live across the call. A failed attach changes nothing.
        check(unsafe { libc::ptrace(request, self.pid(), address, data) })
    }
}

impl Drop for ProbeChild {
    fn drop(&mut self) {
        // Neither can fail for a child of our own that is not reaped yet; there is nobody to tell if it did.
        let _ = rustix::process::kill_process(self.pid, rustix::process::Signal::KILL);
        let _ = rustix::process::waitpid(Some(self.pid), WaitOptions::empty());
    }
}

/// The child while ptrace holds it.
#[derive(Debug)]
pub struct SeizedChild<'a> {
    child: &'a ProbeChild,
}

/// Whether PTRACE_O_SUSPEND_SECCOMP was granted.
pub type SuspendSeccomp = Result<(), Errno>;

/// What PTRACE_GET_RSEQ_CONFIGURATION tells (ptrace(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RseqConfiguration {
    /// Address of the thread's `struct rseq`, 0 without one.
    pub address: u64,
    /// Its registered size.
    pub size: u32,
    /// The signature before abort handlers.
    pub signature: u32,
    flags: u32,
    pad: u32,
}

impl SeizedChild<'_> {
    /// Asks for PTRACE_O_SUSPEND_SECCOMP.
    ///
    /// # Errors
    ///
    /// EPERM without CAP_SYS_ADMIN, EINVAL without CONFIG_CHECKPOINT_RESTORE.
    pub fn suspend_seccomp(&self) -> SuspendSeccomp {
        self.child.ptrace(libc::PTRACE_SETOPTIONS as libc::c_uint, 0, PTRACE_O_SUSPEND_SECCOMP)?;
        self.child.ptrace(libc::PTRACE_SETOPTIONS as libc::c_uint, 0, 0)?;
        Ok(())
    }

    /// Reads the rseq registration.
    ///
    /// # Errors
    ///
    /// EIO before Linux 5.13.
    pub fn rseq(&self) -> Result<RseqConfiguration, Errno> {
        let mut found = RseqConfiguration::default();
        let buffer = (&raw mut found) as usize;
        self.child.ptrace(libc::PTRACE_GET_RSEQ_CONFIGURATION, size_of::<RseqConfiguration>(), buffer)?;
        Ok(found)
    }

    /// Reads the extended register state as the kernel lays it out in a core file (NT_X86_XSTATE).
    ///
    /// # Errors
    ///
    /// ENODEV on a processor without XSAVE.
    pub fn xstate(&self) -> Result<Vec<u8>, Errno> {
        // Larger than any layout so far: AMX makes it 11 KiB.
        let mut area = vec![0u8; 64 << 10];
        let mut range = libc::iovec { iov_base: area.as_mut_ptr().cast(), iov_len: area.len() };
        let buffer = (&raw mut range) as usize;
        self.child.ptrace(libc::PTRACE_GETREGSET as libc::c_uint, NT_X86_XSTATE, buffer)?;
        area.truncate(range.iov_len);
        Ok(area)
    }
}

impl Drop for SeizedChild<'_> {
    fn drop(&mut self) {
        // Fails only if the child died, and then it is detached already.
        let _ = self.child.ptrace(libc::PTRACE_DETACH as libc::c_uint, 0, 0);
    }
}

fn as_errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// The child's whole life: system calls only, no allocation, no lock.
fn wait_for_end(reader: libc::c_int, writer: libc::c_int) -> ! {
    let mut byte = 0u8;
    // SAFETY: both descriptors are the child's own copies, the buffer is one byte, and `_exit` runs none of
    // the parent's exit handlers.
    unsafe {
        libc::close(writer);
        while libc::read(reader, ptr::from_mut(&mut byte).cast(), 1) == -1 {}
        libc::_exit(0)
    }
}
