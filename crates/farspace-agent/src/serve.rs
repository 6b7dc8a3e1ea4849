//! The request loop, shared by the agent and the snapshot child.
//!
//! Invariants: SAFETY.md, 8 and 13.

use core::hint::spin_loop;
use core::ptr;
use core::sync::atomic::Ordering;

use farspace_abi::boot::{AGENT_SOCKET_FD, BootContext};
use farspace_abi::mailbox::{Mailbox, op, op_and_nr_iov};

use crate::arch::nr;
use crate::arch::syscall::syscall;
use crate::guests::Guests;
use crate::life::Home;
use crate::{life, send, stream};

pub(crate) const EAGAIN: i64 = -11;
pub(crate) const EINTR: i64 = -4;
const ENOSYS: i64 = -38;
const POLLIN: i16 = 1;
const POLLOUT: i16 = 4;
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
    /// The host asked for it, by the request of this number, which is to be answered yet.
    Quit(u32),
    /// The host or the target is gone.
    Alone,
    /// This is the snapshot child, fresh from the fork.
    Child,
}

/// Serves the agent's mailbox until the host says quit or is gone, or the target is gone.
///
/// # Safety
///
/// The mailboxes and the context must stay mapped, and this task must own the descriptors.
pub(crate) unsafe fn agent(
    own: &Channel,
    snapshot: &Channel,
    guests: &mut Guests,
    context: *const BootContext,
    home: Home,
) -> End {
    // SAFETY: as this function's.
    unsafe {
        let end = serve(own, Some((guests, context, home)));
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
    unsafe { while wait(fds, Patience::Endless) != Wake::Alone {} }
}

unsafe fn serve(channel: &Channel, mut own: Option<(&mut Guests, *const BootContext, Home)>) -> End {
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
            let (op, _) = op_and_nr_iov(mailbox.body.what.load(Ordering::Relaxed));
            let arg = |i: usize| mailbox.body.args[i].load(Ordering::Relaxed);
            let result = match op {
                op::PING => 0,
                op::QUIT => return End::Quit(request),
                op::SYSCALL => {
                    let result = syscall(arg(0), [arg(1), arg(2), arg(3), arg(4), arg(5), arg(6)]);
                    let is_home = own.as_ref().is_some_and(|(_, context, _)| life::is_home(*context));
                    mailbox.answer.is_home.store(u32::from(is_home), Ordering::Relaxed);
                    result
                }
                op::VMSPLICE => stream::once(mailbox),
                op::STREAM => stream::all(mailbox),
                op::SEND => send::all(channel, request),
                op::RECEIVE_FD => {
                    let mut fd = [-1];
                    match receive_fds(&mut fd) {
                        1 => ptr::read_volatile(fd.as_ptr()) as i64,
                        error => error.min(-1),
                    }
                }
                op::FORK => match &own {
                    Some((_, _, home)) => match fork(*home) {
                        0 => return End::Child,
                        result => result,
                    },
                    None => ENOSYS,
                },
                op::RESERVE | op::SPAWN | op::REAP => match &mut own {
                    Some((guests, ..)) if op == op::RESERVE => guests.reserve(arg(0), arg(1)),
                    Some((guests, ..)) if op == op::SPAWN => guests.spawn(arg(0), arg(1), arg(2)),
                    Some((guests, ..)) => guests.reap(arg(0)),
                    None => ENOSYS,
                },
                _ => ENOSYS,
            };
            answer(channel, request, result);
        }
    }
}

/// Answers a request.
///
/// # Safety
///
/// The mailbox must be mapped, and this task must own the descriptors.
pub(crate) unsafe fn answer(channel: &Channel, request: u32, result: i64) {
    // SAFETY: as this function's; all its fields are atomics.
    unsafe {
        let mailbox = &*channel.mailbox;
        mailbox.answer.result.store(result, Ordering::Relaxed);
        mailbox.answer.reply.store(request, Ordering::SeqCst);
        if mailbox.doorbell.host_asleep.load(Ordering::SeqCst) != 0 {
            ring(channel.fds.answer);
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
            let request = mailbox.body.request.load(Ordering::Acquire);
            if request != seen {
                *spins = (*spins * 2).min(limit);
                return Some(request);
            }
            spin_loop();
        }
        *spins = (*spins / 2).max(limit.min(64));
        loop {
            mailbox.answer.agent_asleep.store(1, Ordering::SeqCst);
            let request = mailbox.body.request.load(Ordering::SeqCst);
            if request != seen {
                mailbox.answer.agent_asleep.store(0, Ordering::Relaxed);
                return Some(request);
            }
            if wait(&channel.fds, Patience::Endless) == Wake::Alone {
                return None;
            }
        }
    }
}

/// Why a wait ended.
#[derive(PartialEq, Eq)]
pub(crate) enum Wake {
    /// The doorbell rang, or what else was waited for is there.
    Rung,
    /// The host or the target is gone.
    Alone,
}

/// How long a wait may last.
#[derive(Clone, Copy)]
pub(crate) enum Patience {
    /// Only a look.
    None,
    /// Until this descriptor takes more, too.
    UntilWritable(i32),
    /// Until the doorbell rings, or the end.
    Endless,
}

/// Sleeps until the doorbell rings, or the host's socket or the target's life ends.
///
/// # Safety
///
/// This task must own the descriptors.
pub(crate) unsafe fn wait(fds: &Fds, patience: Patience) -> Wake {
    let (timeout_ms, sink) = match patience {
        Patience::None => (0, -1),
        Patience::UntilWritable(fd) => (-1i64, fd),
        Patience::Endless => (-1, -1),
    };
    // SAFETY: the array and the counter outlive the calls.
    unsafe {
        // POLLHUP and POLLERR are always reported (poll(2)). A message in the socket is no wake-up; a negative descriptor
        // is left out.
        let mut poll = [
            poll_entry(AGENT_SOCKET_FD, 0),
            poll_entry(fds.ring, POLLIN),
            poll_entry(fds.target, POLLIN),
            poll_entry(sink, POLLOUT),
        ];
        let n = syscall(nr::POLL, [poll.as_mut_ptr() as u64, 4, timeout_ms as u64, 0, 0, 0]);
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

/// Makes a child with a copy-on-write copy of the address space; 0 in the child.
unsafe fn fork(home: Home) -> i64 {
    // SAFETY: a plain fork: no shared memory, no shared table, exit signal 0. The child runs this same code on
    // its copy of the stack.
    unsafe {
        // The target's threads are stopped meanwhile: only this child has it.
        home.inherit(true);
        let pid = syscall(nr::CLONE, [0; 6]);
        if pid == 0 {
            syscall(nr::PRCTL, [PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0, 0]);
        } else {
            home.inherit(false);
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
