//! Stopping farspace in the middle of its work.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use crate::stopped;

/// Stops farspace while it writes: once a file of its in `directory` has pages. False if it was faster: this process may
/// have had no CPU for as long.
pub(crate) fn stop(farspace: &mut Child, directory: &Path) -> bool {
    let pid = farspace.id() as i32;
    let descriptors = format!("/proc/{pid}/fd");
    let is_growing = |entry: fs::DirEntry| {
        let to = fs::read_link(entry.path()).unwrap_or_default();
        to.starts_with(directory) && fs::metadata(entry.path()).is_ok_and(|m| m.blocks() > 64)
    };
    let mut has_ended = || farspace.try_wait().expect("ours").is_some();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(60) {
        if has_ended() {
            return false;
        }
        if fs::read_dir(&descriptors).into_iter().flatten().flatten().any(is_growing) {
            stopped::stop(pid);
            return !has_ended();
        }
    }
    panic!("farspace writes nothing");
}

/// Whether somebody traces a thread of the target: it may stand still until farspace goes on.
pub(crate) fn is_held(target: i32) -> bool {
    let tasks = fs::read_dir(format!("/proc/{target}/task")).expect("it lives").flatten();
    let mut statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
    statuses.any(|status| !status.contains("TracerPid:\t0\n"))
}
