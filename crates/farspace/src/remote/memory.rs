//! Typed calls on the target's mappings.

use std::os::fd::{AsFd, BorrowedFd};

use farspace_abi::{RemoteAddr, RemoteIoVec};
use farspace_sys::pipe;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::mm::{MapFlags, MprotectFlags, MremapFlags, ProtFlags};

use super::{Arg, Returned};
use crate::{Error, Result, Target};

impl Target {
    /// mmap(2) in the target: anonymous memory, or a file of this process from an offset in bytes on.
    ///
    /// Nothing takes the mapping away when the target is detached from, or this process ends.
    ///
    /// # Errors
    ///
    /// As in the man page, and as [`Target::syscall`].
    pub fn mmap(
        &self,
        at: RemoteAddr,
        len_bytes: u64,
        protection: ProtFlags,
        flags: MapFlags,
        file: Option<(BorrowedFd<'_>, u64)>,
    ) -> Result<RemoteAddr> {
        let mut bits = u64::from(flags.bits());
        let (fd, offset) = match file {
            Some((fd, offset)) => (Arg::Fd(fd), offset),
            None => {
                bits |= libc::MAP_ANONYMOUS as u64;
                (Arg::Word(u64::MAX), 0)
            }
        };
        let protection = u64::from(protection.bits());
        let args = [at.0.into(), len_bytes.into(), protection.into(), bits.into(), fd, offset.into()];
        self.make("map memory", libc::SYS_mmap, args, at).map(RemoteAddr)
    }

    /// mprotect(2) in the target.
    ///
    /// # Errors
    ///
    /// As in the man page, and as [`Target::syscall`].
    pub fn mprotect(&self, range: RemoteIoVec, protection: MprotectFlags) -> Result<()> {
        self.on_range("protect the memory", libc::SYS_mprotect, range, u64::from(protection.bits()))
    }

    /// munmap(2) in the target.
    ///
    /// # Errors
    ///
    /// As in the man page, and as [`Target::syscall`].
    pub fn munmap(&self, range: RemoteIoVec) -> Result<()> {
        self.on_range("unmap the memory", libc::SYS_munmap, range, 0)
    }

    /// Copies memory of the target without a reference to its pages, not even for a moment; returns the bytes, fewer before
    /// one that can't be read.
    ///
    /// For pages from a pool of huge pages (hugetlbfs): one that somebody refers to when the target drops it is missing in
    /// the pool. All else is copied faster by process_vm_readv(2).
    ///
    /// # Errors
    ///
    /// EFAULT: nothing readable; EMFILE, ENFILE, ENOMEM: no pipe for it; and as [`Target::syscall`].
    pub fn copy(&self, at: RemoteAddr, into: &mut [u8]) -> Result<usize> {
        const WHAT: &str = "copy the memory";
        let error = |errno| Error::new(WHAT, self.pid(), errno).at(at);
        let (read, write, room) = pipe::with_room(into.len()).map_err(error)?;
        // What the call has returned lies in memory that the target can write to.
        fcntl_setfl(&read, OFlags::NONBLOCK).map_err(error)?;
        // An empty pipe takes it all at once.
        let len = into.len().min(room);
        let none = Arg::Word(0);
        let args = [Arg::Fd(write.as_fd()), at.0.into(), (len as u64).into(), none, none, none];
        let written = self.make(WHAT, libc::SYS_write, args, at)?;
        let mut done = 0;
        while (done as u64) < written && done < len {
            match rustix::io::read(&read, &mut into[done..len]) {
                Ok(0) | Err(Errno::AGAIN) => break,
                Ok(n) => done += n,
                Err(errno) => return Err(error(errno)),
            }
        }
        Ok(done)
    }

    /// madvise(2) in the target; `advice` is one of the kernel's MADV_*.
    ///
    /// # Errors
    ///
    /// As in the man page, and as [`Target::syscall`].
    pub fn madvise(&self, range: RemoteIoVec, advice: i32) -> Result<()> {
        self.on_range("give advice on the memory", libc::SYS_madvise, range, advice as u64)
    }

    /// mremap(2) in the target: to another length, and with `new_at` (MREMAP_FIXED) to another place.
    ///
    /// # Errors
    ///
    /// As in the man page, and as [`Target::syscall`].
    pub fn mremap(
        &self,
        range: RemoteIoVec,
        new_len_bytes: u64,
        flags: MremapFlags,
        new_at: Option<RemoteAddr>,
    ) -> Result<RemoteAddr> {
        let fixed = new_at.map_or(0, |_| (libc::MREMAP_FIXED | libc::MREMAP_MAYMOVE) as u64);
        let flags = u64::from(flags.bits()) | fixed;
        let to = new_at.unwrap_or_default().0;
        let args = [range.base.0, range.len, new_len_bytes, flags, to, 0].map(Arg::Word);
        self.make("move the memory", libc::SYS_mremap, args, range.base).map(RemoteAddr)
    }

    fn on_range(&self, what: &'static str, nr: libc::c_long, range: RemoteIoVec, third: u64) -> Result<()> {
        let args = [range.base.0, range.len, third, 0, 0, 0].map(Arg::Word);
        self.make(what, nr, args, range.base).map(drop)
    }

    /// A call whose errno is an error.
    fn make(
        &self,
        operation: &'static str,
        nr: libc::c_long,
        args: [Arg<'_>; 6],
        at: RemoteAddr,
    ) -> Result<u64> {
        match self.prompt_syscall(nr, args)? {
            Returned::Value(value) => Ok(value),
            Returned::Errno(errno) => {
                Err(Error::new(operation, self.pid(), errno).at(at).because(errno.to_string()))
            }
            Returned::Fd(_) => Err(Error::new(operation, self.pid(), Errno::PROTO)),
        }
    }
}
