//! What /proc says of a process and its threads (proc(5)).

use std::fs;
use std::io;
use std::time::Duration;

use rustix::fs::statfs;
use rustix::io::Errno;

use crate::{Error, RemoteAddr, Result};

/// Beginning of the name of a mapping made with MAP_ANONYMOUS and MAP_HUGETLB.
pub const ANON_HUGEPAGE: &[u8] = b"/anon_hugepage";

/// The lines of /proc/PID/status that decide how a process can be visited.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Thread group: the pid of the process that the thread belongs to.
    pub tgid: i32,
    /// State letter: R, S, D, T, t, Z, X, I.
    pub state: char,
    /// Tracer's pid, or 0.
    pub tracer: i32,
    /// Seccomp mode: 0 off, 1 strict, 2 filter.
    pub seccomp: u32,
    /// True for a kernel thread or a process that has given up its memory.
    pub no_memory: bool,
    /// The pid in each pid namespace, outermost first.
    pub ns_pids: Vec<i32>,
    /// Memory from a pool of huge pages (hugetlbfs) that is mapped, in KiB.
    pub hugetlb_kib: u64,
}

/// Reads [`Status`] for a process or a thread.
///
/// # Errors
///
/// ESRCH: no such process.
pub fn status(pid: i32) -> Result<Status> {
    let text = read(pid, "status")?;
    let field = |name: &str| {
        text.lines()
            .find_map(|l| l.strip_prefix(name))
            .and_then(|l| l.strip_prefix(':'))
            .map_or("", str::trim)
    };
    Ok(Status {
        tgid: field("Tgid").parse().unwrap_or(0),
        state: field("State").chars().next().unwrap_or('?'),
        tracer: field("TracerPid").parse().unwrap_or(0),
        seccomp: field("Seccomp").parse().unwrap_or(0),
        no_memory: field("VmSize").is_empty(),
        ns_pids: field("NSpid").split_whitespace().filter_map(|n| n.parse().ok()).collect(),
        hugetlb_kib: field("HugetlbPages").split(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0),
    })
}

/// Processor features that a thread has switched on ("shstk", "wrss"), separated by spaces; `None` where the kernel or
/// the machine has none.
pub fn features(pid: i32) -> Option<String> {
    let text = read(pid, "status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("x86_Thread_features:"))?;
    Some(line.trim().to_owned())
}

/// The threads of a process.
///
/// # Errors
///
/// ESRCH: no such process.
pub fn threads(pid: i32) -> Result<Vec<i32>> {
    let entries =
        fs::read_dir(format!("/proc/{pid}/task")).map_err(|e| error(pid, "list the threads", &e))?;
    Ok(entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect())
}

/// The children of a process, made by any of its threads; zombies included.
///
/// # Errors
///
/// ESRCH: no such process.
pub fn children(pid: i32) -> Result<Vec<i32>> {
    let mut children = Vec::new();
    for tid in threads(pid)? {
        match fs::read_to_string(format!("/proc/{pid}/task/{tid}/children")) {
            Ok(text) => children.extend(text.split_whitespace().filter_map(|pid| pid.parse::<i32>().ok())),
            // The thread has ended, or the kernel has no such file (CONFIG_PROC_CHILDREN).
            Err(_) if fs::exists(format!("/proc/{pid}/task/{tid}/stat")).unwrap_or(false) => {
                return Ok(children_by_parent(pid));
            }
            Err(_) => {}
        }
    }
    Ok(children)
}

fn children_by_parent(pid: i32) -> Vec<i32> {
    let is_child = |child: &i32| {
        let status = read(*child, "status").unwrap_or_default();
        let parent = status.lines().find_map(|line| line.strip_prefix("PPid:"));
        parent.and_then(|text| text.trim().parse().ok()) == Some(pid)
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}

/// What a thread is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activity {
    /// On a CPU or waiting for one.
    Running,
    /// In a system call that sleeps.
    Blocked {
        /// Number of the call.
        nr: u64,
    },
    /// Asleep outside of a system call (a page fault), or what it does can't be read.
    Unknown,
}

/// What a thread is doing, from /proc/PID/task/TID/syscall.
pub fn activity(pid: i32, tid: i32) -> Activity {
    match fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")) {
        Ok(text) if text.starts_with("running") => Activity::Running,
        Ok(text) => match text.split_whitespace().next().and_then(|nr| nr.parse::<i64>().ok()) {
            Some(nr) if nr >= 0 => Activity::Blocked { nr: nr as u64 },
            _ => Activity::Unknown,
        },
        Err(_) => Activity::Unknown,
    }
}

/// The next instruction of a thread that sleeps, from the same file; `None` for one that runs.
pub fn instruction(pid: i32, tid: i32) -> Option<RemoteAddr> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")).ok()?;
    let last = text.split_whitespace().last()?.strip_prefix("0x")?;
    u64::from_str_radix(last, 16).ok().map(RemoteAddr)
}

/// How long a thread has been on a CPU, from /proc/PID/task/TID/schedstat.
pub fn cpu_time(pid: i32, tid: i32) -> Option<Duration> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// One mapping of a process: a line of /proc/PID/maps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: RemoteAddr,
    /// First address after it.
    pub end: RemoteAddr,
    /// Permissions, as in the file: "rwxp".
    pub permissions: [u8; 4],
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Device of the file, major and minor; 0 and 0 without one.
    pub device: (u32, u32),
    /// Inode number, 0 without a file.
    pub inode: u64,
    /// File or pseudo name ("\[vdso\]"), raw bytes.
    pub name: Vec<u8>,
}

