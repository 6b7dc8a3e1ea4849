//! How long the steps of a visit may take.

use std::time::{Duration, Instant};

/// How long the borrowed thread waits to be taken back before it goes on by itself.
pub(crate) const GO_TIMEOUT: Duration = Duration::from_millis(50);
/// How long the other threads have to stop while the helper is a child of the target.
pub(crate) const HOLD: Duration = Duration::from_millis(20);
/// How long the agent has to come up.
pub(crate) const START: Duration = Duration::from_secs(2);
/// How long a borrowed thread has that can't be let go: its filter would kill the target.
pub(crate) const START_KEPT: Duration = Duration::from_secs(30);

/// A limit for waiting, during which this process may be without a CPU: of that time little counts.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Duration,
    last: Instant,
}

impl Patience {
    /// The most that counts between two looks.
    const LOOK: Duration = Duration::from_millis(250);

    pub(crate) fn new(limit: Duration) -> Self {
        Self { left: limit, last: Instant::now() }
    }

    /// Asked between two looks; true once the time is over.
    pub(crate) fn is_over(&mut self) -> bool {
        let now = Instant::now();
        self.left = self.left.saturating_sub((now - self.last).min(Self::LOOK));
        self.last = now;
        self.left.is_zero()
    }
}
