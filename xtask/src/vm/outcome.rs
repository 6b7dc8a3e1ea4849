//! How a run went.

use super::log;
use anyhow::bail;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// With this status (128 + signal for a signal).
    Status(i32),
    /// Not within the limit.
    TimeLimit,
    /// Not at all: the machine stopped before.
    Crash,
}

/// Everything that is known after a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) exit: Exit,
    /// What the command printed.
    pub(crate) output: String,
    /// Messages of the kernel that mean that something is wrong.
    pub(crate) complaints: Vec<String>,
    /// All messages of the kernel.
    pub(crate) log: PathBuf,
    /// Real time, boot included.
    pub(crate) took: Duration,
}

impl Outcome {
    pub(super) fn new(exit: Exit, output: String, log: PathBuf, took: Duration) -> Self {
        let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
        Self { exit, output, complaints: log::complaints(&text), log, took }
    }

    /// Whether the command has succeeded and the kernel had nothing to complain about.
    ///
    /// # Errors
    /// What went wrong, with the messages that say so.
    pub(crate) fn verdict(&self) -> anyhow::Result<()> {
        let log = self.log.display();
        let took = self.took.as_secs();
        let tail = || log::tail(&String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()), 20);
        if !self.complaints.is_empty() {
            let first = self.complaints.iter().take(10).map(String::as_str).collect::<Vec<_>>().join("\n  ");
            let total = self.complaints.len();
            bail!("the kernel complains, {total} lines ({:?} in {took} s, {log}):\n  {first}", self.exit);
        }
        match self.exit {
            Exit::Status(0) => Ok(()),
            Exit::Status(status) => bail!("the command ended with status {status} after {took} s ({log})"),
            Exit::TimeLimit => {
                bail!("not done after {took} s; the kernel's last messages ({log}):\n{}", tail())
            }
            Exit::Crash => {
                bail!("the machine stopped after {took} s; its last messages ({log}):\n{}", tail())
            }
        }
    }
}
