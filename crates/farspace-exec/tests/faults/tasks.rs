//! What /proc says of the tasks that descend from this one, and of this one's own resources.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A task, from proc_pid_stat(5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Task {
    pub(crate) parent: i32,
    pub(crate) state: char,
}

/// All tasks.
fn all() -> BTreeMap<i32, Task> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, task(pid)?))).collect()
}

/// One task, if it is there.
pub(crate) fn task(pid: i32) -> Option<Task> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some(Task { state: fields.next()?.chars().next()?, parent: fields.next()?.parse().ok()? })
}

/// The tasks that descend from `root`, without it.
pub(crate) fn descendants(root: i32) -> BTreeMap<i32, Task> {
    let all = all();
    let descends = |task: &Task| {
        let mut parent = task.parent;
        for _ in 0..64 {
            match all.get(&parent) {
                _ if parent == root => return true,
                Some(next) => parent = next.parent,
                None => return false,
            }
        }
        false
    };
    all.iter().filter(|(_, task)| descends(task)).map(|(pid, task)| (*pid, *task)).collect()
}

/// Reaps the orphans that came here, and waits until nothing else descends from this process; what is left after that.
pub(crate) fn left_after(patience: Duration) -> BTreeMap<i32, Task> {
    let begin = Instant::now();
    loop {
        // SAFETY: no pointers are passed but null; all children that are waited for by others have been already.
        while unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } > 0 {}
        let left = descendants(std::process::id() as i32);
        if left.is_empty() || begin.elapsed() > patience {
            return left;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What this process has: descriptors, mappings, threads, descendants; resident KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) descriptors: usize,
    pub(crate) mappings: usize,
    pub(crate) threads: usize,
    pub(crate) descendants: usize,
    pub(crate) resident_kib: u64,
}

impl Resources {
    pub(crate) fn now() -> Self {
        let count = |path: &str| std::fs::read_dir(path).expect("/proc").count();
        let read = |path: &str| std::fs::read_to_string(path).expect("/proc");
        let status = read("/proc/self/status");
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        Self {
            descriptors: count("/proc/self/fd"),
            mappings: read("/proc/self/maps").lines().count(),
            threads: count("/proc/self/task"),
            descendants: descendants(std::process::id() as i32).len(),
            resident_kib: resident.trim().trim_end_matches(" kB").parse().expect("a number"),
        }
    }

    /// As it is once what was dropped has ended: at most as much as before, or what it is after the patience.
    pub(crate) fn settled(before: &Self, patience: Duration) -> Self {
        let begin = Instant::now();
        loop {
            let now = Self::now();
            if now.descendants <= before.descendants || begin.elapsed() > patience {
                return now;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}
