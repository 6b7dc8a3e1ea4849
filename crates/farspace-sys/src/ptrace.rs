//! A traced thread as a type.
//!
//! [`Running`] and [`Stopped`] own the tracing: dropped, they let the thread go as it was found. Everything
//! must happen on the one thread of the caller that seized (ptrace(2)), so neither type is `Send`.
//!
//! Invariants: SAFETY.md, 1, 3, 7 and 16.

use std::marker::PhantomData;
use std::mem::{self, ManuallyDrop};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::arch::Registers;
use crate::{Error, RemoteAddr, Result};

/// Note types of the register sets (include/uapi/linux/elf.h).
const NT_PRSTATUS: usize = 1;
const NT_PRFPREG: usize = 2;
const NT_X86_XSTATE: usize = 0x202;
/// PTRACE_EVENT_STOP as the third byte of a wait status (ptrace(2)).
pub const EVENT_STOP: i32 = 128;
/// What a stop at a system call reports under PTRACE_O_TRACESYSGOOD.
const SYSCALL_STOP: i32 = libc::SIGTRAP | 0x80;
/// How long a wait looks without sleeping, and how long it sleeps between looks after that.
const SPIN: Duration = Duration::from_micros(300);
const NAP: Duration = Duration::from_micros(50);
/// How long a thread is waited for at least: the deadline may be over when it is asked, for want of a CPU here.
const AT_LEAST: Duration = Duration::from_millis(20);

/// How long one is waited for that only needs a CPU.
const STARVED: Duration = Duration::from_secs(5);

/// How long a thread that runs or dies is waited for when it is let go.
const LETTING_GO: Duration = Duration::from_secs(1);

/// PTRACE_O_TRACECLONE: children of the thread are traced, too.
pub const TRACE_CLONE: u32 = libc::PTRACE_O_TRACECLONE as u32;
/// PTRACE_O_EXITKILL: the thread dies with its tracer.
pub const EXIT_KILL: u32 = libc::PTRACE_O_EXITKILL as u32;
/// PTRACE_O_TRACESYSGOOD: stops at system calls have a number that is no signal. If the tracer dies in such a stop,
/// nothing is delivered; a single step would leave a SIGTRAP.
pub const TRACE_SYSGOOD: u32 = libc::PTRACE_O_TRACESYSGOOD as u32;
/// PTRACE_O_SUSPEND_SECCOMP (CAP_SYS_ADMIN, CONFIG_CHECKPOINT_RESTORE).
pub const SUSPEND_SECCOMP: u32 = libc::PTRACE_O_SUSPEND_SECCOMP as u32;

/// ptrace(2) works per thread of the tracer.
type NotSend = PhantomData<*const ()>;

/// A seized thread that runs.
#[derive(Debug)]
pub struct Running {
    tid: i32,
    _not_send: NotSend,
}

/// A seized thread that is stopped.
#[derive(Debug)]
pub struct Stopped {
    tid: i32,
    /// Signal that the thread was about to take; given back when it goes on.
    signal: i32,
    event: i32,
    _not_send: NotSend,
}

/// What a wait has seen.
enum Status {
    Stop { signal: i32, event: i32 },
    Gone,
}

impl Running {
    /// Starts to trace a thread without stopping it.
    ///
    /// # Errors
    ///
    /// ESRCH: gone; EPERM: no access, a kernel thread, or traced by another already.
    pub fn seize(tid: i32, options: u32) -> Result<Self> {
        request(libc::PTRACE_SEIZE, tid, 0, options as usize, "trace")?;
        Ok(Self { tid, _not_send: PhantomData })
    }

    /// A handle for a thread that was left to events and runs.
    pub fn from_events(tid: i32) -> Self {
        Self { tid, _not_send: PhantomData }
    }

    /// Gives up the handle but not the tracing: [`next_event`] tells what happens to the thread.
    pub fn leave_to_events(self) {
        mem::forget(self);
    }

    /// The thread.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// Asks the thread to stop, without waiting.
    ///
    /// # Errors
    ///
    /// ESRCH: gone.
    pub fn interrupt(&self) -> Result<()> {
        request(libc::PTRACE_INTERRUPT, self.tid, 0, 0, "stop a thread")
    }

