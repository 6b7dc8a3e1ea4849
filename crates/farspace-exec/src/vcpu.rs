//! A vCPU: one task that runs one guest context at a time.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farspace_abi::RemoteAddr;
use farspace_abi::vcpu::{KICK, area, area_of, command};
use farspace_patch::arch::x86_64::traps::faulting_address;
use farspace_sys::{pidfd, signal};
use rustix::io::Errno;

use crate::arch::frame;
use crate::area::{Area, FrameAt, VectorAt, framed, patched};
use crate::engine::CAUGHT;
use crate::event::{ARCH_I386, ARCH_X86_64, Event, Fault, Route, Syscall};
use crate::floor::Notice;
use crate::pace::{PATIENCE, Pace, Placement, Tries};
use crate::patching::Place;
use crate::regs::{Reg, Registers};
use crate::space::Inner;
use crate::wait::{self, KICK_AGAIN, KICK_DEADLINE};
use crate::{Error, Result};

/// How long a task may take to start, or to answer where no guest code is involved.
const PROMPT: Duration = Duration::from_secs(10);
/// How often a sleeping engine looks whether the task still lives, should the kernel not have told.
const LOOK_ALIVE: Duration = Duration::from_secs(5);

/// RFLAGS.TF
const TRAP_FLAG: u64 = 1 << 8;
/// SYS_USER_DISPATCH and SYS_SECCOMP (include/uapi/asm-generic/siginfo.h).
const DISPATCHED: [i32; 2] = [1, 2];

/// A task in a space that runs one guest context at a time. Dropped, it ends.
///
/// Between [`run`](Vcpu::run)s its registers are read and written where the task left them: nothing is copied. At a patched
/// site the vector registers stay in the processor; whatever needs the whole state (FS base, vector registers, setting
/// RIP) makes the task save it first.
#[derive(Debug)]
pub struct Vcpu {
    space: Arc<Inner>,
    index: usize,
    pid: i32,
    pidfd: Arc<OwnedFd>,
    notice: Arc<Notice>,
    area: Area,
    /// Number and kind of the event that the guest stopped at.
    event: u32,
    state: State,
    commands: u32,
    /// What RAX is to become.
    result: Option<u64>,
    /// Commands and tries as the stub has them.
    told: (u32, Tries),
    placement: Placement,
    pace: Pace,
    /// Of the space's code, when the guest stopped.
    epoch: u32,
    /// RIP was set since: it may be in code that was rewritten.
    is_moved: bool,
    /// Where the guest was sent on last after it trapped on rewritten code.
    retried: Option<u64>,
    /// Traps in a row that led to no rewriting.
    fruitless: u32,
}

/// Where the registers of a stopped guest are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the area; RCX, R11 and what isn't general is in the processor.
    Patched,
    /// In a signal frame, after a system call by SIGSYS: number, arguments and result are in the area, too.
    Trapped,
    /// All of them in a signal frame.
    Framed(FrameAt),
    /// The task is of no use any more.
    Lost,
}

/// Stops a running guest from another thread.
#[derive(Clone, Debug)]
pub struct Interrupter {
    pidfd: Arc<OwnedFd>,
    notice: Arc<Notice>,
}

impl Interrupter {
    /// Makes the run that goes on, or else the next one, return [`Event::Interrupted`].
    pub fn interrupt(&self) {
        self.notice.kick();
        send_kick(&self.pidfd);
    }
}

fn send_kick(pidfd: &OwnedFd) {
    // ESRCH: it has ended, which whoever waits for it sees.
    let _ = signal::send(pidfd.as_fd(), KICK);
}

