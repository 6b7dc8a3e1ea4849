//! What the caller chooses, and what came of it.

use std::time::Duration;

use farspace::Mechanism;
use serde::Serialize;

/// How to pre-dump.
#[derive(Clone, Debug)]
pub struct PredumpOptions {
    /// Uses this mechanism or fails; without it, the best that works.
    pub mechanism: Option<Mechanism>,
    /// How long to wait for threads to stop: one for attaching, all of them where tracking needs it.
    pub stop_timeout: Duration,
    /// Tracks changes between the iterations of one run where the kernel has no soft-dirty bits. Each first write to a page
    /// then costs the processes a page fault, as soft-dirty bits do.
    pub keeps_tracking: bool,
}

impl Default for PredumpOptions {
    fn default() -> Self {
        Self { mechanism: None, stop_timeout: Duration::from_secs(5), keeps_tracking: false }
    }
}

/// What was written, how, and what the processes felt of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PredumpReport {
    /// The root of the process tree.
    pub pid: i32,
    /// Which iteration of this run it was, from 1.
    pub iteration: u64,
    /// Processes whose memory was written.
    pub processes: u64,
    /// Shared memory objects that were written.
    pub shared_objects: u64,
    /// Pages of processes that were written.
    pub pages_written: u64,
    /// Pages of processes that the parent has.
    pub pages_in_parent: u64,
    /// Pages of shared memory objects that were written.
    pub shared_pages_written: u64,
    /// Bytes of memory written.
    pub bytes_written: u64,
    /// How memory was reached.
    pub mechanisms: Vec<String>,
    /// How changed pages were told from others: `soft-dirty`, `soft-dirty (stopped)`, `write-protect`, `none`.
    pub tracking: Vec<String>,
    /// Whether `criu dump --prev-images-dir --track-mem` can go on from these images on this kernel.
    pub criu_can_continue: bool,
    /// Why better ways weren't used.
    pub fallback_reasons: Vec<String>,
    /// What is missing or less than it seems, one sentence each.
    pub weaker: Vec<String>,
    /// The longest time that all threads of a process were stopped for, in ns; 0 if none were.
    pub stop_ns: u64,
    /// The longest time that one thread of a process was held to place the agent, in ns.
    pub attach_stop_ns: u64,
    /// Time to find the pages, in ns.
    pub scan_ns: u64,
    /// Time to write them, in ns.
    pub write_ns: u64,
    /// The whole, in ns.
    pub total_ns: u64,
}
