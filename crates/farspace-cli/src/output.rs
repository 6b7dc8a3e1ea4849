//! Standard output: a report for people or JSON for programs.

use std::io::{self, Write as _};

use serde::Serialize;

use crate::failure::{Failure, StdoutClosed};

/// Which form a report takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text.
    Human,
    /// One JSON document.
    Json,
}

impl Format {
    /// Prints `value` as JSON, or what `human` makes of it.
    pub(crate) fn print<T: Serialize>(
        self,
        value: &T,
        human: impl FnOnce(&T) -> String,
    ) -> anyhow::Result<()> {
        match self {
            Self::Human => print(&human(value)),
            Self::Json => print(&(serde_json::to_string_pretty(value)? + "\n")),
        }
    }
}

/// Writes to stdout; a reader that went away ends the program quietly.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    print_bytes(text.as_bytes())
}

/// As [`print`], for bytes.
pub(crate) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        Err(error) => Err(Failure::output("write to standard output", &error).into()),
    }
}