impl Vcpu {
    /// Waits for a new task to come up; its first frame is that of the trap it starts with.
    ///
    /// If there is no other guest in the space, it is the task's own.
    pub(crate) fn new(
        space: &Arc<Inner>,
        index: usize,
        pid: i32,
        pace: Pace,
        is_alone: bool,
    ) -> Result<Self> {
        let pidfd = pidfd::open(pid).map_err(|_| {
            space.free_slot(index);
            Error::Ended { pid }
        })?;
        let mut vcpu = Self {
            space: Arc::clone(space),
            index,
            pid,
            pidfd: Arc::new(pidfd),
            notice: Arc::default(),
            area: Area::new(&space.memory, index, area_of(index)),
            event: 0,
            state: State::Lost,
            commands: 0,
            result: None,
            told: (u32::MAX, Tries::NONE),
            placement: Placement::Auto,
            pace,
            epoch: 0,
            is_moved: true,
            fruitless: 0,
            retried: None,
        };
        if let Err(error) = vcpu.come_up(is_alone) {
            // The caller gives the steward other orders next: nobody may still be reading these.
            vcpu.lose();
            pidfd::wait_end(vcpu.pidfd.as_fd(), PROMPT);
            return Err(error);
        }
        // A clean start: nothing of the stub's in the registers.
        vcpu.set_registers(&Registers::default());
        Ok(vcpu)
    }

    fn come_up(&mut self, is_alone: bool) -> Result<()> {
        self.await_event(Tries::NONE, Some(PROMPT))?;
        self.accept()?;
        // Another thread of the guest can say so in its place.
        if !is_alone
            && crate::birth::filters(self.pid).is_ok_and(|filters| filters <= self.space.root.filters)
        {
            return Err(self.damaged("the start of a vCPU that has not started"));
        }
        Ok(())
    }

    /// The task's pid.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// What stops a run from another thread.
    pub fn interrupter(&self) -> Interrupter {
        Interrupter { pidfd: Arc::clone(&self.pidfd), notice: Arc::clone(&self.notice) }
    }

    /// Runs the guest until something happens.
    ///
    /// At the deadline the guest is interrupted as by an [`Interrupter`].
    ///
    /// # Errors
    ///
    /// Ended: the task was killed; Unresponsive: it didn't stop, not even when told to (it was killed then);
    /// Damaged: the guest has written nonsense to its control area (it was killed).
    pub fn run(&mut self, timeout: Option<Duration>) -> Result<Event> {
        if self.notice.take_kick() {
            return Ok(Event::Interrupted);
        }
        if self.state == State::Lost {
            return Err(Error::Ended { pid: self.pid });
        }
        let run = self.pace.enter(self.placement, Some((&self.notice, timeout)));
        let timeout = run.left(timeout);
        let tries = self.pace.begin(&run, self.placement);
        loop {
            self.settle()?;
            let tries = self.resume(tries);
            self.await_event(tries, timeout)?;
            self.accept()?;
            let event = self.classify()?;
            self.space.running[self.index].store(false, Ordering::Release);
            if let Some(event) = event {
                self.retried = None;
                return Ok(event);
            }
        }
    }

    /// The value of a register.
    pub fn reg(&self, reg: Reg) -> u64 {
        match self.state {
            State::Patched | State::Trapped if reg == Reg::Rax && self.result.is_some() => {
                self.result.unwrap_or_default()
            }
            State::Patched => self.area.get(patched(reg)),
            State::Trapped if is_in_line(reg) => self.area.get(patched(reg)),
            State::Trapped => self.area.frame().map_or(0, |frame| self.area.in_frame(frame, framed(reg))),
            State::Framed(frame) => self.area.in_frame(frame, framed(reg)),
            State::Lost => 0,
        }
    }

    /// Sets a register.
    ///
    /// # Errors
    ///
    /// As [`Vcpu::run`]: at a patched site, setting RIP, RCX, R11 or RFLAGS makes the task save its whole state.
    pub fn set_reg(&mut self, reg: Reg, value: u64) -> Result<()> {
        if matches!(reg, Reg::Rip | Reg::Rcx | Reg::R11 | Reg::Rflags) {
            self.materialize()?;
            self.is_moved = true;
        }
        if reg == Reg::Rflags && value & TRAP_FLAG != 0 {
            self.space.stop_patching()?;
        }
        match self.state {
            // Written at the last moment: until then the stub looks at that line.
            State::Patched | State::Trapped if reg == Reg::Rax => self.result = Some(value),
            State::Patched => self.area.set(patched(reg), value),
            State::Trapped => {
                if is_in_line(reg) {
                    self.area.set(patched(reg), value);
                }
                let frame = self.frame()?;
                self.area.set_in_frame(frame, framed(reg), value);
            }
            State::Framed(frame) => self.area.set_in_frame(frame, framed(reg), value),
            State::Lost => {}
        }
        Ok(())
    }

