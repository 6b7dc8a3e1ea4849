//! What a test does with a running program besides starting it.

use std::io::{Read as _, Write as _};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use super::child::Running;

impl Running {
    /// Sends it a line.
    #[track_caller]
    pub(crate) fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    /// True until it has ended.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end; returns what it printed since the last line that was read.
    ///
    /// # Panics
    ///
    /// It doesn't end in time.
    #[track_caller]
    pub(crate) fn finish(mut self, limit: Duration) -> (ExitStatus, String) {
        drop(self.child.stdin.take());
        let deadline = Instant::now() + limit;
        // What it prints by then fits into the pipe.
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "process {} doesn't end within {limit:?}", self.pid());
            std::thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        (status, rest)
    }
}
