//! The end of an agent: its region unmapped, its task gone.

use std::time::{Duration, Instant};

use farspace_abi::boot::placement;
use farspace_abi::region::REGION_BYTES;
use farspace_sys::RemoteAddr;
use farspace_sys::arch::SYSCALL_INSTRUCTION;
use farspace_sys::memory::Memory;
use farspace_sys::ptrace::Stopped;
use rustix::io::Errno;

use crate::cave::Cave;
use crate::{Error, Result};

/// How long one step of the agent may take: it only has to get a CPU.
const STEP: Duration = Duration::from_secs(5);

/// What is needed to end an agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exit {
    pub(crate) pid: i32,
    pub(crate) agent_pid: i32,
    pub(crate) region: RemoteAddr,
    pub(crate) cave: Cave,
    pub(crate) placement: u32,
}

impl Exit {
    /// Makes the agent, which waits for its end in its own code, unmap the region, itself included, and ends it
    /// before it runs on.
    pub(crate) fn unmap(self, agent: Stopped) -> Result<()> {
        if self.placement == placement::THREAD {
            let memory = Memory::open_writable(self.pid)?;
            return self.cave.unmap_and_exit(agent, &memory, self.region, REGION_BYTES);
        }
        let deadline = Instant::now() + STEP;
        let mut agent = agent;
        // It sleeps in a system call, or is on the way there: then it goes to the entry of that one, which isn't made.
        if !self.load_unmap(&agent)? {
            agent = agent.run_to_syscall(deadline)?;
            if !agent.is_at_syscall() || !self.load_unmap(&agent)? {
                return Err(Error::Agent {
                    pid: self.pid,
                    operation: "be where it should be",
                    errno: Errno::PROTO,
                });
            }
            agent = agent.run_to_syscall(deadline)?;
        }
        // Entry, exit; killed at the end of the munmap, it never gets to see that its code is gone.
        agent.run_to_syscall(deadline)?.run_to_syscall(deadline)?.kill();
        Ok(())
    }

    /// Has an agent that is in a system call make that of unmapping next; false if it is in none.
    fn load_unmap(self, agent: &Stopped) -> Result<bool> {
        let memory = Memory::open(self.agent_pid)?;
        let mut registers = agent.registers()?;
        // The bytes before the next instruction are its `syscall`.
        let at = RemoteAddr(registers.instruction().0.wrapping_sub(SYSCALL_INSTRUCTION.len() as u64));
        let mut code = [0; SYSCALL_INSTRUCTION.len()];
        let inside = at.0.wrapping_sub(self.region.0) < REGION_BYTES as u64;
        if !inside || memory.read_exact(at, &mut code).is_err() || code != SYSCALL_INSTRUCTION {
            return Ok(false);
        }
        registers.load_syscall(at, libc::SYS_munmap as u64, [self.region.0, REGION_BYTES as u64, 0, 0, 0, 0]);
        agent.set_registers(&registers)?;
        Ok(true)
    }
}
