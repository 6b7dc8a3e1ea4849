//! Many small runs of pages, copied in few system calls into memory of this process, and from there into the file.
//!
//! In the stop only the first half happens. The memory is there before, and one is enough for several processes that are
//! stopped together.

use std::collections::BTreeMap;

use farspace_sys::memory::{Memory, process_vm_readv};
use farspace_sys::{RemoteAddr, RemoteIoVec};
use rustix::io::Errno;

use super::places::Piece;
use crate::Result;
use crate::dirty::PageSet;
use crate::place::{Held, Place};
use crate::plan::Route;

const PAGE: u64 = 4096;
/// Ranges that one process_vm_readv(2) takes (UIO_MAXIOV).
const MAX_IOV: usize = 1024;

/// A run to be copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) piece: Piece,
    pub(super) route: Route,
}

/// Whose bytes they are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Whose<'a> {
    pub(super) pid: i32,
    pub(super) memory: &'a Memory,
}

/// Bytes of targets that aren't in their files yet.
pub(crate) struct Gather {
    buffer: Vec<u8>,
    used: usize,
    /// By pid of the target.
    held: BTreeMap<i32, Vec<Held>>,
    /// Pages that couldn't be had.
    unreadable: PageSet,
}

impl Gather {
    /// With room for so many bytes, which are in memory at once.
    pub(super) fn new(bytes: usize) -> Self {
        // Not zeros: those would only be promised by the kernel.
        Self { buffer: vec![1; bytes], used: 0, held: BTreeMap::new(), unreadable: PageSet::default() }
    }

    /// Bytes that there is room for.
    pub(super) fn room(&self) -> u64 {
        (self.buffer.len() - self.used) as u64
    }

    /// True if nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Forgets what is held of a process.
    pub(crate) fn forget(&mut self, pid: i32) {
        self.held.remove(&pid);
        if self.held.is_empty() {
            self.used = 0;
        }
    }

    /// Copies runs from the target; returns how many of them, fewer if there is no room for more. `limit` bytes at most are
    /// held together.
    ///
    /// # Errors
    ///
    /// The target is gone.
    pub(super) fn take(&mut self, whose: Whose<'_>, runs: &[Run], limit: usize) -> Result<usize> {
        let limit = limit.min(self.buffer.len());
        let mut taken = 0;
        while taken < runs.len() {
            let batch = self.batch(&runs[taken..], limit);
            if batch == 0 {
                break;
            }
            let runs = &runs[taken..taken + batch];
            if runs[0].route != Route::Any {
                self.by_memory(whose, runs[0].piece)?;
            } else {
                self.by_readv(whose, runs)?;
            }
            taken += batch;
        }
        Ok(taken)
    }

    /// How many of the next runs go into one call.
    fn batch(&self, runs: &[Run], limit: usize) -> usize {
        let mut room = limit.saturating_sub(self.used) as u64;
        let mut nr = 0;
        for run in runs.iter().take(MAX_IOV) {
            if run.piece.range.len > room || run.route != Route::Any && nr > 0 {
                break;
            }
            room -= run.piece.range.len;
            nr += 1;
            if run.route != Route::Any {
                break;
            }
        }
        nr
    }

    fn by_readv(&mut self, whose: Whose<'_>, runs: &[Run]) -> Result<()> {
        let ranges: Vec<RemoteIoVec> = runs.iter().map(|run| run.piece.range).collect();
        let total = ranges.iter().map(|range| range.len).sum::<u64>() as usize;
        let into = &mut self.buffer[self.used..self.used + total];
        match process_vm_readv(whose.pid, &ranges, into) {
            Ok(n) if n == total => {}
            Err(e) if e.errno == Errno::SRCH => return Err(e.into()),
            // Something in there resists.
            _ => {
                for run in runs {
                    self.by_memory(whose, run.piece)?;
                }
                return Ok(());
            }
        }
        for run in runs {
            self.hold(whose.pid, run.piece.offset, run.piece.range.len as usize);
        }
        Ok(())
    }

    /// By a tracer's route, page by page where it resists.
    fn by_memory(&mut self, whose: Whose<'_>, piece: Piece) -> Result<()> {
        let (start, end) = (piece.range.base.0, piece.range.base.0 + piece.range.len);
        let mut at = start;
        while at < end {
            let into = &mut self.buffer[self.used..self.used + (end - at) as usize];
            match whose.memory.read(RemoteAddr(at), into) {
                Ok(n) => {
                    self.hold(whose.pid, piece.offset + (at - start), n);
                    at += n as u64;
                }
                Err(e) if e.errno == Errno::SRCH => return Err(e.into()),
                Err(_) => {
                    let next = (at / PAGE + 1) * PAGE;
                    self.unreadable.insert(at..next);
                    at = next;
                }
            }
        }
        Ok(())
    }

    /// Notes that the next bytes of the buffer are used.
    fn hold(&mut self, pid: i32, offset: u64, len: usize) {
        let held = self.held.entry(pid).or_default();
        let at = self.used;
        self.used += len;
        match held.last_mut() {
            Some(last) if last.offset + last.len as u64 == offset && last.at + last.len == at => {
                last.len += len
            }
            _ => held.push(Held { offset, at, len }),
        }
    }

    /// The pages that couldn't be had since this was asked last.
    pub(super) fn take_unreadable(&mut self) -> PageSet {
        std::mem::take(&mut self.unreadable)
    }

    /// Writes what is held of a process to its file; returns the bytes.
    ///
    /// # Errors
    ///
    /// The output's.
    pub(super) fn write_out(&mut self, pid: i32, place: &Place) -> Result<u64> {
        let held = self.held.remove(&pid).unwrap_or_default();
        if self.held.is_empty() {
            self.used = 0;
        }
        place.write_held(&self.buffer, &held)?;
        Ok(held.iter().map(|held| held.len as u64).sum())
    }
}
