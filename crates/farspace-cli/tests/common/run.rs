//! Running the command and reading what it says.

use std::process::{Command, Output, Stdio};

/// An ended run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Exit code; `None` after a signal.
    pub(crate) code: Option<i32>,
    /// Standard error.
    pub(crate) stderr: String,
    /// Standard output.
    pub(crate) stdout: Vec<u8>,
}

impl Run {
    /// Runs `farspace ARGS`.
    pub(crate) fn new(args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
        command.args(args);
        Self::of(&mut command)
    }

    /// Runs a command to its end.
    pub(crate) fn of(command: &mut Command) -> Self {
        let output = command.stdin(Stdio::null()).output().expect("farspace starts");
        Self::ended(output)
    }

    /// What a run that was started elsewhere has come to.
    pub(crate) fn ended(output: Output) -> Self {
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        Self { code: output.status.code(), stderr, stdout: output.stdout }
    }

    /// Expects a failure as the manual promises it: this exit code, one line that names all of `words` and, after
    /// a semicolon, what to do.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, words: &[&str]) {
        // For reading them aloud: `cargo test --test errors -- --nocapture`.
        eprint!("{}: {}", self.code.unwrap_or(-1), self.stderr);
        assert_eq!(self.code, Some(code), "{}", self.stderr);
        assert_eq!(self.stderr.lines().count(), 1, "{}", self.stderr);
        assert!(self.stderr.starts_with("farspace: "), "{}", self.stderr);
        for word in words {
            assert!(self.stderr.contains(word), "no '{word}' in: {}", self.stderr);
        }
        assert!(self.stderr.contains("; "), "what to do is missing in: {}", self.stderr);
        assert!(!self.stderr.contains("os error"), "{}", self.stderr);
        assert!(self.stdout.is_empty(), "output of a failed command: {:?}", self.stdout);
    }
}
