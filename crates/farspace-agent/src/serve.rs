//! The request loop, shared by the agent and the snapshot child.
//!
//! Invariants: SAFETY.md, 8 and 11.

use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::Ordering;

use farspace_abi::boot::AGENT_SOCKET_FD;
use farspace_abi::mailbox::{MAX_IOV, Mailbox, op};

use crate::arch::nr;
use crate::arch::syscall::syscall;
use crate::guests::Guests;

const EAGAIN: i64 = -11;
const EINTR: i64 = -4;
const ENOSYS: i64 = -38;
const POLLIN: i16 = 1;
const SPLICE_F_NONBLOCK: u64 = 2;
/// Bounds what a request may ask for.
const MAX_LOOKS: u64 = 1024;
/// Pauses between two looks at a full pipe: about 1 us.
const BETWEEN_LOOKS: u32 = 16;
const PR_SET_PDEATHSIG: u64 = 1;
const SIGKILL: u64 = 9;

/// Descriptors of one channel, in the agent's table.
#[derive(Clone, Copy)]
pub(crate) struct Fds {
    /// eventfd that the host writes to.
    pub(crate) ring: i32,
    /// eventfd that the host sleeps on.
    pub(crate) answer: i32,
    /// pidfd of the target.
    pub(crate) target: i32,
}

/// A mailbox and what wakes its two sides.
pub(crate) struct Channel {
    pub(crate) mailbox: *const Mailbox,
    pub(crate) fds: Fds,
}

/// Why a request loop ended.
#[derive(PartialEq, Eq)]
pub(crate) enum End {
    /// The host asked for it.
    Quit,
    /// The host or the target is gone.
    Alone,
    /// This is the snapshot child, fresh from the fork.
    Child,
}

/// Serves the agent's mailbox until the host says quit or is gone, or the target is gone.
///
/// # Safety
///
/// The mailboxes must stay mapped, and this task must own the descriptors.
pub(crate) unsafe fn agent(own: &Channel, snapshot: &Channel, guests: &mut Guests) -> End {
    // SAFETY: as this function's.
    unsafe {
        let end = serve(own, Some(guests));
        if end == End::Child {
            // The tasks are its parent's, and the addresses aren't in its copy of the memory.
            serve(snapshot, None);
            syscall(nr::EXIT_GROUP, [0; 6]);
        }
        end
    }
}

/// Sleeps until the host's socket or the target's life ends.
///
/// # Safety
///
/// This task must own the descriptors.
pub(crate) unsafe fn wait_alone(fds: &Fds) {
    // SAFETY: as this function's.
    unsafe { while wait(fds, -1) != Wake::Alone {} }
}

unsafe fn serve(channel: &Channel, mut guests: Option<&mut Guests>) -> End {
    // SAFETY: the mailbox is mapped as long as the task lives (caller's promise); all its fields are atomics.
    unsafe {
        let mailbox = &*channel.mailbox;
        let mut seen = 0;
        let mut spins = 0;
        loop {
            let request = match next_request(channel, seen, &mut spins) {
                Some(request) => request,
                None => return End::Alone,
            };
            seen = request;
            let op = mailbox.body.op.load(Ordering::Relaxed);
            let arg = |i: usize| mailbox.body.args[i].load(Ordering::Relaxed);
            let result = match op {
                op::PING => 0,
                op::QUIT => return End::Quit,
                op::SYSCALL => syscall(arg(0), [arg(1), arg(2), arg(3), arg(4), arg(5), arg(6)]),
                op::VMSPLICE => vmsplice_once(mailbox),
                op::STREAM => stream(mailbox),
                op::RECEIVE_FD => {
                    let mut fd = [-1];
                    match receive_fds(&mut fd) {
                        1 => ptr::read_volatile(fd.as_ptr()) as i64,
                        error => error.min(-1),
                    }
                }
                op::FORK => match fork() {
                    0 => return End::Child,
                    result => result,
                },
                op::RESERVE | op::SPAWN | op::REAP => match &mut guests {
                    Some(guests) if op == op::RESERVE => guests.reserve(arg(0)),
                    Some(guests) if op == op::SPAWN => guests.spawn(arg(0), arg(1), arg(2)),
                    Some(guests) => guests.reap(arg(0)),
                    None => ENOSYS,
                },
                _ => ENOSYS,
            };
            mailbox.answer.result.store(result, Ordering::Relaxed);
            mailbox.answer.reply.store(request, Ordering::SeqCst);
            if mailbox.doorbell.host_asleep.load(Ordering::SeqCst) != 0 {
                ring(channel.fds.answer);
            }
        }
    }
}

