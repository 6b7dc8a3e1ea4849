//! Ranges into a socket, without a hand-off to the host.
//!
//! The pages go through a pipe that only this task uses, so at each moment it is either being filled or being emptied.
//! Nothing here waits but [`serve::wait`], which sees the end of the host and of the target, and a request that is given
//! up.
//!
//! Invariants: SAFETY.md, 8 and 13.

use core::sync::atomic::Ordering;

use farspace_abi::mailbox::{Mailbox, side};

use crate::arch::nr;
use crate::arch::syscall::syscall;
use crate::ranges::Ranges;
use crate::serve::{self, Channel, EAGAIN, EINTR, Patience, Wake};
use crate::stream::SPLICE_F_NONBLOCK;

const SPLICE_F_MOVE: u64 = 1;
const SPLICE_F_MORE: u64 = 4;
const ESRCH: i64 = -3;
const EPIPE: i64 = -32;
const ECANCELED: i64 = -125;
/// After so many bytes this task looks whether it is alone, however fast the receiver is.
const BETWEEN_LOOKS: u64 = 4 << 20;

/// Moves all ranges into the socket: [`op::SEND`](farspace_abi::mailbox::op::SEND).
///
/// # Safety
///
/// This task must own the descriptors, and the mailbox must stay mapped.
pub(crate) unsafe fn all(channel: &Channel, request: u32) -> i64 {
    // SAFETY: the mailbox is mapped (caller's promise); its fields are atomics.
    let mailbox = unsafe { &*channel.mailbox };
    let arg = |i: usize| mailbox.body.args[i].load(Ordering::Relaxed);
    let (pipe_in, pipe_out, socket, pipe_bytes) = (arg(0), arg(1), arg(2), arg(3));
    mailbox.answer.side.store(side::MEMORY, Ordering::Relaxed);
    mailbox.answer.moved.store(0, Ordering::Relaxed);
    let mut ranges = Ranges::of(mailbox);
    let (mut moved, mut in_pipe, mut looked_at) = (0u64, 0u64, 0u64);
    loop {
        if mailbox.doorbell.cancel.load(Ordering::Acquire) == request {
            return ECANCELED;
        }
        if in_pipe == 0 {
            if ranges.are_out() {
                return 0;
            }
            ranges.prefetch(pipe_bytes);
            // SAFETY: as this function's.
            match unsafe { ranges.vmsplice(pipe_in, SPLICE_F_NONBLOCK) } {
                EINTR => continue,
                done if done <= 0 => return done,
                done => in_pipe = done as u64,
            }
        }
        // Without it the last bytes would wait for more.
        let more = if ranges.are_out() { 0 } else { SPLICE_F_MORE };
        let flags = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | more;
        // SAFETY: a splice between descriptors of this task's touches no memory.
        let done = unsafe { syscall(nr::SPLICE, [pipe_out, 0, socket, 0, in_pipe, flags]) };
        let patience = match done {
            EINTR => continue,
            EAGAIN => Patience::UntilWritable(socket as i32),
            done if done <= 0 => return fail(mailbox, if done == 0 { EPIPE } else { done }),
            done => {
                in_pipe = in_pipe.saturating_sub(done as u64);
                moved = moved.wrapping_add(done as u64);
                mailbox.answer.moved.store(moved, Ordering::Relaxed);
                if moved.wrapping_sub(looked_at) < BETWEEN_LOOKS {
                    continue;
                }
                looked_at = moved;
                Patience::None
            }
        };
        // SAFETY: as this function's.
        if unsafe { serve::wait(&channel.fds, patience) } == Wake::Alone {
            return ESRCH;
        }
    }
}

/// An error of the socket, not of the memory.
fn fail(mailbox: &Mailbox, error: i64) -> i64 {
    mailbox.answer.side.store(side::SINK, Ordering::Relaxed);
    error
}
