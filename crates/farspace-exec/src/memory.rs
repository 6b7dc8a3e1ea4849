//! The memory file of a space: orders, scratch page and vCPU areas, mapped here and there.
//!
//! Everything but the orders is writable by the guest at any time: it is only accessed through atomics, and each value
//! is read once and checked. Invariants: SAFETY.md, 13.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr;
use std::sync::atomic::{AtomicU32, AtomicU64};

use farspace_abi::vcpu::{AREA_BYTES, AREAS_OFFSET, MAX_VCPUS, ORDERS, SCRATCH};
use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

/// Bytes of the file; most are never touched.
const BYTES: usize = AREAS_OFFSET as usize + MAX_VCPUS * AREA_BYTES as usize;

/// # Invariants
///
/// `address` is a live shared mapping of `BYTES` bytes over a memfd that can't shrink.
#[derive(Debug)]
pub(crate) struct SpaceMemory {
    address: *mut u8,
    memfd: OwnedFd,
}

// SAFETY: the mapping belongs to the value, and is only accessed through atomics.
unsafe impl Send for SpaceMemory {}
// SAFETY: as above.
unsafe impl Sync for SpaceMemory {}

impl SpaceMemory {
    pub(crate) fn new() -> Result<Self, Errno> {
        let memfd = memfd_create("farspace-space", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&memfd, BYTES as u64)?;
        rustix::fs::fcntl_add_seals(&memfd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            let both = ProtFlags::READ | ProtFlags::WRITE;
            mmap(ptr::null_mut(), BYTES, both, MapFlags::SHARED | MapFlags::NORESERVE, &memfd, 0)?
        };
        Ok(Self { address: address.cast(), memfd })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.memfd.as_fd()
    }

    fn at<T>(&self, offset: usize) -> *mut T {
        assert!(offset + size_of::<T>() <= BYTES && offset.is_multiple_of(align_of::<T>()), "in bounds");
        // SAFETY: in bounds of the mapping.
        unsafe { self.address.add(offset).cast() }
    }

    pub(crate) fn u32(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: in bounds and aligned (`at`); lives as long as the value; only accessed through atomics.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    pub(crate) fn u64(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: as in `u32`.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }

    /// Copies bytes in; `offset` is a multiple of 8, and what follows up to the next one becomes zero.
    pub(crate) fn put(&self, offset: usize, bytes: &[u8]) {
        for (index, chunk) in bytes.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.u64(offset + 8 * index)
                .store(u64::from_le_bytes(word), std::sync::atomic::Ordering::Relaxed);
        }
    }

    /// Copies bytes out; `offset` is a multiple of 8.
    pub(crate) fn get(&self, offset: usize, bytes: &mut [u8]) {
        for (index, chunk) in bytes.chunks_mut(8).enumerate() {
            let word = self.u64(offset + 8 * index).load(std::sync::atomic::Ordering::Relaxed);
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
    }
}

impl SpaceMemory {
    /// Makes everything zero that a guest can write to: the scratch page and the areas.
    pub(crate) fn clear(&self) -> crate::Result<()> {
        for word in 0..4096 / 8 {
            self.u64((SCRATCH - ORDERS) as usize + 8 * word).store(0, std::sync::atomic::Ordering::Relaxed);
        }
        let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.memfd, hole, AREAS_OFFSET, BYTES as u64 - AREAS_OFFSET)
            .map_err(|errno| crate::Error::new("empty a space", errno))
    }
}

impl Drop for SpaceMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own; no reference outlives it.
        let _ = unsafe { munmap(self.address.cast(), BYTES) };
    }
}
