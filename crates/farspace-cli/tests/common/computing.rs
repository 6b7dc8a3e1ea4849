//! A target that computes while farspace is killed.

use std::time::{Duration, Instant};

use farspace_victims::harness::Victim;

use crate::leftovers::View;
use crate::victim;

/// How long one computes.
const LIFE: Duration = Duration::from_secs(20);

/// A computing target and how it looked before anybody came.
pub(crate) struct Target {
    pub(crate) victim: Victim,
    pub(crate) before: View,
    since: Instant,
}

impl Target {
    pub(crate) fn start() -> Self {
        // One thread computes, one sleeps, one waits for both.
        let args = ["--threads", "1", "--seconds", &LIFE.as_secs().to_string()];
        // Before it begins: while it has time by this clock it hasn't come to its end.
        let since = Instant::now();
        let victim = victim::spawn("checksum", &args).expect("everywhere");
        // Whatever is set up lazily: its sleeper sleeps.
        std::thread::sleep(Duration::from_millis(30));
        let before = View::of(victim.pid());
        Self { victim, before, since }
    }

    pub(crate) fn pid(&self) -> i32 {
        self.victim.pid()
    }

    /// It computes for so long yet.
    pub(crate) fn has_time(&self, needed: Duration) -> bool {
        self.since.elapsed() + needed < LIFE
    }
}
