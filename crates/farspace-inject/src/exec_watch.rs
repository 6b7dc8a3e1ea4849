//! An exec of the target that begins while its threads are being traced one by one must get through.
//!
//! execve(2) kills the other threads of its process and waits until all are reaped, those that are traced by their tracer
//! (de_thread, fs/exec.c); PTRACE_SEIZE of one more thread waits until the exec is over (ptrace_attach, kernel/ptrace.c:
//! cred_guard_mutex). A tracer that seizes a second thread would wait for the exec and the exec for it, both for ever. So
//! another thread of this process reaps meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, Thread, park_timeout};
use std::time::Duration;

use farspace_sys::{process, ptrace};
use rustix::io::Errno;

use crate::{Error, Result};

/// Seizing and stopping all threads rarely takes as long as this; only then is there anything to look at.
const PATIENCE: Duration = Duration::from_millis(10);

/// Reaps the traced threads of a target that end, until it is dropped.
#[derive(Debug)]
pub(crate) struct ExecWatch {
    is_over: Arc<AtomicBool>,
    thread: Thread,
}

impl ExecWatch {
    /// Starts to watch a process; its agent's end, if that is a thread of it, is for others.
    ///
    /// # Errors
    ///
    /// EAGAIN: this process can't make a thread.
    pub(crate) fn start(pid: i32, agent: Option<i32>) -> Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&is_over);
        let watch = move || {
            park_timeout(PATIENCE);
            while !until.load(Ordering::Acquire) {
                // Without a list of threads the target is gone.
                let Ok(threads) = process::threads(pid) else { return };
                for tid in threads.into_iter().filter(|&tid| Some(tid) != agent) {
                    ptrace::reap_thread(tid);
                }
                park_timeout(PATIENCE);
            }
        };
        // Nobody waits for its end, which would make the stop longer.
        let thread = Builder::new().spawn(watch).map_err(|_| Error::host(pid, Errno::AGAIN))?;
        Ok(Self { is_over, thread: thread.thread().clone() })
    }
}

impl Drop for ExecWatch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        self.thread.unpark();
    }
}
