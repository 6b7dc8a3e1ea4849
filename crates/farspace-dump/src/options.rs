//! What the caller chooses.

use std::fmt;
use std::time::Duration;

use farspace::Mechanism;
use farspace_image::filter::CoredumpFilter;

use crate::dirty::Tracking;

/// When the bytes of a dump were true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Level {
    /// All at one instant: everything is copied while the target runs, then what has changed meanwhile, and so on; it
    /// is stopped for what changed last.
    #[default]
    Converge,
    /// All at one instant: the target is stopped for as long as a fork takes, and goes on while the forked copy
    /// is written. MAP_SHARED memory goes on changing; see [`DumpReport::weaker`](crate::DumpReport::weaker).
    Snapshot,
    /// All at one instant: the target is stopped while everything is written.
    Frozen,
    /// Each page when it was written: the target is stopped only while its registers are read.
    Fuzzy,
}

impl Level {
    /// Name on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Converge => "converge",
            Self::Snapshot => "snapshot",
            Self::Frozen => "frozen",
            Self::Fuzzy => "fuzzy",
        }
    }

    /// True if the pages are copied while the target is stopped.
    pub(crate) fn copies_stopped(self) -> bool {
        match self {
            Self::Frozen => true,
            Self::Converge | Self::Snapshot | Self::Fuzzy => false,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What to do if the stop would be longer than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum OnMiss {
    /// Copy what is left while the target is stopped, however long it takes.
    Frozen,
    /// Fork the target as it stands, and copy what is left from the fork. What a fork doesn't copy (shared memory) is as of
    /// when it is written. Where the target can't be forked, as [`OnMiss::Frozen`].
    #[default]
    Snapshot,
    /// Let the target go, and give up.
    Fail,
}

/// Which mappings go into the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Filter {
    /// What the target's /proc/PID/coredump_filter says (core(5)).
    #[default]
    Target,
    /// This mask instead.
    Mask(CoredumpFilter),
    /// Everything that is readable, also what was excluded by MADV_DONTDUMP.
    All,
}

/// How to dump.
#[derive(Clone, Debug)]
pub struct DumpOptions {
    /// When the bytes are true.
    pub level: Level,
    /// Which mappings are written.
    pub filter: Filter,
    /// Uses this mechanism or fails; without it, the best that works.
    pub mechanism: Option<Mechanism>,
    /// Replaces a file that exists.
    pub overwrite: bool,
    /// How long to wait for the target's threads to stop.
    pub stop_timeout: Duration,
    /// Converge: at most so many rounds of copying before the stop.
    pub max_rounds: usize,
    /// Converge: the stop may be this long, by default a second; with `None`, as short as it gets.
    pub max_downtime: Option<Duration>,
    /// Converge: what to do if it would be longer.
    pub on_miss: OnMiss,
    /// Converge: notices changes in this way or fails; without it, in the best that works.
    pub tracking: Option<Tracking>,
}

impl Default for DumpOptions {
    fn default() -> Self {
        Self {
            level: Level::default(),
            filter: Filter::default(),
            mechanism: None,
            overwrite: false,
            stop_timeout: Duration::from_secs(5),
            max_rounds: 30,
            max_downtime: Some(Duration::from_secs(1)),
            on_miss: OnMiss::default(),
            tracking: None,
        }
    }
}

/// How far a dump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of memory written so far.
    pub done_bytes: u64,
    /// Bytes of memory to write.
    pub total_bytes: u64,
}

impl Progress {
    /// Before anything is known.
    pub(crate) const NONE: Self = Self { done_bytes: 0, total_bytes: 0 };
}
