// SPDX-License-Identifier: GPL-2.0-only

//! Pages that have been taken and are not in the pipe yet.

use super::cursor::Cursor;
use crate::space::Space;
use kernel::bindings;
use kernel::page::{PAGE_MASK, PAGE_SIZE};
use kernel::prelude::*;

/// How many are taken at a time: the list is on the stack.
const MAX: usize = 32;

/// References to pages, in the order of a transfer.
///
/// # Invariants
///
/// A reference to each of `pages[next..end]` belongs to this object; `next <= end <= MAX`.
pub(super) struct Batch {
    pages: [*mut bindings::page; MAX],
    next: usize,
    end: usize,
}

impl Batch {
    /// Takes the next pages from `cursor` on, at least one and at most `slots`.
    ///
    /// # Errors
    ///
    /// The first can't be had; [`crate::space::Locked::pages`] says why.
    pub(super) fn take(space: &Space, mut cursor: Cursor<'_>, slots: usize) -> Result<Self> {
        let mut batch = Self { pages: [core::ptr::null_mut(); MAX], next: 0, end: 0 };
        let mut space = space.lock()?;
        let slots = slots.min(MAX);
        while let (Some(run), Some(room @ [_, ..])) = (cursor.run(), batch.pages.get_mut(batch.end..slots)) {
            // Cut before it is rounded, so that no length, however absurd, overflows.
            let bytes = run.offset() + run.len.min(room.len() * PAGE_SIZE);
            let nr_pages = bytes.div_ceil(PAGE_SIZE).min(room.len());
            let got = match space.pages(run.address & PAGE_MASK, &mut room[..nr_pages]) {
                Ok(got) => got,
                // The ones before it are transferred first. Then this one is tried again, and ends the transfer.
                Err(_) if batch.end > 0 => break,
                Err(error) => return Err(error),
            };
            // INVARIANT: Each of these has come with a reference.
            batch.end += got;
            cursor.advance(run.len.min(got * PAGE_SIZE - run.offset()));
            if !space.is_held() {
                break;
            }
        }
        Ok(batch)
    }

    /// True if there is none left.
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.end
    }

    /// The next page, whose reference is now the caller's.
    pub(super) fn next(&mut self) -> Option<*mut bindings::page> {
        let page = *self.pages.get(self.next..self.end)?.first()?;
        // INVARIANT: This reference is given away.
        self.next += 1;
        Some(page)
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        while let Some(page) = self.next() {
            // SAFETY: By the type invariant the reference was ours.
            unsafe { bindings::process_vm_put_page(page) };
        }
    }
}
