//! PTRACE_SYSEMU: a tracer answers the system calls of a tracee that never enters them (ptrace(2)).
//!
//! What User-Mode Linux and the ptrace platforms of sandboxes do for each call: let the tracee go, wait for its next
//! call, read its registers, put the answer into rax.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::board::Board;
use super::peer::{Peer, call_for_ever, last_errno};
use super::{ANSWER, Cpus, Rounds};
use crate::{Error, Result};

/// What a stop at a system call reports under PTRACE_O_TRACESYSGOOD.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;

/// A traced child that calls getpid(2) for ever; between rounds it is stopped at a call.
#[derive(Debug)]
pub struct Sysemu {
    peer: Peer,
    cpus: Cpus,
    // Tracing is bound to the thread that seized.
    _not_send: PhantomData<*const ()>,
}

impl Sysemu {
    /// Starts the child and traces it from the calling thread.
    ///
    /// # Errors
    ///
    /// EPERM: tracing is forbidden; EIO: no PTRACE_SYSEMU here; EAGAIN, ENOMEM: no more processes.
    pub fn start(cpus: Cpus) -> Result<Self> {
        // SAFETY: `serve` only accesses the board and calls futex(2) and getpid(2).
        let peer = unsafe { Peer::start(cpus, serve)? };
        let mut this = Self { peer, cpus, _not_send: PhantomData };
        // From here on the child makes no call that it needs: all of them are answered by this side.
        this.peer.ring("start the child")?;
        let options = libc::PTRACE_O_EXITKILL | libc::PTRACE_O_TRACESYSGOOD;
        this.request(libc::PTRACE_SEIZE, options as usize)?;
        this.request(libc::PTRACE_INTERRUPT, 0)?;
        this.wait()?;
        this.peer.ring_and_go();
        // A futex(2) that the stop has interrupted is made again, and skipped; the child looks at the bell then.
        while this.next_call()?.orig_rax != libc::SYS_getpid as u64 {}
        Ok(this)
    }

    /// Lets the child run to its next system call; its registers there.
    fn next_call(&self) -> Result<libc::user_regs_struct> {
        self.request(libc::PTRACE_SYSEMU, 0)?;
        match self.wait()? {
            SYSCALL_STOP => self.registers(),
            _ => Err(Error::new("wait for a call", self.peer.pid(), Errno::INTR)),
        }
    }

    fn registers(&self) -> Result<libc::user_regs_struct> {
        let mut registers = MaybeUninit::<libc::user_regs_struct>::uninit();
        self.request(libc::PTRACE_GETREGS, registers.as_mut_ptr() as usize)?;
        // SAFETY: PTRACE_GETREGS has filled all of it.
        Ok(unsafe { registers.assume_init() })
    }

    /// The signal of the child's next stop.
    fn wait(&self) -> Result<i32> {
        let mut status = 0;
        loop {
            // SAFETY: `status` outlives the call.
            let got = unsafe { libc::waitpid(self.peer.pid(), &raw mut status, libc::__WALL) };
            match got {
                0.. if libc::WIFSTOPPED(status) => return Ok(libc::WSTOPSIG(status)),
                0.. => return Err(Error::new("wait for a call", self.peer.pid(), Errno::SRCH)),
                _ if last_errno() == Errno::INTR => {}
                _ => return Err(Error::new("wait for a call", self.peer.pid(), last_errno())),
            }
        }
    }

    fn request(&self, what: libc::c_uint, data: usize) -> Result<()> {
        // SAFETY: PTRACE_GETREGS and PTRACE_SETREGS get the address of a live local of their type; the others plain
        // numbers.
        match unsafe { libc::ptrace(what, self.peer.pid(), 0usize, data) } {
            -1 => Err(Error::new("trace a call", self.peer.pid(), last_errno())),
            _ => Ok(()),
        }
    }
}

impl Rounds for Sysemu {
    fn round(&mut self, nr_calls: u32) -> Result<Duration> {
        let _pinned = self.cpus.pin_host()?;
        // Stopped at a call since the start or the last round.
        let mut registers = self.registers()?;
        let start = Instant::now();
        for _ in 0..nr_calls {
            registers.rax = ANSWER as u64;
            self.request(libc::PTRACE_SETREGS, (&raw const registers) as usize)?;
            registers = self.next_call()?;
        }
        Ok(start.elapsed())
    }
}

/// The child: one bell to know that it is there, one to begin.
fn serve(board: &Board) {
    let rung = board.bell.next(0);
    board.bell.answer(rung);
    board.bell.next(rung);
    call_for_ever();
}
