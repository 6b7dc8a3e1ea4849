//! Core dumps, by farspace-dump.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Duration;

use farspace::Mechanism;
use farspace_dump::dirty::Tracking;
use farspace_dump::{
    Destination, DumpOptions, Error, Filter, Level, OnMiss, Progress, Round, StopParts, TreeReport,
};
use farspace_image::filter::CoredumpFilter;
use serde::{Deserialize, Serialize};

use crate::cli::{LevelArg, MechanismArg, OnMissArg, TrackingArg};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt;
use crate::sink::Existing;

/// Which mappings go into the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FilterChoice {
    /// Those that /proc/PID/coredump_filter selects.
    Own,
    /// Those that this mask selects.
    Mask(u32),
    /// All.
    All,
}

/// What to dump, and how.
#[derive(Clone, Debug)]
pub(crate) struct DumpRequest {
    /// The target.
    pub(crate) pid: i32,
    /// Where the core goes.
    pub(crate) to: Destination,
    /// Its consistency.
    pub(crate) level: LevelArg,
    /// Its mappings.
    pub(crate) filter: FilterChoice,
    /// The way memory is read; the best if `None`.
    pub(crate) mechanism: Option<MechanismArg>,
    /// What to do if the name is taken.
    pub(crate) existing: Existing,
    /// Rounds of copying before the stop.
    pub(crate) max_rounds: u32,
    /// How long the stop may be.
    pub(crate) max_downtime: Option<Duration>,
    /// What to do if it would be longer.
    pub(crate) on_miss: OnMissArg,
    /// The way changes are noticed; the best if `None`.
    pub(crate) tracking: Option<TrackingArg>,
}

/// What came of it; this is the JSON report of `farspace dump`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DumpOutcome {
    /// The target.
    pub(crate) pid: i32,
    /// The consistency level that was reached.
    pub(crate) level: String,
    /// The one that was asked for.
    pub(crate) requested_level: String,
    /// Why they differ.
    pub(crate) missed: Option<String>,
    /// How changes were noticed.
    pub(crate) tracking: Option<String>,
    /// Why not in a better way, and what wasn't watched.
    pub(crate) tracking_reasons: Vec<String>,
    /// The rounds of copying while the target ran.
    pub(crate) rounds: Vec<Round>,
    /// Bytes copied for the stop.
    pub(crate) last_bytes: u64,
    /// What the time of the stop went into.
    pub(crate) stop_parts: StopParts,
    /// How long the stop was allowed to be.
    pub(crate) max_downtime_ns: Option<u64>,
    /// The core.
    pub(crate) path: PathBuf,
    /// How memory was read.
    pub(crate) mechanism: String,
    /// Why not in a better way.
    pub(crate) fallback_reasons: Vec<String>,
    /// Ranges with a weaker guarantee than the level's.
    pub(crate) weaker: Vec<String>,
    /// Threads in the core.
    pub(crate) threads: usize,
    /// PT_LOAD segments in the core.
    pub(crate) segments: usize,
    /// Bytes of memory written.
    pub(crate) bytes_written: u64,
    /// Length of the core, with its holes.
    pub(crate) file_bytes: u64,
    /// How long all threads of the target were stopped.
    pub(crate) stop_ns: u64,
    /// How long one thread was held to place the agent.
    pub(crate) attach_stop_ns: u64,
    /// Time from start to end.
    pub(crate) total_ns: u64,
    /// farspace's own peak memory (VmHWM).
    pub(crate) peak_memory_bytes: u64,
}

/// What came of a dump of a tree; this is the JSON report of `farspace dump --tree`.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct TreeOutcome {
    #[serde(flatten)]
    pub(crate) report: TreeReport,
    /// farspace's own peak memory (VmHWM).
    pub(crate) peak_memory_bytes: u64,
}