/// Waits for a request other than `seen`: looks for a while, then sleeps. Looks longer where looking paid off.
unsafe fn next_request(channel: &Channel, seen: u32, spins: &mut u32) -> Option<u32> {
    // SAFETY: as `serve`.
    unsafe {
        let mailbox = &*channel.mailbox;
        let limit = mailbox.doorbell.spin_limit.load(Ordering::Relaxed);
        for _ in 0..(*spins).min(limit) {
            let request = mailbox.doorbell.request.load(Ordering::Acquire);
            if request != seen {
                *spins = (*spins * 2).min(limit);
                return Some(request);
            }
            spin_loop();
        }
        *spins = (*spins / 2).max(limit.min(64));
        loop {
            mailbox.answer.agent_asleep.store(1, Ordering::SeqCst);
            let request = mailbox.doorbell.request.load(Ordering::SeqCst);
            if request != seen {
                mailbox.answer.agent_asleep.store(0, Ordering::Relaxed);
                return Some(request);
            }
            if wait(&channel.fds, -1) == Wake::Alone {
                return None;
            }
        }
    }
}

#[derive(PartialEq, Eq)]
enum Wake {
    Rung,
    Alone,
}

/// Sleeps until the doorbell rings, or the host's socket or the target's life ends.
unsafe fn wait(fds: &Fds, timeout_ms: i64) -> Wake {
    // SAFETY: the array and the counter outlive the calls.
    unsafe {
        // POLLHUP and POLLERR are always reported (poll(2)). A message in the socket is no wake-up.
        let mut poll =
            [poll_entry(AGENT_SOCKET_FD, 0), poll_entry(fds.ring, POLLIN), poll_entry(fds.target, POLLIN)];
        let n = syscall(nr::POLL, [poll.as_mut_ptr() as u64, 3, timeout_ms as u64, 0, 0, 0]);
        let poll = ptr::read_volatile(&raw const poll);
        if n < 0 && n != EINTR || poll[0] >> 48 != 0 || poll[2] >> 48 != 0 {
            return Wake::Alone;
        }
        if poll[1] >> 48 != 0 {
            let mut count = 0u64;
            syscall(nr::READ, [fds.ring as u64, &raw mut count as u64, 8, 0, 0, 0]);
        }
        Wake::Rung
    }
}

/// `struct pollfd` as one number: descriptor, events << 32, revents << 48 (little endian).
fn poll_entry(fd: i32, events: i16) -> u64 {
    u64::from(fd as u32) | u64::from(events as u16) << 32
}

/// True if the descriptor becomes readable in time.
pub(crate) unsafe fn readable(fd: i32, timeout_ms: i32) -> bool {
    let mut poll = [poll_entry(fd, POLLIN)];
    // SAFETY: the entry outlives the call.
    unsafe { syscall(nr::POLL, [poll.as_mut_ptr() as u64, 1, timeout_ms as u64, 0, 0, 0]) == 1 }
}

/// Rings a doorbell.
///
/// # Safety
///
/// This task must own the descriptor.
pub(crate) unsafe fn ring(fd: i32) {
    let one = 1u64;
    // SAFETY: the number outlives the call; the descriptor is a non-blocking eventfd.
    unsafe {
        syscall(nr::WRITE, [fd as u64, &raw const one as u64, 8, 0, 0, 0]);
    }
}

unsafe fn vmsplice_once(mailbox: &Mailbox) -> i64 {
    let fd = mailbox.body.args[0].load(Ordering::Relaxed);
    let flags = mailbox.body.args[1].load(Ordering::Relaxed);
    let count = u64::from(mailbox.body.nr_iov.load(Ordering::Relaxed)).min(MAX_IOV as u64);
    // SAFETY: vmsplice(2) into a pipe only reads the ranges, and checks them.
    unsafe { syscall(nr::VMSPLICE, [fd, mailbox.iov.as_ptr() as u64, count, flags, 0, 0]) }
}

