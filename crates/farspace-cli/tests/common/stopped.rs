//! A process that stands still, so that there is something to compare with, or time to do something to another.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Stops a process by SIGSTOP, and returns when all its threads have, or have ended.
pub(crate) fn stop(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("a process");
    let is_state = |line: &str| line.starts_with("State:\tT") || line.starts_with("State:\tZ");
    let is_stopped = |status: String| status.lines().any(is_state);
    let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    let status = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("status"));
    while !tasks().all(|task| status(task).is_ok_and(is_stopped)) {
        std::thread::sleep(Duration::from_millis(1));
    }
}
