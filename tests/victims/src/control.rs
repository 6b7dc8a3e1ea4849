//! The victim's side of the line protocol.

use crate::sys;
use crate::witness::Witness;
use crate::{Verdict, baseline::Left};
use std::io;
use std::os::fd::{AsRawFd, RawFd};

struct Stdin;

impl AsRawFd for Stdin {
    fn as_raw_fd(&self) -> RawFd {
        0
    }
}

/// Prints one line in one write(2).
pub fn say(line: &str) {
    let line = format!("{line}\n");
    // SAFETY: the line is valid for its length. A tester that is gone is noticed by the end of stdin.
    unsafe { libc::write(1, line.as_ptr().cast(), line.len()) };
}

/// The next command, or `None` at end of file. A read that is interrupted is harm.
pub fn command() -> Result<Option<String>, String> {
    let mut line = Vec::new();
    loop {
        let mut byte = [0];
        match sys::read(&Stdin, &mut byte).map_err(|e| format!("stdin: {e}"))? {
            0 => return Ok(None),
            _ if byte[0] == b'\n' => return Ok(Some(String::from_utf8_lossy(&line).trim().to_owned())),
            _ => line.push(byte[0]),
        }
    }
}

/// Waits for `go`; the end of file is the tester's death.
pub fn wait_for_go() -> Verdict {
    loop {
        match command()?.as_deref() {
            Some("go") => return Ok(()),
            Some(other) => say(&format!("harmed {other:?} is not a command here; use go")),
            None => return Err("the tester is gone".to_owned()),
        }
    }
}

/// Whether a command waits on stdin, or its end.
pub fn has_command() -> bool {
    let mut poll = libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    unsafe { libc::poll(&mut poll, 1, 0) > 0 }
}

/// A victim's own answer to a command: `None` if it has none.
pub type Special = Option<Result<String, String>>;

/// Answers commands until `exit`: `check` through the witness, everything else through `other`, which
/// also sees every `check` and the `exit` first: it can answer a check, and fail an exit.
pub fn serve(witness: &mut Witness, mut other: impl FnMut(&mut Witness, &[&str]) -> Special) -> Verdict {
    loop {
        let line = command()?;
        let words = line.as_deref().unwrap_or("exit").split_whitespace().collect::<Vec<_>>();
        let special = other(witness, &words);
        let check = |left| witness.check(left).map(|()| "ok".to_owned());
        let answer = match (special, words.as_slice()) {
            (Some(Err(reason)), ["exit", ..]) => return Err(reason),
            (Some(answer), words) if words.first() != Some(&"exit") => answer,
            (_, ["check"]) => check(Left::Agent),
            (_, ["check", "detached"]) => check(Left::Nothing),
            (_, ["exit", rest @ ..]) => {
                check(if *rest == ["attached"] { Left::Agent } else { Left::Nothing })?;
                say("ok");
                return Ok(());
            }
            _ => Err(format!("{words:?} is not a command")),
        };
        match answer {
            Ok(text) => say(&text),
            Err(reason) => say(&format!("harmed {reason}")),
        }
    }
}

/// An error that is about the tester or the machine, not about harm: reported as `skip`.
pub fn skip(reason: &str) -> Verdict {
    say(&format!("skip {reason}"));
    Ok(())
}

/// Prints `ready` for this process.
pub fn ready(extra: &str) {
    say(format!("ready {} {extra}", sys::pid()).trim_end());
}

/// `io::Error` of an errno, for messages.
pub fn describe(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}