    /// Looks whether the thread has stopped, without waiting: the handle comes back if it hasn't.
    ///
    /// # Errors
    ///
    /// ESRCH: gone.
    pub fn poll(self) -> Result<std::result::Result<Stopped, Self>> {
        let this = ManuallyDrop::new(self);
        match look(this.tid)? {
            Some(Status::Stop { signal, event }) => {
                Ok(Ok(Stopped { tid: this.tid, signal, event, _not_send: PhantomData }))
            }
            Some(Status::Gone) => Err(Error::new("stop a thread", this.tid, Errno::SRCH)),
            None => Ok(Err(Self { tid: this.tid, _not_send: PhantomData })),
        }
    }

    /// Waits for any stop of the thread.
    ///
    /// # Errors
    ///
    /// ESRCH: gone; ETIMEDOUT: not stopped in time (uninterruptible sleep); then the thread is let go.
    pub fn wait(self, deadline: Instant) -> Result<Stopped> {
        stop_of(ManuallyDrop::new(self).tid, deadline)
    }

    /// Waits for the stop that [`Running::interrupt`] asked for; a signal that comes first is delivered. A thread that only
    /// needs a CPU for it is given more time: let go before, it would see its call interrupted.
    ///
    /// # Errors
    ///
    /// As [`Running::wait`].
    pub fn wait_interrupted(self, deadline: Instant) -> Result<Stopped> {
        let last = deadline.max(Instant::now() + STARVED);
        let mut running = self;
        loop {
            let this = ManuallyDrop::new(running);
            let stopped = match stop_of(this.tid, deadline) {
                Ok(stopped) => stopped,
                Err(e) if e.errno == Errno::TIMEDOUT && will_stop(this.tid) && Instant::now() < last => {
                    running = ManuallyDrop::into_inner(this);
                    continue;
                }
                Err(e) => return Err(e),
            };
            if stopped.event == EVENT_STOP {
                return Ok(stopped);
            }
            running = stopped.resume()?;
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Only a stopped thread can be let go.
        if self.interrupt().is_ok() {
            let deadline = Instant::now() + LETTING_GO;
            if let Ok(stopped) = stop_of(self.tid, deadline)
                && stopped.event == EVENT_STOP
            {
                let _ = stopped.hide();
            }
        } else {
            let_go_of_killed(self.tid);
        }
    }
}

impl Stopped {
    /// The thread.
    pub fn tid(&self) -> i32 {
        self.tid
    }

    /// The signal that the thread is about to take, or 0.
    pub fn pending_signal(&self) -> i32 {
        if self.event == 0 && self.signal != SYSCALL_STOP { self.signal } else { 0 }
    }

    /// The ptrace event of the stop (PTRACE_EVENT_*), or 0.
    pub fn event(&self) -> i32 {
        self.event
    }

    /// True if the thread had been stopped by a signal (SIGSTOP, a terminal's) before it was asked to stop here.
    pub fn is_group_stop(&self) -> bool {
        self.event == EVENT_STOP && self.signal != libc::SIGTRAP
    }

    /// Changes the options of the tracing.
    ///
    /// # Errors
    ///
    /// EPERM where an option needs a privilege, EINVAL where the kernel doesn't know it.
    pub fn set_options(&self, options: u32) -> Result<()> {
        request(libc::PTRACE_SETOPTIONS, self.tid, 0, options as usize, "set trace options")
    }

