//! A row to be.

use std::time::Duration;

/// Has this many calls answered and tells how long all of them took.
pub(super) type Round = Box<dyn FnMut(u32) -> anyhow::Result<Duration>>;

/// Something that is set up once and then asked for rounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The row's name; stable, kebab-case.
    pub(super) name: &'static str,
    /// The rows that it is compared with: the sum of their times in the same turn. Empty for a baseline.
    pub(super) against: &'static [&'static str],
    /// Sets it up; an error is the reason why the row is skipped.
    pub(super) start: fn() -> anyhow::Result<Round>,
}

impl Entry {
    /// One that others are compared with.
    pub(super) const fn baseline(name: &'static str, start: fn() -> anyhow::Result<Round>) -> Self {
        Self { name, against: &[], start }
    }
}
