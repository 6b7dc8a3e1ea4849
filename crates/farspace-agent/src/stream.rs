//! Ranges into a pipe that the host empties.

use core::hint::spin_loop;
use core::sync::atomic::Ordering;

use farspace_abi::mailbox::Mailbox;

use crate::ranges::Ranges;
use crate::serve::{EAGAIN, EINTR};

pub(crate) const SPLICE_F_NONBLOCK: u64 = 2;
/// Bounds what a request may ask for.
const MAX_LOOKS: u64 = 1024;
/// Pauses between two looks at a full pipe: about 1 us.
const BETWEEN_LOOKS: u32 = 16;

/// One vmsplice(2) of all ranges: [`op::VMSPLICE`](farspace_abi::mailbox::op::VMSPLICE).
///
/// # Safety
///
/// This task must own the descriptor that the request names.
pub(crate) unsafe fn once(mailbox: &Mailbox) -> i64 {
    let fd = mailbox.body.args[0].load(Ordering::Relaxed);
    let flags = mailbox.body.args[1].load(Ordering::Relaxed);
    // SAFETY: as this function's.
    unsafe { Ranges::of(mailbox).vmsplice(fd, flags) }
}

/// Moves all ranges into the pipe, waiting for the reader each time it is full:
/// [`op::STREAM`](farspace_abi::mailbox::op::STREAM).
///
/// # Safety
///
/// As [`once`].
pub(crate) unsafe fn all(mailbox: &Mailbox) -> i64 {
    let fd = mailbox.body.args[0].load(Ordering::Relaxed);
    let may_look = mailbox.body.args[1].load(Ordering::Relaxed).min(MAX_LOOKS);
    let mut ranges = Ranges::of(mailbox);
    let mut moved = 0u64;
    mailbox.answer.moved.store(0, Ordering::Relaxed);
    let mut looks = may_look;
    while !ranges.are_out() {
        let flags = if looks > 0 { SPLICE_F_NONBLOCK } else { 0 };
        // SAFETY: as this function's.
        match unsafe { ranges.vmsplice(fd, flags) } {
            EAGAIN => {
                looks = looks.saturating_sub(1);
                for _ in 0..BETWEEN_LOOKS {
                    spin_loop();
                }
            }
            EINTR => {}
            done if done <= 0 => return done,
            done => {
                looks = may_look;
                moved = moved.wrapping_add(done as u64);
                mailbox.answer.moved.store(moved, Ordering::Relaxed);
            }
        }
    }
    0
}
