//! Waiting for descriptors: none of these is ever restarted after a signal handler.

use super::{Call, Timing, must_return, raw};
use crate::sys;
use std::os::fd::OwnedFd;
use std::ptr::null_mut;
use std::rc::Rc;

type Pipe = (Rc<OwnedFd>, Rc<OwnedFd>);

fn pipe() -> Result<Pipe, String> {
    let (reader, writer) = sys::pipe()?;
    Ok((Rc::new(reader), Rc::new(writer)))
}

/// A call on the read end that must see it become readable.
fn readable(wait: impl Fn(i32) -> Result<(), String> + 'static) -> Result<Call, String> {
    let (reader, writer) = pipe()?;
    let block = move || {
        wait(raw(&reader))?;
        must_return("read", sys::read(&*reader, &mut [0; 8])? as i64, 3)
    };
    Call::new(block, move |_| sys::write_all(&*writer, b"now"))
}

/// A call on the read end that must run into its timeout.
fn quiet(timing: Timing, wait: impl Fn(i32) -> Result<(), String> + 'static) -> Result<Call, String> {
    let (reader, writer) = pipe()?;
    Call::timed(timing, move || {
        let _open = &writer;
        wait(raw(&reader))
    })
}

fn poll_for(fd: i32, timeout_ms: i32, expected: i64) -> Result<(), String> {
    let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one valid pollfd.
    must_return("poll", unsafe { libc::poll(&mut entry, 1, timeout_ms) }, expected)?;
    must_return("poll events", i64::from(entry.revents == libc::POLLIN), expected)
}

pub(super) fn poll(_: Timing) -> Result<Call, String> {
    readable(|fd| poll_for(fd, -1, 1))
}

pub(super) fn poll_timeout(timing: Timing) -> Result<Call, String> {
    quiet(timing, move |fd| poll_for(fd, timing.ms(), 0))
}

pub(super) fn ppoll_timeout(timing: Timing) -> Result<Call, String> {
    quiet(timing, move |fd| {
        let mut entry = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let timeout = sys::timespec(timing.duration);
        // SAFETY: all-zero is the empty signal set; every pointer is valid for the call.
        let result = unsafe {
            let mask: libc::sigset_t = std::mem::zeroed();
            libc::ppoll(&mut entry, 1, &timeout, &mask)
        };
        must_return("ppoll", result, 0)
    })
}

fn select_on(fd: i32, timeout: Option<Timing>) -> i64 {
    // SAFETY: an all-zero fd_set is empty, the descriptor is below FD_SETSIZE, and every pointer is valid. The
    // C library would make this a pselect6.
    unsafe {
        let mut set: libc::fd_set = std::mem::zeroed();
        libc::FD_SET(fd, &mut set);
        let mut time = timeout.map(|t| libc::timeval {
            tv_sec: t.duration.as_secs() as i64,
            tv_usec: i64::from(t.duration.subsec_micros()),
        });
        let time = time.as_mut().map_or(null_mut(), |t| t as *mut libc::timeval);
        let nothing = null_mut::<libc::fd_set>();
        let n = libc::syscall(libc::SYS_select, fd + 1, &raw mut set, nothing, nothing, time);
        if n == 1 && !libc::FD_ISSET(fd, &set) { -1 } else { n }
    }
}

pub(super) fn select(_: Timing) -> Result<Call, String> {
    readable(|fd| must_return("select", select_on(fd, None), 1))
}

pub(super) fn select_timeout(timing: Timing) -> Result<Call, String> {
    quiet(timing, move |fd| must_return("select", select_on(fd, Some(timing)), 0))
}

/// An epoll instance that watches `fd`.
fn watch(fd: i32) -> Result<OwnedFd, String> {
    // SAFETY: no memory is involved; then the event is valid for the call.
    let epoll = sys::owned("epoll_create1", unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 42 };
    // SAFETY: as above.
    let added = unsafe { libc::epoll_ctl(raw(&epoll), libc::EPOLL_CTL_ADD, fd, &mut event) };
    must_return("epoll_ctl", added, 0)?;
    Ok(epoll)
}

fn epoll_on(nr: libc::c_long, fd: i32, timeout_ms: i32, expected: i64) -> Result<(), String> {
    let epoll = watch(fd)?;
    let mut event = libc::epoll_event { events: 0, u64: 0 };
    let (mask, mask_len) = ([0_u64; 1], 8_usize);
    // SAFETY: room for the one event asked for, and a valid mask of the kernel's size (epoll_pwait only).
    let n = unsafe { libc::syscall(nr, raw(&epoll), &raw mut event, 1, timeout_ms, mask.as_ptr(), mask_len) };
    must_return("epoll_wait", n, expected)?;
    let data = event.u64;
    must_return("epoll data", data as i64, 42 * expected)
}

pub(super) fn epoll(_: Timing) -> Result<Call, String> {
    readable(|fd| epoll_on(libc::SYS_epoll_wait, fd, -1, 1))
}

pub(super) fn epoll_timeout(timing: Timing) -> Result<Call, String> {
    quiet(timing, move |fd| epoll_on(libc::SYS_epoll_wait, fd, timing.ms(), 0))
}

pub(super) fn epoll_pwait(_: Timing) -> Result<Call, String> {
    readable(|fd| epoll_on(libc::SYS_epoll_pwait, fd, -1, 1))
}