    /// The general registers.
    ///
    /// # Errors
    ///
    /// ESRCH: gone; EOPNOTSUPP: a 32-bit thread.
    pub fn registers(&self) -> Result<Registers> {
        // SAFETY: plain old data, for which zeros are valid.
        let mut registers: libc::user_regs_struct = unsafe { mem::zeroed() };
        // SAFETY: viewed as the bytes that it is made of.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(
                (&raw mut registers).cast::<u8>(),
                size_of::<libc::user_regs_struct>(),
            )
        };
        if self.register_set(NT_PRSTATUS, bytes)? != size_of::<libc::user_regs_struct>() {
            return Err(Error::new("read 64-bit registers", self.tid, Errno::OPNOTSUPP));
        }
        Ok(Registers(registers))
    }

    /// Replaces the general registers, all at once.
    ///
    /// # Errors
    ///
    /// ESRCH: gone; EIO: a value that the kernel refuses.
    pub fn set_registers(&self, registers: &Registers) -> Result<()> {
        let mut copy = registers.0;
        let mut iov =
            libc::iovec { iov_base: (&raw mut copy).cast(), iov_len: size_of::<libc::user_regs_struct>() };
        request(libc::PTRACE_SETREGSET, self.tid, NT_PRSTATUS, &raw mut iov as usize, "write registers")
    }

    /// Hides the stop from the thread: an EINTR becomes a restart, at once, so that it holds even if this process dies
    /// now. Returns the registers as they were found.
    ///
    /// # Errors
    ///
    /// As [`Stopped::registers`]; EOPNOTSUPP also: in 32-bit mode.
    pub fn hide(&self) -> Result<Registers> {
        let mut registers = self.registers()?;
        if !registers.is_64_bit() {
            return Err(Error::new("read 64-bit registers", self.tid, Errno::OPNOTSUPP));
        }
        let found = registers;
        // The EINTR of a thread that was stopped by a signal before is that signal's, for the program to see.
        if !self.is_group_stop() && registers.restart_instead_of_eintr() {
            self.set_registers(&registers)?;
        }
        Ok(found)
    }

    /// The x87 and SSE registers, as `struct user_fpregs_struct` (512 bytes).
    ///
    /// # Errors
    ///
    /// ESRCH: gone.
    pub fn floating_point(&self) -> Result<Vec<u8>> {
        self.register_bytes(NT_PRFPREG, 512)
    }

    /// The extended registers, as an xsave area in standard format (at most 16 KiB here).
    ///
    /// # Errors
    ///
    /// ESRCH: gone; ENODEV: a CPU without xsave.
    pub fn xstate(&self) -> Result<Vec<u8>> {
        self.register_bytes(NT_X86_XSTATE, 16384)
    }

    fn register_bytes(&self, note: usize, capacity: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; capacity];
        let len = self.register_set(note, &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    fn register_set(&self, note: usize, bytes: &mut [u8]) -> Result<usize> {
        let mut iov = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        request(libc::PTRACE_GETREGSET, self.tid, note, &raw mut iov as usize, "read registers")?;
        Ok(iov.iov_len)
    }

    /// The thread's blocked signals, one bit each (PTRACE_GETSIGMASK).
    ///
    /// # Errors
    ///
    /// ESRCH: gone.
    pub fn blocked_signals(&self) -> Result<u64> {
        const GETSIGMASK: libc::c_uint = 0x420a;
        let mut mask = 0u64;
        request(GETSIGMASK, self.tid, size_of::<u64>(), &raw mut mask as usize, "read the signal mask")?;
        Ok(mask)
    }

    /// Reads one word of the memory that the thread has now.
    ///
    /// # Errors
    ///
    /// EIO: not mapped; ESRCH: gone.
    pub fn peek(&self, at: RemoteAddr) -> Result<u64> {
        let mut word = 0u64;
        // The raw system call stores the word, unlike the library function (ptrace(2), C library differences).
        // SAFETY: `word` outlives the call.
        let result = unsafe {
            libc::syscall(
                libc::SYS_ptrace,
                libc::PTRACE_PEEKDATA as i64,
                i64::from(self.tid),
                at.0,
                &raw mut word,
            )
        };
        if result < 0 { Err(Error::last("read memory", self.tid).at(at)) } else { Ok(word) }
    }

    /// Where the thread's `struct rseq` is, if it has registered one (PTRACE_GET_RSEQ_CONFIGURATION).
    pub fn rseq(&self) -> Option<RemoteAddr> {
        const GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
        let mut configuration = [0u64; 3];
        let size = size_of_val(&configuration);
        let to = configuration.as_mut_ptr() as usize;
        request(GET_RSEQ_CONFIGURATION, self.tid, size, to, "read the rseq configuration").ok()?;
        (configuration[0] != 0).then_some(RemoteAddr(configuration[0]))
    }

    /// Lets the thread run to its next entry into or exit from a system call, or another stop that comes first.
    ///
    /// # Errors
    ///
    /// ESRCH: gone; ETIMEDOUT.
    pub fn run_to_syscall(self, deadline: Instant) -> Result<Self> {
        self.go(libc::PTRACE_SYSCALL, 0)?.wait(deadline)
    }

    /// True in a stop at the entry or exit of a system call (PTRACE_O_TRACESYSGOOD).
    pub fn is_at_syscall(&self) -> bool {
        self.event == 0 && self.signal == SYSCALL_STOP
    }

    /// Lets the thread run, giving it the signal it was about to take.
    ///
    /// # Errors
    ///
    /// ESRCH: gone.
    pub fn resume(self) -> Result<Running> {
        let signal = self.pending_signal();
        self.go(libc::PTRACE_CONT, signal)
    }

    /// Lets the thread run without the signal it was about to take.
    ///
    /// # Errors
    ///
    /// ESRCH: gone.
    pub fn resume_without_signal(self) -> Result<Running> {
        self.go(libc::PTRACE_CONT, 0)
    }

    fn go(self, how: libc::c_uint, signal: i32) -> Result<Running> {
        let this = ManuallyDrop::new(self);
        request(how, this.tid, 0, signal as usize, "resume a thread")?;
        Ok(Running { tid: this.tid, _not_send: PhantomData })
    }

    /// Kills the thread's process and reaps it as its tracer, so that its parent can. Not for the thread of a
    /// process that is to live.
    pub fn kill(self) {
        let this = ManuallyDrop::new(self);
        // SAFETY: no pointers but a null one for the status.
        unsafe {
            libc::kill(this.tid, libc::SIGKILL);
            libc::waitpid(this.tid, std::ptr::null_mut(), libc::__WALL);
        }
    }

    /// Ends the tracing; the thread goes on.
    ///
    /// # Errors
    ///
    /// ESRCH: gone.
    pub fn detach(self) -> Result<()> {
        let this = ManuallyDrop::new(self);
        request(libc::PTRACE_DETACH, this.tid, 0, this.pending_signal() as usize, "let a thread go")
            .inspect_err(|_| let_go_of_killed(this.tid))
    }
}

