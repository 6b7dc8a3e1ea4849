//! Dumps that come from elsewhere, by farspace-dump.

use std::ops::ControlFlow;
use std::path::Path;

use farspace_dump::Error;
use farspace_dump::page_server::PageServerReport;
use farspace_dump::stream::{Address, ReceiveOptions, ReceiveReport, Receiver};

use super::dump;
use crate::exit::Exit;
use crate::failure::Failure;

/// Listens; says where by `listening`; receives one dump. `progress` is told the bytes so far.
pub(crate) fn receive(
    address: &Address,
    (path, parent): (&Path, Option<&Path>),
    options: &ReceiveOptions,
    listening: impl FnOnce(&Address),
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<ReceiveReport, Failure> {
    once(address, listening, progress, |receiver, step| receiver.receive(path, parent, options, step))
}

/// The same for a client of CRIU's page server.
pub(crate) fn serve_pages(
    address: &Address,
    (path, parent): (&Path, Option<&Path>),
    options: &ReceiveOptions,
    listening: impl FnOnce(&Address),
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
) -> Result<PageServerReport, Failure> {
    once(address, listening, progress, |receiver, step| receiver.serve_pages(path, parent, options, step))
}

/// Listens, and has one client served, who tells the bytes of each step.
fn once<Report>(
    address: &Address,
    listening: impl FnOnce(&Address),
    progress: &mut dyn FnMut(u64) -> ControlFlow<()>,
    serve: impl FnOnce(&Receiver, &mut dyn FnMut(u64) -> ControlFlow<()>) -> Result<Report, Error>,
) -> Result<Report, Failure> {
    let receiver = Receiver::listen(address).map_err(|error| failure(&error))?;
    listening(receiver.address());
    let mut bytes = 0;
    let mut step = |more| {
        bytes += more;
        progress(bytes)
    };
    serve(&receiver, &mut step).map_err(|error| failure(&error))
}

/// Here a stream is the input, not the output.
fn failure(error: &Error) -> Failure {
    match error {
        Error::Stream { .. } => Failure::new(Exit::Failed, error.to_string()),
        error => dump::failure(error),
    }
}
