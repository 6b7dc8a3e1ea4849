//! Pre-dumps in CRIU's formats, by farspace-dump.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use farspace::Mechanism;
use farspace_dump::Progress;
use farspace_dump::predump::{ImageDirectory, PredumpOptions, PredumpReport, Predumper};
use serde::Serialize;

use super::dump::{failure, peak_memory_bytes};
use crate::cli::MechanismArg;
use crate::failure::Failure;
use crate::interrupt;

/// What to pre-dump, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PredumpRequest {
    /// The root of the process tree.
    pub(crate) pid: i32,
    /// The way memory is read; the best if `None`.
    pub(crate) mechanism: Option<MechanismArg>,
    /// How many there will be in this run.
    pub(crate) iterations: u32,
}

/// Pre-dumps of one process tree.
#[derive(Debug)]
pub(crate) struct Predumps {
    predumper: Predumper,
}

/// One of them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Iteration {
    /// The image directory.
    pub(crate) path: PathBuf,
    /// What came of it.
    #[serde(flatten)]
    pub(crate) report: PredumpReport,
    /// farspace's own peak memory (VmHWM).
    pub(crate) peak_memory_bytes: u64,
}

impl Predumps {
    /// Checks the process; nothing is done to it yet.
    pub(crate) fn new(request: &PredumpRequest) -> Result<Self, Failure> {
        let options = PredumpOptions {
            mechanism: request.mechanism.map(Mechanism::from),
            keeps_tracking: request.iterations > 1,
            ..PredumpOptions::default()
        };
        Ok(Self { predumper: Predumper::new(request.pid, options).map_err(|e| failure(&e))? })
    }

    /// Writes one image directory; `progress` is told the bytes done and in all, and may break it off.
    pub(crate) fn write(
        &mut self,
        path: &Path,
        parent: Option<&Path>,
        progress: &mut (dyn FnMut(u64, u64) -> ControlFlow<()> + Send),
    ) -> Result<Iteration, Failure> {
        let mut directory = ImageDirectory::create(path, parent).map_err(|e| failure(&e))?;
        interrupt::remove_at_exit(directory.current_path().to_owned());
        let mut told = |p: Progress| progress(p.done_bytes, p.total_bytes);
        let report = self.predumper.iterate(&mut directory, &mut told).map_err(|e| failure(&e))?;
        let peak_memory_bytes = peak_memory_bytes();
        Ok(Iteration { path: path.to_owned(), report, peak_memory_bytes })
    }
}
