//! A created address space: mappings, copies, forks.

use std::ops::{Deref, Range};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use farspace_abi::RemoteAddr;
use farspace_abi::vcpu::{
    AREA_BYTES, AREAS, AREAS_OFFSET, CONSTANTS, MAX_VCPUS, RESERVED_BASE, RESERVED_END, STEWARD_CODE,
    VCPU_CODE, area, area_of, selector_of,
};
use farspace_sys::memory::Memory;
use farspace_sys::pidfd;
use rustix::io::Errno;

use crate::arch::filter;
use crate::engine::Root;
use crate::orders::Orders;
use crate::patching::{Patching, REGISTER_SYNC_CORE};
use crate::shell::Shell;
use crate::steward::{Line, RECEIVED, Steward, receive};
use crate::vcpu::Vcpu;
use crate::{Error, Result};

/// Bytes that may be mapped in a space whose shell is used again.
const SMALL: u64 = 16 << 20;

bitflags::bitflags! {
    /// What the guest may do with memory (mmap(2)).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Protection: u32 {
        /// PROT_READ
        const READ = 1;
        /// PROT_WRITE
        const WRITE = 2;
        /// PROT_EXEC
        const EXECUTE = 4;
    }
}

/// Whether writes to a mapped file reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// MAP_SHARED
    Shared,
    /// MAP_PRIVATE
    Private,
}

/// An address space that farspace has made. Dropped (with its vCPUs), its guests end, and its memory is gone; the process
/// that it was in may be kept, empty, for the next.
///
/// For untrusted guests: the guest reaches nothing but its memory. [`RESERVED_BASE`] to [`RESERVED_END`] is the
/// engine's own; no mapping may touch it.
#[derive(Debug)]
pub struct Space {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: Arc<Root>,
    shell: Arc<Shell>,
    pub(crate) patching: Mutex<Patching>,
    /// Changes whenever code is rewritten.
    pub(crate) epoch: AtomicU32,
    /// By slot: the guest runs, or is about to.
    pub(crate) running: [AtomicBool; MAX_VCPUS],
}

impl Space {
    /// Forks the steward `parent` into a new space with the same memory.
    pub(crate) fn fork_of(root: &Arc<Root>, parent: &Mutex<Steward>, patching: Patching) -> Result<Self> {
        const OPERATION: &str = "create a space";
        let (line, far) = Line::new()?;
        let mut orders = Orders::new();
        receive(&mut orders);
        orders.clone(&[libc::SIGCHLD as u64]);
        orders.call(libc::SYS_close_range, &[RECEIVED, u64::from(u32::MAX), 0]);
        orders.child();
        // Guest threads of the parent can spoil what is received (the message header lies in the scratch page). The child
        // then ends: with its parent's descriptors it would answer, and carry out, orders that aren't its own.
        for own in 0..3 {
            orders.must(libc::SYS_dup2, &[RECEIVED + own, own], own);
        }
        orders.must(libc::SYS_close_range, &[RECEIVED, u64::from(u32::MAX), 0], 0);
        orders.must(libc::SYS_munmap, &[AREAS, RESERVED_END - AREAS], 0);
        orders.jump(STEWARD_CODE, 0, 0);
        let fds = [far.as_fd(), line.memory.fd(), line.bell()];
        // Held until the child has left its parent's orders, which are in the page that the next ones go to.
        let mut parent = parent.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = parent.order_with(&orders, &fds, OPERATION)? as i32;
        let pidfd = pidfd::open(pid).map_err(|e| Error::new(OPERATION, e.errno))?;
        let mem = Memory::open_writable(pid).map_err(|e| Error::new(OPERATION, e.errno))?;
        let mut steward = Steward::new(pid, pidfd, line, parent.pace_of_child(pid));
        steward.order(&Orders::new(), OPERATION)?;
        drop(parent);
        Ok(Self::within(root, Arc::new(Shell::new(steward, mem)), patching))
    }

