//! Memory in the target for what calls read and write through pointers.

use farspace_abi::{RemoteAddr, RemoteIoVec};
use farspace_inject::places;
use farspace_sys::memory::Memory;
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags};

use crate::{Error, Result, Target};

/// Zeroed memory that the agent has mapped in the target; unmapped when dropped.
///
/// If this process is killed, the mapping stays in the target.
#[derive(Debug)]
pub struct Scratch<'a> {
    target: &'a Target,
    range: RemoteIoVec,
    memory: Memory,
}

impl Target {
    /// Maps at least so many bytes of scratch memory in the target.
    ///
    /// # Errors
    ///
    /// ENOMEM: a limit of the target (RLIMIT_AS, vm.overcommit_memory); EOPNOTSUPP: it has no agent; ESRCH.
    pub fn scratch(&self, len_bytes: u64) -> Result<Scratch<'_>> {
        let memory = Memory::open_writable(self.pid())?;
        let len = len_bytes.max(1).checked_next_multiple_of(4096);
        let len = len.ok_or_else(|| Error::new("map scratch memory", self.pid(), Errno::NOMEM))?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
        for at in places(self.pid() as u64, 4096) {
            match self.mmap(at, len, protection, flags, None) {
                Err(error) if error.errno() == Errno::EXIST => {}
                done => {
                    return done.map(|base| Scratch {
                        target: self,
                        range: RemoteIoVec { base, len },
                        memory,
                    });
                }
            }
        }
        Err(Error::new("map scratch memory", self.pid(), Errno::NOMEM))
    }
}

impl Scratch<'_> {
    /// Where it begins, page-aligned.
    pub fn address(&self) -> RemoteAddr {
        self.range.base
    }

    /// Copies bytes into it.
    ///
    /// # Errors
    ///
    /// EFAULT: beyond its end; ESRCH: the target is gone.
    pub fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        Ok(self.memory.write(self.at(offset, bytes.len())?, bytes)?)
    }

    /// Copies bytes out of it.
    ///
    /// # Errors
    ///
    /// EFAULT: beyond its end; EIO: the call has unmapped it; ESRCH: the target is gone.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        Ok(self.memory.read_exact(self.at(offset, bytes.len())?, bytes)?)
    }

    fn at(&self, offset: u64, len: usize) -> Result<RemoteAddr> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.range.len => Ok(RemoteAddr(self.range.base.0.wrapping_add(offset))),
            _ => Err(Error::new("use scratch memory", self.target.pid(), Errno::FAULT)),
        }
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        // ESRCH: it is gone with the target.
        let _ = self.target.munmap(self.range);
    }
}
