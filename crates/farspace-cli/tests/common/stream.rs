//! A receiver and a sender, as commands.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};

use super::run::Run;

/// `farspace receive` under way.
pub(crate) struct Receiving {
    child: Child,
    stderr: BufReader<ChildStderr>,
    /// Where it listens.
    pub(crate) address: String,
}

impl Receiving {
    /// Starts it; returns once it listens.
    #[track_caller]
    pub(crate) fn start(listen: &str, output: &Path, args: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
        command.args(["receive", "--listen", listen, "-o"]).arg(output).args(args);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut line = String::new();
        stderr.read_line(&mut line).expect("it says where it listens");
        let address = line.trim_end().rsplit(' ').next().unwrap_or_default().to_owned();
        assert!(line.contains("listening on"), "{line}");
        Self { child, stderr, address }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn finish(mut self) -> Run {
        let mut stderr = String::new();
        self.stderr.read_to_string(&mut stderr).expect("its last words");
        let mut run = Run::ended(self.child.wait_with_output().expect("an end"));
        run.stderr = stderr;
        run
    }
}

/// `farspace dump` to a receiver.
pub(crate) fn dump(pid: i32, to: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(["dump", &pid.to_string(), "-o", to]).args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}
