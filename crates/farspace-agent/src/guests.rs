//! Tasks that run guest code in the target's address space, from their clone to their end.
//!
//! What is set aside and cloned here is the agent's to take away again, whether the host says so or is gone: each task
//! is named by a pidfd, so that it is that task that is killed and no other, and the addresses are given back when the
//! last of them has ended.
//!
//! Invariants: SAFETY.md, 8 and 20.

use core::ptr;

use crate::arch::nr;
use crate::arch::syscall::{clone_to, syscall};

const EBUSY: i64 = -16;
const EINVAL: i64 = -22;
const EMFILE: i64 = -24;
/// CLONE_VM | CLONE_PIDFD | CLONE_CHILD_CLEARTID, exit signal 0.
const FLAGS: u64 = 0x100 | 0x1000 | 0x20_0000;
/// MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, and nothing may be there.
const NOTHING: u64 = 0x2 | 0x20 | 0x4000 | MAP_FIXED_NOREPLACE;
pub(crate) const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;
pub(crate) const MADV_DONTFORK: u64 = 10;
const SIGKILL: u64 = 9;
const P_PIDFD: u64 = 3;
/// WEXITED | __WALL: also a child with exit signal 0 (wait(2)).
const ENDED: u64 = 4 | 0x4000_0000;

/// The tasks and the addresses that are theirs.
pub(crate) struct Guests {
    /// First address and length, 0 until it is reserved.
    room: [u64; 2],
    /// Their pidfds: bit n for number n. Numbers are given out from the lowest on, so this is enough.
    tasks: [u64; 8],
}

impl Guests {
    pub(crate) const fn none() -> Self {
        Self { room: [0; 2], tasks: [0; 8] }
    }

    /// Sets a range aside where nothing is: nothing can be accessed in it, and no child of the target inherits it.
    ///
    /// # Safety
    ///
    /// None of its own: new addresses only.
    pub(crate) unsafe fn reserve(&mut self, at: u64, len_bytes: u64) -> i64 {
        if self.room[1] != 0 {
            return EBUSY;
        }
        if len_bytes == 0 || len_bytes > 1 << 32 || len_bytes & 0xfff != 0 {
            return EINVAL;
        }
        // SAFETY: a mapping where there was none.
        unsafe {
            let result = syscall(nr::MMAP, [at, len_bytes, 0, NOTHING, u64::MAX, 0]);
            if result != at as i64 {
                return result.min(-1);
            }
            syscall(nr::MADVISE, [at, len_bytes, MADV_DONTFORK, 0, 0, 0]);
            self.room = [at, len_bytes];
            0
        }
    }

    /// Clones a task that goes to `entry`.
    ///
    /// # Safety
    ///
    /// The code there must do without a stack, and be harmless to the target.
    pub(crate) unsafe fn spawn(&mut self, clear: u64, entry: u64, rdi: u64) -> i64 {
        let mut pidfd = 0i32;
        // SAFETY: CLONE_VM without a stack is sound for code that uses none (caller's promise).
        unsafe {
            let pid = clone_to(FLAGS, &raw mut pidfd, clear, entry, rdi);
            if pid < 0 {
                return pid;
            }
            let pidfd = ptr::read_volatile(&raw const pidfd) as u64;
            match self.tasks.get_mut((pidfd / 64) as usize) {
                Some(word) => *word |= 1 << (pidfd % 64),
                None => {
                    kill(pidfd);
                    bury(pidfd);
                    return EMFILE;
                }
            }
            pidfd as i64
        }
    }

    /// Ends one task.
    ///
    /// # Safety
    ///
    /// None of its own: only tasks of [`Guests::spawn`] are ended.
    pub(crate) unsafe fn reap(&mut self, pidfd: u64) -> i64 {
        let bit = 1 << (pidfd % 64);
        let Some(word) = self.tasks.get_mut((pidfd / 64) as usize).filter(|word| **word & bit != 0) else {
            return EINVAL;
        };
        *word &= !bit;
        // SAFETY: the pidfd is this task's own, and stands for a child of it.
        unsafe {
            kill(pidfd);
            bury(pidfd);
        }
        0
    }

    /// Ends all tasks and gives the addresses back.
    ///
    /// # Safety
    ///
    /// Nobody else may use the addresses from now on.
    pub(crate) unsafe fn end(&mut self) {
        // SAFETY: as in `reap`; the range is this task's own, and those who used it have ended.
        unsafe {
            self.each(|pidfd| kill(pidfd));
            self.each(|pidfd| bury(pidfd));
            self.tasks = [0; 8];
            if self.room[1] != 0 {
                syscall(nr::MUNMAP, [self.room[0], self.room[1], 0, 0, 0, 0]);
                self.room = [0; 2];
            }
        }
    }

    fn each(&self, act: impl Fn(u64)) {
        for (index, word) in self.tasks.iter().enumerate() {
            for bit in 0..64 {
                if word >> bit & 1 != 0 {
                    act(index as u64 * 64 + bit);
                }
            }
        }
    }
}

unsafe fn kill(pidfd: u64) {
    // SAFETY: no pointers.
    unsafe {
        syscall(nr::PIDFD_SEND_SIGNAL, [pidfd, SIGKILL, 0, 0, 0, 0]);
    }
}

/// Waits for the end of a killed task: from then on it is not in the address space any more.
unsafe fn bury(pidfd: u64) {
    // SAFETY: no pointers.
    unsafe {
        syscall(nr::WAITID, [P_PIDFD, pidfd, 0, ENDED, 0, 0]);
        syscall(nr::CLOSE, [pidfd, 0, 0, 0, 0, 0]);
    }
}
