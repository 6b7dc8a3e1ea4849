//! Waiting on a futex.

use super::{Call, Timing, must_fail, must_return};
use crate::sys;
use std::ptr::null;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// A futex word that a forked child shares.
struct Word(*const AtomicU32);

impl Word {
    fn new() -> Result<Self, String> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping anywhere; it stays until the process ends.
        let at = unsafe { libc::mmap(std::ptr::null_mut(), 4096, prot, flags, -1, 0) };
        if at == libc::MAP_FAILED { Err("mmap failed".to_owned()) } else { Ok(Self(at as *const AtomicU32)) }
    }

    fn get(&self) -> &AtomicU32 {
        // SAFETY: the mapping is aligned, writable, zeroed and never unmapped; all access is atomic.
        unsafe { &*self.0 }
    }

    fn call(&self, op: i32, value: u32, timeout: Option<Duration>, bitset: u32) -> i64 {
        let time = timeout.map(sys::timespec);
        let time = time.as_ref().map_or(null(), |t| t as *const libc::timespec);
        // SAFETY: the word and the timeout are valid for the call.
        unsafe { libc::syscall(libc::SYS_futex, self.0, op, value, time, null::<u32>(), bitset) }
    }
}

pub(super) fn wait(_: Timing) -> Result<Call, String> {
    let word = Rc::new(Word::new()?);
    let waker = Rc::clone(&word);
    let block = move || must_return("futex wait", word.call(libc::FUTEX_WAIT, 0, None, 0), 0);
    Call::new(block, move |_| {
        waker.get().store(1, Ordering::SeqCst);
        must_return("futex wake", waker.call(libc::FUTEX_WAKE, 1, None, 0), 1)
    })
}

pub(super) fn timeout(timing: Timing) -> Result<Call, String> {
    let word = Word::new()?;
    Call::timed(timing, move || {
        let op = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;
        must_fail("futex wait", word.call(op, 0, Some(timing.duration), 0), libc::ETIMEDOUT)
    })
}

pub(super) fn bitset_timeout(timing: Timing) -> Result<Call, String> {
    let word = Word::new()?;
    Call::timed(timing, move || {
        let until = Duration::from_nanos(sys::now_ns()) + timing.duration;
        let result = word.call(libc::FUTEX_WAIT_BITSET, 0, Some(until), u32::MAX);
        must_fail("futex wait (absolute)", result, libc::ETIMEDOUT)
    })
}
