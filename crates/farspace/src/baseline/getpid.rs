//! getpid(2) as it is: what any interception is on top of.

use std::hint::black_box;
use std::time::{Duration, Instant};

use super::Rounds;
use super::peer::getpid;
use crate::Result;

/// Calls of getpid(2) by the calling thread itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Getpid;

impl Rounds for Getpid {
    fn round(&mut self, nr_calls: u32) -> Result<Duration> {
        let start = Instant::now();
        for _ in 0..nr_calls {
            black_box(getpid());
        }
        Ok(start.elapsed())
    }
}
