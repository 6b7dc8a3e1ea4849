//! Cases 25, 26 and 29: which process is meant, and who else has a hand on it.

use crate::case::Outcome;
use crate::world::{
    PAGE, PIDFD, Pipe, expect, expect_bytes, expect_count, expect_errno, memory, range, unharmed,
};
use farspace::{RemoteIoVec, SpliceFlags, TargetId};
use farspace_victims::harness::Victim;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

fn pidfd_of(pid: i32) -> Result<OwnedFd, libtest_mimic::Failed> {
    let pid = Pid::from_raw(pid).ok_or("pid 0")?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

pub(super) fn pidfd() -> Outcome {
    let victim = memory(&["anon:64K"])?;
    let anon = victim.region("anon")?;
    let iov = [range(anon, 10, 100)];
    let pidfd = pidfd_of(victim.pid())?;
    let pipe = Pipe::new()?;
    expect_count("pidfd", pipe.call(pidfd.as_raw_fd(), &iov, PIDFD), 100)?;
    expect_bytes("pidfd", &pipe.drain()?, &anon.bytes(10, 100))?;
    let target = TargetId::PidFd(pidfd.as_fd());
    let n = farspace::process_vmsplice(target, pipe.writer.as_fd(), &iov, SpliceFlags::empty())?;
    expect("safe call", &n, &100)?;
    expect_bytes("safe call", &pipe.drain()?, &anon.bytes(10, 100))?;
    let zombie = Victim::spawn("zombie", &["process"])?;
    let dead = pidfd_of(zombie.pid())?;
    expect_errno("pidfd of a zombie", pipe.call(dead.as_raw_fd(), &iov, PIDFD), Errno::SRCH)?;
    unharmed(zombie)?;
    unharmed(victim)?;
    expect_errno("stale pidfd", pipe.call(pidfd.as_raw_fd(), &iov, PIDFD), Errno::SRCH)
}

pub(super) fn own_pid() -> Outcome {
    let own = vec![0x5a_u8; 3 * PAGE as usize];
    let pipe = Pipe::new()?;
    let pid = std::process::id() as i32;
    let iov = [RemoteIoVec::new(own.as_ptr() as u64 + 1, 2 * PAGE)];
    expect_count("own memory", pipe.call(pid, &iov, 0), 2 * PAGE)?;
    expect_bytes("own memory", &pipe.drain()?, &own[1..=2 * PAGE as usize])?;
    expect_errno("own null page", pipe.call(pid, &[RemoteIoVec::new(0, 1)], 0), Errno::FAULT)?;
    let own_pidfd = pidfd_of(pid)?;
    expect_count("own pidfd", pipe.call(own_pidfd.as_raw_fd(), &iov, PIDFD), 2 * PAGE)?;
    expect_bytes("own pidfd", &pipe.drain()?, &own[1..=2 * PAGE as usize])?;
    // No other target is involved: that this one is unharmed shows in its threads and children.
    // Threads that have read what victims say may still be about to end.
    let begin = Instant::now();
    let tasks = loop {
        let tasks = std::fs::read_dir("/proc/self/task")?.count();
        if tasks <= 4 || begin.elapsed() > Duration::from_secs(20) {
            break tasks;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    expect("memory is unchanged", &own.iter().all(|&b| b == 0x5a), &true)?;
    expect("a thread is left that isn't counted by the runtime", &(tasks <= 4), &true)
}

/// The first page of the target's program: the same bytes as in the file.
fn reads_program(pid: i32) -> Outcome {
    let exe = std::fs::read_link(format!("/proc/{pid}/exe"))?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let line =
        maps.lines().find(|line| line.ends_with(&*exe.to_string_lossy())).ok_or("no program mapping")?;
    let start = u64::from_str_radix(line.split('-').next().unwrap_or_default(), 16)?;
    let mut wanted = vec![0; PAGE as usize];
    std::fs::File::open(format!("/proc/{pid}/exe"))?.read_exact(&mut wanted)?;
    let pipe = Pipe::new()?;
    expect_count("the program's first page", pipe.call(pid, &[RemoteIoVec::new(start, PAGE)], 0), PAGE)?;
    expect_bytes("the program's first page", &pipe.drain()?, &wanted)
}

fn traced(how: &str) -> Outcome {
    let mut victim = Victim::spawn("traced", &[how])?;
    for _ in 0..3 {
        reads_program(victim.pid())?;
        // The tracer checks that it still has its target, as it left it.
        victim.check()?;
    }
    unharmed(victim)
}

pub(super) fn third_party_tracer() -> Outcome {
    traced("running")
}

pub(super) fn third_party_stop() -> Outcome {
    traced("stopped")
}
