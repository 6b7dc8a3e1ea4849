//! The ranges of a request, and how far they have been moved.
//!
//! Invariants: SAFETY.md, 13.

use core::sync::atomic::{AtomicU64, Ordering};

use farspace_abi::mailbox::{MAX_IOV, Mailbox, op_and_nr_iov};

use crate::arch::nr;
use crate::arch::prefetch::prefetch;
use crate::arch::syscall::syscall;

/// What is left of a request's ranges; the list in the mailbox is used up on the way.
pub(crate) struct Ranges<'a> {
    mailbox: &'a Mailbox,
    count: u64,
    index: u64,
}

impl<'a> Ranges<'a> {
    /// All ranges of the present request.
    pub(crate) fn of(mailbox: &'a Mailbox) -> Self {
        let count = (op_and_nr_iov(mailbox.body.what.load(Ordering::Relaxed)).1 as u64).min(MAX_IOV as u64);
        Self { mailbox, count, index: 0 }
    }

    /// True if nothing is left.
    pub(crate) fn are_out(&self) -> bool {
        self.index >= self.count
    }

    /// One vmsplice(2) of what is left; bytes or `-errno`.
    ///
    /// # Safety
    ///
    /// This task must own the descriptor.
    pub(crate) unsafe fn vmsplice(&mut self, pipe: u64, flags: u64) -> i64 {
        // SAFETY: vmsplice(2) into a pipe only reads the ranges, and checks them; the list is within the mailbox, since
        // `index <= count <= MAX_IOV`.
        let done = unsafe {
            let first = self.mailbox.iov.as_ptr().add(self.index as usize);
            syscall(nr::VMSPLICE, [pipe, first as u64, self.count - self.index, flags, 0, 0])
        };
        if done > 0 {
            self.step_over(done as u64);
        }
        done
    }

    /// Brings the next bytes near.
    pub(crate) fn prefetch(&self, mut bytes: u64) {
        let mut index = self.index;
        while let Some([base, len]) = self.at(index)
            && bytes > 0
        {
            let len = len.load(Ordering::Relaxed).min(bytes);
            prefetch(base.load(Ordering::Relaxed), len);
            bytes -= len;
            index += 1;
        }
    }

    /// Steps over what is done; the last, partly done range is shortened in place.
    fn step_over(&mut self, mut left: u64) {
        while let Some([base, len]) = self.at(self.index)
            && left > 0
        {
            let length = len.load(Ordering::Relaxed);
            if left < length {
                base.store(base.load(Ordering::Relaxed).wrapping_add(left), Ordering::Relaxed);
                len.store(length - left, Ordering::Relaxed);
                return;
            }
            left -= length;
            self.index += 1;
        }
    }

    fn at(&self, index: u64) -> Option<&'a [AtomicU64; 2]> {
        // SAFETY: `index < count <= MAX_IOV`, within the mailbox. (Not `get`: its bounds check is no panic path, but the
        // compiler has to see that.)
        (index < self.count).then(|| unsafe { &*self.mailbox.iov.as_ptr().add(index as usize) })
    }
}
