//! Files that have their name only when they are complete.

use std::os::fd::OwnedFd;
use std::path::Path;

use super::dump::failure;
use crate::failure::Failure;
use crate::sink::Existing;

/// An unfinished file. Dropped, or with the process killed, it is gone.
#[derive(Debug)]
pub(crate) struct NewFile {
    output: farspace_dump::Output,
}

impl NewFile {
    /// Begins a file; one that is to be replaced stays as it is until [`Self::finish`].
    pub(crate) fn create(path: &Path, existing: Existing) -> Result<Self, Failure> {
        let output = farspace_dump::Output::create(path, existing == Existing::Replace);
        Ok(Self { output: output.map_err(|error| failure(&error))? })
    }

    /// A descriptor to write to.
    pub(crate) fn fd(&self) -> std::io::Result<OwnedFd> {
        self.output.file().try_clone().map(OwnedFd::from)
    }

    /// Gives the file its name.
    pub(crate) fn finish(self) -> Result<(), Failure> {
        self.output.finish().map_err(|error| failure(&error))
    }
}
