//! Ending a command that doesn't end.

use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// Kills a process and everything that descends from it; parents first, so that nothing is started again.
pub(crate) fn kill_tree(pid: i32) {
    // Read before the parent dies, for then its children have another one.
    let children = children(pid);
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
    for child in children {
        kill_tree(child);
    }
}

fn children(pid: i32) -> Vec<i32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let parent_of = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    processes
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|child| parent_of(*child) == Some(pid))
        .collect()
}