/// Something that happened to a thread traced by the calling thread.
#[derive(Debug)]
pub enum Event {
    /// It has stopped.
    Stopped(Stopped),
    /// It has ended.
    Ended(i32),
}

/// Takes the next event of any thread that the calling thread traces: `None` where there is none yet and
/// `block` is [`Block::No`], or nothing is traced any more.
///
/// # Errors
///
/// None that a caller could mend.
pub fn next_event(block: Block) -> Result<Option<Event>> {
    let flags = libc::__WALL | libc::__WNOTHREAD | if block == Block::Yes { 0 } else { libc::WNOHANG };
    loop {
        let mut status = 0;
        // SAFETY: `status` outlives the call. __WNOTHREAD: children of other threads are left alone.
        let tid = unsafe { libc::waitpid(-1, &raw mut status, flags) };
        return match tid {
            0 => Ok(None),
            tid if tid > 0 && libc::WIFSTOPPED(status) => {
                let (signal, event) = (libc::WSTOPSIG(status), status >> 16);
                Ok(Some(Event::Stopped(Stopped { tid, signal, event, _not_send: PhantomData })))
            }
            tid if tid > 0 => Ok(Some(Event::Ended(tid))),
            _ => match Error::last("wait for a thread", 0) {
                e if e.errno == Errno::INTR => continue,
                e if e.errno == Errno::CHILD => Ok(None),
                e => Err(e),
            },
        };
    }
}

/// Whether to wait for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Block {
    /// Wait.
    Yes,
    /// Only look.
    No,
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let signal = self.pending_signal() as usize;
        if request(libc::PTRACE_DETACH, self.tid, 0, signal, "let a thread go").is_err() {
            let_go_of_killed(self.tid);
        }
    }
}

/// Lets go of a thread that has been killed while it was traced: an exec in its process waits until it is reaped.
fn let_go_of_killed(tid: i32) {
    let deadline = Instant::now() + LETTING_GO;
    while !reap_thread(tid) && Instant::now() < deadline {
        std::thread::sleep(NAP);
    }
}

