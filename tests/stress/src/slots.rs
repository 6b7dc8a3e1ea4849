//! The targets of the moment, by number.

use std::sync::atomic::{AtomicI32, Ordering};

/// Pids; 0 while there is none.
pub(crate) struct Slots(Vec<AtomicI32>);

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicI32::new(0)).collect())
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, nr: usize) -> i32 {
        self.0[nr].load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, nr: usize, pid: i32) {
        self.0[nr].store(pid, Ordering::Relaxed);
    }
}
