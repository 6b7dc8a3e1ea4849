//! Programs that a test starts, and that don't outlive it.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};

/// A running program and its process group; killed when dropped, also by a failed test.
pub(crate) struct Running {
    /// Its stdin is connected to the test.
    pub(super) child: Child,
    pub(super) stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Starts a command with its stdin and stdout connected to the test.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        use std::os::unix::process::CommandExt as _;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        Self { child, stdout }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// The next line that it prints, without its end.
    #[track_caller]
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(line.ends_with('\n'), "process {} ended with {:?}", self.pid(), self.child.try_wait());
        line.trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not after it was waited for: the number could be another's by then.
        if matches!(self.child.try_wait(), Ok(None)) {
            if let Some(group) = Pid::from_raw(self.pid()) {
                let _ = kill_process_group(group, Signal::KILL);
            }
            let _ = self.child.wait();
        }
    }
}
