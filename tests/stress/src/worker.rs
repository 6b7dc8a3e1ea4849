//! The calls, and what they may answer.

use crate::guest::{AREA, AREA_BYTES, CODE, DATA, DATA_BYTES, ENTRIES, STEP};
use crate::random::Random;
use crate::slots::Slots;
use crate::tally::{Kind, Tally};
use farspace::{RemoteIoVec, SigContext, SigInfo};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use std::cell::Cell;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

/// Ends guests that would run forever: from a timer of each thread, in the mask of each call.
const TICK: i32 = 40;
const TICK_NS: i64 = 3_000_000;

/// Calls on memory, with arguments that are addresses of the target's area.
const CALLS: [libc::c_long; 8] = [
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_msync,
    libc::SYS_mincore,
    libc::SYS_brk,
    libc::SYS_write,
];

thread_local! {
    /// Found by the FS base: where a guest has kept it, this is somebody else's.
    static OWN: Cell<u64> = const { Cell::new(0) };
}

/// What all threads have in common: the signals that mustn't end the process.
pub(crate) fn prepare_process() {
    // SAFETY: the set is a local; the mask is inherited by every thread.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, TICK);
        libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Makes calls until the time is over.
pub(crate) fn run(slots: &Slots, tally: &Tally, seed: u64, end: Instant) -> Result<(), String> {
    let timer = Timer::start()?;
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(|e| e.to_string())?;
    let mut worker = Worker { random: Random(seed), reader, writer, sum: 1.0 };
    OWN.set(seed);
    while Instant::now() < end {
        let pid = slots.get(worker.random.below(slots.len() as u64) as usize);
        if pid == 0 {
            std::thread::yield_now();
            continue;
        }
        let (kind, answer) = match worker.random.below(3) {
            0 => (Kind::Vmsplice, worker.vmsplice(pid)),
            1 => (Kind::Exec, worker.exec(pid)),
            _ => (Kind::Syscall, worker.syscall(pid)),
        };
        tally.count(kind, answer.err());
        match answer {
            Ok(()) => {}
            // The target has ended, is another program by now, or is in a state that can't be visited.
            Err(Errno::SRCH | Errno::FAULT | Errno::PERM | Errno::OPNOTSUPP | Errno::INTR) => {}
            // Limits of the machine.
            Err(Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE) => {}
            Err(errno) => return Err(format!("{kind:?} of pid {pid}: {errno:?}")),
        }
        worker.sum = worker.sum.mul_add(1.000_000_1, 1.0);
        if OWN.get() != seed || !worker.sum.is_finite() {
            return Err(format!("{kind:?} of pid {pid} has changed this thread's registers"));
        }
    }
    drop(timer);
    Ok(())
}

struct Worker {
    random: Random,
    reader: OwnedFd,
    writer: OwnedFd,
    /// Lives in a vector register.
    sum: f64,
}

impl Worker {
    fn vmsplice(&mut self, pid: i32) -> Result<(), Errno> {
        let count = self.random.pick(&[1, 2, 16, 1024]);
        let iov: Vec<_> = (0..count)
            .map(|_| RemoteIoVec::new(self.address(), self.random.pick(&[1, 4096, 10_000, 100_000])))
            .collect();
        let flags = self.random.pick(&[2, 2, 3, 10]);
        // SAFETY: the pipe is this worker's own.
        let done = unsafe {
            farspace::raw::process_vmsplice(pid, self.writer.as_raw_fd(), iov.as_ptr(), iov.len(), flags)
        };
        self.drain();
        done.map(drop)
    }

    fn exec(&mut self, pid: i32) -> Result<(), Errno> {
        let entry = self.random.below(ENTRIES.len() as u64) * STEP;
        let rip = self.random.pick(&[CODE + entry, CODE + entry, CODE + entry, DATA, AREA, 0x1000]);
        let (rdi, rsp) = (self.address(), DATA + 0x8000);
        let mut context = SigContext { rip, rdi, rsp, rax: self.random.below(600), ..SigContext::default() };
        context.cs = 0x33;
        context.ss = 0x2b;
        context.eflags = 0x202;
        context.reserved1 = [self.random.next() >> 20, 0, 0, 0, 0, 0, 0, 0];
        for _ in 0..=self.random.below(8) {
            self.call(pid, &mut context, 0)?;
        }
        Ok(())
    }

    fn syscall(&mut self, pid: i32) -> Result<(), Errno> {
        let nr = self.random.pick(&CALLS);
        let at = AREA + (self.random.below(AREA_BYTES) & !0xfff);
        let len = self.random.pick(&[4096, 8192, 65536]);
        let mut context = SigContext { rax: nr as u64, rdi: at, rsi: len, ..SigContext::default() };
        match nr {
            // Fixed, private, anonymous: over what is there.
            libc::SYS_mmap => (context.rdx, context.r10, context.r8) = (3, 0x32, u64::MAX),
            libc::SYS_mprotect => context.rdx = self.random.below(8),
            // MADV_DONTNEED, MADV_COLD, MADV_PAGEOUT.
            libc::SYS_madvise => context.rdx = self.random.pick(&[4, 20, 21]),
            libc::SYS_msync => context.rdx = 1,
            libc::SYS_mincore => context.rdx = DATA,
            libc::SYS_brk => context.rdi = 0,
            libc::SYS_write => {
                let to = self.writer.as_raw_fd() as u64;
                (context.rdi, context.rsi, context.rdx) = (to, self.address(), self.random.pick(&[1, 4096]));
            }
            _ => {}
        }
        let done = self.call(pid, &mut context, 1);
        self.drain();
        done
    }

    fn call(&mut self, pid: i32, context: &mut SigContext, flags: u64) -> Result<(), Errno> {
        let mut info = SigInfo::default();
        let mask = 1_u64 << (TICK - 1);
        // SAFETY: all three are locals; descriptors that the call may use are this worker's.
        unsafe { farspace::raw::process_vm_exec(pid, context, flags, &raw mut info, &raw const mask, 8) }
    }

    /// Something of the target's, or nothing.
    fn address(&mut self) -> u64 {
        let (area, data) = (self.random.below(AREA_BYTES), self.random.below(DATA_BYTES));
        self.random.pick(&[AREA + area, AREA + area, DATA + data, CODE, 0, 0x7fff_ffff_f000, u64::MAX - 100])
    }

    fn drain(&mut self) {
        let mut buffer = [0; 65536];
        while matches!(rustix::io::read(&self.reader, &mut buffer), Ok(n) if n > 0) {}
    }
}

/// Sends [`TICK`] to the thread that has started it.
struct Timer(libc::timer_t);

impl Timer {
    fn start() -> Result<Self, String> {
        let mut timer = std::ptr::null_mut();
        // SAFETY: structures of plain numbers; the thread's own id.
        unsafe {
            let mut event: libc::sigevent = std::mem::zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = TICK;
            event.sigev_notify_thread_id = libc::gettid();
            if libc::timer_create(libc::CLOCK_MONOTONIC, &mut event, &mut timer) != 0 {
                return Err(format!("timer_create: {}", std::io::Error::last_os_error()));
            }
            let tick = libc::timespec { tv_sec: 0, tv_nsec: TICK_NS };
            let period = libc::itimerspec { it_interval: tick, it_value: tick };
            libc::timer_settime(timer, 0, &period, std::ptr::null_mut());
        }
        Ok(Self(timer))
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // SAFETY: made by this value, and not deleted yet.
        unsafe { libc::timer_delete(self.0) };
    }
}
