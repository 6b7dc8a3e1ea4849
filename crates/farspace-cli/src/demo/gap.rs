//! How long a thread was kept from running by anything but the scheduler's queue.
//!
//! The thread looks at CLOCK_MONOTONIC as often as it can. A large step between two looks is time in which it did
//! not run; what it spent waiting for a CPU (run_delay, the second number in /proc/thread-self/schedstat) is taken
//! off, because that happens with or without a dump.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Steps below this are not worth the price of asking the scheduler.
const WORTH_ASKING: Duration = Duration::from_micros(20);
/// Small waits add up; the scheduler is asked at least this often.
const REFRESH: Duration = Duration::from_millis(1);

/// The longest gap of any thread since the last reset, in nanoseconds.
#[derive(Clone, Debug, Default)]
pub(super) struct LongestGap(Arc<AtomicU64>);

impl LongestGap {
    /// Its value.
    pub(super) fn ns(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Starts anew.
    pub(super) fn reset(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Measures the gaps of the thread that made it.
#[derive(Debug)]
pub(super) struct GapMeter {
    longest: LongestGap,
    schedstat: File,
    last: Instant,
    asked: Instant,
    run_delay_ns: u64,
}

impl GapMeter {
    /// Starts measuring the calling thread.
    pub(super) fn new(longest: LongestGap) -> io::Result<Self> {
        let schedstat = File::open("/proc/thread-self/schedstat")?;
        let run_delay_ns = run_delay_ns(&schedstat)?;
        let now = Instant::now();
        Ok(Self { longest, schedstat, last: now, asked: now, run_delay_ns })
    }

    /// Takes a look at the clock; `asleep` is the part of the time since the last one that was meant to pass.
    pub(super) fn look(&mut self, asleep: Duration) -> io::Result<()> {
        let now = Instant::now();
        let gap = (now - self.last).saturating_sub(asleep);
        self.last = now;
        if gap < WORTH_ASKING && now - self.asked < REFRESH {
            return Ok(());
        }
        let before = std::mem::replace(&mut self.run_delay_ns, run_delay_ns(&self.schedstat)?);
        self.asked = now;
        let waited = Duration::from_nanos(self.run_delay_ns.saturating_sub(before));
        self.longest.0.fetch_max(gap.saturating_sub(waited).as_nanos() as u64, Ordering::Relaxed);
        Ok(())
    }
}

/// The calling thread's time in the run queue so far.
fn run_delay_ns(schedstat: &File) -> io::Result<u64> {
    let mut buffer = [0u8; 96];
    let len = schedstat.read_at(&mut buffer, 0)?;
    let text = String::from_utf8_lossy(&buffer[..len]);
    text.split_whitespace()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .ok_or_else(|| io::Error::other("odd schedstat"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_stop_and_not_a_sleep() {
        let longest = LongestGap::default();
        let mut meter = GapMeter::new(longest.clone()).unwrap();
        // A machine that stands still by itself in one try doesn't in all of them.
        let is_unseen = (0..50).any(|_| {
            meter.look(Duration::ZERO).unwrap();
            longest.reset();
            let begin = Instant::now();
            std::thread::sleep(Duration::from_millis(30));
            meter.look(begin.elapsed()).unwrap();
            longest.ns() < 25_000_000
        });
        assert!(is_unseen, "{longest:?}");
        std::thread::sleep(Duration::from_millis(30));
        meter.look(Duration::ZERO).unwrap();
        assert!(longest.ns() > 20_000_000, "{longest:?}");
        longest.reset();
        assert_eq!(longest.ns(), 0);
    }
}
