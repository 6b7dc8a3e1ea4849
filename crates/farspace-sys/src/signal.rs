//! The calling thread's signals: blocking, taking, and sleeping while some of them come through.
//!
//! Masks are numbers: bit n - 1 stands for signal n.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::time::Duration;

use rustix::io::Errno;

/// Bytes of the kernel's sigset_t.
const SET_BYTES: usize = 8;
/// The signals that the C library uses between threads (nptl(7)). They stay unblocked, as with pthread_sigmask(3).
const LIBRARY: u64 = 1 << 31 | 1 << 32;

/// All signals of the calling thread are blocked while this lives; then the former mask is restored.
#[derive(Debug)]
pub struct Blocked {
    before: u64,
    /// A mask belongs to one thread.
    _thread: std::marker::PhantomData<*const ()>,
}

impl Blocked {
    /// Blocks all signals, but for those that only the C library uses; unless they are in `mask`.
    pub fn all(mask: u64) -> Self {
        let before = set_mask(!(LIBRARY & !mask));
        Self { before, _thread: std::marker::PhantomData }
    }

    /// The mask before.
    pub fn before(&self) -> u64 {
        self.before
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        set_mask(self.before);
    }
}

fn set_mask(mask: u64) -> u64 {
    let mut before = 0u64;
    // SAFETY: two sets of 8 bytes that outlive the call. It can't fail with them.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            &raw const mask,
            &raw mut before,
            SET_BYTES,
        );
    }
    before
}

/// Takes a pending signal of the mask, if there is one: its `siginfo_t`, complete.
pub fn take(mask: u64) -> Option<[u8; 128]> {
    if mask == 0 {
        return None;
    }
    let mut info = [0u64; 16];
    let now = [0i64; 2];
    // SAFETY: a set, a siginfo_t of 128 bytes and a timespec, aligned, that outlive the call.
    let signal = unsafe {
        libc::syscall(libc::SYS_rt_sigtimedwait, &raw const mask, info.as_mut_ptr(), now.as_ptr(), SET_BYTES)
    };
    (signal > 0).then(|| {
        let mut bytes = [0; 128];
        for (place, word) in bytes.chunks_exact_mut(8).zip(info) {
            place.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    })
}

/// Sleeps until a descriptor is ready, with `blocked` as the mask meanwhile (ppoll(2)). How many are: 0 after the timeout.
///
/// # Errors
///
/// EINTR: a handler has run.
pub fn ppoll(fds: &mut [libc::pollfd], timeout: Option<Duration>, blocked: u64) -> Result<usize, Errno> {
    let mut time = timeout.map(|timeout| [timeout.as_secs() as i64, i64::from(timeout.subsec_nanos())]);
    let time = time.as_mut().map_or(ptr::null_mut(), |time| time.as_mut_ptr());
    // SAFETY: the slice, the timespec (which the kernel counts down) and the set outlive the call.
    let n = unsafe {
        libc::syscall(libc::SYS_ppoll, fds.as_mut_ptr(), fds.len(), time, &raw const blocked, SET_BYTES)
    };
    if n < 0 { Err(last()) } else { Ok(n as usize) }
}

/// Sends a signal by pidfd, any number.
///
/// # Errors
///
/// ESRCH: it has ended; EPERM.
pub fn send(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    // SAFETY: no memory is involved.
    let done = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, 0, 0) };
    if done < 0 { Err(last()) } else { Ok(()) }
}

/// Readable while a signal of its mask is pending for the thread that asks (signalfd(2)).
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
    mask: u64,
}

impl SignalFd {
    /// Makes one.
    ///
    /// # Errors
    ///
    /// EMFILE, ENOMEM.
    pub fn new(mask: u64) -> Result<Self, Errno> {
        let fd = signalfd(-1, mask)?;
        // SAFETY: a new descriptor that nobody else owns.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(fd) }, mask })
    }

    /// Changes the mask.
    ///
    /// # Errors
    ///
    /// None that is known.
    pub fn set(&mut self, mask: u64) -> Result<(), Errno> {
        if self.mask != mask {
            signalfd(self.fd.as_raw_fd(), mask)?;
            self.mask = mask;
        }
        Ok(())
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn signalfd(fd: i32, mask: u64) -> Result<i32, Errno> {
    let flags = libc::SFD_CLOEXEC | libc::SFD_NONBLOCK;
    // SAFETY: a set that outlives the call; -1 or a signalfd.
    let fd = unsafe { libc::syscall(libc::SYS_signalfd4, fd, &raw const mask, SET_BYTES, flags) };
    if fd < 0 { Err(last()) } else { Ok(fd as i32) }
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}
