//! Interrupting the agent in a system call that blocks.
//!
//! The agent blocks every signal, so that none can end it; and it has no handler that could end a wait with EINTR. So
//! it is stopped for a moment, as a debugger would, and the restart that the kernel has in mind for the call is
//! turned into EINTR. A call that has done part of its work returns that instead. Outside of a call nothing changes.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use farspace_sys::ptrace::{Running, Stopped};

use crate::{Agent, Result, on_own_thread};

/// How long the agent may take to stop; one that sleeps uninterruptibly can't.
const STOP: Duration = Duration::from_millis(500);

/// Interrupts the agent. Failures don't matter: whoever waits for an answer tries again, until its deadline.
pub(crate) fn kick(agent: &Agent) {
    match &agent.keeper {
        Some(keeper) => keeper.kick(agent.agent_pidfd.as_fd()),
        None => {
            let _ = on_own_thread(|| stop_and_interrupt(agent.agent_pid));
        }
    }
}

fn stop_and_interrupt(agent_pid: i32) -> Result<()> {
    let running = Running::seize(agent_pid, 0)?;
    running.interrupt()?;
    let stopped = running.wait_interrupted(Instant::now() + STOP)?;
    interrupt(&stopped)?;
    Ok(stopped.detach()?)
}

/// Ends the call of a stopped thread with EINTR, if it would be restarted.
pub(crate) fn interrupt(stopped: &Stopped) -> Result<()> {
    let mut registers = stopped.registers()?;
    if registers.eintr_instead_of_restart() {
        stopped.set_registers(&registers)?;
    }
    Ok(())
}
