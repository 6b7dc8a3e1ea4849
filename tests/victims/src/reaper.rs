//! A process that inherits orphans (a subreaper, or the first of a pid namespace) and knows every one of them.

use crate::baseline::{Baseline, Left};
use crate::{Verdict, control, sys};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

pub(crate) fn main(args: &[String]) -> Verdict {
    match args.first().map_or("subreaper", String::as_str) {
        "subreaper" => {
            // SAFETY: no memory is involved.
            sys::os("prctl", unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) })?;
        }
        "pidns" => {
            // SAFETY: no memory is involved.
            if unsafe { libc::unshare(libc::CLONE_NEWPID) } < 0 {
                return control::skip("no right to make a pid namespace");
            }
        }
        how => return Err(format!("reaper {how}: subreaper or pidns")),
    }
    let (commands, command) = sys::pipe()?;
    let (answers, answer) = sys::pipe()?;
    let subreaper = args.first().is_none_or(|how| how == "subreaper");
    let target = sys::fork(|| {
        if subreaper {
            // SAFETY: no memory is involved. The attribute isn't inherited by children.
            unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
        }
        let verdict = reap(&commands, &answer);
        let text = verdict.as_ref().map_or_else(|reason| format!("{reason}\n"), |()| "ok\n".to_owned());
        let _ = sys::write_all(&answer, text.as_bytes());
        i32::from(verdict.is_err())
    })?;
    drop((commands, answer));
    // It knows by now what it looked like before any visit.
    answer_line(&answers)?;
    control::say(&format!("ready {target}"));
    loop {
        let line = control::command()?.unwrap_or_else(|| "exit".to_owned());
        let byte: &[u8] = match line.as_str() {
            "exit" => b"!",
            "exit attached" => b"a",
            "check detached" => b"d",
            _ => b"?",
        };
        // A reaper that has ended left its reason behind.
        let _ = sys::write_all(&command, byte);
        let verdict = answer_line(&answers)?;
        if line.starts_with("exit") {
            sys::wait_success(target)?;
            control::say(&verdict);
            return Ok(());
        }
        control::say(&verdict);
    }
}

fn answer_line(fd: &OwnedFd) -> Result<String, String> {
    let mut text = Vec::new();
    let mut byte = [0];
    while sys::read(fd, &mut byte)? == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    match String::from_utf8_lossy(&text).into_owned() {
        ok if ok == "ok" => Ok(ok),
        silence if silence.is_empty() => Err("reaper: it died".to_owned()),
        reason => Err(format!("reaper: {reason}")),
    }
}

/// Creates an orphan, reaps it and its parent, and looks for commands, over and over.
fn reap(commands: &OwnedFd, answer: &OwnedFd) -> Verdict {
    sys::die_with_parent()?;
    let baseline = Baseline::capture()?;
    sys::write_all(answer, b"ok\n")?;
    // SAFETY: no memory is involved.
    sys::os("fcntl", unsafe { libc::fcntl(commands.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) })?;
    loop {
        orphan()?;
        let mut byte = [0];
        match sys::read(commands, &mut byte) {
            Ok(0) => return Err("the controller is gone".to_owned()),
            Ok(_) => match byte[0] {
                b'!' => return baseline.check(Left::Nothing),
                b'a' => return baseline.check(Left::Agent),
                b'd' => baseline.check(Left::Nothing)?,
                _ => baseline.check(Left::Agent)?,
            },
            Err(_) if sys::errno() == libc::EAGAIN => {
                nothing_else()?;
                sys::sleep(Duration::from_millis(1))?;
                continue;
            }
            Err(reason) => return Err(reason),
        }
        sys::write_all(answer, b"ok\n")?;
    }
}

/// One child that leaves one grandchild behind: exactly these two are reaped.
fn orphan() -> Verdict {
    let (reader, writer) = sys::pipe()?;
    let child = sys::fork(|| match sys::fork(|| 0) {
        Ok(grandchild) => i32::from(sys::write_all(&writer, &grandchild.to_ne_bytes()).is_err()),
        Err(_) => 1,
    })?;
    let mut pid = [0; 4];
    if sys::read(&reader, &mut pid)? != 4 {
        return Err("the child that makes an orphan failed".to_owned());
    }
    let mut expected = vec![child, i32::from_ne_bytes(pid)];
    while !expected.is_empty() {
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        let got = sys::os("waitpid", unsafe { libc::waitpid(-1, &mut status, libc::__WALL) })? as i32;
        match expected.iter().position(|&pid| pid == got) {
            Some(at) if status == 0 => drop(expected.remove(at)),
            Some(_) => return Err(format!("own process {got} ended with wait status {status:#x}")),
            None => return Err(format!("reaped {got} (status {status:#x}), which I never made")),
        }
    }
    Ok(())
}

/// No further child is there, ended or alive.
fn nothing_else() -> Verdict {
    // SAFETY: no status is asked for.
    let got = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::__WALL | libc::WNOHANG) };
    match (got, sys::errno()) {
        (-1, libc::ECHILD) => Ok(()),
        (got, errno) => Err(format!("waitpid(-1) returned {got}, errno {errno}, with no child of mine left")),
    }
}
