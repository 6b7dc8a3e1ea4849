//! A target that another tracer has already.
//!
//! The controller is the tracer. It keeps its child `running` under PTRACE_SEIZE, or `stopped`.

use crate::baseline::Left;
use crate::witness::Witness;
use crate::{Verdict, control, sys};
use std::os::fd::OwnedFd;

pub(crate) fn main(args: &[String]) -> Verdict {
    let keep_stopped = match args.first().map_or("running", String::as_str) {
        "running" => false,
        "stopped" => true,
        how => return Err(format!("traced {how}: running or stopped")),
    };
    let (questions, question) = sys::pipe()?;
    let (answers, answer) = sys::pipe()?;
    let target = sys::fork(|| i32::from(traced(&questions, &answer).is_err()))?;
    drop((questions, answer));
    expect_ok(&answers)?;
    // SAFETY: seizing takes no memory.
    sys::os("PTRACE_SEIZE", unsafe { libc::ptrace(libc::PTRACE_SEIZE, target, 0, 0) })?;
    if keep_stopped {
        stop(target)?;
    }
    control::say(&format!("ready {target}"));
    loop {
        let line = control::command()?.unwrap_or_else(|| "exit".to_owned());
        let check = || -> Verdict {
            // Still ours, as it was left, and controllable.
            if keep_stopped {
                resume(target)?;
            }
            stop(target)?;
            resume(target)?;
            sys::write_all(&question, b"?")?;
            expect_ok(&answers)?;
            if keep_stopped { stop(target) } else { Ok(()) }
        };
        match (check(), line.as_str()) {
            (Err(reason), "exit" | "exit attached") => return Err(reason),
            (Err(reason), _) => control::say(&format!("harmed {reason}")),
            (Ok(()), "exit" | "exit attached") => break,
            (Ok(()), _) => control::say("ok"),
        }
    }
    if !keep_stopped {
        stop(target)?;
    }
    // SAFETY: detaching takes no memory.
    sys::os("PTRACE_DETACH", unsafe { libc::ptrace(libc::PTRACE_DETACH, target, 0, 0) })?;
    sys::write_all(&question, b"!")?;
    expect_ok(&answers)?;
    sys::wait_success(target)?;
    control::say("ok");
    Ok(())
}

/// The target: answers every question with a look at itself. What it says goes through the pipe.
fn traced(questions: &OwnedFd, answer: &OwnedFd) -> Verdict {
    let tell = |verdict: &Verdict| {
        let text = verdict.as_ref().map_or_else(|reason| format!("{reason}\n"), |()| "ok\n".to_owned());
        sys::write_all(answer, text.as_bytes())
    };
    let story = || -> Verdict {
        sys::die_with_parent()?;
        let mut witness = Witness::start()?;
        tell(&Ok(()))?;
        let mut byte = [0];
        let mut rebased = false;
        loop {
            sys::read(questions, &mut byte)?;
            if byte == *b"!" {
                return witness.progresses();
            }
            // TracerPid and the tracer's stop changed legitimately before the first question.
            if !rebased {
                witness.rebase()?;
                rebased = true;
            }
            let verdict = witness.check(Left::Nothing);
            tell(&verdict)?;
            verdict?;
        }
    };
    let verdict = story();
    tell(&verdict)?;
    verdict
}

fn expect_ok(fd: &OwnedFd) -> Verdict {
    let mut text = Vec::new();
    let mut byte = [0];
    while sys::read(fd, &mut byte)? == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    if text == b"ok" {
        Ok(())
    } else {
        Err(format!("the traced process says: {}", String::from_utf8_lossy(&text)))
    }
}

fn stop(target: i32) -> Verdict {
    // SAFETY: interrupting takes no memory.
    sys::os("PTRACE_INTERRUPT", unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, target, 0, 0) })?;
    let status = sys::wait(target)?;
    // PTRACE_EVENT_STOP in the high half, a stop below.
    if libc::WIFSTOPPED(status) && status >> 16 == libc::PTRACE_EVENT_STOP {
        return Ok(());
    }
    Err(format!("the tracer sees wait status {status:#x} instead of its own stop"))
}

fn resume(target: i32) -> Verdict {
    // SAFETY: continuing without a signal takes no memory.
    sys::os("PTRACE_CONT", unsafe { libc::ptrace(libc::PTRACE_CONT, target, 0, 0) }).map(drop)
}
