//! Whether a task is where guest code may run: behind its filter.
//!
//! A new vCPU says that it is there through its area, and other threads of the guest can say so in its place. Until it
//! is behind its filter it is a steward that reads its orders, and the page must not change. The kernel tells.

use rustix::io::Errno;

/// Number of seccomp filters of a task (proc_pid_status(5), Linux 5.9).
///
/// # Errors
///
/// ESRCH: no such task; EOPNOTSUPP: an older kernel, or one without filters.
pub(crate) fn filters(pid: i32) -> Result<u32, Errno> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|_| Errno::SRCH)?;
    let count = status.lines().find_map(|line| line.strip_prefix("Seccomp_filters:"));
    count.and_then(|count| count.trim().parse().ok()).ok_or(Errno::OPNOTSUPP)
}
