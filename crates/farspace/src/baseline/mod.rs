//! What everybody else does, wrapped for comparisons.
//!
//! Benchmarks and the demo run these beside farspace's own paths, in the same run. One half is the copy,
//! [`process_vm_readv`], which is also the last rung of the fallback ladder. The other half are the known ways to
//! answer a system call on behalf of another process, and the hand-offs they are made of. Each of these is set up
//! once and then asked for rounds, so that rounds of several can alternate.
//!
//! | file | what is measured |
//! |---|---|
//! | `readv` | process_vm_readv(2) |
//! | `getpid` | the call itself, not intercepted |
//! | `sysemu` | PTRACE_SYSEMU: stop, registers out, registers in, go on |
//! | `local_sigsys` | Syscall User Dispatch, answered by the process itself |
//! | `shared_line` | request and answer in one cache line, both sides spinning |
//! | `futex` | request and answer between two sleepers |
//! | `user_notif` | seccomp user notification |
//! | `spawn` | fork and exec of a static program |
//! | `peer`, `board`, `cpus` | the child process, the memory shared with it, who runs where |
//!
//! Children are killed and reaped on drop, and die with the thread that started them (PR_SET_PDEATHSIG). A child
//! that ends early ends the round with ESRCH.
//!
//! Unsafe code: fork and what the children then do, ptrace, ioctl, a signal handler. Nothing here touches a process
//! that it has not started.

use std::time::Duration;

use crate::Result;

mod board;
mod cpus;
mod futex;
mod getpid;
mod local_sigsys;
mod peer;
mod readv;
mod shared_line;
mod spawn;
mod sysemu;
#[cfg(test)]
mod tests;
mod user_notif;

pub use cpus::Cpus;
pub use futex::Futex;
pub use getpid::Getpid;
pub use local_sigsys::LocalSigsys;
pub use readv::process_vm_readv;
pub use shared_line::SharedLine;
pub use spawn::{Spawn, Way};
pub use sysemu::Sysemu;
pub use user_notif::UserNotif;

/// Something that answers calls, or makes round trips, one after the other.
pub trait Rounds {
    /// Has `nr_calls` calls answered and tells how long all of them took.
    ///
    /// # Errors
    ///
    /// ESRCH: the child has ended. Others are the kernel's, with the step that failed.
    fn round(&mut self, nr_calls: u32) -> Result<Duration>;
}

/// What intercepted calls of getpid(2) are answered with: above any pid (2^22, proc_sys_kernel(5)), so that a child
/// notices a call that was not intercepted.
const ANSWER: i64 = 0x5a5a_5a5a;
