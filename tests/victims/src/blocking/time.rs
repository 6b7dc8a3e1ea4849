//! Sleeping.

use super::{Call, Timing, must_return, raw};
use crate::sys;
use std::ptr::null_mut;
use std::time::Duration;

pub(super) fn nanosleep(timing: Timing) -> Result<Call, String> {
    Call::timed(timing, move || {
        let request = sys::timespec(timing.duration);
        // SAFETY: the request is valid for the call; the C library would make this a clock_nanosleep.
        let result =
            unsafe { libc::syscall(libc::SYS_nanosleep, &raw const request, null_mut::<libc::timespec>()) };
        must_return("nanosleep", result, 0)
    })
}

pub(super) fn clock_nanosleep(timing: Timing) -> Result<Call, String> {
    Call::timed(timing, move || sys::sleep(timing.duration))
}

pub(super) fn clock_nanosleep_abs(timing: Timing) -> Result<Call, String> {
    Call::timed(timing, move || {
        let until = sys::timespec(Duration::from_nanos(sys::now_ns()) + timing.duration);
        // SAFETY: the request is valid for the call.
        let result =
            unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, libc::TIMER_ABSTIME, &until, null_mut()) };
        must_return("clock_nanosleep", -result, 0)
    })
}

pub(super) fn timerfd(timing: Timing) -> Result<Call, String> {
    // SAFETY: no memory is involved.
    let fd =
        sys::owned("timerfd", unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC) })?;
    Call::timed(timing, move || {
        let zero = sys::timespec(Duration::ZERO);
        let spec = libc::itimerspec { it_interval: zero, it_value: sys::timespec(timing.duration) };
        // SAFETY: the new value is valid for the call.
        let set = unsafe { libc::timerfd_settime(raw(&fd), 0, &spec, null_mut()) };
        must_return("timerfd_settime", set, 0)?;
        let mut count = [0; 8];
        must_return("read", sys::read(&fd, &mut count)? as i64, 8)?;
        must_return("expirations", u64::from_ne_bytes(count) as i64, 1)
    })
}
