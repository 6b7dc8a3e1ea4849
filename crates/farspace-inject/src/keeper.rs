//! Agents in targets with a seccomp filter: they work only while they are traced.
//!
//! A filter is inherited by the agent. PTRACE_O_SUSPEND_SECCOMP suspends it as long as a tracer lives, and tracing
//! is bound to one thread of this process: so a thread is kept for each such agent. With PTRACE_O_EXITKILL the
//! agent dies with it, before the filter could see any of its calls; its region is then left to the next visit.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use farspace_sys::ptrace::{
    Block, EVENT_STOP, EXIT_KILL, Event, SUSPEND_SECCOMP, Stopped, TRACE_CLONE, TRACE_SYSGOOD, next_event,
};
use rustix::io::Errno;
use rustix::process::Signal;

use crate::exit::Exit;
use crate::timing::Patience;
use crate::{Error, Result, kick};

/// Options for the borrowed thread once it is stopped: what it clones is traced, too, and has the filter suspended
/// as well. (Not before: it might be about to clone something of its own.)
pub(crate) const BORROWED: u32 = SUSPEND_SECCOMP | TRACE_CLONE | TRACE_SYSGOOD;
/// Options for the helper and the agent: they end with their tracer.
const OURS: u32 = BORROWED | EXIT_KILL;

/// The thread that traces an agent.
#[derive(Debug)]
pub(crate) struct Keeper {
    ending: Arc<AtomicBool>,
    kicked: Arc<AtomicBool>,
}

impl Keeper {
    /// Has the agent unmapped and ended by its tracer; returns at once.
    pub(crate) fn end_agent(&self, agent: BorrowedFd<'_>) {
        self.ending.store(true, Ordering::SeqCst);
        // The tracer sees the stop and does the rest. ESRCH: it is gone already.
        let _ = rustix::process::pidfd_send_signal(agent, Signal::STOP);
    }

    /// Has the agent's call interrupted by its tracer; returns at once.
    pub(crate) fn kick(&self, agent: BorrowedFd<'_>) {
        self.kicked.store(true, Ordering::SeqCst);
        let _ = rustix::process::pidfd_send_signal(agent, Signal::STOP);
    }
}

/// Places an agent from a thread that goes on tracing it until it ends as the [`Exit`] says.
pub(crate) fn on_kept_thread<T: Send + 'static>(
    pid: i32,
    place: impl FnOnce(Keeper) -> Result<(T, Exit)> + Send + 'static,
) -> Result<T> {
    let (sender, receiver) = mpsc::channel();
    let ending = Arc::new(AtomicBool::new(false));
    let kicked = Arc::new(AtomicBool::new(false));
    let keeper = Keeper { ending: Arc::clone(&ending), kicked: Arc::clone(&kicked) };
    let work = move || match place(keeper) {
        Ok((placed, exit)) => {
            let _ = sender.send(Ok(placed));
            keep(exit, &ending, &kicked);
        }
        Err(error) => {
            let _ = sender.send(Err(error));
            // A helper that is left over is let run to its end.
            while let Ok(Some(event)) = next_event(Block::No) {
                if let Event::Stopped(thread) = event {
                    pass_on(thread, pid);
                }
            }
        }
    };
    let spawned = std::thread::Builder::new().name("farspace-keeper".to_owned()).spawn(work);
    let gone = || Error::host(pid, Errno::AGAIN);
    spawned.map_err(|_| gone())?;
    receiver.recv().map_err(|_| gone())?
}

/// Lets the borrowed thread, the helper and the agent run until `done` says so.
pub(crate) fn run_until<T>(
    borrowed: i32,
    limit: Duration,
    mut done: impl FnMut() -> Result<Option<T>>,
) -> Result<Option<T>> {
    let mut patience = Patience::new(limit);
    loop {
        let is_over = patience.is_over();
        match next_event(Block::No)? {
            Some(Event::Stopped(thread)) => pass_on(thread, borrowed),
            Some(Event::Ended(_)) => {}
            None => match done()? {
                Some(result) => return Ok(Some(result)),
                None if is_over => return Ok(None),
                None => std::thread::yield_now(),
            },
        }
    }
}

/// Traces the agent, and what it forks, until they have ended.
fn keep(exit: Exit, ending: &AtomicBool, kicked: &AtomicBool) {
    while let Ok(Some(event)) = next_event(Block::Yes) {
        match event {
            Event::Stopped(agent)
                if ending.load(Ordering::SeqCst) && agent.tid() == exit.agent_pid && agent.event() == 0 =>
            {
                // On failure the region stays. Let go, the agent would only take the SIGSTOP.
                if exit.unmap(agent).is_err() {
                    let _ = rustix::process::Pid::from_raw(exit.agent_pid)
                        .map(|pid| rustix::process::kill_process(pid, Signal::KILL));
                }
            }
            Event::Stopped(agent)
                if agent.tid() == exit.agent_pid
                    && agent.pending_signal() == Signal::STOP.as_raw()
                    && kicked.swap(false, Ordering::SeqCst) =>
            {
                let _ = kick::interrupt(&agent);
                if let Ok(running) = agent.resume_without_signal() {
                    running.leave_to_events();
                }
            }
            // A borrowed thread that has become the leader of a new program.
            Event::Stopped(thread) if thread.tid() == exit.pid => drop(thread),
            Event::Stopped(thread) => pass_on(thread, exit.pid),
            Event::Ended(_) => {}
        }
    }
}

/// Lets a thread go on as if it were not traced.
fn pass_on(thread: Stopped, borrowed: i32) {
    // The first stop of a new task of ours. The borrowed thread must never die with this process.
    if thread.event() == EVENT_STOP && thread.tid() != borrowed {
        let _ = thread.set_options(OURS);
    }
    if let Ok(running) = thread.resume() {
        running.leave_to_events();
    }
}
