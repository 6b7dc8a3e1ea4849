//! Core dumps, by farspace-dump.

use std::ops::ControlFlow;
use std::path::PathBuf;

use farspace::Mechanism;
use farspace_dump::{Destination, DumpOptions, Error, Filter, Level, Progress, TreeReport};
use farspace_image::filter::CoredumpFilter;
use serde::{Deserialize, Serialize};

use crate::cli::{LevelArg, MechanismArg};
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
}

/// What came of it; this is the JSON report of `farspace dump`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DumpOutcome {
    /// The target.
    pub(crate) pid: i32,
    /// The consistency level.
    pub(crate) level: String,
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