    /// All general registers.
    pub fn registers(&self) -> Registers {
        let mut all = Registers::default();
        for reg in Reg::ALL {
            all[reg] = self.reg(reg);
        }
        all
    }

    fn set_registers(&mut self, all: &Registers) {
        let frame = match self.state {
            State::Framed(frame) => frame,
            State::Trapped => {
                // The stub puts the result into the frame.
                self.result = Some(all[Reg::Rax]);
                let Some(frame) = self.area.frame() else { return };
                frame
            }
            State::Patched | State::Lost => return,
        };
        for reg in Reg::ALL {
            self.area.set_in_frame(frame, framed(reg), all[reg]);
        }
    }

    /// Sets all general registers. The guest goes on in 64-bit mode, even if it had gone to another.
    ///
    /// # Errors
    ///
    /// As [`Vcpu::set_reg`].
    pub fn load(&mut self, all: &Registers) -> Result<()> {
        let frame = self.materialize()?;
        self.area.set_in_frame(frame, frame::SELECTORS, frame::USER_CS | frame::USER_SS << 48);
        self.is_moved = true;
        if all[Reg::Rflags] & TRAP_FLAG != 0 {
            self.space.stop_patching()?;
        }
        self.set_registers(all);
        Ok(())
    }

    /// The FS base.
    ///
    /// # Errors
    ///
    /// As [`Vcpu::set_reg`].
    pub fn fs_base(&mut self) -> Result<u64> {
        self.base(area::FS_BASE, area::LOAD_FS, command::LOAD_FS)
    }

    /// Sets the FS base.
    ///
    /// # Errors
    ///
    /// EINVAL: not canonical; as [`Vcpu::set_reg`].
    pub fn set_fs_base(&mut self, base: u64) -> Result<()> {
        self.set_base(base, area::LOAD_FS, command::LOAD_FS)
    }

    /// The GS base.
    ///
    /// # Errors
    ///
    /// As [`Vcpu::set_reg`].
    pub fn gs_base(&mut self) -> Result<u64> {
        self.base(area::GS_BASE, area::LOAD_GS, command::LOAD_GS)
    }

    /// Sets the GS base.
    ///
    /// # Errors
    ///
    /// As [`Vcpu::set_fs_base`].
    pub fn set_gs_base(&mut self, base: u64) -> Result<()> {
        self.set_base(base, area::LOAD_GS, command::LOAD_GS)
    }

    /// A base as it was saved, or as it is to be loaded.
    fn base(&mut self, saved: usize, to_load: usize, bit: u32) -> Result<u64> {
        self.materialize()?;
        Ok(self.area.get(if self.commands & bit != 0 { to_load } else { saved }))
    }

    fn set_base(&mut self, base: u64, field: usize, bit: u32) -> Result<()> {
        if base >= 1 << 47 {
            return Err(Error::new("set a segment base", Errno::INVAL));
        }
        self.materialize()?;
        self.area.set(field, base);
        self.commands |= bit;
        Ok(())
    }

    /// Copies the vector state out: an XSAVE area in the standard format, as in a signal frame. Returns its length in
    /// bytes.
    ///
    /// # Errors
    ///
    /// As [`Vcpu::set_reg`].
    pub fn vector_state(&mut self, bytes: &mut [u8]) -> Result<usize> {
        let vector = self.vector()?;
        self.area.copy_vector_out(vector, bytes);
        Ok(bytes.len().min(vector.room))
    }

