//! System calls as a victim makes them: raw, never retried.
//!
//! A standard library that quietly repeats a call on EINTR would hide the very harm that victims look for.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

/// Turns the return value of a C call into a result that names the call.
pub fn os(call: &str, value: impl Into<i64>) -> Result<i64, String> {
    let value = value.into();
    if value < 0 { Err(format!("{call}: {}", io::Error::last_os_error())) } else { Ok(value) }
}

/// The errno of the last failed call.
pub fn errno() -> i32 {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

/// Makes the allocator use the break only, so that /proc/self/maps changes through [heap] alone.
pub fn keep_heap_in_one_place() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt only sets parameters of the allocator; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_MAX, 0);
    }
}

/// A close-on-exec pipe: the read end, the write end.
pub fn pipe() -> Result<(OwnedFd, OwnedFd), String> {
    let mut fds = [-1; 2];
    // SAFETY: `fds` has room for the two descriptors.
    os("pipe2", unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: both descriptors were made just now and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Takes ownership of a descriptor that a C call returned.
pub fn owned(call: &str, fd: i32) -> Result<OwnedFd, String> {
    os(call, fd)?;
    // SAFETY: the call that made `fd` succeeded and its only result goes into this owner.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// One read(2).
pub fn read(fd: &impl AsRawFd, buffer: &mut [u8]) -> Result<usize, String> {
    // SAFETY: the buffer is valid for its length.
    let n = unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    os("read", n as i64).map(|n| n as usize)
}

/// One write(2) that must take everything.
pub fn write_all(fd: &impl AsRawFd, data: &[u8]) -> Result<(), String> {
    // SAFETY: the data is valid for its length.
    let n = unsafe { libc::write(fd.as_raw_fd(), data.as_ptr().cast(), data.len()) };
    match os("write", n as i64)? as usize {
        n if n == data.len() => Ok(()),
        n => Err(format!("write: {n} of {} bytes", data.len())),
    }
}

/// fork(2): runs `child` in the new process, which leaves with its return value.
///
/// The caller must be single-threaded, or `child` must keep to async-signal-safe calls.
pub fn fork(child: impl FnOnce() -> i32) -> Result<i32, String> {
    // SAFETY: see above; the child never returns into the caller's frames.
    match os("fork", unsafe { libc::fork() })? {
        0 => {
            let status = child();
            // SAFETY: leaves at once, without running the parent's exit handlers.
            unsafe { libc::_exit(status) }
        }
        pid => Ok(pid as i32),
    }
}

/// waitpid(2) for one known child: its wait status.
pub fn wait(pid: i32) -> Result<i32, String> {
    let mut status = 0;
    // SAFETY: `status` is valid for writes.
    let got = os("waitpid", unsafe { libc::waitpid(pid, &mut status, 0) })?;
    if got != i64::from(pid) {
        return Err(format!("waitpid({pid}) returned {got}"));
    }
    Ok(status)
}

/// Waits for a child that must leave with status 0.
pub fn wait_success(pid: i32) -> Result<(), String> {
    match wait(pid)? {
        0 => Ok(()),
        status => Err(format!("process {pid} ended with wait status {status:#x}")),
    }
}

/// kill(2).
pub fn kill(pid: i32, signal: i32) -> Result<(), String> {
    // SAFETY: no memory is involved.
    os("kill", unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Asks the kernel to kill this process when its parent ends.
pub fn die_with_parent() -> Result<(), String> {
    // SAFETY: no memory is involved.
    os("prctl", unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) }).map(drop)
}

/// This process's id.
pub fn pid() -> i32 {
    std::process::id() as i32
}

/// CLOCK_MONOTONIC in nanoseconds.
pub fn now_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is valid for writes.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// A duration as the kernel takes it.
pub fn timespec(duration: Duration) -> libc::timespec {
    libc::timespec { tv_sec: duration.as_secs() as i64, tv_nsec: i64::from(duration.subsec_nanos()) }
}

/// One relative clock_nanosleep, which must sleep to its end.
pub fn sleep(duration: Duration) -> Result<(), String> {
    let request = timespec(duration);
    let mut rest = timespec(Duration::ZERO);
    // SAFETY: both are valid for the call.
    match unsafe { libc::clock_nanosleep(libc::CLOCK_MONOTONIC, 0, &request, &mut rest) } {
        0 => Ok(()),
        e => Err(format!("clock_nanosleep: {}", io::Error::from_raw_os_error(e))),
    }
}

/// A C string from text without a NUL.
pub fn c_string(text: &str) -> Result<CString, String> {
    CString::new(text).map_err(|_| format!("{text:?} has a NUL in it"))
}

/// Installs a handler (or SIG_IGN, SIG_DFL) without SA_RESTART.
pub fn on_signal(signal: i32, handler: libc::sighandler_t, flags: i32) -> Result<(), String> {
    // SAFETY: an all-zero sigaction is a valid one; the callers pass handlers that only touch atomics.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler;
        action.sa_flags = flags;
        os("sigaction", libc::sigaction(signal, &action, std::ptr::null_mut())).map(drop)
    }
}

/// The set of one signal.
pub fn set_of(signal: i32) -> libc::sigset_t {
    // SAFETY: an all-zero set is empty; the set is valid for both calls.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, signal);
        set
    }
}

/// Blocks or unblocks a signal in the calling thread.
pub fn change_mask(how: i32, signal: i32) -> Result<(), String> {
    // SAFETY: the set is valid for the call.
    let changed = unsafe { libc::pthread_sigmask(how, &set_of(signal), std::ptr::null_mut()) };
    os("pthread_sigmask", -changed).map(drop)
}

/// Starts a thread, and returns once it is on its way: until then the C library has all its signals blocked.
pub(crate) fn start_thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), String> {
    let (begun, has_begun) = std::sync::mpsc::channel();
    let work = move || {
        let _ = begun.send(());
        work();
    };
    let error = |reason: String| format!("{name} thread: {reason}");
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map_err(|e| error(e.to_string()))?;
    has_begun.recv().map_err(|e| error(e.to_string()))
}
