//! Seccomp user notification: a supervisor answers the calls that a filter picks (seccomp_unotify(2)).

use std::mem;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farspace_sys::pidfd;
use rustix::io::Errno;

use super::board::{Board, ended};
use super::peer::{Peer, call_for_ever, last_errno};
use super::{ANSWER, Cpus, Rounds};
use crate::{Error, Result};

/// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (include/uapi/linux/seccomp.h, Linux 6.6): who wakes the other will sleep next,
/// so the other is to run here.
const SYNC_WAKE_UP: libc::c_ulong = 1;
/// Where `struct seccomp_data` has the number of the call.
const NR_OFFSET: u32 = mem::offset_of!(libc::seccomp_data, nr) as u32;

/// A child with a filter that calls getpid(2) for ever; between rounds a call of it waits for its answer.
#[derive(Debug)]
pub struct UserNotif {
    // Dropped first: the child's calls then fail instead of waiting, and it ends.
    listener: OwnedFd,
    peer: Peer,
    cpus: Cpus,
}

impl UserNotif {
    /// Starts the child and takes the listener from it. On one CPU both sides say that they hand over to each other
    /// (SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP), where the kernel can.
    ///
    /// # Errors
    ///
    /// EINVAL, ENOSYS: no user notification here (Linux 5.0, CONFIG_SECCOMP_FILTER); EBUSY: this process has a
    /// listener already; EPERM: the descriptor can't be taken from the child; EAGAIN, ENOMEM: no more processes.
    pub fn start(cpus: Cpus) -> Result<Self> {
        // SAFETY: `serve` only accesses the board and makes system calls.
        let mut peer = unsafe { Peer::start(cpus, serve)? };
        let fd = peer.ring("install a seccomp filter")?;
        let listener = pidfd::take_fd(peer.pidfd().as_fd(), peer.pid(), fd as i32)?;
        if cpus.is_one() {
            // SAFETY: a number, no pointer. Without it (EINVAL) the row is what this kernel can do.
            unsafe { libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SET_FLAGS, SYNC_WAKE_UP) };
        }
        peer.ring_and_go();
        Ok(Self { listener, peer, cpus })
    }

    /// Waits for a call; its id. ENOENT: the child was killed; kernels before 6.11 wait for ever then.
    fn receive(&self) -> Result<u64> {
        loop {
            // SAFETY: plain old data, for which zeros are valid and asked for.
            let mut call: libc::seccomp_notif = unsafe { mem::zeroed() };
            // SAFETY: `call` is of the type that the request fills, and outlives it.
            match unsafe {
                libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, &raw mut call)
            } {
                0 => return Ok(call.id),
                _ if last_errno() == Errno::INTR => {}
                _ if last_errno() == Errno::NOENT => return Err(ended()),
                _ => return Err(Error::new("receive a notification", self.peer.pid(), last_errno())),
            }
        }
    }

    fn send(&self, id: u64) -> Result<()> {
        let mut answer = libc::seccomp_notif_resp { id, val: ANSWER, error: 0, flags: 0 };
        // SAFETY: `answer` is of the type that the request reads, and outlives it.
        match unsafe {
            libc::ioctl(self.listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, &raw mut answer)
        } {
            0 => Ok(()),
            _ => Err(Error::new("answer a notification", self.peer.pid(), last_errno())),
        }
    }
}

impl Rounds for UserNotif {
    fn round(&mut self, nr_calls: u32) -> Result<Duration> {
        let _pinned = self.cpus.pin_host()?;
        let start = Instant::now();
        for _ in 0..nr_calls {
            let id = self.receive()?;
            self.send(id)?;
        }
        Ok(start.elapsed())
    }
}

/// The child: one bell to install the filter, one to begin.
fn serve(board: &Board) {
    let rung = board.bell.next(0);
    let fd = install();
    board.value.store(if fd < 0 { -i64::from(last_errno().raw_os_error()) } else { fd }, Ordering::Relaxed);
    board.bell.answer(rung);
    board.bell.next(rung);
    // SAFETY: nothing else in this child uses it; the host has its own.
    unsafe { libc::close(fd as libc::c_int) };
    call_for_ever();
}

/// Installs a filter that has getpid(2) notified and lets the rest pass; the listener's descriptor or -1.
fn install() -> i64 {
    let step = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    let mut filter = [
        step((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0, 0, NR_OFFSET),
        step((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, libc::SYS_getpid as u32),
        step((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        step((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    let (mode, flags) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
    // SAFETY: `program` and the steps that it points to outlive the call, which copies them. Without privilege a
    // filter needs PR_SET_NO_NEW_PRIVS first (seccomp(2)).
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::syscall(libc::SYS_seccomp, mode, flags, &raw const program)
    }
}
