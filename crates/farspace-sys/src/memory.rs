//! Reading and writing another process's memory by copy.
//!
//! Invariants: SAFETY.md, 13 and 14.

use std::fs::{File, OpenOptions};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::FileExt;

use farspace_abi::{RemoteAddr, RemoteIoVec};
use rustix::io::Errno;

use crate::{Error, Result};

/// An open /proc/PID/mem (proc_pid_mem(5)): the address space that the process had when it was opened.
///
/// A tracer reads and writes through it whatever the mapping's protection is.
#[derive(Debug)]
pub struct Memory {
    file: File,
    pid: i32,
}

impl Memory {
    /// Opens the memory of a process for reading.
    ///
    /// # Errors
    ///
    /// EACCES or EPERM without ptrace access, ESRCH where there is no such process.
    pub fn open(pid: i32) -> Result<Self> {
        Self::open_with(pid, OpenOptions::new().read(true))
    }

    /// Opens the memory of a process for reading and writing.
    ///
    /// # Errors
    ///
    /// As [`Memory::open`].
    pub fn open_writable(pid: i32) -> Result<Self> {
        Self::open_with(pid, OpenOptions::new().read(true).write(true))
    }

    fn open_with(pid: i32, options: &OpenOptions) -> Result<Self> {
        let file = options.open(format!("/proc/{pid}/mem")).map_err(|e| {
            let errno = match errno_of(&e) {
                Errno::NOENT => Errno::SRCH,
                Errno::ACCESS => Errno::PERM,
                errno => errno,
            };
            Error::new("open the memory", pid, errno)
        })?;
        Ok(Self { file, pid })
    }

    /// Reads up to `buffer.len()` bytes; short at the end of what is mapped.
    ///
    /// # Errors
    ///
    /// EIO where nothing is mapped at `from`, or it can't be read; ESRCH once the address space is gone.
    pub fn read(&self, from: RemoteAddr, buffer: &mut [u8]) -> Result<usize> {
        match self.file.read_at(buffer, from.0) {
            // The kernel's answer when nobody uses the address space any more (mem_rw, fs/proc/base.c).
            Ok(0) if !buffer.is_empty() => Err(Error::new("read memory", self.pid, Errno::SRCH).at(from)),
            Ok(n) => Ok(n),
            Err(e) => Err(Error::new("read memory", self.pid, errno_of(&e)).at(from)),
        }
    }

    /// Reads into a window of a file until it is full; returns the bytes read.
    ///
    /// # Errors
    ///
    /// EIO where nothing is mapped, or it can't be read; EFAULT where the file has no space.
    pub fn read_into(&self, from: RemoteAddr, window: &mut FileWindow) -> std::result::Result<u64, Errno> {
        let mut done = 0;
        while done < window.len {
            // SAFETY: `begin + done .. begin + len` lies in the mapping, of which no reference exists; the kernel
            // checks the addresses.
            let n = unsafe {
                let to = window.base.byte_add(window.skip + done);
                libc::pread(
                    self.file.as_raw_fd(),
                    to,
                    window.len - done,
                    (from.0 + done as u64) as libc::off_t,
                )
            };
            match n {
                0 => return Ok(done as u64),
                n if n > 0 => done += n as usize,
                _ => match Error::last("read memory", self.pid).errno {
                    Errno::INTR => {}
                    errno => return Err(errno),
                },
            }
        }
        Ok(done as u64)
    }

    /// Reads exactly `buffer.len()` bytes.
    ///
    /// # Errors
    ///
    /// EIO where not all of it can be read; ESRCH once the address space is gone.
    pub fn read_exact(&self, from: RemoteAddr, buffer: &mut [u8]) -> Result<()> {
        let mut done = 0;
        while done < buffer.len() {
            let at = RemoteAddr(from.0 + done as u64);
            done += self.read(at, &mut buffer[done..])?;
        }
        Ok(())
    }

