//! What /proc says of the process and its threads, in the words of a core.

use std::fs;
use std::time::Duration;

use farspace_image::core_file::{CpuTimes, Process};
use rustix::io::Errno;

use crate::Result;

/// Fields of /proc/PID/stat (proc_pid_stat(5)), by their number there.
#[derive(Debug)]
struct Stat {
    comm: Vec<u8>,
    fields: Vec<String>,
}

impl Stat {
    fn read(pid: i32, path: &str) -> Result<Self> {
        let bytes =
            fs::read(path).map_err(|_| farspace_sys::Error::new("read the status", pid, Errno::SRCH))?;
        // The name is in parentheses and may contain anything, also parentheses.
        let open = bytes.iter().position(|&b| b == b'(').unwrap_or(0);
        let close = bytes.iter().rposition(|&b| b == b')').unwrap_or(open);
        let comm = bytes.get(open + 1..close).unwrap_or_default().to_vec();
        let rest = String::from_utf8_lossy(bytes.get(close + 1..).unwrap_or_default());
        Ok(Self { comm, fields: rest.split_whitespace().map(str::to_owned).collect() })
    }

    fn number(&self, field: usize) -> i64 {
        self.fields.get(field - 3).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn ticks(&self, field: usize) -> Duration {
        let per_second = rustix::param::clock_ticks_per_second().max(1);
        Duration::from_nanos((self.number(field).max(0) as u64).saturating_mul(1_000_000_000 / per_second))
    }
}

/// NT_PRPSINFO of a process.
pub(crate) fn process(pid: i32) -> Result<Process> {
    let stat = Stat::read(pid, &format!("/proc/{pid}/stat"))?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let id = |name: &str| {
        let line = status.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        line.split_whitespace().next().and_then(|id| id.parse().ok()).unwrap_or(0)
    };
    Ok(Process {
        state: stat.fields.first().and_then(|s| s.bytes().next()).unwrap_or(b'R'),
        nice: stat.number(19) as i8,
        flags: stat.number(9) as u64,
        uid: id("Uid:"),
        gid: id("Gid:"),
        pid,
        ppid: stat.number(4) as i32,
        pgrp: stat.number(5) as i32,
        sid: stat.number(6) as i32,
        comm: stat.comm,
        cmdline: fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default(),
    })
}

/// The auxiliary vector, raw.
pub(crate) fn auxv(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/auxv")).unwrap_or_default()
}

/// CPU times and pending signals of a thread.
pub(crate) fn thread(pid: i32, tid: i32) -> (CpuTimes, u64) {
    let times = Stat::read(tid, &format!("/proc/{pid}/task/{tid}/stat")).map_or_else(
        |_| CpuTimes::default(),
        |stat| CpuTimes {
            user: stat.ticks(14),
            system: stat.ticks(15),
            children_user: stat.ticks(16),
            children_system: stat.ticks(17),
        },
    );
    let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
    let pending = status.lines().find_map(|l| l.strip_prefix("SigPnd:")).map_or("", str::trim);
    (times, u64::from_str_radix(pending, 16).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    #[test]
    fn own_process() {
        let own = super::process(std::process::id() as i32).expect("we exist");
        assert_eq!(own.pid, std::process::id() as i32);
        assert!(own.ppid > 0 && !own.comm.is_empty() && !own.cmdline.is_empty());
        assert!(!super::auxv(own.pid).is_empty());
    }
}