    /// A space in a shell that is empty but for what it was forked with.
    pub(crate) fn within(root: &Arc<Root>, shell: Arc<Shell>, patching: Patching) -> Self {
        Self {
            inner: Arc::new(Inner {
                root: Arc::clone(root),
                shell,
                epoch: AtomicU32::new(patching.first_epoch()),
                patching: Mutex::new(patching),
                running: [const { AtomicBool::new(false) }; MAX_VCPUS],
            }),
        }
    }

    /// A copy-on-write copy of the space, without vCPUs.
    ///
    /// Private memory is copied; shared mappings stay shared (fork(2)). Guests that run meanwhile are copied as they are
    /// at some moment.
    ///
    /// # Errors
    ///
    /// EAGAIN, ENOMEM, EMFILE.
    pub fn fork(&self) -> Result<Self> {
        // Held, so that no code is half rewritten at the moment of the fork.
        let patching = self.inner.patching();
        Self::fork_of(&self.inner.root, &self.inner.steward, patching.fork())
    }

    /// Maps anonymous, private, zeroed memory, in place of whatever was there.
    ///
    /// # Errors
    ///
    /// EINVAL: not page-aligned, empty, or touching the engine's own range; ENOMEM.
    pub fn map_anonymous(&self, at: RemoteAddr, len: u64, protection: Protection) -> Result<()> {
        check(at, len, "map memory")?;
        // MAP_PRIVATE | MAP_FIXED | MAP_ANONYMOUS
        let mut patching = self.changing(at, len)?;
        let args = [at.0, len, u64::from(protection.bits()), 0x32, u64::MAX, 0];
        self.call("map memory", at, libc::SYS_mmap, &args)?;
        patching.maps.map(pages(at, len), protection, true);
        Ok(())
    }

    /// Maps a file or memfd of the caller's, in place of whatever was there.
    ///
    /// # Errors
    ///
    /// EINVAL as above; EACCES: the descriptor doesn't allow it; ENODEV: can't be mapped; ENOMEM.
    pub fn map_file(
        &self,
        at: RemoteAddr,
        len: u64,
        protection: Protection,
        sharing: Sharing,
        file: BorrowedFd<'_>,
        offset: u64,
    ) -> Result<()> {
        const OPERATION: &str = "map a file";
        check(at, len, OPERATION)?;
        let flags = match sharing {
            Sharing::Shared => 0x11,
            Sharing::Private => 0x12,
        };
        let mut patching = self.changing(at, len)?;
        let mut orders = Orders::new();
        receive(&mut orders);
        orders.keep_any(libc::SYS_mmap, &[at.0, len, u64::from(protection.bits()), flags, RECEIVED, offset]);
        orders.call(libc::SYS_close_range, &[RECEIVED, u64::from(u32::MAX), 0]);
        self.inner.steward().order_with(&orders, &[file], OPERATION).map_err(|e| place(e, OPERATION, at))?;
        patching.maps.map(pages(at, len), protection, sharing == Sharing::Private);
        Ok(())
    }

    /// Changes what the guest may do with memory.
    ///
    /// # Errors
    ///
    /// EINVAL as above; ENOMEM: not all of it is mapped; EACCES: the mapping doesn't allow it.
    pub fn protect(&self, at: RemoteAddr, len: u64, protection: Protection) -> Result<()> {
        check(at, len, "protect memory")?;
        let mut patching = self.changing(at, len)?;
        self.call("protect memory", at, libc::SYS_mprotect, &[at.0, len, u64::from(protection.bits())])?;
        patching.maps.protect(pages(at, len), protection);
        Ok(())
    }

    /// Unmaps memory.
    ///
    /// # Errors
    ///
    /// EINVAL as above.
    pub fn unmap(&self, at: RemoteAddr, len: u64) -> Result<()> {
        check(at, len, "unmap memory")?;
        let mut patching = self.changing(at, len)?;
        self.call("unmap memory", at, libc::SYS_munmap, &[at.0, len])?;
        patching.maps.unmap(pages(at, len));
        Ok(())
    }

