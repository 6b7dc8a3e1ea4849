//! The beginning of a visit: an agent in the target, tried again where only the moment was bad.

use std::sync::Arc;
use std::time::{Duration, Instant};

use farspace_sys::process;
use rustix::io::Errno;

use crate::place::{Placed, clear, place};
use crate::{Agent, Error, Refusal, Result, keeper};

/// So often a visit that failed by bad timing is tried, even if all the time is over: this process may have been without a
/// CPU.
const AT_LEAST: u32 = 3;

/// Places the agent in a process. Returns it and how long the borrowed thread was held.
///
/// `timeout` bounds the wait for a thread that can be stopped.
///
/// # Errors
///
/// [`Error::Refused`]: the target is in a state in which it is left alone. [`Error::Gone`]: it ended or
/// executed another program. Whatever went wrong, the target is as it was.
pub fn infect(pid: i32, timeout: Duration) -> Result<(Arc<Agent>, Duration)> {
    let deadline = Instant::now() + timeout;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let placed = if process::status(pid)?.seccomp == 0 {
            on_own_thread(|| place(pid, timeout, None))
        } else {
            keeper::on_kept_thread(pid, move |keeper| {
                let placed = place(pid, timeout, Some(keeper))?;
                let exit = placed.exit();
                Ok((placed, exit))
            })
        };
        match placed.and_then(Placed::finish).map_err(|e| e.for_target(pid)) {
            Err(error) if passes(&error) => {
                // The agent also goes where the target does: then that is what happened.
                process::status(pid).map_err(|e| Error::from(e).for_target(pid))?;
                if attempt >= AT_LEAST && Instant::now() >= deadline {
                    // What an agent could not take away.
                    let _ = on_own_thread(|| clear(pid, timeout));
                    return Err(error);
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            placed => return placed,
        }
    }
}

/// True for what comes of bad timing: a place that was taken a moment ago, an exec that was under way, an agent that
/// has left because this process was too slow.
fn passes(error: &Error) -> bool {
    match error {
        Error::Refused { refusal: Refusal::NoCave, .. } => true,
        Error::Sys(e) => matches!(e.errno, Errno::EXIST | Errno::AGAIN | Errno::IO),
        Error::Agent { errno, .. } => *errno == Errno::TIMEDOUT,
        _ => false,
    }
}

/// Runs work that traces on a thread of its own: when that ends, the kernel lets go of everything it still traces,
/// such as a thread that didn't stop in time, or has come to be another by an exec.
pub fn on_own_thread<T: Send, E: Send>(
    work: impl FnOnce() -> std::result::Result<T, E> + Send,
) -> std::result::Result<T, E> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}
