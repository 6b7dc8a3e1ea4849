//! Pre-dumps in CRIU's formats, by farspace-dump.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use farspace::Mechanism;
use farspace_dump::Progress;
use farspace_dump::page_server::PageServer;
use farspace_dump::predump::{ImageDirectory, PredumpOptions, PredumpReport, Predumper};
use farspace_dump::stream::{StreamImages, StreamOptions};
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

    /// Sends the images to a receiver, which knows their parent.
    pub(crate) fn send(
        &mut self,
        to: &StreamOptions,
        progress: OnProgress<'_>,
    ) -> Result<Iteration, Failure> {
        let mut images = StreamImages::connect(to).map_err(|e| failure(&e))?;
        let mut told = |p: Progress| progress(p.done_bytes, p.total_bytes);
        let done = self.predumper.iterate(&mut images, &mut told).inspect_err(|error| images.give_up(error));
        Ok(iteration(to.address.to_string().into(), done.map_err(|e| failure(&e))?))
    }

    /// Sends pages and pagemaps to a page server, and writes the rest.
    pub(crate) fn serve(
        &mut self,
        to: &StreamOptions,
        (path, parent): (&Path, Option<&Path>),
        progress: OnProgress<'_>,
    ) -> Result<Iteration, Failure> {
        let directory = ImageDirectory::create(path, parent).map_err(|e| failure(&e))?;
        interrupt::remove_at_exit(directory.current_path().to_owned());
        let mut server = PageServer::connect(to, directory).map_err(|e| failure(&e))?;
        let mut told = |p: Progress| progress(p.done_bytes, p.total_bytes);
        let report = self.predumper.iterate(&mut server, &mut told).map_err(|e| failure(&e))?;
        Ok(iteration(path.to_owned(), report))
    }

    /// Writes one image directory; `progress` is told the bytes done and in all, and may break it off.
    pub(crate) fn write(
        &mut self,
        path: &Path,
        parent: Option<&Path>,
        progress: OnProgress<'_>,
    ) -> Result<Iteration, Failure> {
        let mut directory = ImageDirectory::create(path, parent).map_err(|e| failure(&e))?;
        interrupt::remove_at_exit(directory.current_path().to_owned());
        let mut told = |p: Progress| progress(p.done_bytes, p.total_bytes);
        let report = self.predumper.iterate(&mut directory, &mut told).map_err(|e| failure(&e))?;
        Ok(iteration(path.to_owned(), report))
    }
}

/// Told the bytes done and in all; may break it off.
type OnProgress<'a> = &'a mut (dyn FnMut(u64, u64) -> ControlFlow<()> + Send);

fn iteration(path: PathBuf, report: PredumpReport) -> Iteration {
    Iteration { path, report, peak_memory_bytes: peak_memory_bytes() }
}
