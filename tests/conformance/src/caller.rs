//! Callers of their own: this program again, as another user, or as a process that may be stopped and killed.

use crate::exec;
use crate::world;
use farspace::RemoteIoVec;
use farspace_victims::pace;
use libtest_mimic::Failed;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

const PROGRAM: &str = "farspace-caller";
/// For every line of a caller.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(40);

/// Serves as the caller if this process was started as one.
pub(crate) fn host() -> Option<ExitCode> {
    let args = std::env::args().collect::<Vec<_>>();
    if args.first().map(String::as_str) != Some(PROGRAM) {
        return None;
    }
    let args = args[1..].iter().map(String::as_str).collect::<Vec<_>>();
    let answer = match *args.as_slice() {
        ["exec", scenario, ref words @ ..] => exec::scenario(scenario, words),
        ["vmsplice", pid, addr, len] => vmsplice([pid, addr, len]),
        _ => Err("usage: vmsplice PID ADDR LEN | exec SCENARIO PID WORD...".into()),
    };
    match answer {
        Ok(text) => say(&text),
        Err(failed) => say(&format!("failed: {}", failed.message().unwrap_or("no reason"))),
    }
    Some(ExitCode::SUCCESS)
}

/// Prints a line for the test that started this caller.
pub(crate) fn say(line: &str) {
    println!("{line}");
}

fn vmsplice(numbers: [&str; 3]) -> Result<String, Failed> {
    let [pid, addr, len] = numbers.map(|text| text.parse::<u64>().unwrap_or(0));
    let pipe = world::Pipe::new()?;
    Ok(match world::call(pid as i32, pipe.writer.as_raw_fd(), &[RemoteIoVec::new(addr, len)], 0) {
        Ok(n) => format!("ok {n}"),
        Err(errno) => format!("errno {}", errno.raw_os_error()),
    })
}

/// One process_vmsplice as user `uid` without any capability: `ok N` or `errno N`.
pub(crate) fn call_as(uid: u32, pid: i32, iov: RemoteIoVec) -> Result<String, Failed> {
    let words = [pid.to_string(), iov.base.0.to_string(), iov.len.to_string()];
    let mut caller = Caller::start(|command| {
        command.arg("vmsplice").args(words).uid(uid).gid(uid);
    })?;
    caller.line()
}

/// A running caller. Dropping it kills it.
pub(crate) struct Caller {
    child: Child,
    lines: Receiver<String>,
}

impl Caller {
    /// Starts this program as a caller with what `configure` adds to the command.
    pub(crate) fn start(configure: impl FnOnce(&mut Command)) -> Result<Self, Failed> {
        let mut command = Command::new("/proc/self/exe");
        command.arg0(PROGRAM).stdin(Stdio::piped()).stdout(Stdio::piped());
        configure(&mut command);
        let mut child = command.spawn().map_err(|e| format!("caller: {e}"))?;
        let stdout = child.stdout.take().ok_or("the caller has no stdout")?;
        let (sender, lines) = channel();
        // Ends with the caller's stdout.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// Its next line; that something has failed there is a failure here.
    pub(crate) fn line(&mut self) -> Result<String, Failed> {
        match self.lines.recv_timeout(pace::limit(ANSWER_TIMEOUT)) {
            Ok(line) if line.starts_with("failed: ") => Err(format!("the caller {line}").into()),
            Ok(line) => Ok(line),
            Err(_) => {
                let status = self.child.try_wait();
                Err(format!("the caller says nothing in {ANSWER_TIMEOUT:?}; its status: {status:?}").into())
            }
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
