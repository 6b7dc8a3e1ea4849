//! Waiting for a signal: exactly the one that the controller sends may end these.

use super::{Call, Timing, must_fail, must_return};
use crate::sys;
use std::sync::atomic::{AtomicU32, Ordering};

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// EINTR, and the handler ran once: the one signal of the controller, not an earlier return.
fn ended_by_handler(call: &str, result: i64) -> Result<(), String> {
    must_fail(call, result, libc::EINTR)?;
    match HANDLED.load(Ordering::SeqCst) {
        1 => Ok(()),
        0 => Err(format!("{call} returned EINTR although no signal came")),
        n => Err(format!("{call}: {n} signals handled, one was sent")),
    }
}

fn handle() -> Result<(), String> {
    sys::on_signal(libc::SIGUSR1, count as *const () as libc::sighandler_t, 0)
}

pub(super) fn pause(_: Timing) -> Result<Call, String> {
    // SAFETY: no memory is involved.
    let block = || ended_by_handler("pause", unsafe { libc::syscall(libc::SYS_pause) });
    Ok(Call::new(block, |target| sys::kill(target, libc::SIGUSR1))?.with_setup(handle))
}

pub(super) fn sigsuspend(_: Timing) -> Result<Call, String> {
    let block = || {
        // SAFETY: an all-zero set is empty.
        let result = unsafe { libc::sigsuspend(&std::mem::zeroed()) };
        ended_by_handler("sigsuspend", result.into())
    };
    let setup = || {
        handle()?;
        sys::change_mask(libc::SIG_BLOCK, libc::SIGUSR1)
    };
    Ok(Call::new(block, |target| sys::kill(target, libc::SIGUSR1))?.with_setup(setup))
}

pub(super) fn sigtimedwait(_: Timing) -> Result<Call, String> {
    let block = || {
        // SAFETY: the set is valid; no siginfo and no timeout are asked for.
        let got = unsafe {
            libc::sigtimedwait(&sys::set_of(libc::SIGUSR1), std::ptr::null_mut(), std::ptr::null())
        };
        must_return("sigtimedwait", got, i64::from(libc::SIGUSR1))
    };
    let setup = || sys::change_mask(libc::SIG_BLOCK, libc::SIGUSR1);
    Ok(Call::new(block, |target| sys::kill(target, libc::SIGUSR1))?.with_setup(setup))
}

pub(super) fn sigtimedwait_timeout(timing: Timing) -> Result<Call, String> {
    let call = Call::timed(timing, move || {
        let time = sys::timespec(timing.duration);
        // SAFETY: set and timeout are valid.
        let got = unsafe { libc::sigtimedwait(&sys::set_of(libc::SIGUSR1), std::ptr::null_mut(), &time) };
        must_fail("sigtimedwait", got, libc::EAGAIN)
    })?;
    Ok(call.with_setup(|| sys::change_mask(libc::SIG_BLOCK, libc::SIGUSR1)))
}
