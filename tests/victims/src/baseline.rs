//! What a process can see of itself, taken at the start and compared later.

use crate::smaps::{self, Mapping};
use crate::sys;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;

/// What may be left of farspace in the process when it is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Left {
    /// A live agent's mapping; nothing else.
    Agent,
    /// Nothing that wasn't there at the start, which may have been in the middle of a visit.
    Less,
    /// Nothing at all.
    Nothing,
}

/// The lines of /proc/thread-self/status that nobody else has a reason to change.
const STATUS: &[&str] = &[
    "Name",
    "Umask",
    "TracerPid",
    "Uid",
    "Gid",
    "FDSize",
    "Groups",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
    "Cpus_allowed",
    "CoreDumping",
];

/// The process at one moment.
pub struct Baseline {
    tasks: BTreeSet<String>,
    fds: BTreeMap<String, String>,
    status: BTreeMap<String, String>,
    limits: String,
    knobs: Vec<(&'static str, i32)>,
    mappings: Vec<Mapping>,
    /// Whether the process had children that it knows of.
    children: bool,
}

impl Baseline {
    /// Looks at the calling process.
    pub fn capture() -> Result<Self, String> {
        Ok(Self {
            tasks: names("/proc/self/task")?,
            fds: fds()?,
            status: status()?,
            limits: read("/proc/thread-self/limits")?,
            knobs: knobs(),
            mappings: smaps::read()?,
            children: has_children()?,
        })
    }

    /// Compares with the process as it is now.
    ///
    /// # Errors
    /// The first difference, in words.
    pub fn check(&self, left: Left) -> Result<(), String> {
        let now = Self::capture()?;
        if now.children != self.children {
            return Err(format!("waitid finds children: {}, at start: {}", now.children, self.children));
        }
        if now.tasks != self.tasks {
            return Err(format!("threads {:?}, at start {:?}", now.tasks, self.tasks));
        }
        if now.fds != self.fds {
            return Err(format!("descriptors {:?}, at start {:?}", now.fds, self.fds));
        }
        for (key, value) in &self.status {
            // A program that begins while its process is visited finds a tracer, which is gone later.
            let let_go =
                key.ends_with("TracerPid") && now.status.get(key).is_some_and(|tracer| tracer == "0");
            if now.status.get(key) != Some(value) && !let_go {
                return Err(format!("{key} is {:?}, at start {value}", now.status.get(key)));
            }
        }
        if now.limits != self.limits {
            return Err(format!("limits are now\n{}", now.limits));
        }
        if now.knobs != self.knobs {
            return Err(format!("process attributes {:?}, at start {:?}", now.knobs, self.knobs));
        }
        if left == Left::Agent {
            return Ok(());
        }
        if let Some(mapping) = smaps::newly_tracked(&self.mappings, &now.mappings) {
            return Err(format!("write tracking left armed on {mapping}"));
        }
        let mut changes = smaps::added(&self.mappings, &now.mappings);
        if left == Left::Nothing {
            changes += &smaps::removed(&self.mappings, &now.mappings);
        }
        if changes.is_empty() { Ok(()) } else { Err(format!("mappings changed:{changes}")) }
    }
}

fn read(path: &str) -> Result<String, String> {
    fs::read_to_string(path).map_err(|e| format!("{path}: {e}"))
}

fn names(dir: &str) -> Result<BTreeSet<String>, String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("{dir}: {e}"))?;
    Ok(entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect())
}

/// Descriptor to what it refers to; the one that reads the directory refers to a directory that is gone again.
fn fds() -> Result<BTreeMap<String, String>, String> {
    let link = |fd: String| {
        let to = fs::read_link(format!("/proc/thread-self/fd/{fd}")).ok()?;
        Some((fd, to.to_string_lossy().into_owned()))
    };
    Ok(names("/proc/thread-self/fd")?.into_iter().filter_map(link).collect())
}

/// Process-wide status, plus mask and pending signals of every thread.
fn status() -> Result<BTreeMap<String, String>, String> {
    let mut all = BTreeMap::new();
    let mut add = |prefix: &str, text: &str, wanted: &[&str]| {
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            if wanted.contains(&key) {
                all.insert(format!("{prefix}{key}"), value.trim().to_owned());
            }
        }
    };
    add("", &read("/proc/thread-self/status")?, STATUS);
    for tid in names("/proc/self/task")? {
        // A thread that ended in between shows in the list of threads.
        let text = fs::read_to_string(format!("/proc/self/task/{tid}/status")).unwrap_or_default();
        add(&format!("thread {tid} "), &text, &["SigPnd", "SigBlk", "TracerPid", "Seccomp", "NoNewPrivs"]);
    }
    Ok(all)
}

/// Attributes that only system calls tell.
fn knobs() -> Vec<(&'static str, i32)> {
    let (mut death_signal, mut subreaper) = (0_i32, 0_i32);
    // SAFETY: the two prctl calls that write get valid pointers; the others involve no memory.
    unsafe {
        libc::prctl(libc::PR_GET_PDEATHSIG, &mut death_signal);
        libc::prctl(libc::PR_GET_CHILD_SUBREAPER, &mut subreaper);
        vec![
            ("death signal", death_signal),
            ("subreaper", subreaper),
            ("dumpable", libc::prctl(libc::PR_GET_DUMPABLE)),
            ("personality", libc::personality(0xffff_ffff)),
            ("process group", libc::getpgrp()),
            ("session", libc::getsid(0)),
            ("nice", libc::getpriority(libc::PRIO_PROCESS, 0)),
            ("policy", libc::sched_getscheduler(0)),
        ]
    }
}

/// Whether wait would find anything, ended or alive, clone children included; nothing is reaped.
fn has_children() -> Result<bool, String> {
    let flags =
        libc::WEXITED | libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG | libc::WNOWAIT | libc::__WALL;
    // SAFETY: an all-zero siginfo is valid, and valid for writes.
    let result = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_ALL, 0, &mut info, flags)
    };
    match result {
        0 => Ok(true),
        _ if sys::errno() == libc::ECHILD => Ok(false),
        _ => Err(format!("waitid: {}", std::io::Error::last_os_error())),
    }
}
