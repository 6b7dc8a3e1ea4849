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
    let threads = threads(target)?;
    request("PTRACE_SEIZE", libc::PTRACE_SEIZE, &threads)?;
    if keep_stopped {
        stop(&threads)?;
    }
    control::say(&format!("ready {target}"));
    loop {
        let line = control::command()?.unwrap_or_else(|| "exit".to_owned());
        let check = || -> Verdict {
            // Still ours, as it was left, and controllable.
            if keep_stopped {
                resume(&threads)?;
            }
            stop(&threads)?;
            resume(&threads)?;
            sys::write_all(&question, b"?")?;
            expect_ok(&answers)?;
            if keep_stopped { stop(&threads) } else { Ok(()) }
        };
        match (check(), line.as_str()) {
            (Err(reason), "exit" | "exit attached") => return Err(reason),
            (Err(reason), _) => control::say(&format!("harmed {reason}")),
            (Ok(()), "exit" | "exit attached") => break,
            (Ok(()), _) => control::say("ok"),
        }
    }
    if !keep_stopped {
        stop(&threads)?;
    }
    request("PTRACE_DETACH", libc::PTRACE_DETACH, &threads)?;
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

/// All threads of the target; a debugger traces every one.
fn threads(target: i32) -> Result<Vec<i32>, String> {
    let path = format!("/proc/{target}/task");
    let entries = std::fs::read_dir(&path).map_err(|e| format!("{path}: {e}"))?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect())
}

/// A ptrace request without address and data, for every thread.
fn request(name: &str, request: libc::c_uint, threads: &[i32]) -> Verdict {
    for tid in threads {
        // SAFETY: these requests involve no memory.
        sys::os(name, unsafe { libc::ptrace(request, *tid, 0, 0) })?;
    }
    Ok(())
}

fn stop(threads: &[i32]) -> Verdict {
    request("PTRACE_INTERRUPT", libc::PTRACE_INTERRUPT, threads)?;
    for tid in threads {
        let mut status = 0;
        // SAFETY: `status` is valid for writes.
        sys::os("waitpid", unsafe { libc::waitpid(*tid, &mut status, libc::__WALL) })?;
        // PTRACE_EVENT_STOP in the high half, a stop below.
        if !libc::WIFSTOPPED(status) || status >> 16 != libc::PTRACE_EVENT_STOP {
            return Err(format!("the tracer sees wait status {status:#x} of {tid} instead of its own stop"));
        }
    }
    Ok(())
}

fn resume(threads: &[i32]) -> Verdict {
    request("PTRACE_CONT", libc::PTRACE_CONT, threads)
}
