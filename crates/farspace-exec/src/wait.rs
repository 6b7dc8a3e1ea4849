//! Waiting for the other side: asleep, until it says so.

use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use rustix::thread::futex;

/// How often either side looks before it sleeps, some 20 us.
pub(crate) const LOOKS: u32 = 500;
/// How long a kicked guest may take to stop before it is killed.
pub(crate) const KICK_DEADLINE: Duration = Duration::from_secs(5);
/// How often a kick is repeated: one that comes just before the guest goes on is lost.
pub(crate) const KICK_AGAIN: Duration = Duration::from_millis(5);

/// Sleeps while `word` is `value`, at most until `deadline` and at most `slice`.
pub(crate) fn sleep(word: &AtomicU32, value: u32, slice: Duration, deadline: Option<Instant>) {
    let left =
        deadline.map_or(slice, |deadline| deadline.saturating_duration_since(Instant::now()).min(slice));
    let Ok(timeout) = left.try_into() else { return };
    // Whatever it returns, the caller looks again. Not private: the other side is another process.
    let _ = futex::wait(word, futex::Flags::empty(), value, Some(&timeout));
}

/// Wakes the other side.
pub(crate) fn wake(word: &AtomicU32) {
    let _ = futex::wake(word, futex::Flags::empty(), 1);
}
