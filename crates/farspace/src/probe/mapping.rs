//! A private anonymous mapping of this process that unmaps itself.

use std::ptr;

use rustix::io::Errno;

use super::{MapFlags, ProtFlags};

/// Private anonymous memory.
///
/// # Invariants
///
/// `start` is a live mapping of `len_bytes` readable and writable bytes that nothing else refers to.
pub(super) struct Mapping {
    start: *mut u8,
    len_bytes: usize,
}

impl Mapping {
    /// Maps `len_bytes` (a multiple of the page size) of zeros.
    pub(super) fn anonymous(len_bytes: usize) -> Result<Self, Errno> {
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists.
        let start =
            unsafe { rustix::mm::mmap_anonymous(ptr::null_mut(), len_bytes, prot, MapFlags::PRIVATE)? };
        // INVARIANT: the kernel has just made it, and only this value knows the address.
        Ok(Self { start: start.cast(), len_bytes })
    }

    /// The first byte.
    pub(super) fn as_ptr(&self) -> *mut u8 {
        self.start
    }

    /// Its length.
    pub(super) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// The bytes.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: by the type's invariant, for as long as `self` is borrowed.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len_bytes) }
    }

    /// Writes one byte such that the compiler neither drops nor moves the store.
    pub(super) fn poke(&mut self, offset: usize, value: u8) {
        assert!(offset < self.len_bytes);
        // SAFETY: in range, checked above; mapped by the type's invariant.
        unsafe { ptr::write_volatile(self.start.add(offset), value) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: by the invariant the mapping is ours alone, and nobody can use it after this.
        // An error cannot occur for a range that was mapped in one piece, and there is nobody to tell.
        let _ = unsafe { rustix::mm::munmap(self.start.cast(), self.len_bytes) };
    }
}
