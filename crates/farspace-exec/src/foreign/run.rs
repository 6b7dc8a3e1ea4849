//! Running a guest while the caller's signals are watched.
//!
//! The calling thread has all signals blocked. While it looks for an event none is taken; when it sleeps, those that it
//! had unblocked before come through, and with them their handlers, atomically with the sleep. Those of the call's mask
//! stay blocked, and are seen by a signalfd; they are taken with sigtimedwait(2) only once the guest has stopped, so
//! that none is lost to an event that was faster.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farspace_abi::exec::SigInfo;
use farspace_abi::vcpu::{KICK, area};
use farspace_sys::signal::{self, SignalFd};
use rustix::io::Errno;

use super::context::Cause;
use super::vcpu::ForeignVcpu;
use crate::pace::{PATIENCE, Placement, Tries};
use crate::wait::{KICK_AGAIN, KICK_DEADLINE};
use crate::{Error, Result};

/// Which signals end a run; bit n - 1 for signal n.
#[derive(Clone, Copy, Debug)]
pub struct Signals {
    /// Those that are returned.
    pub mask: u64,
    /// What the thread blocked before the call.
    pub blocked: u64,
}

/// Why a guest has stopped.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// A system call or a fault, which [`ForeignVcpu::store`] describes.
    Event,
    /// A signal of the mask, taken.
    Signal(SigInfo),
    /// A handler has run for a signal that isn't in the mask.
    Interrupted,
}

/// What ends a sleep.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wake {
    Event,
    Masked,
    Handled,
}

/// How a sleep ended.
enum Slept {
    /// By something else than the guest.
    Woken(Wake),
    /// There may be an event.
    Look,
    /// The time is over.
    Long,
}

impl ForeignVcpu {
    /// Runs the guest that is loaded. All signals are blocked in the calling thread.
    ///
    /// `signalfd` stands for the mask, if that isn't empty.
    ///
    /// # Errors
    ///
    /// Ended: the task was killed; Unresponsive: it didn't stop when told to; Damaged. The task is of no use then.
    pub fn run(&mut self, signals: Signals, signalfd: Option<&SignalFd>) -> Result<Outcome> {
        let run = self.pace.enter(Placement::Auto, None);
        let mut handled = false;
        loop {
            let tries = self.pace.begin(&run, Placement::Auto);
            let tries = self.resume(tries);
            let wake = self.await_event(tries, signals, signalfd);
            let wake = wake.inspect_err(|_| self.task.signal(libc::SIGKILL))?;
            handled |= wake == Wake::Handled;
            match self.accept()? {
                Cause::Syscall | Cause::Fault => return Ok(Outcome::Event),
                Cause::Kick => {
                    if let Some(bytes) = signal::take(signals.mask) {
                        return Ok(Outcome::Signal(SigInfo { bytes }));
                    }
                    if handled {
                        return Ok(Outcome::Interrupted);
                    }
                    // A kick for the guest before, or a signal that another thread has taken.
                }
                Cause::Noise => {}
            }
        }
    }

    /// Waits for the next event; says what else has happened.
    fn await_event(&mut self, tries: Tries, signals: Signals, signalfd: Option<&SignalFd>) -> Result<Wake> {
        for _ in 0..tries.looks {
            if self.has_event() {
                self.pace.hit();
                return Ok(Wake::Event);
            }
            std::hint::spin_loop();
        }
        if tries.looks > 0 {
            self.pace.miss();
        }
        let event = self.area.word(area::EVENT);
        if tries.yields > 0
            && self.pace.take_turns(tries.yields, || event.load(Ordering::SeqCst) != self.event)
        {
            return Ok(Wake::Event);
        }
        self.area.word(area::ENGINE_ASLEEP).store(area::ASLEEP_ON_EVENTFD, Ordering::SeqCst);
        let mut wake = Wake::Event;
        let mut kicked: Option<Instant> = None;
        let ended = loop {
            if self.has_event() {
                break Ok(());
            }
            let mut timeout = self.pace.is_tied().then_some(PATIENCE);
            if wake != Wake::Event {
                if kicked.get_or_insert_with(Instant::now).elapsed() > KICK_DEADLINE {
                    break Err(Error::Unresponsive { pid: self.task.pid() });
                }
                self.task.signal(KICK);
                timeout = Some(KICK_AGAIN);
            }
            match self.sleep(timeout, wake, signals, signalfd) {
                Ok(Slept::Woken(new)) => wake = new,
                Ok(Slept::Long) if wake == Wake::Event => self.pace.untie(),
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        self.area.word(area::ENGINE_ASLEEP).store(0, Ordering::Relaxed);
        ended.map(|()| wake)
    }

    /// Sleeps once. Once the guest is told to stop, no more signals are let through.
    fn sleep(
        &self,
        timeout: Option<Duration>,
        wake: Wake,
        signals: Signals,
        signalfd: Option<&SignalFd>,
    ) -> Result<Slept> {
        let entry = |fd: i32| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let watches = wake == Wake::Event;
        // A negative number is none (poll(2)).
        let masked = signalfd.filter(|_| watches).map_or(-1, |fd| fd.as_fd().as_raw_fd());
        let mut fds = [entry(self.bell.as_raw_fd()), entry(self.task.pidfd().as_raw_fd()), entry(masked)];
        let blocked = if watches { signals.blocked | signals.mask } else { u64::MAX };
        match signal::ppoll(&mut fds, timeout, blocked) {
            Ok(0) => return Ok(Slept::Long),
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Slept::Woken(Wake::Handled)),
            Err(errno) => return Err(Error::new("wait for the guest", errno)),
        }
        if fds[0].revents != 0 {
            let mut count = [0; 8];
            let _ = rustix::io::read(&self.bell, &mut count);
        }
        if fds[1].revents != 0 && !self.has_event() {
            return Err(Error::Ended { pid: self.task.pid() });
        }
        Ok(if fds[2].revents == 0 { Slept::Look } else { Slept::Woken(Wake::Masked) })
    }
}
