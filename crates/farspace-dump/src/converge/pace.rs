//! When to stop copying live and make the one short stop.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Less than this is copied in the stop, rather than in another round: about 0.2 ms.
const SMALL: u64 = 1 << 20;

/// One round of copying, while the target ran.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Round {
    /// Bytes of the pages that had changed since the round before; in the first, of all.
    pub changed_bytes: u64,
    /// Bytes that were copied.
    pub copied_bytes: u64,
    /// Finding the changes, in ns.
    pub scan_ns: u64,
    /// Copying them, in ns.
    pub copy_ns: u64,
    /// How long the target was stopped for this round, in ns: 0, but for soft-dirty bits.
    pub stop_ns: u64,
    /// How long the stop would have been if these changes had been left to it, in ns: an estimate.
    pub stop_estimate_ns: u64,
}

/// How fast pages are had, as measured so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Speed {
    bytes: u64,
    time: Duration,
}

impl Speed {
    pub(super) fn of(bytes: u64, time: Duration) -> Self {
        Self { bytes, time }
    }

    pub(super) fn add(&mut self, bytes: u64, time: Duration) {
        self.bytes += bytes;
        self.time += time;
    }

    /// How long so many bytes take.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        // A cautious guess before anything was measured.
        let per_byte = if self.bytes < SMALL { 1e-9 } else { self.time.as_secs_f64() / self.bytes as f64 };
        Duration::from_secs_f64(bytes as f64 * per_byte)
    }
}

/// True if another round is worth it: what was changed is neither small, nor as much as in the round before.
pub(crate) fn goes_on(rounds: &[Round], max_rounds: usize) -> bool {
    match rounds {
        [] => true,
        [.., last] if rounds.len() >= max_rounds || last.changed_bytes <= SMALL => false,
        // The first copies all; what comes after says nothing of the pace yet.
        [_] | [_, _] => true,
        [.., before, last] => last.changed_bytes < before.changed_bytes / 10 * 9,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn until_it_is_small_or_shrinks_no_more() {
        let rounds = |changed: &[u64]| -> Vec<Round> {
            let round = |&mib: &u64| Round { changed_bytes: mib << 20, ..Round::default() };
            changed.iter().map(round).collect()
        };
        assert!(goes_on(&[], 10) && goes_on(&rounds(&[1000]), 10) && goes_on(&rounds(&[1000, 100]), 10));
        assert!(!goes_on(&rounds(&[1000, 1]), 10));
        assert!(goes_on(&rounds(&[1000, 100, 50]), 10));
        assert!(!goes_on(&rounds(&[1000, 100, 95]), 10));
        assert!(!goes_on(&rounds(&[1000, 100, 50]), 3));
    }

    #[test]
    fn time_by_what_was_measured() {
        let mut speed = Speed::default();
        assert_eq!(speed.time_for(1_000_000), Duration::from_millis(1));
        speed.add(4 << 20, Duration::from_millis(1));
        assert_eq!(speed.time_for(8 << 20), Duration::from_millis(2));
    }
}
