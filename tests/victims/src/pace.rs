//! How much slower than usual the machine is said to be.
//!
//! FARSPACE_TEST_SLOWNESS=N multiplies the time limits of the tests, for a machine whose processor is made of software.
//! What a limit guards against (something never comes) shows all the same, only later; what is asserted stays what it is.

use std::sync::OnceLock;
use std::time::Duration;

/// The factor; 1 on usual machines.
pub fn slowness() -> u32 {
    static SLOWNESS: OnceLock<u32> = OnceLock::new();
    *SLOWNESS.get_or_init(|| {
        let given = std::env::var("FARSPACE_TEST_SLOWNESS").ok();
        given.and_then(|text| text.parse().ok()).unwrap_or(1).clamp(1, 1000)
    })
}

/// A time limit on this machine.
pub fn limit(usual: Duration) -> Duration {
    usual * slowness()
}
