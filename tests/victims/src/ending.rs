//! Targets that are about to become something else, or nothing.

use crate::baseline::{Baseline, Left};
use crate::witness::Witness;
use crate::{Verdict, control, option, sys};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Execs itself over and over, until a command or the end of stdin is there. `--so-far` counts. `--threads` of them: the
/// others sleep, and end with each exec.
pub(crate) fn exec_loop(args: &[String]) -> Verdict {
    let so_far: u64 = option(args, "--so-far", 0)?;
    let descriptors = std::fs::read_dir("/proc/self/fd").map_err(|e| format!("/proc/self/fd: {e}"))?.count();
    // 0, 1, 2 and the directory: what an earlier image had open is gone.
    let before = option(args, "--descriptors", descriptors)?;
    if descriptors != before {
        return Err(format!("{descriptors} descriptors after {so_far} execs, {before} before"));
    }
    let threads: u32 = option(args, "--threads", 1)?;
    let baseline = Baseline::capture()?;
    if so_far == 0 {
        control::ready("");
    } else if control::has_command() {
        match control::command()?.as_deref() {
            command @ (None | Some("exit" | "exit attached")) => {
                baseline.check(if command == Some("exit attached") { Left::Agent } else { Left::Less })?;
                control::say(&format!("ok execs={so_far}"));
                return Ok(());
            }
            Some(_) => control::say(&format!("ok execs={so_far}")),
        }
    }
    // A visitor may be about to borrow this very thread: that passes.
    let mut outcome = baseline.check(Left::Agent);
    for _ in 0..2000 {
        if outcome.is_ok() {
            break;
        }
        sys::sleep(Duration::from_millis(5))?;
        outcome = baseline.check(Left::Agent);
    }
    outcome?;
    for _ in 1..threads {
        std::thread::spawn(|| sys::sleep(Duration::from_secs(3600)));
    }
    let next =
        [("--so-far", so_far + 1), ("--descriptors", before as u64), ("--threads", u64::from(threads))];
    let next = next.into_iter().flat_map(|(name, value)| [name.to_owned(), value.to_string()]);
    let error = Command::new("/proc/self/exe").arg0(crate::PROGRAM).arg("exec-loop").args(next).exec();
    Err(format!("exec: {error}"))
}

/// Ends by itself after `--after-us`, with `--threads` threads busy.
pub(crate) fn exit_race(args: &[String]) -> Verdict {
    let after = Duration::from_micros(option(args, "--after-us", 1000)?);
    let threads: u32 = option(args, "--threads", 1)?;
    for _ in 1..threads {
        std::thread::spawn(|| {
            loop {
                std::hint::spin_loop();
            }
        });
    }
    control::ready("");
    sys::sleep(after)?;
    control::say("ok");
    Ok(())
}

static CONTINUED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    CONTINUED.fetch_add(1, Ordering::SeqCst);
}

/// Stops itself by SIGSTOP; who waits for the answer has to send SIGCONT. Must be continued exactly once.
pub(crate) fn stopped(_: &[String]) -> Verdict {
    sys::on_signal(libc::SIGCONT, count as *const () as libc::sighandler_t, libc::SA_RESTART)?;
    // The witness inherits a mask that keeps the handler, and with it a legitimate EINTR, away from its calls.
    sys::change_mask(libc::SIG_BLOCK, libc::SIGCONT)?;
    let mut witness = Witness::start()?;
    sys::change_mask(libc::SIG_UNBLOCK, libc::SIGCONT)?;
    witness.rebase()?;
    control::ready("");
    sys::kill(sys::pid(), libc::SIGSTOP)?;
    control::serve(&mut witness, |_, _| match CONTINUED.load(Ordering::SeqCst) {
        1 => None,
        n => Some(Err(format!("continued {n} times, by one SIGCONT"))),
    })
}

/// `process`: a child that ended and is not waited for. `leader`: a process whose first thread ended while
/// others run on.
pub(crate) fn zombie(args: &[String]) -> Verdict {
    match args.first().map_or("process", String::as_str) {
        "process" => zombie_process(),
        "leader" => zombie_leader(),
        how => Err(format!("zombie {how}: process or leader")),
    }
}

fn zombie_process() -> Verdict {
    let child = sys::fork(|| 0)?;
    // SAFETY: an all-zero siginfo is valid, and valid for writes; WNOWAIT leaves the zombie in place.
    let waited = unsafe {
        let mut info: libc::siginfo_t = std::mem::zeroed();
        libc::waitid(libc::P_PID, child as u32, &mut info, libc::WEXITED | libc::WNOWAIT)
    };
    sys::os("waitid", waited)?;
    let mut witness = Witness::start()?;
    control::say(&format!("ready {child}"));
    control::serve(&mut witness, |witness, words| {
        (words.first() == Some(&"exit")).then(|| {
            sys::wait_success(child)?;
            witness.rebase()?;
            Ok(String::new())
        })
    })
}

fn zombie_leader() -> Verdict {
    let leader = std::thread::spawn(|| {
        // The other thread is on its way out; a leader's state is the first letter after its name.
        let gone = || {
            let stat =
                std::fs::read_to_string(format!("/proc/self/task/{}/stat", sys::pid())).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
        };
        while !gone() {
            let _ = sys::sleep(Duration::from_millis(1));
        }
        let serve = || -> Verdict {
            let mut witness = Witness::start()?;
            control::ready("");
            control::serve(&mut witness, |_, _| None)
        };
        if let Err(reason) = serve() {
            control::say(&format!("harmed {reason}"));
            std::process::exit(1);
        }
        std::process::exit(0)
    });
    drop(leader);
    // SAFETY: ends this thread only, without unwinding; nothing on its stack is used by another.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    Err("the first thread came back from exit".to_owned())
}
