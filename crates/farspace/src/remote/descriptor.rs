//! Typed calls that make descriptors, which end up in this process.

use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::mm::UserfaultfdFlags;

use super::{Arg, Returned};
use crate::{Error, Result, Target};

impl Target {
    /// userfaultfd(2) on the target's address space. The descriptor works in this process and keeps working after
    /// the agent has left; it is close-on-exec.
    ///
    /// # Errors
    ///
    /// EPERM: without UFFD_USER_MODE_ONLY (1, which rustix has no name for) the target (not the caller) needs CAP_SYS_PTRACE or
    /// vm.unprivileged_userfaultfd; and as [`Target::syscall`].
    pub fn userfaultfd(&self, flags: UserfaultfdFlags) -> Result<OwnedFd> {
        let flags = u64::from(flags.bits());
        self.make_fd("make a userfaultfd for the memory", libc::SYS_userfaultfd, [flags, 0, 0, 0, 0, 0])
    }

    /// memfd_create(2) by a task of the target, which its cgroup pays for; the descriptor is this process's, and
    /// close-on-exec.
    ///
    /// # Errors
    ///
    /// EINVAL: a name of more than 249 bytes, or one with a NUL; and as [`Target::syscall`].
    pub fn memfd_create(&self, name: &str, flags: MemfdFlags) -> Result<OwnedFd> {
        const WHAT: &str = "make a memory file by a task";
        if name.contains('\0') {
            return Err(Error::new(WHAT, self.pid(), Errno::INVAL));
        }
        let text = [name.as_bytes(), b"\0"].concat();
        let scratch = self.scratch(text.len() as u64)?;
        scratch.write(0, &text)?;
        let args = [scratch.address().0, u64::from(flags.bits()), 0, 0, 0, 0];
        self.make_fd(WHAT, libc::SYS_memfd_create, args)
    }

    fn make_fd(&self, operation: &'static str, nr: libc::c_long, args: [u64; 6]) -> Result<OwnedFd> {
        match self.prompt_syscall(nr, args.map(Arg::Word))? {
            Returned::Fd(fd) => Ok(fd),
            Returned::Errno(errno) => {
                Err(Error::new(operation, self.pid(), errno).because(errno.to_string()))
            }
            Returned::Value(_) => Err(Error::new(operation, self.pid(), Errno::PROTO)),
        }
    }
}
