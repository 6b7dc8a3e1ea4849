//! What cases need of this process itself: pages at known addresses, signals, bases, and who else is there.

use crate::case::Outcome;
use crate::world::PAGE;
use farspace_victims::pace;
use libtest_mimic::Failed;
use std::io;
use std::time::{Duration, Instant};

/// Far from what anybody else maps: what is unmapped here stays so.
const PAGES_AT: u64 = 0x1700_0000_0000;

/// A page of this process's own that may be taken away under somebody.
pub(super) struct Page(u64);

impl Page {
    /// A new page, readable and writable.
    pub(super) fn new() -> Result<Self, Failed> {
        Self::at(PAGES_AT)
    }

    /// A new page at an address that is free.
    pub(super) fn at(addr: u64) -> Result<Self, Failed> {
        let (prot, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let flags = flags | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: NOREPLACE never touches an existing mapping.
        let got = unsafe { libc::mmap(addr as *mut _, PAGE as usize, prot, flags, -1, 0) };
        match got as u64 == addr {
            true => Ok(Self(addr)),
            false => Err(format!("mmap at {addr:#x}: {}", io::Error::last_os_error()).into()),
        }
    }

    pub(super) fn addr(&self) -> u64 {
        self.0
    }

    /// Puts a value at the begin of the page, which must be writable.
    pub(super) fn store<T: Copy>(&self, value: &T) {
        // SAFETY: the page is this value's own and large enough for what cases store.
        unsafe { (self.0 as *mut T).write_volatile(*value) }
    }

    /// The value at the begin of the page, where one of this type was stored.
    pub(super) fn load<T: Copy>(&self) -> T {
        // SAFETY: as in `store`.
        unsafe { (self.0 as *const T).read_volatile() }
    }

    pub(super) fn protect(&self, protection: i32) -> Outcome {
        // SAFETY: the page is this value's own; nobody holds a reference into it.
        os("mprotect", unsafe { libc::mprotect(self.0 as *mut _, PAGE as usize, protection) }.into())
            .map(drop)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // SAFETY: as in `protect`.
        unsafe { libc::munmap(self.0 as *mut _, PAGE as usize) };
    }
}

/// A system call's result, or its errno as a failure.
pub(super) fn os(what: &str, result: i64) -> Result<i64, Failed> {
    if result < 0 { Err(format!("{what}: {}", io::Error::last_os_error()).into()) } else { Ok(result) }
}

/// The calling thread's id.
pub(super) fn tid() -> i32 {
    rustix::thread::gettid().as_raw_nonzero().get()
}

/// Sends a signal to one thread of this process.
pub(super) fn signal_thread(tid: i32, signal: i32) -> Outcome {
    // SAFETY: no memory is involved.
    os("tgkill", unsafe { libc::syscall(libc::SYS_tgkill, std::process::id(), tid, signal) }).map(drop)
}

/// The bit of a signal in a mask.
pub(super) fn bit(signal: i32) -> u64 {
    1 << (signal - 1)
}

/// The calling thread's mask of blocked signals.
pub(super) fn blocked() -> u64 {
    // SAFETY: an all-zero set is valid and is written to.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::pthread_sigmask(libc::SIG_BLOCK, std::ptr::null(), &mut set);
        (&raw const set).cast::<u64>().read()
    }
}

/// Blocks or unblocks a signal in the calling thread.
pub(super) fn change_mask(how: i32, signal: i32) -> Outcome {
    Ok(farspace_victims::sys::change_mask(how, signal)?)
}

/// Takes a blocked signal of the calling thread's; false if none is pending.
pub(super) fn drain(signal: i32) -> bool {
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: both are valid for the call.
    unsafe {
        libc::sigtimedwait(&farspace_victims::sys::set_of(signal), std::ptr::null_mut(), &none) == signal
    }
}

/// A disposition that was replaced, and comes back by drop.
pub(super) struct Disposition {
    signal: i32,
    before: libc::sigaction,
}

impl Disposition {
    /// Sets a handler, SIG_IGN or SIG_DFL.
    pub(super) fn set(signal: i32, handler: libc::sighandler_t, flags: i32) -> Result<Self, Failed> {
        let before = Self::of(signal);
        farspace_victims::sys::on_signal(signal, handler, flags)?;
        Ok(Self { signal, before })
    }

    /// The disposition as it is.
    fn of(signal: i32) -> libc::sigaction {
        // SAFETY: an all-zero sigaction is valid and is written to.
        unsafe {
            let mut action = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut action);
            action
        }
    }

    /// Handler and flags as they are now, for comparisons.
    pub(super) fn now(&self) -> (libc::sighandler_t, i32) {
        let action = Self::of(self.signal);
        (action.sa_sigaction, action.sa_flags)
    }
}

impl Drop for Disposition {
    fn drop(&mut self) {
        // SAFETY: the action is the one that was there before.
        unsafe { libc::sigaction(self.signal, &self.before, std::ptr::null_mut()) };
    }
}

/// Waits until `done`.
pub(super) fn wait_until(what: &str, mut done: impl FnMut() -> Result<bool, Failed>) -> Outcome {
    const TIMEOUT: Duration = Duration::from_secs(20);
    let begin = Instant::now();
    while !done()? {
        if begin.elapsed() > pace::limit(TIMEOUT) {
            return Err(format!("{what}: not after {TIMEOUT:?}").into());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// The state letter of a process or thread (proc_pid_stat(5)).
pub(super) fn state(pid: i32) -> Result<char, Failed> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    Ok(stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next()).ok_or("no state")?)
}

/// A number in /proc/PID/status.
pub(super) fn status(pid: i32, key: &str) -> Result<u64, Failed> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    let number = line.and_then(|text| text.split_whitespace().next()?.parse().ok());
    Ok(number.ok_or_else(|| format!("no {key} of {pid}"))?)
}
