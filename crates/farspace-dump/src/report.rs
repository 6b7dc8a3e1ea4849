//! What a dump was.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::converge::Round;

/// What the time of a stop at the level `converge` went into, in ns.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct StopParts {
    /// Stopping the threads, and letting them go.
    pub threads_ns: u64,
    /// Reading registers and the list of mappings.
    pub registers_ns: u64,
    /// Finding the pages that have changed.
    pub scan_ns: u64,
    /// Copying them.
    pub copy_ns: u64,
}

/// What was written, how, and how long the target was stopped for it.
#[derive(Clone, Debug, Serialize)]
pub struct DumpReport {
    /// The target.
    pub pid: i32,
    /// Consistency level that was reached: `converge`, `snapshot`, `frozen`, `fuzzy`.
    pub level: String,
    /// The one that was asked for.
    pub requested_level: String,
    /// Why they differ.
    pub missed: Option<String>,
    /// How changes were noticed, for `converge`: `write-protect`, `soft-dirty`, `none`.
    pub tracking: Option<String>,
    /// Why not in a better way, and which memory wasn't watched.
    pub tracking_reasons: Vec<String>,
    /// The rounds of copying while the target ran.
    pub rounds: Vec<Round>,
    /// Bytes that were copied for the stop.
    pub last_bytes: u64,
    /// What the time of the stop went into.
    pub stop_parts: StopParts,
    /// How long the stop was allowed to be, in ns.
    pub max_downtime_ns: Option<u64>,
    /// The core.
    pub path: PathBuf,
    /// How its bytes were reached: `agent`, `pidmem`, `readv`.
    pub mechanism: String,
    /// Why better mechanisms weren't used.
    pub fallback_reasons: Vec<String>,
    /// Memory for which less than the level is guaranteed, or that couldn't be had, one sentence each.
    pub weaker: Vec<String>,
    /// Threads in the core.
    pub threads: usize,
    /// Segments (PT_LOAD) in the core.
    pub segments: usize,
    /// Bytes of memory written.
    pub bytes_written: u64,
    /// Length of the file, in bytes; what wasn't written is holes.
    pub file_bytes: u64,
    /// How long all threads were stopped, in ns, as seen from here.
    pub stop_ns: u64,
    /// How long one thread was held to place the agent, in ns.
    pub attach_stop_ns: u64,
    /// The whole dump, in ns.
    pub total_ns: u64,
}

/// A dump of a process and its descendants at one instant.
#[derive(Clone, Debug, Serialize)]
pub struct TreeReport {
    /// The process that the tree begins with.
    pub pid: i32,
    /// Consistency level of all, but for those whose own report says another one.
    pub level: String,
    /// The one that was asked for.
    pub requested_level: String,
    /// The directory; the core of each process is core.PID in it.
    pub path: PathBuf,
    /// How long the first that was stopped waited for all to go on, in ns.
    pub stop_ns: u64,
    /// The whole dump, in ns.
    pub total_ns: u64,
    /// Bytes of memory written, of all.
    pub bytes_written: u64,
    /// The process that the tree begins with, then its descendants, parents before their children.
    pub processes: Vec<DumpReport>,
    /// Processes of the tree that have no core, and why, one sentence each.
    pub left_out: Vec<String>,
}
