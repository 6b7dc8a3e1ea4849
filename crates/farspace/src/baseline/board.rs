//! The memory that a baseline shares with its child.

use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use rustix::thread::futex;

use crate::{Error, Result};

/// The answer that stands for a child that has ended. Requests are never this.
pub(super) const ENDED: u32 = u32::MAX;

/// One request and its answer, in one cache line.
#[repr(C, align(64))]
#[derive(Debug)]
pub(super) struct Line {
    /// Only the measuring side writes this.
    pub(super) request: AtomicU32,
    /// Only the child writes this, and [`Line::end`] when there is none any more.
    pub(super) reply: AtomicU32,
}

/// Everything that is shared. All zeros is its first state.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Board {
    /// The hand-off that is measured.
    pub(super) line: Line,
    /// Wakes the child for a round.
    pub(super) bell: Line,
    /// An argument or a result, ordered by the bell. Negative results are error numbers.
    pub(super) value: AtomicI64,
    /// 1 once the child is sure to end with its parent.
    pub(super) is_bound: AtomicU32,
}

const _: () = assert!(size_of::<Line>() == 64 && size_of::<Board>() <= 4096);

impl Line {
    /// Hands `request` over and sleeps until it is answered. It must differ from the one before.
    ///
    /// # Errors
    ///
    /// ESRCH: the child has ended.
    pub(super) fn ask(&self, request: u32) -> Result<()> {
        self.post(request);
        loop {
            match self.reply.load(Ordering::Acquire) {
                reply if reply == request => return Ok(()),
                ENDED => return Err(ended()),
                old => sleep(&self.reply, old),
            }
        }
    }

    /// Hands `request` over without waiting for an answer.
    pub(super) fn post(&self, request: u32) {
        self.request.store(request, Ordering::Release);
        wake(&self.request);
    }

    /// In the child: sleeps until there is a request other than `last`.
    pub(super) fn next(&self, last: u32) -> u32 {
        loop {
            match self.request.load(Ordering::Acquire) {
                request if request != last => return request,
                _ => sleep(&self.request, last),
            }
        }
    }

    /// In the child: answers.
    pub(super) fn answer(&self, request: u32) {
        self.reply.store(request, Ordering::Release);
        wake(&self.reply);
    }

    /// Tells a waiting host that nobody will answer.
    pub(super) fn end(&self) {
        self.answer(ENDED);
    }
}

/// The number after `request`: never 0, [`ENDED`], or one with the highest bit.
pub(super) fn following(request: u32) -> u32 {
    (request & 0x3fff_ffff) + 1
}

/// The error for a child that isn't there any more.
pub(super) fn ended() -> Error {
    Error::new("go on without the child process", None, Errno::SRCH)
}

/// FUTEX_WAIT between processes (futex(2)). It may return for no reason.
fn sleep(word: &AtomicU32, while_it_is: u32) {
    // EAGAIN: changed already; EINTR. The callers look again in any case.
    let _ = futex::wait(word, futex::Flags::empty(), while_it_is, None);
}

/// FUTEX_WAKE between processes.
fn wake(word: &AtomicU32) {
    // It can't fail for a word that is mapped.
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}

/// A [`Board`] in memory that children of this process share.
///
/// # Invariants
///
/// The pointer is to a shared mapping that lives as long as the value does.
#[derive(Debug)]
pub(super) struct SharedBoard(NonNull<Board>);

// SAFETY: the mapping belongs to the value, and everything in it is atomic.
unsafe impl Send for SharedBoard {}
// SAFETY: as above.
unsafe impl Sync for SharedBoard {}

impl SharedBoard {
    /// Maps one, zeroed.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    pub(super) fn new() -> Result<Self> {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let mapped = unsafe { mmap_anonymous(ptr::null_mut(), size_of::<Board>(), protection, flags) };
        let address = mapped.map_err(|e| Error::new("map shared memory", None, e))?;
        NonNull::new(address.cast()).map(Self).ok_or(Error::new("map shared memory", None, Errno::NOMEM))
    }
}

impl Deref for SharedBoard {
    type Target = Board;

    fn deref(&self) -> &Board {
        // SAFETY: mapped (the type's invariant), page-aligned, and made of atomics, for which zeros are valid and
        // which may change at any time.
        unsafe { self.0.as_ref() }
    }
}

impl Drop for SharedBoard {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own; no reference outlives it.
        let _ = unsafe { munmap(self.0.as_ptr().cast(), size_of::<Board>()) };
    }
}
