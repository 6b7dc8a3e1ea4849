//! Visits: farspace attaches, reads something, and leaves.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// What a visit that succeeded has reported.
#[derive(Debug)]
pub(crate) struct Visit {
    /// `agent`, `pidmem`...
    pub(crate) mechanism: String,
    /// Why not better.
    pub(crate) reasons: String,
    /// From start to end.
    pub(crate) took: Duration,
}

impl Visit {
    /// Reads the first bytes of the target's program.
    ///
    /// # Errors
    ///
    /// Exit code and message.
    pub(crate) fn splice(pid: i32) -> Result<Self, (i32, String)> {
        Self::splice_by(Command::new(env!("CARGO_BIN_EXE_farspace")), pid)
    }

    /// As [`Self::splice`], by a command that is prepared to run as somebody.
    pub(crate) fn splice_by(mut command: Command, pid: i32) -> Result<Self, (i32, String)> {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
        let range = maps
            .lines()
            .find(|line| line.contains(" r") && line.contains('/'))
            .and_then(|line| line.split_whitespace().next());
        command.args([
            "splice",
            &pid.to_string(),
            range.unwrap_or("0x400000+1"),
            "-o",
            "/dev/null",
            "--json",
        ]);
        Self::run(command, None)
    }

    /// Dumps the target at this level.
    pub(crate) fn dump(pid: i32, level: &str) -> Result<Self, (i32, String)> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("core");
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
        command.args(["dump", &pid.to_string(), "--level", level, "--json", "-o"]).arg(&file);
        let done = Self::run(command, Some(&file));
        assert_eq!(file.exists(), done.is_ok());
        done
    }

    fn run(mut command: Command, file: Option<&Path>) -> Result<Self, (i32, String)> {
        const TRIES: u32 = 5;
        let (mut tries, mut begin) = (1, Instant::now());
        let (output, stderr) = loop {
            let output = command.stdin(Stdio::null()).output().expect("farspace starts");
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            // It has had no CPU for a second, twice, and gives this advice.
            if tries == TRIES || !stderr.contains("a very busy machine? try again") {
                break (output, stderr);
            }
            if let Some(file) = file {
                let _ = fs::remove_file(file);
            }
            (tries, begin) = (tries + 1, Instant::now());
        };
        if !output.status.success() {
            return Err((output.status.code().unwrap_or(-1), stderr));
        }
        let report: Value = serde_json::from_slice(&output.stdout).expect("a report");
        let reasons = report["fallback_reasons"].as_array().cloned().unwrap_or_default();
        let reasons: Vec<&str> = reasons.iter().filter_map(Value::as_str).collect();
        let mechanism = report["mechanism"].as_str().unwrap_or_default().to_owned();
        Ok(Self { mechanism, reasons: reasons.join("; "), took: begin.elapsed() })
    }

    /// Whether the agent served.
    pub(crate) fn is_by_agent(&self) -> bool {
        self.mechanism == "agent"
    }

    /// Expects that the agent served.
    #[track_caller]
    pub(crate) fn by_agent(&self) {
        assert!(self.is_by_agent(), "{}: {}", self.mechanism, self.reasons);
    }

    /// Expects a copy, and a reason with these words.
    #[track_caller]
    pub(crate) fn copied_for(&self, words: &str) {
        assert_eq!(self.mechanism, "pidmem", "{}", self.reasons);
        assert!(self.reasons.contains(words), "no '{words}' in: {}", self.reasons);
    }
}
