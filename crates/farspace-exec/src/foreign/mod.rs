//! Guests in the address space of a process that runs already.
//!
//! What does the work there is the same stub as in created spaces, without patched sites: each system call and fault of
//! the guest is a signal. The caller of this module maps the stub and the areas in the process and clones the tasks
//! there; here is what the stub and the areas contain, and how a guest is run.
//!
//! Such a space shares the target's trust: the guest, and each thread of the target, can write to the areas, and
//! with that change what a guest does next or reports. They can't make this process touch memory that it wouldn't.
//!
//! | module | what |
//! |---|---|
//! | `start` | what a new task does before it runs guests |
//! | `context` | registers between a `sigcontext` and a signal frame |
//! | `vector` | the vector state between the caller's area and the frame's |
//! | `vcpu` | events of one task |
//! | `run` | running a guest while the caller's signals are watched |
//! | `pace` | whether to look for each other or to take turns |

mod context;
mod run;
mod start;
mod vcpu;
mod vector;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};

use farspace_abi::RemoteAddr;
use farspace_abi::vcpu::{AREA_BYTES, AREAS_OFFSET, MAX_VCPUS, ROOM_AREAS};
use rustix::fs::{MemfdFlags, SealFlags, memfd_create};
use rustix::io::Errno;

use crate::arch::image;
use crate::engine::require_fsgsbase;
use crate::memory::SpaceMemory;
use crate::{Error, Result};

pub use context::Context;
pub use run::{Outcome, Signals};
pub use vcpu::{ForeignVcpu, Unborn};
pub use vector::Vector;

/// A task in the target, as this module needs it. Dropped, it ends, and is out of the address space.
pub trait Task: Send + std::fmt::Debug {
    /// The task's pid here.
    fn pid(&self) -> i32;
    /// Readable once the task has ended.
    fn pidfd(&self) -> BorrowedFd<'_>;
    /// Sends it a signal.
    fn signal(&self, signal: i32);
}

/// What a process needs for guests in it: the stub, the memory of the areas, and which of them are taken.
#[derive(Debug)]
pub struct ForeignSpace {
    stub: OwnedFd,
    memory: Arc<SpaceMemory>,
    room: RemoteAddr,
    taken: Mutex<[bool; MAX_VCPUS]>,
}

impl ForeignSpace {
    /// Prepares one, for a room of [`ROOM_BYTES`](farspace_abi::vcpu::ROOM_BYTES) at that address of the target.
    ///
    /// # Errors
    ///
    /// EMFILE, ENOMEM; Unsupported: no FSGSBASE.
    pub fn new(room: RemoteAddr) -> Result<Arc<Self>> {
        require_fsgsbase()?;
        if !room.0.is_multiple_of(AREA_BYTES) || room.0 >= 1 << 47 {
            return Err(Error::new("use the room", Errno::PROTO));
        }
        let error = |errno| Error::new("prepare for guests", errno);
        let stub = stub().map_err(error)?;
        let memory = Arc::new(SpaceMemory::new().map_err(error)?);
        Ok(Arc::new(Self { stub, memory, room, taken: Mutex::new([false; MAX_VCPUS]) }))
    }

    /// The stub, to be mapped at the begin of the room, to be read and executed.
    pub fn stub(&self) -> BorrowedFd<'_> {
        self.stub.as_fd()
    }

    /// The memory that the areas are pieces of.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.memory.fd()
    }

    /// An area for a new task; `None` if all are taken.
    pub fn take(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let index = taken.iter().position(|taken| !taken)?;
        taken[index] = true;
        Some(Place { space: Arc::clone(self), index })
    }
}

/// One area: given back when dropped, which must be after its task.
#[derive(Debug)]
pub struct Place {
    space: Arc<ForeignSpace>,
    index: usize,
}

impl Place {
    /// Where it is to be mapped in the target, to be read and written, shared.
    pub fn address(&self) -> RemoteAddr {
        RemoteAddr(self.space.room.0 + ROOM_AREAS + self.index as u64 * AREA_BYTES)
    }

    /// Where it lies in [`ForeignSpace::memory`].
    pub fn offset(&self) -> u64 {
        AREAS_OFFSET + self.index as u64 * AREA_BYTES
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.space.taken.lock().unwrap_or_else(PoisonError::into_inner)[self.index] = false;
    }
}

fn stub() -> std::result::Result<OwnedFd, Errno> {
    let file = memfd_create("farspace-stub", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut image = &image::stub()[..];
    while !image.is_empty() {
        image = &image[rustix::io::write(&file, image)?..];
    }
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, all)?;
    Ok(file)
}
