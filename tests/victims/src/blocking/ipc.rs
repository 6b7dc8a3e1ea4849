//! System V IPC: never restarted after a signal handler.

use super::{Call, Timing, must_fail, must_return};
use crate::sys;

/// Removed by whichever process lives longest; a second removal fails and doesn't matter.
struct Semaphore(i32);

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: no memory is involved.
        unsafe { libc::semctl(self.0, 0, libc::IPC_RMID) };
    }
}

impl Semaphore {
    fn new() -> Result<Self, String> {
        // SAFETY: no memory is involved.
        sys::os("semget", unsafe { libc::semget(libc::IPC_PRIVATE, 1, 0o600) }).map(|id| Self(id as i32))
    }

    fn change(&self, by: i16, timeout: Option<libc::timespec>) -> i64 {
        let mut op = libc::sembuf { sem_num: 0, sem_op: by, sem_flg: 0 };
        let time = timeout.as_ref().map_or(std::ptr::null(), |t| t as *const libc::timespec);
        // SAFETY: one valid operation and a valid or absent timeout.
        unsafe { libc::syscall(libc::SYS_semtimedop, self.0, &raw mut op, 1, time) }
    }
}

pub(super) fn semop(_: Timing) -> Result<Call, String> {
    let semaphore = std::rc::Rc::new(Semaphore::new()?);
    let other = std::rc::Rc::clone(&semaphore);
    let block = move || must_return("semop", semaphore.change(-1, None), 0);
    Call::new(block, move |_| must_return("semop", other.change(1, None), 0))
}

pub(super) fn semop_timeout(timing: Timing) -> Result<Call, String> {
    let semaphore = Semaphore::new()?;
    Call::timed(timing, move || {
        let result = semaphore.change(-1, Some(sys::timespec(timing.duration)));
        must_fail("semtimedop", result, libc::EAGAIN)
    })
}

#[repr(C)]
struct Message {
    kind: i64,
    text: [u8; 8],
}

/// Removed with the last process, as a semaphore is.
struct Queue(i32);

impl Drop for Queue {
    fn drop(&mut self) {
        // SAFETY: IPC_RMID takes no buffer.
        unsafe { libc::msgctl(self.0, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

pub(super) fn msgrcv(_: Timing) -> Result<Call, String> {
    // SAFETY: no memory is involved.
    let id = sys::os("msgget", unsafe { libc::msgget(libc::IPC_PRIVATE, 0o600) })? as i32;
    let queue = std::rc::Rc::new(Queue(id));
    let sender = std::rc::Rc::clone(&queue);
    let block = move || {
        let mut message = Message { kind: 0, text: [0; 8] };
        // SAFETY: the message has room for the eight bytes of text asked for.
        let n = unsafe { libc::msgrcv(queue.0, (&raw mut message).cast(), 8, 0, 0) };
        must_return("msgrcv", n as i64, 8)?;
        if &message.text == b"received" { Ok(()) } else { Err(format!("msgrcv got {:?}", message.text)) }
    };
    Call::new(block, move |_| {
        let message = Message { kind: 1, text: *b"received" };
        // SAFETY: the message has the eight bytes of text.
        must_return("msgsnd", unsafe { libc::msgsnd(sender.0, (&raw const message).cast(), 8, 0) }, 0)
    })
}
