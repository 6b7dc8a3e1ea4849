//! What a dump was.

use std::path::PathBuf;

use serde::Serialize;

/// What was written, how, and how long the target was stopped for it.
#[derive(Clone, Debug, Serialize)]
pub struct DumpReport {
    /// The target.
    pub pid: i32,
    /// Consistency level: `snapshot`, `frozen`, `fuzzy`.
    pub level: String,
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
    /// Consistency level, the same for all.
    pub level: String,
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
