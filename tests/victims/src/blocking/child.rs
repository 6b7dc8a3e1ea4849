//! Waiting for a child.

use super::{Call, Timing, must_return};
use crate::sys;
use std::os::fd::OwnedFd;
use std::rc::Rc;

const STATUS: i32 = 7;

/// Forks a child that leaves with `STATUS` once released, and waits for it with `wait`.
fn waiting(wait: impl Fn(i32) -> Result<(), String> + 'static) -> Result<Call, String> {
    let (reader, writer) = sys::pipe()?;
    let (reader, writer) = (Rc::new(reader), Rc::new(writer));
    let block = move || {
        let child = sys::fork(|| leave_when_told(&reader))?;
        wait(child)
    };
    Call::new(block, move |_| sys::write_all(&*writer, b"x"))
}

fn leave_when_told(fd: &OwnedFd) -> i32 {
    let told = sys::die_with_parent().and_then(|()| sys::read(fd, &mut [0]));
    if told == Ok(1) { STATUS } else { 1 }
}

fn wait_for(which: i32, child: i32, options: i32) -> Result<(), String> {
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    must_return("wait4", unsafe { libc::waitpid(which, &mut status, options) }, i64::from(child))?;
    must_return("exit status", i64::from(status), i64::from(STATUS << 8))
}

pub(super) fn wait4(_: Timing) -> Result<Call, String> {
    waiting(|child| wait_for(child, child, 0))
}

pub(super) fn wait4_any(_: Timing) -> Result<Call, String> {
    waiting(|child| wait_for(-1, child, libc::__WALL))
}

pub(super) fn waitid(_: Timing) -> Result<Call, String> {
    waiting(|child| {
        // SAFETY: an all-zero siginfo is valid, and valid for writes.
        let (result, info) = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::waitid(libc::P_ALL, 0, &mut info, libc::WEXITED | libc::__WALL), info)
        };
        must_return("waitid", result, 0)?;
        // SAFETY: waitid fills in the SIGCHLD fields.
        let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
        must_return("si_pid", pid, i64::from(child))?;
        must_return("si_status", status, i64::from(STATUS))
    })
}

/// The parent of a vfork child sleeps uninterruptibly (killable), which no ptrace stop ends.
pub(super) fn vfork(_: Timing) -> Result<Call, String> {
    let (reader, writer) = sys::pipe()?;
    let (reader, writer) = (Rc::new(reader), Rc::new(writer));
    let block = move || {
        let mut stack = vec![0_u128; 4096];
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
        let argument = (&raw const *reader).cast_mut().cast();
        // SAFETY: the child runs on its own 64 KiB stack, only reads and leaves, and this thread sleeps until
        // then, so that nothing that the child uses goes away or changes meanwhile.
        let child = unsafe { libc::clone(vfork_child, stack.as_mut_ptr_range().end.cast(), flags, argument) };
        sys::os("clone", child)?;
        wait_for(child, child, 0)
    };
    Call::new(block, move |_| sys::write_all(&*writer, b"x"))
}

extern "C" fn vfork_child(argument: *mut libc::c_void) -> i32 {
    // SAFETY: the parent passes a valid descriptor owner and sleeps until this process is gone.
    let fd = unsafe { &*argument.cast::<OwnedFd>() };
    let mut byte = [0_u8];
    // SAFETY: room for the one byte; then leaves without running anything of the parent's.
    unsafe {
        let n = libc::read(super::raw(fd), byte.as_mut_ptr().cast(), 1);
        libc::_exit(if n == 1 { STATUS } else { 1 })
    }
}
