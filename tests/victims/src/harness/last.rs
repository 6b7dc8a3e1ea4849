//! A victim's end, also when the tester itself has left it in a bad state.

use crate::pace;
use std::fs;
use std::process::Child;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Names the environment variable with a victim's mark.
pub(super) const MARK: &str = "FARSPACE_VICTIM_MARK";

/// What shares a victim's memory has this long to go after it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(20);
const REAP_TIMEOUT: Duration = Duration::from_secs(10);

/// Every thread of a process with its state and tracer, for a message.
pub(super) fn threads(pid: i32) -> String {
    let mut text = format!("threads of {pid}:");
    for tid in tids(pid) {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.unwrap_or("?").trim().to_owned()
        };
        text += &format!(" [{tid} {} {} tracer {}]", field("Name"), field("State"), field("TracerPid"));
    }
    text
}

fn tids(pid: i32) -> Vec<i32> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect()
}

/// Waits for a killed child. A thread that this program traces still must be waited for by itself, or the
/// process never ends.
pub(super) fn reap(child: &mut Child) {
    let pid = child.id() as i32;
    let begin = Instant::now();
    while begin.elapsed() < pace::limit(REAP_TIMEOUT) && matches!(child.try_wait(), Ok(None)) {
        for tid in tids(pid).into_iter().filter(|tid| *tid != pid) {
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A mark that no other victim has.
pub(super) fn mark() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}.{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Processes with the mark in their environment: the environment is part of the memory, so that whatever lives in
/// the victim's address space has it too. A zombie has none.
fn marked(mark: &str) -> Vec<i32> {
    let entry = format!("{MARK}={mark}");
    let has_mark = |pid: &i32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == entry.as_bytes())
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).filter(has_mark).collect()
}

/// What is still there of a victim that has ended, after giving it time to go.
pub(super) fn left_over(mark: &str) -> Vec<i32> {
    let begin = Instant::now();
    loop {
        let left = marked(mark);
        if left.is_empty() || begin.elapsed() > pace::limit(LEAVE_TIMEOUT) {
            return left;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Ends what is left of a victim that was killed.
pub(super) fn kill_left_over(mark: &str) {
    for pid in marked(mark) {
        let _ = crate::sys::kill(pid, libc::SIGKILL);
    }
}
