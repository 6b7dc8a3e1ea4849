//! The usual way: process_vm_readv into a buffer, write from the buffer.

use std::io::Write;

use farspace_abi::{RemoteAddr, RemoteIoVec};
use rustix::process::{Pid, Signal};

use crate::failure::Failure;
use crate::interrupt;

/// Fits into a second-level cache, so that the write finds the bytes there: the best size for copying.
pub(crate) const BUFFER_BYTES: usize = 256 << 10;

/// Copies `ranges` of the process to `out`, in order; a page that can't be read becomes zeros.
pub(crate) fn copy(pid: i32, ranges: &[RemoteIoVec], out: &mut dyn Write) -> anyhow::Result<u64> {
    // Page-aligned, because O_DIRECT asks for it.
    let mut memory = vec![0u8; BUFFER_BYTES + 4096];
    let start = memory.as_ptr().align_offset(4096);
    let buffer = &mut memory[start..start + BUFFER_BYTES];
    let mut total = 0;
    for range in ranges {
        let mut done = 0;
        while done < range.len {
            interrupt::check()?;
            let piece = (range.len - done).min(BUFFER_BYTES as u64) as usize;
            let from = RemoteAddr(range.base.0 + done);
            let got = match farspace::baseline::process_vm_readv(pid, from, &mut buffer[..piece]) {
                Ok(got) => got,
                Err(rustix::io::Errno::FAULT) => {
                    buffer[..piece.min(4096)].fill(0);
                    piece.min(4096)
                }
                Err(errno) => {
                    return Err(Failure::target(format!("read process {pid} at {from}"), errno).into());
                }
            };
            out.write_all(&buffer[..got]).map_err(|e| Failure::output("write the copy", &e))?;
            done += got as u64;
        }
        total += done;
    }
    Ok(total)
}

/// A process stopped by SIGSTOP; it goes on when this is dropped.
#[derive(Debug)]
pub(crate) struct Stopped(Pid);

impl Stopped {
    /// Stops it and waits until each of its threads has stopped.
    pub(crate) fn new(raw: i32) -> anyhow::Result<Self> {
        let failed = |errno| Failure::target(format!("stop process {raw}"), errno);
        let pid = Pid::from_raw(raw).ok_or_else(|| failed(rustix::io::Errno::SRCH))?;
        rustix::process::kill_process(pid, Signal::STOP).map_err(failed)?;
        let stopped = Self(pid);
        while !all_stopped(raw)? {
            interrupt::check()?;
            std::thread::yield_now();
        }
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // Fails only if the process is gone.
        let _ = rustix::process::kill_process(self.0, Signal::CONT);
    }
}

/// Whether every thread is in state T (proc_pid_stat(5); the name before it may hold blanks and brackets).
fn all_stopped(pid: i32) -> anyhow::Result<bool> {
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("stat"))?;
        if !stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T')) {
            return Ok(false);
        }
    }
    Ok(true)
}
