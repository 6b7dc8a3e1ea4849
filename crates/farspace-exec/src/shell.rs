//! What a space lives in: a process with nothing in it but the stub, what reaches it, and the places of its vCPUs.
//!
//! To make one takes a fork, to end it the teardown of a process; both cost more than all the rest of a short life. So the
//! shell of a small space is emptied when the space is dropped, and used again. Nothing of the guest's is left: its tasks
//! are killed and waited for, its memory is unmapped, and what it could write to of ours reads as zeros.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use farspace_abi::vcpu::{AREAS, MAX_VCPUS, RESERVED_BASE, RESERVED_END};
use farspace_sys::memory::Memory;
use farspace_sys::pidfd;

use crate::Result;
use crate::engine::TASK_END;
use crate::memory::SpaceMemory;
use crate::orders::Orders;
use crate::steward::Steward;

/// How long a killed task may take to end.
const END: Duration = Duration::from_secs(10);

/// An address space of our making.
#[derive(Debug)]
pub(crate) struct Shell {
    pub(crate) steward: Mutex<Steward>,
    pub(crate) memory: Arc<SpaceMemory>,
    pub(crate) mem: Memory,
    slots: Mutex<[Slot; MAX_VCPUS]>,
}

/// The place of a vCPU.
#[derive(Debug)]
enum Slot {
    Free,
    Taken,
    /// Its task was killed.
    Left(Arc<OwnedFd>),
}

impl Slot {
    /// True if no task of it is left.
    fn is_empty(&self) -> bool {
        match self {
            Self::Free => true,
            Self::Taken => false,
            Self::Left(pidfd) => pidfd::wait_end(pidfd.as_fd(), Duration::ZERO),
        }
    }
}

impl Shell {
    pub(crate) fn new(steward: Steward, mem: Memory) -> Self {
        let memory = Arc::clone(&steward.line.memory);
        let slots = Mutex::new([const { Slot::Free }; MAX_VCPUS]);
        Self { steward: Mutex::new(steward), memory, mem, slots }
    }

    pub(crate) fn steward(&self) -> MutexGuard<'_, Steward> {
        self.steward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, [Slot; MAX_VCPUS]> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_slot(&self) -> Option<usize> {
        let mut slots = self.slots();
        let free = slots.iter().position(|slot| !matches!(slot, Slot::Taken))?;
        if let Slot::Left(pidfd) = std::mem::replace(&mut slots[free], Slot::Taken) {
            // It was killed; its end writes to the area.
            pidfd::wait_end(pidfd.as_fd(), END);
        }
        Some(free)
    }

    pub(crate) fn free_slot(&self, index: usize) {
        self.slots()[index] = Slot::Free;
    }

    /// Gives back the slot of a task that was killed and may not have ended yet.
    pub(crate) fn leave_slot(&self, index: usize, pidfd: Arc<OwnedFd>) {
        self.slots()[index] = Slot::Left(pidfd);
    }

    /// True if there is no guest but that of one slot.
    pub(crate) fn is_alone(&self, index: usize) -> bool {
        self.slots().iter().enumerate().all(|(other, slot)| other == index || slot.is_empty())
    }

    /// True if it can be used: its steward is there.
    pub(crate) fn is_alive(&self) -> bool {
        self.steward().is_alive()
    }

    /// Takes everything out that the guests have left; their vCPUs are dropped by now.
    pub(crate) fn empty(&self) -> Result<()> {
        let mut orders = Orders::new();
        for range in [0x1000..RESERVED_BASE, AREAS..RESERVED_END, RESERVED_END..TASK_END] {
            orders.call(libc::SYS_munmap, &[range.start, range.end - range.start]);
        }
        self.steward().order(&orders, "empty a space")?;
        // From here on no guest can write to it any more, even if its end is still to come.
        self.memory.clear()
    }
}