    /// Copies bytes out of the space, whatever the protection of the memory; the count is short at the end of what is
    /// mapped.
    ///
    /// # Errors
    ///
    /// EFAULT: nothing is mapped there.
    pub fn read(&self, from: RemoteAddr, buffer: &mut [u8]) -> Result<usize> {
        let n = self.inner.mem.read(from, buffer).map_err(|e| fault("read memory", from, e.errno))?;
        if self.inner.epoch.load(Ordering::Relaxed) != 0 {
            self.inner.patching().overlay(from, &mut buffer[..n]);
        }
        Ok(n)
    }

    /// Copies bytes into the space, whatever the protection of private memory.
    ///
    /// # Errors
    ///
    /// EFAULT: not all of it is mapped; EINVAL: touching the engine's own range.
    pub fn write(&self, to: RemoteAddr, bytes: &[u8]) -> Result<()> {
        check_range(to, bytes.len() as u64, "write memory")?;
        let _patching = self.changing(to, bytes.len() as u64)?;
        self.inner.mem.write(to, bytes).map_err(|e| fault("write memory", to, e.errno))
    }

    /// A new vCPU: a task in the space that runs one guest context at a time.
    ///
    /// # Errors
    ///
    /// EAGAIN, ENOMEM; EMFILE: the space has [`MAX_VCPUS`]; Unsupported.
    pub fn vcpu(&self) -> Result<Vcpu> {
        const OPERATION: &str = "create a vCPU";
        let index = self.inner.take_slot().ok_or(Error::new(OPERATION, Errno::MFILE))?;
        let mut steward = self.inner.steward();
        match self.start(&mut steward, index, OPERATION) {
            // The lock is held until the new task has left the orders. From here on the slot is the vCPU's to give back.
            Ok(pid) => {
                let is_alone = self.inner.is_alone(index);
                Vcpu::new(&self.inner, index, pid, steward.pace_of_child(pid), is_alone)
            }
            Err(error) => {
                self.inner.free_slot(index);
                Err(error)
            }
        }
    }

    /// Starts the task of a vCPU; the result is its pid.
    fn start(&self, steward: &mut Steward, index: usize, operation: &'static str) -> Result<i32> {
        let at = area_of(index);
        let offset = AREAS_OFFSET + index as u64 * AREA_BYTES;
        // What an earlier vCPU left: the answer to its first event would be taken for that to ours.
        for word in [area::EVENT, area::ANSWERED] {
            self.inner.memory.u32(offset as usize + word).store(0, Ordering::SeqCst);
        }
        let mut orders = Orders::new();
        // PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, the steward's own memory file
        orders.call(libc::SYS_mmap, &[at, AREA_BYTES, 3, 0x11, 1, offset]);
        if index > 0 {
            let descriptor = orders.data(&descriptor(index));
            orders.call(libc::SYS_modify_ldt, &[1, descriptor, 16]);
        }
        orders.try_call(libc::SYS_membarrier, &[REGISTER_SYNC_CORE, 0, 0]);
        let flags = libc::CLONE_VM | libc::CLONE_CHILD_CLEARTID | libc::SIGCHLD;
        orders.clone(&[flags as u64, 0, 0, at + area::EVENT as u64]);
        orders.child();
        orders.call(libc::SYS_prctl, &[libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64]);
        orders.must(libc::SYS_getppid, &[], steward.pid() as u64);
        orders.call(libc::SYS_close_range, &[0, u64::from(u32::MAX), 0]);
        let mut stack = [0; 24];
        stack[..8].copy_from_slice(&(at + area::STACK as u64).to_le_bytes());
        stack[16..].copy_from_slice(&(AREA_BYTES - area::STACK as u64).to_le_bytes());
        let stack = orders.data(&stack);
        orders.call(libc::SYS_sigaltstack, &[stack, 0]);
        let program = filter::program(RESERVED_BASE, &self.inner.root.direct);
        let mut header = [0; 16];
        header[..2].copy_from_slice(&((program.len() / 8) as u16).to_le_bytes());
        let instructions = orders.data(&program);
        header[8..].copy_from_slice(&instructions.to_le_bytes());
        let header = orders.data(&header);
        orders.call(libc::SYS_seccomp, &[1, 0, header]);
        let nothing = orders.data(&[0; 8]);
        orders.call(libc::SYS_rt_sigprocmask, &[libc::SIG_SETMASK as u64, nothing, 0, 8]);
        // PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON
        orders.call(libc::SYS_prctl, &[59, 1, VCPU_CODE, 0x1000, CONSTANTS]);
        orders.jump(VCPU_CODE, at, u64::from(selector_of(index)));
        Ok(steward.order(&orders, operation)? as i32)
    }

