//! Random moments.

use std::time::Duration;

/// A pseudo-random sequence (splitmix64), so that a failing run can be repeated.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A duration below `limit`.
    pub(crate) fn below(&mut self, limit: Duration) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        limit.mul_f64((z ^ (z >> 31)) as f64 / u64::MAX as f64)
    }
}
