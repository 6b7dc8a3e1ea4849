//! The child process that a baseline talks to.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use std::{mem, ptr};

use farspace_sys::pidfd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::Pid;

use super::ANSWER;
use super::board::{Board, SharedBoard, following};
use super::cpus::Cpus;
use crate::{Error, Result};

/// A forked child with a [`Board`]; killed and reaped on drop. It dies with the thread that started it.
#[derive(Debug)]
pub(super) struct Peer {
    pid: Pid,
    pidfd: Arc<OwnedFd>,
    board: Arc<SharedBoard>,
    /// The number of the last request on the bell.
    rung: u32,
    watcher: Option<JoinHandle<()>>,
}

impl Peer {
    /// Forks a child that runs `body` with every signal blocked, and ends when `body` returns.
    ///
    /// # Errors
    ///
    /// What fork, pidfd_open (ENOSYS before Linux 5.3) or sched_setaffinity fail with.
    ///
    /// # Safety
    ///
    /// `body` makes system calls and uses memory that is there, and nothing else: other threads of this process may
    /// have held any lock at the fork, the allocator's for one (fork(2), signal-safety(7)).
    pub(super) unsafe fn start(cpus: Cpus, body: fn(&Board)) -> Result<Self> {
        let board = Arc::new(SharedBoard::new()?);
        let parent = rustix::process::getpid();
        let before = block_signals();
        // SAFETY: the child runs `run`, which by the caller's promise does only what is safe there.
        let raw = unsafe { libc::fork() };
        if raw == 0 {
            run(parent, &board, body);
        }
        let failure = if raw < 0 { last_errno() } else { Errno::AGAIN };
        restore_signals(&before);
        let pid = Pid::from_raw(raw.max(0)).ok_or(Error::new("fork", None, failure))?;
        let pidfd = match pidfd::open(raw) {
            Ok(pidfd) => Arc::new(pidfd),
            Err(error) => {
                end(pid);
                return Err(error.into());
            }
        };
        // The thread that calls may end at once: its end counts only once the child has asked for it.
        while board.is_bound.load(Ordering::Acquire) == 0 && !pidfd::wait_end(pidfd.as_fd(), Duration::ZERO) {
            thread::yield_now();
        }
        let mut this = Self { pid, pidfd, board, rung: 0, watcher: None };
        cpus.pin_peer(pid.as_raw_nonzero().get())?;
        let (pidfd, board) = (Arc::clone(&this.pidfd), Arc::clone(&this.board));
        let spawned = thread::Builder::new().name("baseline".into()).spawn(move || watch(&pidfd, &board));
        this.watcher = Some(spawned.map_err(|_| Error::new("start a thread", None, Errno::AGAIN))?);
        Ok(this)
    }

    /// Its pid.
    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// A pidfd of it.
    pub(super) fn pidfd(&self) -> &OwnedFd {
        &self.pidfd
    }

    /// What is shared with it.
    pub(super) fn board(&self) -> &Board {
        &self.board
    }

    /// Rings the bell and sleeps until the child has answered; its value, if that isn't an error number.
    ///
    /// # Errors
    ///
    /// ESRCH: it has ended. Others are the child's, in `operation`.
    pub(super) fn ring(&mut self, operation: &'static str) -> Result<i64> {
        self.rung = following(self.rung);
        self.board.bell.ask(self.rung)?;
        match self.board.value.load(Ordering::Relaxed) {
            value @ 0.. => Ok(value),
            value => Err(Error::new(operation, None, Errno::from_raw_os_error(-value as i32))),
        }
    }

    /// Rings the bell without waiting for an answer.
    pub(super) fn ring_and_go(&mut self) {
        self.rung = following(self.rung);
        self.board.bell.post(self.rung);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        pidfd::kill(self.pidfd.as_fd());
        if let Some(watcher) = self.watcher.take() {
            // It doesn't panic.
            let _ = watcher.join();
        }
        end(self.pid);
    }
}

/// In the child: calls getpid(2) for ever, as long as somebody answers it with [`ANSWER`].
pub(super) fn call_for_ever() {
    while getpid() == ANSWER {}
}

/// The system call, made anew each time.
pub(super) fn getpid() -> i64 {
    // SAFETY: no arguments.
    unsafe { libc::syscall(libc::SYS_getpid) }
}

/// What errno holds after a call that has failed.
pub(super) fn last_errno() -> Errno {
    Errno::from_raw_os_error(std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO))
}

/// The child's life.
fn run(parent: Pid, board: &Board, body: fn(&Board)) -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // If the parent has ended before that, the child has another one by now.
    if rustix::process::getppid() == Some(parent) {
        board.is_bound.store(1, Ordering::Release);
        body(board);
    }
    // SAFETY: ends the child without running what the parent has registered for its own exit.
    unsafe { libc::_exit(1) }
}

/// Waits for the child's end and passes it on to whoever waits for an answer. Poll, not waitid: stops of a traced
/// child would wake that (kernel/signal.c, do_notify_parent_cldstop).
fn watch(pidfd: &OwnedFd, board: &Board) {
    while poll(&mut [PollFd::new(pidfd, PollFlags::IN)], None) == Err(Errno::INTR) {}
    board.line.end();
    board.bell.end();
}

/// Kills the child and reaps it, past any stops that it may still have to report as a tracee.
fn end(pid: Pid) {
    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    let mut status = 0;
    loop {
        // SAFETY: `status` outlives the call.
        let got = unsafe { libc::waitpid(pid.as_raw_nonzero().get(), &raw mut status, libc::__WALL) };
        let again = if got < 0 { last_errno() == Errno::INTR } else { libc::WIFSTOPPED(status) };
        if !again {
            return;
        }
    }
}

/// Blocks every signal of the calling thread; what was blocked before.
fn block_signals() -> libc::sigset_t {
    // SAFETY: plain old data, filled below; all pointers are to live locals.
    unsafe {
        let (mut all, mut before) = (mem::zeroed(), mem::zeroed());
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        before
    }
}

/// Blocks exactly these.
fn restore_signals(before: &libc::sigset_t) {
    // SAFETY: `before` is a set that pthread_sigmask has filled.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, ptr::null_mut()) };
}
