//! How long the steps of a visit may take.

use std::time::Duration;

/// How long the borrowed thread waits to be taken back before it goes on by itself.
pub(crate) const GO_TIMEOUT: Duration = Duration::from_millis(50);
/// How long the other threads have to stop while the helper is a child of the target.
pub(crate) const HOLD: Duration = Duration::from_millis(20);
/// How long the agent has to come up.
pub(crate) const START: Duration = Duration::from_secs(2);
