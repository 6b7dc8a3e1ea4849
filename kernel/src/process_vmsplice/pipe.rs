// SPDX-License-Identifier: GPL-2.0-only

//! The write end of a pipe.

use super::batch::Batch;
use super::cursor::Cursor;
use core::ffi::{c_int, c_uint};
use core::ptr::NonNull;
use kernel::bindings;
use kernel::prelude::*;

/// An open file that is the write end of a pipe.
///
/// # Invariants
///
/// `file` is valid, and a reference to it belongs to this object. `pipe` is its pipe, which lives as long.
pub(super) struct Pipe {
    file: NonNull<bindings::file>,
    pipe: NonNull<bindings::pipe_inode_info>,
}

/// What an insertion has come to.
pub(super) struct Inserted {
    pub(super) bytes: usize,
    /// The slots that are free now, or why there never will be one.
    pub(super) room: Result<usize>,
}

impl Pipe {
    /// The pipe of one of the caller's descriptors.
    ///
    /// # Errors
    ///
    /// EBADF: it isn't open, isn't open for writing, or isn't a pipe that can be spliced to.
    pub(super) fn for_writing(fd: c_int) -> Result<Self> {
        // SAFETY: It takes any number.
        let file = NonNull::new(unsafe { bindings::fget(fd as c_uint) }).ok_or(EBADF)?;
        // SAFETY: `fget` returns a reference. `get_pipe_info` looks at the kind of the file and only then at its data.
        let pipe = unsafe { bindings::get_pipe_info(file.as_ptr(), true) };
        // INVARIANT: The reference is given to it. If there is no pipe, it goes before anybody looks at that.
        let this = Self { file, pipe: NonNull::new(pipe).unwrap_or(NonNull::dangling()) };
        // SAFETY: `file` is valid, and its mode can be read at any time.
        let writable = unsafe { (*file.as_ptr()).f_mode } & bindings::FMODE_WRITE != 0;
        if pipe.is_null() || !writable {
            return Err(EBADF);
        }
        Ok(this)
    }

    /// The number of free slots.
    ///
    /// # Errors
    ///
    /// EPIPE: nobody reads; the caller gets a SIGPIPE.
    pub(super) fn room(&self) -> Result<usize> {
        self.lock().room()
    }

    /// The number of free slots, which is not 0.
    ///
    /// # Errors
    ///
    /// EPIPE, as for [`Pipe::room`]; ERESTARTSYS: a signal came.
    pub(super) fn wait_for_room(&self) -> Result<usize> {
        let locked = self.lock();
        loop {
            match locked.room()? {
                0 if kernel::current!().signal_pending() => return Err(ERESTARTSYS),
                0 => locked.wait(),
                slots => return Ok(slots),
            }
        }
    }

    /// Puts pages into the pipe until there are no more or it is full, and moves `cursor`, at which they begin, on.
    pub(super) fn insert(&self, mut batch: Batch, cursor: &mut Cursor<'_>) -> Inserted {
        let mut bytes = 0;
        let locked = self.lock();
        let room = loop {
            let (Some(run), false) = (cursor.run(), batch.is_empty()) else {
                break Ok(locked.slots());
            };
            match locked.room() {
                Ok(1..) => {}
                end => break end,
            }
            if let Some(page) = batch.next() {
                locked.add(page, run.offset(), run.first());
                cursor.advance(run.first());
                bytes += run.first();
            }
        };
        drop(locked);
        if bytes > 0 {
            // SAFETY: By the type invariant both are valid.
            unsafe { bindings::process_vm_pipe_filled(self.pipe.as_ptr(), self.file.as_ptr()) };
        }
        Inserted { bytes, room }
    }

    fn lock(&self) -> Locked<'_> {
        // SAFETY: By the type invariant the pipe is valid.
        unsafe { bindings::pipe_lock(self.pipe.as_ptr()) };
        // INVARIANT: It has just been locked.
        Locked(self)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // SAFETY: By the type invariant the reference is ours; it isn't used after this.
        unsafe { bindings::fput(self.file.as_ptr()) };
    }
}

/// A pipe that is locked.
///
/// # Invariants
///
/// It is.
struct Locked<'a>(&'a Pipe);

impl Locked<'_> {
    fn as_ptr(&self) -> *mut bindings::pipe_inode_info {
        self.0.pipe.as_ptr()
    }

    /// The free slots, of a pipe that has a reader.
    fn room(&self) -> Result<usize> {
        // SAFETY: The pipe is valid, and locked, so nobody changes this.
        if unsafe { (*self.as_ptr()).readers } == 0 {
            // SAFETY: `current` is valid, and may always send itself a signal.
            unsafe { bindings::send_sig(bindings::SIGPIPE as c_int, bindings::get_current(), 0) };
            return Err(EPIPE);
        }
        Ok(self.slots())
    }

    fn slots(&self) -> usize {
        let pipe = self.as_ptr();
        // SAFETY: The pipe is valid, and locked, so nobody changes these.
        let (head, tail, limit) = unsafe { ((*pipe).head, (*pipe).tail, (*pipe).max_usage) };
        // A pipe can be made smaller than what is in it.
        limit.saturating_sub(head.wrapping_sub(tail)) as usize
    }

    /// Waits for a change with the pipe unlocked, or for a signal.
    fn wait(&self) {
        // SAFETY: The pipe is valid and locked, before and after.
        unsafe { bindings::pipe_wait_writable(self.as_ptr()) };
    }

    /// Gives a reference to a page to the pipe, or to nobody if there is no room.
    fn add(&self, page: *mut bindings::page, offset: usize, len: usize) {
        let mut buffer = bindings::pipe_buffer {
            page,
            offset: offset as c_uint,
            len: len as c_uint,
            ops: core::ptr::addr_of!(bindings::nosteal_pipe_buf_ops),
            flags: 0,
            private: 0,
        };
        // SAFETY: The pipe is valid and locked. The page comes with a reference, which is what the operations give
        // back in the end, and which `add_to_pipe` takes whether it succeeds or not.
        unsafe { bindings::add_to_pipe(self.as_ptr(), &mut buffer) };
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        // SAFETY: The pipe is valid and locked; that ends here.
        unsafe { bindings::pipe_unlock(self.as_ptr()) };
    }
}
