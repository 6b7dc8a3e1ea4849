//! Memory shared with the agent.
//!
//! Invariants: SAFETY.md, 13.

use std::os::fd::{AsFd, OwnedFd};
use std::ptr;

use farspace_abi::mailbox::{Mailbox, NR_MAILBOXES, SHARED_BYTES};
use rustix::fs::{MemfdFlags, SealFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// The mailboxes, mapped here and (by the agent) in the target.
///
/// # Invariants
///
/// `address` is a live shared mapping of `SHARED_BYTES` bytes over a memfd that can't shrink.
#[derive(Debug)]
pub struct SharedMemory {
    address: *mut core::ffi::c_void,
    memfd: OwnedFd,
}

// SAFETY: the mapping belongs to the value, and everything in it is atomic.
unsafe impl Send for SharedMemory {}
// SAFETY: as above.
unsafe impl Sync for SharedMemory {}

impl SharedMemory {
    /// The memory's name, as in /proc/PID/maps after "/memfd:".
    pub const NAME: &str = "farspace-mailbox";

    /// Makes the memory, zeroed.
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE, ENOMEM.
    pub fn new() -> Result<Self, Errno> {
        let memfd = memfd_create(Self::NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, SHARED_BYTES as u64)?;
        // INVARIANT: sealed, so that the target can't make this process take a SIGBUS.
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            mmap(
                ptr::null_mut(),
                SHARED_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &memfd,
                0,
            )?
        };
        Ok(Self { address, memfd })
    }

    /// The memory as a file, to be sent to the agent.
    pub fn memfd(&self) -> impl AsFd + '_ {
        &self.memfd
    }

    /// One of the mailboxes.
    ///
    /// # Panics
    ///
    /// Never for `farspace_abi::mailbox::{AGENT, SNAPSHOT}`.
    pub fn mailbox(&self, index: usize) -> &Mailbox {
        assert!(index < NR_MAILBOXES, "there are {NR_MAILBOXES} mailboxes");
        // SAFETY: in bounds; page-aligned as a mapping is; a `Mailbox` consists of atomics, for which every bit
        // pattern is valid and which may change at any time.
        unsafe { &*self.address.cast::<Mailbox>().add(index) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own; no reference outlives it.
        let _ = unsafe { munmap(self.address, SHARED_BYTES) };
    }
}