    /// Copies a vector state in.
    ///
    /// # Errors
    ///
    /// As [`Vcpu::set_reg`].
    pub fn set_vector_state(&mut self, bytes: &[u8]) -> Result<()> {
        let vector = self.vector()?;
        self.area.copy_vector_in(vector, bytes);
        Ok(())
    }

    fn vector(&mut self) -> Result<VectorAt> {
        let frame = self.materialize()?;
        self.area.vector_state(frame).ok_or_else(|| self.damaged("no vector state"))
    }

    /// Makes the task save everything in a frame, if it hasn't.
    fn materialize(&mut self) -> Result<FrameAt> {
        match self.state {
            State::Framed(frame) => Ok(frame),
            State::Trapped => self.frame(),
            State::Lost => Err(Error::Ended { pid: self.pid }),
            State::Patched => {
                self.is_moved = true;
                let all = self.registers();
                self.commands = command::MATERIALIZE;
                self.resume(Tries::NONE);
                self.await_event(Tries::NONE, Some(PROMPT))?;
                self.accept()?;
                self.commands = 0;
                self.set_registers(&all);
                match self.state {
                    State::Framed(frame) => Ok(frame),
                    _ => Err(self.damaged("no frame")),
                }
            }
        }
    }

    /// Makes sure that the guest goes on where it should, should its code have been rewritten since it stopped.
    fn settle(&mut self) -> Result<()> {
        let running = &self.space.running[self.index];
        // Before the look at the epoch: whoever takes code away looks at the two the other way round.
        running.store(true, Ordering::SeqCst);
        let epoch = self.space.epoch.load(Ordering::SeqCst);
        if epoch == self.epoch && !self.is_moved {
            return Ok(());
        }
        if self.state == State::Patched {
            let (site, resume) = (self.reg(Reg::Rip).wrapping_sub(2), self.area.get(area::RESUME));
            if self.space.patching().is_live(site, resume) {
                self.epoch = epoch;
                return Ok(());
            }
        }
        let frame = self.materialize()?;
        let ip = self.area.in_frame(frame, frame::RIP);
        let space = Arc::clone(&self.space);
        let mut patching = space.patching();
        if let Place::Moved(to) = space.landing(&mut patching, ip)? {
            self.area.set_in_frame(frame, frame::RIP, to);
        }
        // Nothing is rewritten while the lock is held.
        self.epoch = space.epoch.load(Ordering::SeqCst);
        self.is_moved = false;
        Ok(())
    }

    /// Lets the task go on from the event it waits at; how to wait for the next one.
    fn resume(&mut self, tries: Tries) -> Tries {
        // Written only if it changes: the line then stays in both caches.
        if self.told != (self.commands, tries) {
            self.area.word(area::COMMAND).store(self.commands, Ordering::Relaxed);
            self.area.word(area::LOOKS).store(tries.looks, Ordering::Relaxed);
            self.area.word(area::YIELDS).store(tries.yields, Ordering::Relaxed);
            self.told = (self.commands, tries);
        }
        self.commands = 0;
        if let Some(result) = self.result.take() {
            self.area.set(area::RAX, result);
        }
        let answered = self.area.word(area::ANSWERED);
        answered.store(self.event, Ordering::SeqCst);
        if self.area.word(area::STUB_ASLEEP).load(Ordering::SeqCst) != 0 {
            wait::wake(answered);
            return self.pace.wakes(tries);
        }
        tries
    }

