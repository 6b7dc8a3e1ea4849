//! One step of a test run: a command, its time limit, and what its tests counted.

use crate::processes;
use anyhow::Context;
use std::fmt;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};
use xshell::Cmd;

/// A command to be run.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// Without its success the following ones make no sense.
    pub(crate) essential: bool,
    command: Command,
    limit: Duration,
}

impl Step {
    pub(crate) fn new(name: &'static str, limit_minutes: u64, command: Cmd<'_>) -> Self {
        let limit = Duration::from_secs(60 * limit_minutes);
        Self { name, essential: false, command: command.into(), limit }
    }

    /// The same step as one that the following ones need.
    pub(crate) fn essential(self) -> Self {
        Self { essential: true, ..self }
    }

    /// Runs the command, passing its output on line by line.
    ///
    /// # Errors
    /// It can't be started.
    pub(crate) fn run(mut self) -> anyhow::Result<Outcome> {
        let begin = Instant::now();
        let mut child =
            self.command.stdout(Stdio::piped()).spawn().with_context(|| format!("{:?}", self.command))?;
        let pid = child.id() as i32;
        let (done, watch) = channel::<()>();
        let (name, limit) = (self.name, self.limit);
        let watchdog = std::thread::spawn(move || {
            if watch.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                println!("{name}: not done after {} minutes; ending it", limit.as_secs() / 60);
                processes::kill_tree(pid);
            }
        });
        let (mut counts, mut skipped) = (None, None);
        if let Some(stdout) = child.stdout.take() {
            for line in BufReader::new(stdout).split(b'\n') {
                let line = line?;
                let line = String::from_utf8_lossy(&line);
                println!("{line}");
                if let Some(more) = Counts::parse(&line) {
                    counts.get_or_insert_with(Counts::default).add(more);
                }
                if let Some(reason) = line.strip_prefix(SKIPPED) {
                    skipped = Some(reason.trim().to_owned());
                }
            }
        }
        let status = child.wait()?;
        drop(done);
        let _ = watchdog.join();
        if !status.success() {
            println!("{name}: {status}");
        }
        Ok(Outcome { success: status.success(), took: begin.elapsed(), counts, skipped })
    }
}

/// How a step went.
pub(crate) struct Outcome {
    pub(crate) success: bool,
    pub(crate) took: Duration,
    /// Sums of the step's `test result:` lines, if it printed any.
    pub(crate) counts: Option<Counts>,
    /// Why it has done nothing, if it has said so.
    pub(crate) skipped: Option<String>,
}

/// What a command's line begins with that says why it does nothing.
pub(crate) const SKIPPED: &str = "step skipped: ";

/// Tests by how they went.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Counts {
    /// From `test result: ok. 3 passed; 0 failed; 1 ignored; ...`.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let rest = line.trim().strip_prefix("test result: ")?;
        let number = |what: &str| {
            let part = rest.split([';', '.']).find_map(|part| part.trim().strip_suffix(what))?;
            part.trim().parse().ok()
        };
        Some(Self { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn result_lines_are_counted() {
        let line = "test result: FAILED. 3 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s";
        assert_eq!(Counts::parse(line), Some(Counts { passed: 3, failed: 2, skipped: 1 }));
        assert_eq!(Counts::parse("test a_name ... ok"), None);
    }
}
