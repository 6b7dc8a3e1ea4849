//! The unprivileged caller: this program again, with another user's ids.

use crate::world;
use farspace::RemoteIoVec;
use libtest_mimic::Failed;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

const PROGRAM: &str = "farspace-caller";

/// Serves as the caller if this process was started as one.
pub(crate) fn host() -> Option<ExitCode> {
    let args = std::env::args().collect::<Vec<_>>();
    if args.first().map(String::as_str) != Some(PROGRAM) {
        return None;
    }
    let numbers = args[1..].iter().filter_map(|arg| arg.parse().ok()).collect::<Vec<u64>>();
    let answer = match *numbers {
        [pid, addr, len] => call(pid as i32, RemoteIoVec::new(addr, len)),
        _ => Err("usage: PID ADDR LEN".into()),
    };
    match answer {
        Ok(text) => println!("{text}"),
        Err(failed) => println!("failed: {}", failed.message().unwrap_or("no reason")),
    }
    Some(ExitCode::SUCCESS)
}

fn call(pid: i32, iov: RemoteIoVec) -> Result<String, Failed> {
    let pipe = world::Pipe::new()?;
    Ok(match world::call(pid, pipe.writer.as_raw_fd(), &[iov], 0) {
        Ok(n) => format!("ok {n}"),
        Err(errno) => format!("errno {}", errno.raw_os_error()),
    })
}

/// One call as user `uid` without any capability: `ok N` or `errno N`.
pub(crate) fn call_as(uid: u32, pid: i32, iov: RemoteIoVec) -> Result<String, Failed> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0(PROGRAM).args([pid.to_string(), iov.base.0.to_string(), iov.len.to_string()]);
    command.uid(uid).gid(uid);
    let output = command.output().map_err(|e| format!("caller: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
