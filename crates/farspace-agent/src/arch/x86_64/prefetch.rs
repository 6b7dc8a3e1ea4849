//! Bringing memory near before another CPU copies it.

use core::arch::asm;

/// Bytes of a cache line.
const LINE: u64 = 64;

/// Asks for these bytes to be in the second-level cache. It never faults, whatever is there (PREFETCHh, Intel SDM
/// volume 2).
pub(crate) fn prefetch(base: u64, len: u64) {
    let mut at = 0;
    while at < len {
        // SAFETY: a hint, which reads nothing as far as the program is concerned.
        unsafe {
            asm!("prefetcht1 [{}]", in(reg) base.wrapping_add(at), options(nostack, readonly, preserves_flags));
        }
        at += LINE;
    }
}