    fn call(&self, operation: &'static str, at: RemoteAddr, nr: i64, args: &[u64]) -> Result<()> {
        let mut orders = Orders::new();
        orders.keep(nr, args);
        self.inner.steward().order(&orders, operation).map(drop).map_err(|e| place(e, operation, at))
    }

    /// Prepares for a change of memory: no rewritten code is left there.
    fn changing(&self, at: RemoteAddr, len: u64) -> Result<MutexGuard<'_, Patching>> {
        let mut patching = self.inner.patching();
        self.inner.retire(&mut patching, pages(at, len))?;
        Ok(patching)
    }
}

impl Inner {
    /// Gives back the slot of a task that was killed and may not have ended yet.
    pub(crate) fn leave_slot(&self, index: usize, pidfd: Arc<OwnedFd>) {
        self.running[index].store(false, Ordering::SeqCst);
        self.shell.leave_slot(index, pidfd);
    }
}

impl Deref for Inner {
    type Target = Shell;

    fn deref(&self) -> &Shell {
        &self.shell
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let patching = self.patching.get_mut().unwrap_or_else(PoisonError::into_inner);
        // To unmap much takes long; the end of a process doesn't keep the caller waiting.
        if patching.maps.bytes() <= SMALL {
            self.root.keep(&self.shell);
        }
    }
}

/// `struct user_desc` (modify_ldt(2)): a flat data segment, so that the selector can be loaded.
fn descriptor(index: usize) -> [u8; 16] {
    const SEG_32BIT: u32 = 1;
    const LIMIT_IN_PAGES: u32 = 1 << 4;
    const USEABLE: u32 = 1 << 6;
    let mut bytes = [0; 16];
    let words = [index as u32, 0, 0xf_ffff, SEG_32BIT | LIMIT_IN_PAGES | USEABLE];
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// The pages that a range touches.
fn pages(at: RemoteAddr, len: u64) -> Range<u64> {
    let end = at.0.saturating_add(len);
    at.0 & !0xfff..end.checked_next_multiple_of(4096).unwrap_or(u64::MAX)
}

fn check(at: RemoteAddr, len: u64, operation: &'static str) -> Result<()> {
    match len.checked_next_multiple_of(4096) {
        Some(len) if len > 0 && at.0.is_multiple_of(4096) => check_range(at, len, operation),
        _ => Err(Error::Memory { operation, at, errno: Errno::INVAL }),
    }
}

/// Refuses what touches the engine's own range.
fn check_range(at: RemoteAddr, len: u64, operation: &'static str) -> Result<()> {
    let end = at.0.checked_add(len);
    match end {
        Some(end) if end <= RESERVED_BASE || at.0 >= RESERVED_END => Ok(()),
        _ => Err(Error::Memory { operation, at, errno: Errno::INVAL }),
    }
}

fn fault(operation: &'static str, at: RemoteAddr, errno: Errno) -> Error {
    // /proc/PID/mem says EIO where others say EFAULT.
    let errno = if errno == Errno::IO { Errno::FAULT } else { errno };
    Error::Memory { operation, at, errno }
}

fn place(error: Error, operation: &'static str, at: RemoteAddr) -> Error {
    match error {
        Error::System { errno, .. } => Error::Memory { operation, at, errno },
        other => other,
    }
}
