//! Addresses of another process.

use core::fmt;

/// An address in the target, never dereferenced by the caller.
///
/// A type of its own so that it can't be mistaken for a pointer of this process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(transparent)]
pub struct RemoteAddr(pub u64);

impl RemoteAddr {
    /// The address `len_bytes` further on, or `None` past the end of the address space.
    pub const fn checked_add(self, len_bytes: u64) -> Option<Self> {
        match self.0.checked_add(len_bytes) {
            Some(address) => Some(Self(address)),
            None => None,
        }
    }
}

impl fmt::Debug for RemoteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Display for RemoteAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// One range of the target's memory, laid out as `struct iovec` is for a 64-bit caller (readv(2)).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(C)]
pub struct RemoteIoVec {
    /// The first byte, in the target.
    pub base: RemoteAddr,
    /// Length in bytes; a value above `isize::MAX` is a negative length to the kernel (EINVAL).
    pub len: u64,
}

impl RemoteIoVec {
    /// A range of `len` bytes from `base`.
    pub const fn new(base: u64, len: u64) -> Self {
        Self { base: RemoteAddr(base), len }
    }
}

const _: () = assert!(size_of::<RemoteIoVec>() == 16 && align_of::<RemoteIoVec>() == 8);
