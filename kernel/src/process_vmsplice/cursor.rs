// SPDX-License-Identifier: GPL-2.0-only

//! How far a transfer has come in the caller's list of segments.

use kernel::bindings;
use kernel::page::{PAGE_MASK, PAGE_SIZE};

/// No call transfers more, as with read(2) and write(2) (`MAX_RW_COUNT`).
const MAX_BYTES: usize = i32::MAX as usize & PAGE_MASK;

/// A run of addresses within one segment. It is not empty, and may be nonsense: the caller made it.
#[derive(Clone, Copy)]
pub(super) struct Run {
    pub(super) address: usize,
    pub(super) len: usize,
}

impl Run {
    /// Where in its page it begins.
    pub(super) fn offset(self) -> usize {
        self.address & !PAGE_MASK
    }

    /// What of it lies in its first page.
    pub(super) fn first(self) -> usize {
        self.len.min(PAGE_SIZE - self.offset())
    }
}

/// A position in a list of segments.
#[derive(Clone, Copy)]
pub(super) struct Cursor<'a> {
    /// The first one is where we are.
    segments: &'a [bindings::iovec],
    /// Bytes of the first one that are done.
    done: usize,
    /// Bytes that may still be transferred.
    left: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(segments: &'a [bindings::iovec]) -> Self {
        let mut cursor = Self { segments, done: 0, left: MAX_BYTES };
        cursor.advance(0);
        cursor
    }

    /// True at the end of the list.
    pub(super) fn is_done(&self) -> bool {
        self.run().is_none()
    }

    /// What is left of the current segment.
    pub(super) fn run(&self) -> Option<Run> {
        let segment = self.segments.first()?;
        let len = (segment.iov_len as usize).saturating_sub(self.done).min(self.left);
        let address = (segment.iov_base as usize).wrapping_add(self.done);
        (len > 0).then_some(Run { address, len })
    }

    /// Goes on by `bytes`, which are within the current run, and over empty segments.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.done += bytes;
        self.left = self.left.saturating_sub(bytes);
        while let Some((first, rest)) = self.segments.split_first() {
            if self.done < first.iov_len as usize {
                break;
            }
            (self.segments, self.done) = (rest, 0);
        }
    }
}