    /// Waits for an event other than the present one.
    fn await_event(&mut self, tries: Tries, timeout: Option<Duration>) -> Result<()> {
        let event = self.area.word(area::EVENT);
        for _ in 0..tries.looks {
            if event.load(Ordering::Acquire) != self.event {
                self.pace.hit();
                return Ok(());
            }
            std::hint::spin_loop();
        }
        if tries.looks > 0 {
            self.pace.miss();
        }
        if tries.yields > 0
            && self.pace.take_turns(tries.yields, || event.load(Ordering::Acquire) != self.event)
        {
            return Ok(());
        }
        // The clock is only looked at once it takes longer.
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let asleep = self.area.word(area::ENGINE_ASLEEP);
        let mut kicked: Option<Instant> = None;
        let mut has_slept = false;
        let mut patience = PATIENCE;
        asleep.store(area::ASLEEP_ON_FUTEX, Ordering::SeqCst);
        let outcome = loop {
            if event.load(Ordering::SeqCst) != self.event {
                break Ok(());
            }
            if has_slept && deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                self.notice.kick();
            }
            if self.notice.is_kicked() {
                let first = *kicked.get_or_insert_with(Instant::now);
                if first.elapsed() > KICK_DEADLINE {
                    break Err(Error::Unresponsive { pid: self.pid });
                }
                send_kick(&self.pidfd);
            }
            if has_slept {
                if pidfd::wait_end(self.pidfd.as_fd(), Duration::ZERO) {
                    break Err(Error::Ended { pid: self.pid });
                }
                // A guest that computes may be better off elsewhere.
                self.pace.untie();
            }
            let (slice, until) = if kicked.is_some() { (KICK_AGAIN, None) } else { (patience, deadline) };
            // A guest can make the stub believe that nobody sleeps here: that delays it by what it took already.
            patience = (patience * 2).min(LOOK_ALIVE);
            has_slept = true;
            wait::sleep(event, self.event, slice, until);
        };
        asleep.store(0, Ordering::Relaxed);
        if let Err(error) = outcome {
            self.lose();
            return Err(error);
        }
        Ok(())
    }

    /// Takes note of the event that has come.
    fn accept(&mut self) -> Result<()> {
        let event = self.area.word(area::EVENT).load(Ordering::Acquire);
        if event == 0 {
            self.lose();
            return Err(Error::Ended { pid: self.pid });
        }
        let expected = match (self.event >> area::KIND_BITS).wrapping_add(1) & (u32::MAX >> area::KIND_BITS) {
            0 => 1,
            next => next,
        };
        if event >> area::KIND_BITS != expected {
            return Err(self.damaged("an event out of order"));
        }
        self.event = event;
        self.state = match event & ((1 << area::KIND_BITS) - 1) {
            area::KIND_PATCHED => State::Patched,
            area::KIND_TRAPPED => State::Trapped,
            area::KIND_SIGNAL => State::Framed(self.frame()?),
            _ => return Err(self.damaged("an event of no kind")),
        };
        Ok(())
    }

    /// What the event means; `None` if the guest is to go on.
    fn classify(&mut self) -> Result<Option<Event>> {
        let frame = match self.state {
            State::Patched => return Ok(Some(self.call(Route::Patched))),
            State::Trapped => {
                self.note_trap();
                return Ok(Some(self.call(Route::Trapped)));
            }
            State::Framed(frame) => frame,
            State::Lost => return Err(Error::Ended { pid: self.pid }),
        };
        let signal = self.area.word_in_frame(frame, frame::siginfo::SIGNO) as i32;
        let code = self.area.word_in_frame(frame, frame::siginfo::CODE) as i32;
        let addr = RemoteAddr(self.area.in_frame(frame, frame::siginfo::ADDR));
        match signal {
            KICK => {
                self.is_rewritten(frame, 0)?;
                Ok(self.notice.take_kick().then_some(Event::Interrupted))
            }
            libc::SIGSYS if DISPATCHED.contains(&code) => self.compat_call(frame).map(Some),
            _ if !CAUGHT.contains(&signal) => Err(self.damaged("a signal that no guest causes")),
            _ => {
                let trapno = self.area.in_frame(frame, frame::TRAPNO);
                let err = self.area.in_frame(frame, frame::ERR);
                if self.is_rewritten(frame, trapno)? {
                    return Ok(None);
                }
                Ok(Some(Event::Fault(Fault { signal, code, addr, trapno, err })))
            }
        }
    }

    /// Notes where the trap was, unless it never leads to anything: the frame is on another CPU.
    fn note_trap(&mut self) {
        const TIRED: u32 = 256;
        self.fruitless = self.fruitless.wrapping_add(1);
        if self.fruitless > TIRED && !self.fruitless.is_multiple_of(32) {
            return;
        }
        let Some(frame) = self.area.frame() else { return };
        let site = self.area.in_frame(frame, frame::RIP).wrapping_sub(2);
        if self.space.note_trap(site, self.area.get(area::RAX)) {
            self.fruitless = 0;
        }
    }

    /// After a fault: true if it was only that of code that was rewritten; the guest then goes on elsewhere. Otherwise
    /// RIP becomes what it would be without the rewriting.
    fn is_rewritten(&mut self, frame: FrameAt, trapno: u64) -> Result<bool> {
        if self.space.epoch.load(Ordering::SeqCst) == 0 {
            return Ok(false);
        }
        let space = Arc::clone(&self.space);
        let mut patching = space.patching();
        let ip = self.area.in_frame(frame, frame::RIP);
        if let Place::Moved(origin) = patching.origin(ip) {
            self.area.set_in_frame(frame, frame::RIP, origin);
            self.is_moved = true;
            return Ok(false);
        }
        // #BP, #UD, #GP
        if ![3, 6, 13].contains(&trapno) {
            return Ok(false);
        }
        let ip = faulting_address(trapno, ip);
        // Twice in a row at one address is the guest's own doing.
        if !patching.has_patch(ip) || self.retried.replace(ip) == Some(ip) {
            return Ok(false);
        }
        let to = match space.landing(&mut patching, ip)? {
            Place::Moved(to) => to,
            Place::Same => ip,
        };
        self.area.set_in_frame(frame, frame::RIP, to);
        Ok(true)
    }

    /// A call of the 64-bit table.
    fn call(&self, route: Route) -> Event {
        let args =
            [area::RDI, area::RSI, area::RDX, area::R10, area::R8, area::R9].map(|at| self.area.get(at));
        Event::Syscall(Syscall { nr: self.area.get(area::RAX), args, arch: ARCH_X86_64, route })
    }

    /// A call of the 32-bit table.
    fn compat_call(&mut self, frame: FrameAt) -> Result<Event> {
        let arch = self.area.word_in_frame(frame, frame::siginfo::ARCH);
        if arch != ARCH_I386 {
            return Err(self.damaged("a system call of no known table"));
        }
        let nr = u64::from(self.area.word_in_frame(frame, frame::siginfo::SYSCALL));
        let regs = [Reg::Rbx, Reg::Rcx, Reg::Rdx, Reg::Rsi, Reg::Rdi, Reg::Rbp];
        let args = regs.map(|reg| self.reg(reg) & u64::from(u32::MAX));
        Ok(Event::Syscall(Syscall { nr, args, arch, route: Route::Trapped }))
    }

    /// The frame of the newest event.
    fn frame(&mut self) -> Result<FrameAt> {
        self.area.frame().ok_or_else(|| self.damaged("a signal frame elsewhere"))
    }

    /// Chooses where the vCPU runs.
    pub fn set_placement(&mut self, placement: Placement) {
        self.placement = placement;
    }

    fn damaged(&mut self, what: &'static str) -> Error {
        self.lose();
        Error::Damaged { pid: self.pid, what }
    }

    fn lose(&mut self) {
        self.state = State::Lost;
        pidfd::kill(self.pidfd.as_fd());
    }
}

impl Drop for Vcpu {
    fn drop(&mut self) {
        pidfd::kill(self.pidfd.as_fd());
        self.space.leave_slot(self.index, Arc::clone(&self.pidfd));
    }
}

/// Whether a register is in the first line of the area after a system call.
const fn is_in_line(reg: Reg) -> bool {
    matches!(reg, Reg::Rax | Reg::Rdi | Reg::Rsi | Reg::Rdx | Reg::R10 | Reg::R8 | Reg::R9)
}
