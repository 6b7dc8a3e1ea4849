//! A victim's end, also when the tester itself has left it in a bad state.

use std::fs;
use std::process::Child;
use std::time::{Duration, Instant};

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
    while begin.elapsed() < REAP_TIMEOUT && matches!(child.try_wait(), Ok(None)) {
        for tid in tids(pid).into_iter().filter(|tid| *tid != pid) {
            // SAFETY: no status is asked for.
            unsafe { libc::waitpid(tid, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
