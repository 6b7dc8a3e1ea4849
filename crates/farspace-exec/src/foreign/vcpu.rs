//! One task in a foreign process, and its events.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use farspace_abi::RemoteAddr;
use farspace_abi::vcpu::{area, command};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;

use super::context::{self, Cause, Context};
use super::start::{self, Start};
use super::vector::{Layout, Vector};
use super::{Place, Task};
use crate::area::{Area, FrameAt, VectorAt};
use crate::pace::{Pace, Tries};
use crate::{Error, Result, wait};

/// How long a task may take to start.
const PROMPT: Duration = Duration::from_secs(10);

/// A task in a foreign process that runs one guest at a time; nothing of one is left for the next. Dropped, it ends.
#[derive(Debug)]
pub struct ForeignVcpu {
    // Before `place`: dropped in this order.
    pub(super) task: Box<dyn Task>,
    pub(super) area: Area,
    pub(super) bell: OwnedFd,
    /// The event that the task waits at.
    pub(super) event: u32,
    pub(super) pace: Pace,
    layout: Layout,
    _place: Place,
}

/// A task that is about to be cloned.
#[derive(Debug)]
pub struct Unborn {
    place: Place,
    bell: OwnedFd,
}

impl Place {
    /// Prepares for a task here.
    ///
    /// # Errors
    ///
    /// EMFILE.
    pub fn prepare(self) -> Result<Unborn> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|errno| Error::new("make an eventfd", errno))?;
        Ok(Unborn { place: self, bell })
    }
}

impl Unborn {
    /// What its parent needs a copy of.
    pub fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The word that the kernel is to clear when the task ends.
    pub fn clear(&self) -> RemoteAddr {
        RemoteAddr(self.place.address().0 + area::EVENT as u64)
    }

    /// Where it enters, and what is in RDI there.
    pub fn entry(&self) -> (RemoteAddr, RemoteAddr) {
        (RemoteAddr(start::entry(self.place.space.room.0)), self.place.address())
    }

    /// Writes what the task needs: `parent` is its parent's pid as it sees it, `bell` the number of the bell in the
    /// parent's table. The area is mapped by now.
    pub fn write(&self, parent: u64, bell: u64) {
        let memory = &self.place.space.memory;
        for word in (0..area::START).step_by(8) {
            memory.u64(self.place.offset() as usize + word).store(0, Ordering::Relaxed);
        }
        Start { parent, bell }.write(&self.place);
    }

    /// Waits until the task is there.
    ///
    /// # Errors
    ///
    /// Ended: a step of its start has failed, so the kernel lacks something; or it was killed.
    pub fn born(self, task: Box<dyn Task>) -> Result<ForeignVcpu> {
        let Self { place, bell } = self;
        let area = Area::new(&place.space.memory, place.index, place.address().0);
        let layout = await_first(&area, &bell, &*task)?;
        let event = area.word(area::EVENT).load(Ordering::Acquire);
        let pace = Pace::new(task.pid());
        Ok(ForeignVcpu { task, area, bell, event, pace, layout, _place: place })
    }
}

/// Waits for the trap that a task begins with.
fn await_first(area: &Area, bell: &OwnedFd, task: &dyn Task) -> Result<Layout> {
    let deadline = Instant::now() + PROMPT;
    let asleep = area.word(area::ENGINE_ASLEEP);
    asleep.store(area::ASLEEP_ON_EVENTFD, Ordering::SeqCst);
    while area.word(area::EVENT).load(Ordering::SeqCst) == 0 {
        let pidfd = task.pidfd();
        let mut fds = [PollFd::new(bell, PollFlags::IN), PollFd::new(&pidfd, PollFlags::IN)];
        let nap = Timespec { tv_sec: 1, tv_nsec: 0 };
        let _ = poll(&mut fds, Some(&nap));
        if !fds[1].revents().is_empty() {
            return Err(Error::Ended { pid: task.pid() });
        }
        if Instant::now() > deadline {
            task.signal(libc::SIGKILL);
            return Err(Error::Unresponsive { pid: task.pid() });
        }
    }
    asleep.store(0, Ordering::Relaxed);
    let vector = area.frame().and_then(|frame| area.vector_state(frame));
    vector
        .map(|vector| Layout::of(area, vector))
        .ok_or(Error::Damaged { pid: task.pid(), what: "no first frame" })
}

impl ForeignVcpu {
    /// True if the task waits for a guest, as it should between two of them.
    pub fn is_ready(&self) -> bool {
        self.area.word(area::EVENT).load(Ordering::Acquire) == self.event && self.event != 0
    }

    fn places(&self) -> Result<(FrameAt, VectorAt)> {
        let damaged = Error::Damaged { pid: self.task.pid(), what: "a signal frame elsewhere" };
        let frame = self.area.frame().ok_or(damaged.clone())?;
        Ok((frame, self.area.vector_state(frame).ok_or(damaged)?))
    }

    /// Loads a guest: its registers, and its vector state or a clean one.
    ///
    /// # Errors
    ///
    /// EINVAL: a vector state that the processor would refuse.
    pub fn load(&self, context: &Context, vector: Option<&Vector>) -> Result<()> {
        let (frame, place) = self.places()?;
        context.load(&self.area, frame);
        match vector {
            None => self.layout.clean(&self.area, place),
            Some(state) => {
                let refused = |errno: Errno| Error::new("load the vector state", errno);
                self.layout.load(&self.area, place, state).map_err(refused)?;
            }
        }
        self.area.word(area::COMMAND).store(command::LOAD_FS | command::LOAD_GS, Ordering::Relaxed);
        Ok(())
    }

    /// Takes the guest's registers, and its vector state if that is wanted.
    ///
    /// # Errors
    ///
    /// Damaged.
    pub fn store(&self, context: &mut Context, vector: Option<&mut Vector>) -> Result<()> {
        let (frame, place) = self.places()?;
        context.store(&self.area, frame, context::cause(&self.area, frame));
        if let Some(state) = vector {
            self.layout.store(&self.area, place, state);
        }
        Ok(())
    }

    /// Lets the task go on from the event it waits at; how to wait for the next one.
    pub(super) fn resume(&mut self, tries: Tries) -> Tries {
        self.area.word(area::LOOKS).store(tries.looks, Ordering::Relaxed);
        self.area.word(area::YIELDS).store(tries.yields, Ordering::Relaxed);
        let answered = self.area.word(area::ANSWERED);
        answered.store(self.event, Ordering::SeqCst);
        if self.area.word(area::STUB_ASLEEP).load(Ordering::SeqCst) != 0 {
            wait::wake(answered);
            return self.pace.wakes(tries);
        }
        tries
    }

    /// True if there is a new event, or the task has ended.
    pub(super) fn has_event(&self) -> bool {
        self.area.word(area::EVENT).load(Ordering::SeqCst) != self.event
    }

    /// Takes note of the event that has come.
    pub(super) fn accept(&mut self) -> Result<Cause> {
        self.event = self.area.word(area::EVENT).load(Ordering::Acquire);
        if self.event == 0 {
            return Err(Error::Ended { pid: self.task.pid() });
        }
        let (frame, _) = self.places()?;
        // Until the next guest is loaded, the bases stay.
        self.area.word(area::COMMAND).store(0, Ordering::Relaxed);
        Ok(context::cause(&self.area, frame))
    }
}
