//! Lines between the demo and its target: a word each way down, a JSON object each way up.
//!
//! The target sends [`Hello`] when it is ready and then answers each [`Request`] in turn. Closing its standard
//! input ends it.

use serde::{Deserialize, Serialize};

/// What the target says first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Its process id.
    pub(crate) pid: i32,
    /// Where the static region starts.
    pub(crate) static_base: u64,
    /// Its length in bytes.
    pub(crate) static_len: u64,
    /// Its checksum.
    pub(crate) checksum: u64,
    /// Where the hot region starts.
    pub(crate) hot_base: u64,
    /// Its length in bytes.
    pub(crate) hot_len: u64,
}

/// What can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// State, after forgetting the longest gap.
    Reset,
    /// State.
    State,
    /// State, after computing the static region's checksum again.
    Check,
    /// State, after one write to each page of the hot region, with the time that took.
    Touch,
}

impl Request {
    /// Its word on the line.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::Reset => "reset",
            Self::State => "state",
            Self::Check => "check",
            Self::Touch => "touch",
        }
    }

    /// The request that a line holds.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        [Self::Reset, Self::State, Self::Check, Self::Touch]
            .into_iter()
            .find(|request| request.word() == line.trim())
    }
}

/// The answer to every request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The round that the hot region's writer is in.
    pub(crate) generation: u64,
    /// The longest gap of any measuring thread since the last reset.
    pub(crate) longest_gap_ns: u64,
    /// How long the last touch took.
    pub(crate) touch_ns: u64,
    /// The static region's checksum: as of the start, or just computed.
    pub(crate) checksum: u64,
    /// Blocking calls that returned although nothing happened that ends them.
    pub(crate) disturbed: Vec<String>,
}
