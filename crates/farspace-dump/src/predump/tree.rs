//! The processes that a pre-dump is of.

use std::collections::HashSet;
use std::fs;

use farspace_sys::process::{self, Status};
use rustix::io::Errno;

use crate::Result;

/// A process of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member {
    /// Its pid here.
    pub(super) pid: i32,
    /// Its pid in the pid namespace of the tree's root, which images are named by.
    pub(super) image_pid: u32,
}

/// A process and its descendants that have memory, parents first.
///
/// # Errors
///
/// ESRCH: the root is gone.
pub(super) fn members(root: i32) -> Result<Vec<Member>> {
    let status = process::status(root)?;
    // CRIU numbers processes as their root's namespace does.
    let depth = status.ns_pids.len().saturating_sub(1);
    let mut members = Vec::new();
    let mut seen = HashSet::from([status.tgid]);
    let mut ahead = vec![(status.tgid, status)];
    while let Some((pid, status)) = ahead.pop() {
        if let Some(member) = member(pid, &status, depth) {
            members.push(member);
        }
        for child in children(pid) {
            // Gone meanwhile, or a child of two threads' lists.
            let Ok(status) = process::status(child) else { continue };
            if seen.insert(child) {
                ahead.push((child, status));
            }
        }
    }
    if members.is_empty() {
        return Err(farspace_sys::Error::new("list the processes", root, Errno::SRCH).into());
    }
    members.sort_unstable_by_key(|member| (member.pid != root, member.pid));
    Ok(members)
}

fn member(pid: i32, status: &Status, depth: usize) -> Option<Member> {
    if status.no_memory || matches!(status.state, 'Z' | 'X') {
        return None;
    }
    let image_pid = status.ns_pids.get(depth).copied().unwrap_or(pid);
    Some(Member { pid, image_pid: u32::try_from(image_pid).ok()? })
}

/// The children of all threads.
fn children(pid: i32) -> Vec<i32> {
    let threads = process::threads(pid).unwrap_or_default();
    let of = |tid| fs::read_to_string(format!("/proc/{pid}/task/{tid}/children"));
    let mut found = Vec::new();
    for tid in threads {
        match of(tid) {
            Ok(list) => found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // A kernel without CONFIG_PROC_CHILDREN; or the thread has ended.
            Err(_) if fs::metadata(format!("/proc/{pid}/task/{tid}")).is_ok() => return by_parent(pid),
            Err(_) => {}
        }
    }
    found
}

fn by_parent(pid: i32) -> Vec<i32> {
    let all = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|&candidate| stat_field(candidate, 4) == Some(pid as u64)).collect()
}

/// When a process was started, in clock ticks since boot; `None` once it is gone.
pub(super) fn start_ticks(pid: i32) -> Option<u64> {
    stat_field(pid, 22)
}

/// A field of /proc/PID/stat (proc_pid_stat(5)), by its number there.
fn stat_field(pid: i32, field: usize) -> Option<u64> {
    let bytes = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything, also parentheses.
    let close = bytes.iter().rposition(|&b| b == b')')?;
    let rest = String::from_utf8_lossy(bytes.get(close + 1..)?).into_owned();
    rest.split_whitespace().nth(field - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_are_found_in_both_ways() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().expect("sleep");
        let own = std::process::id() as i32;
        let found = members(own).expect("our own");
        let pid = child.id() as i32;
        assert_eq!(found.first().map(|m| m.pid), Some(own));
        assert!(found.iter().any(|m| m.pid == pid && m.image_pid == pid as u32));
        assert!(by_parent(own).contains(&pid) && children(own).contains(&pid));
        assert!(start_ticks(pid) >= start_ticks(own) && start_ticks(own).is_some());
        child.kill().expect("ours");
        // A zombie has no memory.
        while process::status(pid).is_ok_and(|s| s.state != 'Z') {
            std::thread::yield_now();
        }
        assert!(!members(own).expect("our own").iter().any(|m| m.pid == pid));
        child.wait().expect("ours");
        assert!(members(i32::MAX).is_err());
    }
}
