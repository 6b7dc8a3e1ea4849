//! Single system calls by a borrowed thread that survives the death of this process.
//!
//! The tail of the vDSO's last page is unused. Code is put there that makes one system call, loads the
//! thread's own registers from immediates and jumps back; it needs no stack and changes no flags. Only then is
//! the thread pointed at it, and run to the end of the call. If this process dies at any moment, the
//! thread runs the rest by itself. Afterwards the bytes are put back.

use std::time::{Duration, Instant};

use farspace_sys::RemoteAddr;
use farspace_sys::arch::{SYSCALL_INSTRUCTION, syscall_and_exit};
use farspace_sys::memory::Memory;
use farspace_sys::process::Mapping;
use farspace_sys::ptrace::Stopped;

use crate::borrow::{Borrowed, stop_again};
use crate::{Error, Refusal, Result};

/// Room that is needed: the code of `Registers::syscall_and_resume`, rounded up.
const CAVE_BYTES: usize = 128;
/// How long a thread may need to run through the cave by itself.
const LINGER: Duration = Duration::from_millis(100);
/// How long one step may take: the thread only has to get a CPU.
const STEP: Duration = Duration::from_secs(5);

/// A place for code in the target that nothing else uses.
#[derive(Debug, Clone, Copy)]
pub struct Cave {
    at: RemoteAddr,
}

impl Cave {
    /// Finds the unused tail of the target's vDSO.
    ///
    /// # Errors
    ///
    /// Refused: no vDSO, or no room in it.
    pub fn find(pid: i32, maps: &[Mapping], memory: &Memory) -> Result<Self> {
        let none = || Error::refused(pid, Refusal::NoCave);
        let vdso = maps.iter().find(|m| m.name == b"[vdso]" && m.permissions[2] == b'x').ok_or_else(none)?;
        let mut page = [0; 4096];
        memory.read_exact(RemoteAddr(vdso.end.0 - 4096), &mut page)?;
        let tail = &page[4096 - CAVE_BYTES..];
        if tail.starts_with(&SYSCALL_INSTRUCTION) {
            // Left by a visit that was killed. The thread that it had borrowed only needs a CPU to be through.
            std::thread::sleep(LINGER);
        } else if tail.iter().any(|&b| b != 0) {
            return Err(none());
        }
        Ok(Self { at: RemoteAddr(vdso.end.0 - CAVE_BYTES as u64) })
    }

    /// The page that the cave is in: written to, it is a private copy until it is dropped.
    pub fn page(&self) -> RemoteAddr {
        RemoteAddr(self.at.0 & !4095)
    }

    /// Makes the thread run one system call; returns what the kernel gave it. Afterwards the thread is stopped at
    /// the end of that call, with registers with which it goes on by itself.
    ///
    /// # Errors
    ///
    /// Gone, or the thread doesn't get to run.
    pub fn syscall(
        &self,
        borrowed: Borrowed,
        memory: &Memory,
        nr: u64,
        args: [u64; 6],
    ) -> Result<(Borrowed, i64)> {
        let deadline = Instant::now() + STEP;
        let after = RemoteAddr(self.at.0 + SYSCALL_INSTRUCTION.len() as u64);
        let mut borrowed = borrowed;
        'again: loop {
            let Borrowed { mut thread, resume, since, near } = borrowed;
            memory.write(self.at, &resume.restarted().syscall_and_resume())?;
            let mut call = resume;
            call.load_syscall(self.at, nr, args);
            thread.set_registers(&call)?;
            let mut entered = false;
            loop {
                thread = thread.run_to_syscall(deadline)?;
                if thread.is_at_syscall() && entered {
                    let now = thread.registers()?;
                    if now.instruction() != after {
                        return Err(Error::Gone { pid: thread.tid() });
                    }
                    thread.set_registers(&resume.restarted())?;
                    self.clear(memory)?;
                    return Ok((Borrowed { thread, resume, since, near }, now.result()));
                }
                entered |= thread.is_at_syscall();
                if thread.pending_signal() != 0 {
                    // It must find the thread with its own registers: deliver it, and start over. (After the entry
                    // there is none: a call that is under way isn't interrupted but at its end.)
                    thread.set_registers(&resume)?;
                    self.clear(memory)?;
                    borrowed = stop_again(thread.resume()?, since, near, deadline)?;
                    continue 'again;
                }
                // A group stop is run through.
            }
        }
    }

    /// Makes an idle agent that is a thread of the target unmap a range and exit, and lets it go. It gets through
    /// whatever happens to this process. The cave can be [cleared](Cave::clear) once it has ended.
    ///
    /// # Errors
    ///
    /// Gone.
    pub fn unmap_and_exit(
        &self,
        thread: Stopped,
        memory: &Memory,
        range: RemoteAddr,
        len: usize,
    ) -> Result<()> {
        memory.write(self.at, &syscall_and_exit())?;
        let mut call = thread.registers()?;
        call.load_syscall(self.at, libc::SYS_munmap as u64, [range.0, len as u64, 0, 0, 0, 0]);
        thread.set_registers(&call)?;
        Ok(thread.detach()?)
    }

    /// Puts back the zeros that were there.
    ///
    /// # Errors
    ///
    /// Gone.
    pub fn clear(&self, memory: &Memory) -> Result<()> {
        Ok(memory.write(self.at, &[0; CAVE_BYTES])?)
    }
}
