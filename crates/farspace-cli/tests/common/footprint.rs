//! What a visit could leave behind in a process.

use std::collections::BTreeSet;
use std::fs;

/// A process as seen from outside.
#[derive(Debug)]
pub(crate) struct Footprint {
    threads: usize,
    children: BTreeSet<i32>,
    /// Descriptors of the kinds that farspace makes; but for sockets, which servers open and close all the time.
    descriptors: Vec<String>,
}

impl Footprint {
    /// Looks at a process.
    pub(crate) fn of(pid: i32) -> Self {
        let links = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        let links = links.filter_map(|entry| fs::read_link(entry.path()).ok());
        let mut descriptors: Vec<String> = links
            .map(|link| link.to_string_lossy().into_owned())
            .filter(|link| ["anon_inode:", "pipe:", "/memfd:"].iter().any(|kind| link.starts_with(kind)))
            .collect();
        descriptors.sort();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
        Self { threads, children: children(pid), descriptors }
    }
}

/// Checks that a process is as it was before the visits; only children may have gone.
///
/// # Panics
///
/// It isn't, and doesn't become so.
#[track_caller]
pub(crate) fn assert_clean(pid: i32, before: &Footprint) {
    let is_clean = |now: &Footprint| {
        now.threads == before.threads
            && now.descriptors == before.descriptors
            && now.children.is_subset(&before.children)
    };
    let mut now = Footprint::of(pid);
    // A program may have a task of its own for a moment.
    for _ in 0..2000 {
        if is_clean(&now) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
        now = Footprint::of(pid);
    }
    assert!(is_clean(&now), "process {pid} is {now:?}, and was {before:?}");
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    assert!(!maps.contains("farspace"), "process {pid} has {maps}");
}

/// The children of a process, zombies included.
fn children(pid: i32) -> BTreeSet<i32> {
    let parent = |pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<i32>().ok()
    };
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok());
    pids.filter(|child| parent(*child) == Some(pid)).collect()
}
