//! What the host leaves for the bootstrap code, and what the bootstrap reports back.

/// The context page of the region. All offsets below are used by the agent's assembly.
///
/// The `resume` registers make the bootstrap safe against the death of the host: a thread that nobody traces
/// any more restores itself from here and goes on where it was interrupted.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct BootContext {
    /// [`MAGIC`](crate::region::MAGIC).
    pub magic: u64,
    /// Where the borrowed thread continues if it must restore itself.
    pub resume_rip: u64,
    /// The registers that the bootstrap changes, in the order of [`RESUME_REGISTERS`].
    pub resume: [u64; 9],
    /// All ones: the signal mask while the thread is borrowed.
    pub all_signals: u64,
    /// The thread's own signal mask; written by the bootstrap.
    pub saved_mask: u64,
    /// How long the borrowed thread waits to be taken back before it restores itself: seconds, nanoseconds.
    /// pselect(2) counts it down.
    pub go_timeout: [i64; 2],
    /// Result of cloning the helper (pid in the target's pid namespace or `-errno`); 0 until then.
    pub helper_pid: i64,
    /// Result of cloning the agent (pid in the target's pid namespace or `-errno`); 0 until then.
    pub agent_pid: i64,
    /// [`THREAD_DONE`] once the borrowed thread has done its part, [`THREAD_LEFT`] once it leaves the region.
    pub thread_done: u32,
    /// 1 once the agent has its socket pair, or `-errno` as an unsigned number.
    pub agent_ready: u32,
    /// Number of the agent's descriptor that the host takes with pidfd_getfd(2).
    pub host_fd: u32,
    /// One of [`placement`]; the bootstrap changes it for a child subreaper.
    pub placement: u32,
    /// Flags with which the borrowed thread clones; the bootstrap changes them with the placement.
    pub clone_flags: u32,
    /// Whether orphans come back to the target; a child subreaper says so here (prctl(2), PR_GET_CHILD_SUBREAPER).
    pub is_reaper: u32,
    /// Flags for the clone of a thread in a target that takes in orphans; 0 where that isn't possible.
    pub thread_flags: u64,
    /// The borrowed thread's process and thread id in the target's pid namespace.
    pub thread: [i32; 2],
    /// Where the kernel writes 0 when the borrowed thread leaves the memory, by its end or an exec
    /// (PR_GET_TID_ADDRESS); its C library keeps the thread id there. 0 where there is no such place; written by the
    /// bootstrap.
    pub tid_address: u64,
}

/// What kind of task the agent is.
pub mod placement {
    /// A process of its own, child of whoever takes in orphans: init.
    pub const ORPHAN: u32 = 0;
    /// A thread of the target, which takes in orphans itself.
    pub const THREAD: u32 = 1;

    /// Flags of the clone for the helper that makes an orphan: CLONE_VM | CLONE_FILES, exit signal 0
    /// (include/uapi/linux/sched.h).
    pub const ORPHAN_FLAGS: u32 = 0x100 | 0x400;
    /// Flags of the clone for a thread: the same and CLONE_SIGHAND | CLONE_THREAD.
    pub const THREAD_FLAGS: u32 = ORPHAN_FLAGS | 0x800 | 0x1_0000;
}

/// Names of [`BootContext::resume`], in order.
pub const RESUME_REGISTERS: [&str; 9] = ["rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"];

/// Result in [`BootContext::helper_pid`] where orphans come back to the target and the agent can't be a thread:
/// EOPNOTSUPP.
pub const NOT_IN_A_REAPER: i64 = -95;
/// In [`BootContext::thread_done`]: the borrowed thread waits to be taken back. It may be stopped there, for as long as a host
/// gets no CPU that is about to take it back.
pub const THREAD_DONE: u32 = 1;
/// In [`BootContext::thread_done`]: it goes on by itself, or is taken back.
pub const THREAD_LEFT: u32 = 2;
/// How long the agent waits for the host's first message before it removes itself, in milliseconds.
pub const HELLO_TIMEOUT_MS: i32 = 1_000;
/// Descriptors in the host's first message, in order: mailbox memfd, doorbells to the agent (one for each
/// [`Mailbox`](crate::mailbox::Mailbox)), doorbells to the host, the target's pidfd.
pub const HELLO_FDS: usize = 6;
/// The agent's end of the socket pair.
pub const AGENT_SOCKET_FD: i32 = 0;
/// The host's end of the socket pair, in the agent's table until it is taken.
pub const HOST_SOCKET_FD: i32 = 1;

const _: () = assert!(size_of::<BootContext>() <= 4096);