    /// Reads one little-endian number.
    ///
    /// # Errors
    ///
    /// As [`Memory::read_exact`].
    pub fn read_u64(&self, from: RemoteAddr) -> Result<u64> {
        let mut bytes = [0; 8];
        self.read_exact(from, &mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// Writes all of `bytes`, also to read-only private mappings.
    ///
    /// # Errors
    ///
    /// EIO where it can't be written; ESRCH once the address space is gone.
    pub fn write(&self, to: RemoteAddr, bytes: &[u8]) -> Result<()> {
        self.file.write_all_at(bytes, to.0).map_err(|e| {
            // As with reading: nothing is written to an address space that nobody uses any more.
            let gone = e.kind() == std::io::ErrorKind::WriteZero;
            let errno = if gone { Errno::SRCH } else { errno_of(&e) };
            Error::new("write memory", self.pid, errno).at(to)
        })
    }
}

/// A piece of a file, mapped for the kernel to store into; no reference to it is ever made.
#[derive(Debug)]
pub struct FileWindow {
    base: *mut libc::c_void,
    skip: usize,
    len: usize,
}

impl FileWindow {
    /// Maps `len` bytes of the file from `offset` on, with its pages populated (MADV_POPULATE_WRITE, Linux 5.14).
    ///
    /// # Errors
    ///
    /// EACCES: not open for reading and writing; EFAULT: beyond the end of the file, or no space.
    pub fn map(file: impl AsFd, offset: u64, len: u64) -> std::result::Result<Self, Errno> {
        use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap};
        let skip = (offset % 4096) as usize;
        let len = len as usize;
        let (protection, at) = (ProtFlags::READ | ProtFlags::WRITE, offset - skip as u64);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe { mmap(std::ptr::null_mut(), skip + len, protection, MapFlags::SHARED, file, at)? };
        let window = Self { base, skip, len };
        // SAFETY: populating changes no bytes.
        unsafe { madvise(base, skip + len, Advice::LinuxPopulateWrite)? };
        Ok(window)
    }
}

impl FileWindow {
    /// Fills the window by read(2), until it is full or the other side ends; returns the bytes read, and why it isn't full.
    pub fn fill_by_read(&mut self, from: impl AsFd) -> (u64, std::result::Result<(), Errno>) {
        let mut done = 0;
        while done < self.len {
            // SAFETY: the range is what is left of this value's own mapping, of which no reference exists; the kernel checks
            // the addresses.
            let n = unsafe {
                let to = self.base.byte_add(self.skip + done);
                libc::read(from.as_fd().as_raw_fd(), to, self.len - done)
            };
            match n {
                0 => break,
                n if n > 0 => done += n as usize,
                _ => match errno_of(&std::io::Error::last_os_error()) {
                    Errno::INTR => {}
                    errno => return (done as u64, Err(errno)),
                },
            }
        }
        (done as u64, Ok(()))
    }

    /// Copies into the window from another process with process_vm_readv(2) until it is full; returns the bytes
    /// copied.
    ///
    /// # Errors
    ///
    /// EFAULT, EPERM, ESRCH as in the man page.
    pub fn fill_by_readv(&mut self, pid: i32, from: RemoteAddr) -> std::result::Result<u64, Errno> {
        let mut done = 0;
        while done < self.len {
            let remote = RemoteIoVec::new(from.0 + done as u64, (self.len - done) as u64);
            // SAFETY: the local range is what is left of this value's own mapping, of which no reference exists;
            // `RemoteIoVec` is laid out as `struct iovec`, and its address is only used in the other process.
            let n = unsafe {
                let to = self.base.byte_add(self.skip + done);
                let local = libc::iovec { iov_base: to, iov_len: self.len - done };
                libc::process_vm_readv(pid, &raw const local, 1, (&raw const remote).cast(), 1, 0)
            };
            match n {
                0 => break,
                n if n > 0 => done += n as usize,
                _ => return Err(Error::last("read memory", pid).errno),
            }
        }
        Ok(done as u64)
    }
}

impl Drop for FileWindow {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and no reference to it exists.
        let _ = unsafe { rustix::mm::munmap(self.base, self.skip + self.len) };
    }
}

/// Copies from another process with process_vm_readv(2); short where a range ends or can't be read.
///
/// # Errors
///
/// EFAULT, EPERM, ESRCH as in the man page.
pub fn process_vm_readv(pid: i32, from: &[RemoteIoVec], into: &mut [u8]) -> Result<usize> {
    let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: the local range is a live, exclusive buffer; `RemoteIoVec` is laid out as `struct iovec`
    // (asserted in farspace-abi) and its addresses are only used in the other process.
    let n = unsafe {
        libc::process_vm_readv(
            pid,
            &raw const local,
            1,
            from.as_ptr().cast::<libc::iovec>(),
            from.len() as u64,
            0,
        )
    };
    if n < 0 {
        let error = Error::last("read memory", pid);
        return Err(from.first().map_or(error.clone(), |range| error.at(range.base)));
    }
    Ok(n as usize)
}

/// Checks for PTRACE_MODE_ATTACH_REALCREDS access (ptrace(2)) by a read that can't succeed.
///
/// # Errors
///
/// ESRCH: no such process, a zombie or a kernel thread. EPERM: no access.
pub fn check_access(pid: i32) -> Result<()> {
    let mut byte = [0];
    // The kernel looks for the address space and the permission first, and only then at the address.
    match process_vm_readv(pid, &[RemoteIoVec::new(0, 1)], &mut byte) {
        Ok(_) => Ok(()),
        Err(e) if e.errno == Errno::FAULT => Ok(()),
        Err(e) => Err(Error::new("access the memory", pid, e.errno)),
    }
}

fn errno_of(error: &std::io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}