/// Moves all ranges into the pipe, waiting for the reader each time it is full.
unsafe fn stream(mailbox: &Mailbox) -> i64 {
    let fd = mailbox.body.args[0].load(Ordering::Relaxed);
    let count = u64::from(mailbox.body.nr_iov.load(Ordering::Relaxed)).min(MAX_IOV as u64);
    let mut moved = 0u64;
    mailbox.answer.moved.store(0, Ordering::Relaxed);
    let mut index = 0u64;
    let may_look = mailbox.body.args[1].load(Ordering::Relaxed).min(MAX_LOOKS);
    let mut looks = may_look;
    while index < count {
        let flags = if looks > 0 { SPLICE_F_NONBLOCK } else { 0 };
        // SAFETY: `index < count <= MAX_IOV`; the call only reads the ranges, and checks them.
        let done = unsafe {
            let first = mailbox.iov.as_ptr().add(index as usize);
            syscall(nr::VMSPLICE, [fd, first as u64, count - index, flags, 0, 0])
        };
        if done == EAGAIN {
            looks = looks.saturating_sub(1);
            for _ in 0..BETWEEN_LOOKS {
                spin_loop();
            }
            continue;
        }
        if done == EINTR {
            continue;
        }
        if done <= 0 {
            return done;
        }
        looks = may_look;
        moved = moved.wrapping_add(done as u64);
        mailbox.answer.moved.store(moved, Ordering::Relaxed);
        let mut left = done as u64;
        // Step over what is done; the last, partly done range is shortened in place.
        while left > 0 && index < count {
            // SAFETY: `index < count <= MAX_IOV`.
            let [base, len] = unsafe { &*mailbox.iov.as_ptr().add(index as usize) };
            let length = len.load(Ordering::Relaxed);
            if left < length {
                base.store(base.load(Ordering::Relaxed).wrapping_add(left), Ordering::Relaxed);
                len.store(length - left, Ordering::Relaxed);
                break;
            }
            left -= length;
            index += 1;
        }
    }
    0
}

/// Makes a child with a copy-on-write copy of the address space; 0 in the child.
unsafe fn fork() -> i64 {
    // SAFETY: a plain fork: no shared memory, no shared table, exit signal 0. The child runs this same code on
    // its copy of the stack.
    unsafe {
        let pid = syscall(nr::CLONE, [0; 6]);
        if pid == 0 {
            syscall(nr::PRCTL, [PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0]);
        }
        pid
    }
}

/// Receives exactly `fds.len()` descriptors; their number or `-errno`.
pub(crate) unsafe fn receive_fds(fds: &mut [i32]) -> i64 {
    /// `struct msghdr` (recvmsg(2)).
    #[repr(C)]
    struct Message {
        name: u64,
        name_len: u64,
        iov: u64,
        iov_len: u64,
        control: u64,
        control_len: u64,
        flags: u64,
    }
    /// Room for `struct cmsghdr` and eight descriptors.
    #[repr(C, align(8))]
    struct Control {
        len: u64,
        level_and_type: u64,
        fds: [i32; 8],
    }
    /// SOL_SOCKET, SCM_RIGHTS.
    const RIGHTS: u64 = 1 | 1 << 32;
    const MSG_CMSG_CLOEXEC: u64 = 0x4000_0000;

    let mut byte = 0u8;
    let iov = [&raw mut byte as u64, 1];
    let mut control = Control { len: 0, level_and_type: 0, fds: [-1; 8] };
    let mut message = Message {
        name: 0,
        name_len: 0,
        iov: iov.as_ptr() as u64,
        iov_len: 1,
        control: &raw mut control as u64,
        control_len: size_of::<Control>() as u64,
        flags: 0,
    };
    // SAFETY: every address points to a local that outlives the call.
    unsafe {
        let received = syscall(
            nr::RECVMSG,
            [AGENT_SOCKET_FD as u64, &raw mut message as u64, MSG_CMSG_CLOEXEC, 0, 0, 0],
        );
        if received < 1 {
            return received.min(-1);
        }
        let control = ptr::read_volatile(&raw const control);
        let wanted = fds.len();
        if control.level_and_type != RIGHTS || control.len != 16 + 4 * wanted as u64 || wanted > 8 {
            return -71; // EPROTO
        }
        let mut i = 0;
        while i < wanted {
            ptr::write(fds.as_mut_ptr().add(i), ptr::read(control.fds.as_ptr().add(i)));
            i += 1;
        }
        wanted as i64
    }
}