/// Whether a thread that was asked to stop only needs a CPU for that, or has just done it.
fn will_stop(tid: i32) -> bool {
    crate::process::status(tid).is_ok_and(|status| status.state != 'D')
}

/// Whether a traced thread has ended; if so, nobody waits for us to notice.
fn has_ended(tid: i32) -> bool {
    match crate::process::status(tid) {
        Ok(status) if status.tgid == tid => matches!(status.state, 'Z' | 'X'),
        Ok(_) => reap(tid),
        Err(_) => true,
    }
}

/// Takes note of the end of a thread that any thread of this process traces; false if it hasn't ended. That of a process's
/// first thread is left to the process's parent, which may be this process: there is nothing to wait for.
pub fn reap_thread(tid: i32) -> bool {
    crate::process::status(tid).map_or(true, |status| status.tgid == tid) || reap(tid)
}

/// The same of a thread that isn't its process's first.
fn reap(tid: i32) -> bool {
    // A stop of a traced thread is told whether or not it is asked for (wait_task_stopped, kernel/exit.c): so look first.
    let wait = |flags| {
        // SAFETY: plain old data, for which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::__WALL | flags;
        // SAFETY: `info` outlives the call.
        let result = unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &raw mut info, flags) };
        (result == 0).then_some(info.si_code)
    };
    match wait(libc::WNOWAIT) {
        Some(libc::CLD_EXITED | libc::CLD_KILLED | libc::CLD_DUMPED) => {
            wait(0);
            true
        }
        Some(_) => false,
        None => true,
    }
}

fn request(what: libc::c_uint, tid: i32, address: usize, data: usize, operation: &'static str) -> Result<()> {
    // SAFETY: requests that write through `data` get the address of a live local of the right size from the
    // functions above; the others take plain numbers.
    let result = unsafe { libc::ptrace(what, tid, address, data) };
    if result < 0 { Err(Error::last(operation, tid)) } else { Ok(()) }
}

/// Looks for a stop of a traced thread; only for that (waitid(2), WSTOPPED).
fn look(tid: i32) -> Result<Option<Status>> {
    loop {
        // SAFETY: plain old data, for which zeros are valid.
        let mut info: libc::siginfo_t = unsafe { mem::zeroed() };
        let flags = libc::WSTOPPED | libc::WNOHANG | libc::__WALL;
        // SAFETY: `info` outlives the call.
        if unsafe { libc::waitid(libc::P_PID, tid as libc::id_t, &raw mut info, flags) } == 0 {
            // SAFETY: waitid fills these fields, or leaves the zeros.
            let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
            let stop = Status::Stop { signal: status & 0xff, event: status >> 8 };
            return Ok((pid == tid).then_some(stop));
        }
        match Error::last("wait for a thread", tid).errno {
            Errno::INTR => {}
            Errno::CHILD => return Ok(Some(Status::Gone)),
            errno => return Err(Error::new("wait for a thread", tid, errno)),
        }
    }
}

/// Waits for a stop of a traced thread, which can be worked with then.
fn stop_of(tid: i32, deadline: Instant) -> Result<Stopped> {
    match wait(tid, deadline)? {
        Status::Stop { signal, event } => Ok(Stopped { tid, signal, event, _not_send: PhantomData }),
        Status::Gone => Err(Error::new("stop a thread", tid, Errno::SRCH)),
    }
}

/// Waits for a stop of a traced thread. It usually comes within microseconds: look first, nap later.
fn wait(tid: i32, deadline: Instant) -> Result<Status> {
    let begin = Instant::now();
    loop {
        // First the time: the last look is one after the deadline.
        let now = Instant::now();
        if let Some(status) = look(tid)? {
            return Ok(status);
        }
        if now - begin < SPIN {
            std::thread::yield_now();
            continue;
        }
        if has_ended(tid) {
            return Ok(Status::Gone);
        }
        if now >= deadline.max(begin + AT_LEAST) {
            return Err(Error::new("stop a thread", tid, Errno::TIMEDOUT));
        }
        std::thread::sleep(NAP);
    }
}
