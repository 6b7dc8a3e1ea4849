// SPDX-License-Identifier: GPL-2.0-only

//! `process_vmsplice`: pages of another process, in a pipe.
//!
//! As vmsplice(2), which has the same thing for the caller's own memory, but for one point: the pages are taken while
//! the pipe isn't locked. A page may be behind userfaultfd(2) or FUSE, where somebody else decides when it comes, and
//! nobody who uses the pipe should have to wait for that.
//!
//! A page in the pipe is a plain reference, not a pin: it is only read, as those of vmsplice(2). Three things see to
//! it that the reader can't change it: no flag of the pipe's buffer is set (so no write(2) is merged into it), the
//! buffer's operations don't let it be stolen, and it was faulted in for reading only. A target that has forked and
//! then writes gets a page of its own, as it would anyway, because of the reference: the old one stays as it is.
//!
//! Lock order: the mmap lock of the target, or the lock of the pipe, never both.

mod batch;
mod cursor;
mod iov;
mod pipe;

use crate::space::Space;
use crate::target::Target;
use batch::Batch;
use core::ffi::{c_int, c_uint, c_ulong};
use cursor::Cursor;
use iov::{Fast, Iov};
use kernel::bindings;
use kernel::prelude::*;
use pipe::Pipe;

/// What splice(2) knows. MOVE, MORE and GIFT change nothing here.
const SPLICE_FLAGS: c_uint =
    bindings::SPLICE_F_MOVE | bindings::SPLICE_F_NONBLOCK | bindings::SPLICE_F_MORE | bindings::SPLICE_F_GIFT;

/// The system call, behind its C entry point; a negative number is an error.
///
/// # Safety
///
/// To be called from a system call of `current` only.
#[no_mangle]
unsafe extern "C" fn process_vmsplice(
    pid: bindings::pid_t,
    fd: c_int,
    iov: *const bindings::iovec,
    nr_segs: c_ulong,
    flags: c_uint,
) -> isize {
    match splice(pid, fd, iov, nr_segs as usize, flags) {
        Ok(bytes) => bytes as isize,
        Err(error) => error.to_errno() as isize,
    }
}

fn splice(
    pid: c_int,
    fd: c_int,
    iov: *const bindings::iovec,
    nr_segs: usize,
    flags: c_uint,
) -> Result<usize> {
    if flags & !(SPLICE_FLAGS | bindings::PROCESS_VM_PIDFD) != 0 || nr_segs > bindings::UIO_MAXIOV as usize {
        return Err(EINVAL);
    }
    if nr_segs == 0 {
        return Ok(0);
    }
    let pipe = Pipe::for_writing(fd)?;
    let target = if flags & bindings::PROCESS_VM_PIDFD == 0 { Target::Pid(pid) } else { Target::Pidfd(pid) };
    let space = Space::of(&*target.task()?)?;
    let mut fast = Fast::new();
    let iov = Iov::import(iov, nr_segs, &mut fast)?;
    transfer(space, &pipe, Cursor::new(&iov), flags & bindings::SPLICE_F_NONBLOCK != 0)
}

/// Waits for one free slot, then inserts what fits; an error only where nothing was.
fn transfer(mut space: Space, pipe: &Pipe, mut cursor: Cursor<'_>, nonblock: bool) -> Result<usize> {
    let mut inserted = 0;
    let mut result = Ok(());
    let mut room = None;
    while result.is_ok() && !cursor.is_done() {
        let slots = match room.map_or_else(|| pipe.room(), Ok) {
            Ok(0) if inserted > 0 => break,
            Ok(0) if nonblock => Err(EAGAIN),
            Ok(0) => {
                // Whoever empties the pipe may take forever. The target's memory doesn't depend on that.
                let released = space.release();
                let slots = pipe.wait_for_room()?;
                space = released.acquire()?;
                Ok(slots)
            }
            other => other,
        };
        let step = slots.and_then(|slots| {
            let batch = Batch::take(&space, cursor, slots)?;
            Ok(pipe.insert(batch, &mut cursor))
        });
        result = step.and_then(|step| {
            inserted += step.bytes;
            room = Some(step.room?);
            Ok(())
        });
        if kernel::current!().signal_pending() && inserted > 0 {
            break;
        }
    }
    match result {
        Err(error) if inserted == 0 => Err(error),
        _ => Ok(inserted),
    }
}