/// Dumps; `progress` is told the bytes done and in all, and may break it off.
pub(crate) fn dump(
    request: &DumpRequest,
    progress: &mut (dyn FnMut(u64, u64) -> ControlFlow<()> + Send),
) -> anyhow::Result<DumpOutcome> {
    let mut told = |p: Progress| progress(p.done_bytes, p.total_bytes);
    let options = options(request);
    let report =
        farspace_dump::dump(request.pid, &request.to, &options, &mut told).map_err(|e| failure(&e))?;
    Ok(DumpOutcome {
        pid: report.pid,
        level: report.level,
        requested_level: report.requested_level,
        missed: report.missed,
        tracking: report.tracking,
        tracking_reasons: report.tracking_reasons,
        rounds: report.rounds,
        last_bytes: report.last_bytes,
        stop_parts: report.stop_parts,
        max_downtime_ns: report.max_downtime_ns,
        path: report.path,
        mechanism: report.mechanism,
        fallback_reasons: report.fallback_reasons,
        weaker: report.weaker,
        threads: report.threads,
        segments: report.segments,
        bytes_written: report.bytes_written,
        file_bytes: report.file_bytes,
        stop_ns: report.stop_ns,
        attach_stop_ns: report.attach_stop_ns,
        total_ns: report.total_ns,
        peak_memory_bytes: peak_memory_bytes(),
    })
}

/// Dumps a process and its descendants.
pub(crate) fn dump_tree(
    request: &DumpRequest,
    progress: &mut (dyn FnMut(u64, u64) -> ControlFlow<()> + Send),
) -> anyhow::Result<TreeOutcome> {
    let mut told = |p: Progress| progress(p.done_bytes, p.total_bytes);
    let options = options(request);
    let report =
        farspace_dump::dump_tree(request.pid, &request.to, &options, &mut told).map_err(|e| failure(&e))?;
    Ok(TreeOutcome { report, peak_memory_bytes: peak_memory_bytes() })
}

fn options(request: &DumpRequest) -> DumpOptions {
    DumpOptions {
        level: match request.level {
            LevelArg::Converge => Level::Converge,
            LevelArg::Snapshot => Level::Snapshot,
            LevelArg::Frozen => Level::Frozen,
            LevelArg::Fuzzy => Level::Fuzzy,
        },
        filter: match request.filter {
            FilterChoice::Own => Filter::Target,
            FilterChoice::Mask(mask) => Filter::Mask(CoredumpFilter::from_bits_truncate(mask)),
            FilterChoice::All => Filter::All,
        },
        mechanism: request.mechanism.map(Mechanism::from),
        overwrite: request.existing == Existing::Replace,
        max_rounds: request.max_rounds as usize,
        max_downtime: request.max_downtime,
        on_miss: match request.on_miss {
            OnMissArg::Frozen => OnMiss::Frozen,
            OnMissArg::Snapshot => OnMiss::Snapshot,
            OnMissArg::Fail => OnMiss::Fail,
        },
        tracking: request.tracking.map(|tracking| match tracking {
            TrackingArg::WriteProtect => Tracking::WriteProtect,
            TrackingArg::SoftDirty => Tracking::SoftDirty,
            TrackingArg::None => Tracking::Nothing,
        }),
        ..DumpOptions::default()
    }
}

/// The library describes the failure itself, advice included; here it gets its exit code.
pub(super) fn failure(error: &Error) -> Failure {
    let exit = match error {
        Error::Target(error) => return super::attach::failure(error),
        Error::Exists { .. } | Error::NotEmpty { .. } | Error::Output { .. } | Error::Stream { .. } => {
            Exit::Output
        }
        Error::Own { .. } | Error::Parent { .. } => Exit::Usage,
        Error::NoSnapshot { .. } | Error::NoTracking { .. } => Exit::Refused,
        Error::Downtime { .. } => Exit::Failed,
        Error::Interrupted => return interrupt::failure(),
        Error::Layout { .. } | Error::Gone { .. } | Error::Grows { .. } => Exit::Failed,
    };
    Failure::new(exit, error.to_string())
}

/// VmHWM of this process; 0 if /proc is not there.
pub(super) fn peak_memory_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) << 10
}