impl Mapping {
    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.end.0 - self.start.0
    }
}

/// The mappings of a process, in order.
///
/// # Errors
///
/// ESRCH: no such process; EPERM: no access.
pub fn mappings(pid: i32) -> Result<Vec<Mapping>> {
    let text = fs::read(format!("/proc/{pid}/maps")).map_err(|e| error(pid, "list the mappings", &e))?;
    Ok(text.split(|&b| b == b'\n').filter_map(parse_mapping).collect())
}

/// True for a mapping of pages from a pool of huge pages (hugetlbfs), with a file of the user's or of the kernel's. Of a
/// user's file only who may follow links in /proc/PID/map_files (CAP_CHECKPOINT_RESTORE) is told.
pub fn is_hugetlb(pid: i32, mapping: &Mapping) -> bool {
    /// HUGETLBFS_MAGIC (statfs(2)).
    const HUGETLBFS_MAGIC: u64 = 0x9584_58f6;
    /// The smallest huge page.
    const HUGE: u64 = 2 << 20;
    if mapping.inode == 0 {
        return false;
    }
    if mapping.name.starts_with(ANON_HUGEPAGE) {
        return true;
    }
    if !mapping.start.0.is_multiple_of(HUGE) || !mapping.len_bytes().is_multiple_of(HUGE) {
        return false;
    }
    let link = format!("/proc/{pid}/map_files/{:x}-{:x}", mapping.start.0, mapping.end.0);
    statfs(link).is_ok_and(|found| found.f_type as u64 == HUGETLBFS_MAGIC)
}

fn parse_mapping(line: &[u8]) -> Option<Mapping> {
    let mut fields = line.splitn(6, |&b| b == b' ');
    let mut next = || fields.next().and_then(|f| std::str::from_utf8(f).ok());
    let (start, end) = next()?.split_once('-')?;
    let permissions = next()?.as_bytes().try_into().ok()?;
    let offset = u64::from_str_radix(next()?, 16).ok()?;
    let (major, minor) = next()?.split_once(':')?;
    let number = |text| u32::from_str_radix(text, 16).ok();
    let device = (number(major)?, number(minor)?);
    let inode = next()?.parse().ok()?;
    let name = fields.next().unwrap_or_default().trim_ascii_start().to_vec();
    let address = |text| u64::from_str_radix(text, 16).ok().map(RemoteAddr);
    Some(Mapping { start: address(start)?, end: address(end)?, permissions, offset, device, inode, name })
}

/// True if the process is an init of its pid namespace: orphans below it become its children.
pub fn is_init(status: &Status) -> bool {
    status.ns_pids.last() == Some(&1)
}

/// The tid here of the thread of `pid` that is `ns_tid` in the process's own pid namespace.
pub fn tid_in_namespace(pid: i32, ns_tid: i32) -> Option<i32> {
    let is_it = |tid: &i32| status(*tid).is_ok_and(|s| s.ns_pids.last() == Some(&ns_tid));
    threads(pid).ok()?.into_iter().find(is_it)
}

/// The pid here of the process that is `ns_pid` in the pid namespace of `of`.
pub fn pid_in_namespace(of: i32, status: &Status, ns_pid: i32) -> Option<i32> {
    if status.ns_pids.len() == 1 {
        return Some(ns_pid);
    }
    let namespace = fs::read_link(format!("/proc/{of}/ns/pid")).ok()?;
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let found = self::status(pid).ok()?;
        let same = found.ns_pids.last() == Some(&ns_pid)
            && fs::read_link(format!("/proc/{pid}/ns/pid")).ok()? == namespace;
        same.then_some(pid)
    })
}

fn read(pid: i32, what: &str) -> Result<String> {
    fs::read_to_string(format!("/proc/{pid}/{what}")).map_err(|e| error(pid, "read the status", &e))
}

fn error(pid: i32, operation: &'static str, error: &io::Error) -> Error {
    let errno = match Errno::from_io_error(error) {
        Some(Errno::NOENT) | None => Errno::SRCH,
        Some(Errno::ACCESS) => Errno::PERM,
        Some(errno) => errno,
    };
    Error::new(operation, pid, errno)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_spaces_in_the_name() {
        let line = b"7f00-8000 r-xp 00001000 fe:00 42                         /tmp/a b (deleted)";
        let mapping = parse_mapping(line).expect("a valid line");
        assert_eq!((mapping.start.0, mapping.len_bytes(), mapping.offset), (0x7f00, 0x100, 0x1000));
        assert_eq!((mapping.device, mapping.inode), ((0xfe, 0), 42));
        assert_eq!(mapping.name, b"/tmp/a b (deleted)");
        assert!(parse_mapping(b"").is_none());
    }

    #[test]
    fn both_ways_find_a_child() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("everywhere");
        let (own, pid) = (std::process::id() as i32, child.id() as i32);
        let found = (children(own).expect("we exist"), children_by_parent(own));
        child.kill().and_then(|()| child.wait()).expect("ended");
        assert!(found.0.contains(&pid) && found.1.contains(&pid), "{pid} in {found:?}");
        assert!(children(i32::MAX).is_err_and(|e| e.is_gone()));
    }

    #[test]
    fn own_status() {
        let own = status(std::process::id() as i32).expect("we exist");
        assert_eq!(own.tgid, std::process::id() as i32);
        assert!(!own.no_memory);
        assert!(mappings(own.tgid).expect("ours").iter().any(|m| m.name == b"[vdso]"));
        assert!(status(i32::MAX).is_err_and(|e| e.is_gone()));
    }
}
