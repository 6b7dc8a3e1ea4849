//! The shared memory over which host and agent talk.
//!
//! One [`Mailbox`] per task: index [`AGENT`] for the agent, [`SNAPSHOT`] for the forked child that holds a
//! snapshot. A request is a body written by the host followed by a store to `request`; the answer is
//! `result` followed by a store of the same number to `reply`. Host and agent each write to lines of their
//! own. Everything in here can be written by any thread of the target: the host reads each value once and
//! checks it.

use core::sync::atomic::{AtomicI64, AtomicU32, AtomicU64};

use crate::RemoteIoVec;

/// Index of the agent's mailbox.
pub const AGENT: usize = 0;
/// Index of the snapshot child's mailbox.
pub const SNAPSHOT: usize = 1;
/// Mailboxes in the shared memory.
pub const NR_MAILBOXES: usize = 2;
/// Ranges that one request can carry: UIO_MAXIOV (include/uapi/linux/uio.h).
pub const MAX_IOV: usize = 1024;

/// What the host writes to wake the agent.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Doorbell {
    /// 1 while the host sleeps and wants a doorbell back.
    pub host_asleep: AtomicU32,
    /// How often the agent may look for a request before it sleeps; 0 on one CPU.
    pub spin_limit: AtomicU32,
    /// Number of a request that is given up; the agent looks at it where a request waits ([`op::SEND`]). The host rings
    /// after it has written this.
    pub cancel: AtomicU32,
}

/// What the agent writes.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Answer {
    /// Number of the newest request that is done.
    pub reply: AtomicU32,
    /// 1 while the agent sleeps and needs the doorbell.
    pub agent_asleep: AtomicU32,
    /// Result: a count, a descriptor, a pid, or `-errno`.
    pub result: AtomicI64,
    /// Bytes that have been moved so far, and before an error in `result` ([`op::STREAM`], [`op::SEND`]).
    pub moved: AtomicU64,
    /// Which of [`side`] an error in `result` is about ([`op::SEND`]).
    pub side: AtomicU32,
    /// 1 if, after an [`op::SYSCALL`], the thread that the agent was made by is still in this memory; 0 if that can't be
    /// told.
    pub is_home: AtomicU32,
}

/// A request, and that there is one: one line, for each that changes hands costs as much as a system call.
#[repr(C, align(64))]
#[derive(Default)]
pub struct Body {
    /// Number of the newest request, written last; starts at 0.
    pub request: AtomicU32,
    /// [`what`]: one of [`op`], and the entries used in `iov`.
    pub what: AtomicU32,
    /// Arguments of the operation.
    pub args: [AtomicU64; 7],
}

/// An operation and a number of ranges, in one word.
pub const fn what(op: u32, nr_iov: usize) -> u32 {
    op | (nr_iov as u32) << 16
}

/// The two of [`what`].
pub const fn op_and_nr_iov(what: u32) -> (u32, usize) {
    (what & 0xffff, (what >> 16) as usize)
}

/// One request at a time between the host and one task in the target.
#[repr(C, align(4096))]
pub struct Mailbox {
    /// Host to agent.
    pub doorbell: Doorbell,
    /// Agent to host.
    pub answer: Answer,
    /// The request.
    pub body: Body,
    /// Ranges in the target, as (address, length) pairs.
    pub iov: [[AtomicU64; 2]; MAX_IOV],
}

/// Operations. Arguments are named in the order of [`Body::args`].
pub mod op {
    /// Does nothing; result 0.
    pub const PING: u32 = 0;
    /// args: number, then six arguments. One system call; its result as the kernel gave it.
    pub const SYSCALL: u32 = 1;
    /// args: pipe descriptor, flags. One vmsplice(2) of `iov`; bytes or `-errno`.
    pub const VMSPLICE: u32 = 2;
    /// args: pipe descriptor, how often to look at a full pipe before sleeping. vmsplice(2) of all of `iov`, waiting
    /// for the reader as often as needed; 0 or `-errno`, with the bytes moved in
    /// [`Answer::moved`](super::Answer::moved).
    pub const STREAM: u32 = 3;
    /// Receives one descriptor from the socket; its number in the agent's table or `-errno`.
    pub const RECEIVE_FD: u32 = 4;
    /// Forks a child that holds a copy-on-write snapshot and serves the mailbox [`SNAPSHOT`](super::SNAPSHOT);
    /// its pid or `-errno`.
    pub const FORK: u32 = 5;
    /// Ends: the snapshot child exits, without an answer; the agent ends its guests' tasks, answers, and waits for its
    /// end.
    pub const QUIT: u32 = 6;
    /// args: write end and read end of a pipe that is empty and used by nobody else, a stream socket that is
    /// O_NONBLOCK, the bytes of the pipe. Moves all of `iov` through the pipe into the socket, waiting for the socket as
    /// often as needed.
    ///
    /// 0 or `-errno`: with [`side::MEMORY`](super::side::MEMORY) of a range (EFAULT; all before it was sent), ESRCH where
    /// the host or the target is gone, ECANCELED for a request that was [given up](super::Doorbell::cancel); with
    /// [`side::SINK`](super::side::SINK) of the socket. The bytes that the socket took are in
    /// [`Answer::moved`](super::Answer::moved) all the time. After an error some may be left in the pipe.
    pub const SEND: u32 = 10;
    /// args: address, length in bytes. Sets aside a range of addresses for the tasks that run guest code, once; 0 or
    /// `-errno` (EEXIST: something is mapped there).
    pub const RESERVE: u32 = 7;
    /// args: address of the word that the kernel clears at the task's end, entry, RDI there. Clones a task that shares
    /// the memory and nothing else, and enters with all signals blocked and no stack; the number of a pidfd for it
    /// in the agent's table or `-errno`.
    pub const SPAWN: u32 = 8;
    /// args: number of such a pidfd. Ends the task and closes the number; 0 or `-errno`.
    pub const REAP: u32 = 9;
}

/// What an error is about.
pub mod side {
    /// The memory, or the request itself.
    pub const MEMORY: u32 = 0;
    /// Where the bytes go.
    pub const SINK: u32 = 1;
}

/// Bytes of the shared memory.
pub const SHARED_BYTES: usize = size_of::<Mailbox>() * NR_MAILBOXES;

const _: () = assert!(size_of::<RemoteIoVec>() == size_of::<[AtomicU64; 2]>());
const _: () = assert!(size_of::<Doorbell>() == 64 && size_of::<Answer>() == 64 && size_of::<Body>() == 64);
const _: () = assert!(size_of::<Mailbox>().is_multiple_of(4096));
