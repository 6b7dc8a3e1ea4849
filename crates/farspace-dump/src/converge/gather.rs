//! Many small runs of pages, copied in few system calls into memory of this process, and from there into the file.
//!
//! In the stop only the first half happens. The memory is there before.

use std::os::unix::fs::FileExt as _;

use farspace_sys::memory::{Memory, process_vm_readv};
use farspace_sys::{RemoteAddr, RemoteIoVec};
use rustix::io::Errno;

use super::places::Piece;
use crate::dirty::PageSet;
use crate::output::Output;
use crate::{Error, Result};

const PAGE: u64 = 4096;
/// Ranges that one process_vm_readv(2) takes (UIO_MAXIOV).
const MAX_IOV: usize = 1024;

/// A run to be copied.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) piece: Piece,
    /// PROT_NONE or write-only: only a tracer's route reads it.
    pub(super) is_unreadable: bool,
}

/// Bytes of the target that aren't in the file yet.
pub(super) struct Gather {
    buffer: Vec<u8>,
    used: usize,
    /// Place in the file, place in the buffer, length.
    held: Vec<(u64, usize, usize)>,
    /// Pages that couldn't be had.
    pub(super) unreadable: PageSet,
}

impl Gather {
    /// With room for so many bytes, which are in memory at once.
    pub(super) fn new(bytes: usize) -> Self {
        // Not zeros: those would only be promised by the kernel.
        Self { buffer: vec![1; bytes], used: 0, held: Vec::new(), unreadable: PageSet::default() }
    }

    /// Bytes that there is room for.
    pub(super) fn room(&self) -> u64 {
        (self.buffer.len() - self.used) as u64
    }

    /// Copies runs from the target; returns how many of them, fewer if there is no room for more. `limit` bytes at most are
    /// held together.
    ///
    /// # Errors
    ///
    /// The target is gone.
    pub(super) fn take(&mut self, pid: i32, memory: &Memory, runs: &[Run], limit: usize) -> Result<usize> {
        let limit = limit.min(self.buffer.len());
        let mut taken = 0;
        while taken < runs.len() {
            let batch = self.batch(&runs[taken..], limit);
            if batch == 0 {
                break;
            }
            let runs = &runs[taken..taken + batch];
            if runs[0].is_unreadable {
                self.by_memory(memory, runs[0].piece)?;
            } else {
                self.by_readv(pid, memory, runs)?;
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
            if run.piece.range.len > room || run.is_unreadable && nr > 0 {
                break;
            }
            room -= run.piece.range.len;
            nr += 1;
            if run.is_unreadable {
                break;
            }
        }
        nr
    }

    fn by_readv(&mut self, pid: i32, memory: &Memory, runs: &[Run]) -> Result<()> {
        let ranges: Vec<RemoteIoVec> = runs.iter().map(|run| run.piece.range).collect();
        let total = ranges.iter().map(|range| range.len).sum::<u64>() as usize;
        let into = &mut self.buffer[self.used..self.used + total];
        match process_vm_readv(pid, &ranges, into) {
            Ok(n) if n == total => {}
            Err(e) if e.errno == Errno::SRCH => return Err(e.into()),
            // Something in there resists.
            _ => {
                for run in runs {
                    self.by_memory(memory, run.piece)?;
                }
                return Ok(());
            }
        }
        for run in runs {
            let len = run.piece.range.len as usize;
            self.held.push((run.piece.offset, self.used, len));
            self.used += len;
        }
        Ok(())
    }

    /// By a tracer's route, page by page where it resists.
    fn by_memory(&mut self, memory: &Memory, piece: Piece) -> Result<()> {
        let (start, end) = (piece.range.base.0, piece.range.base.0 + piece.range.len);
        let mut at = start;
        while at < end {
            let into = &mut self.buffer[self.used..self.used + (end - at) as usize];
            match memory.read(RemoteAddr(at), into) {
                Ok(n) => {
                    self.held.push((piece.offset + (at - start), self.used, n));
                    self.used += n;
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

    /// Writes what is held to the file; returns the bytes.
    ///
    /// # Errors
    ///
    /// The output's.
    pub(super) fn write_out(&mut self, output: &Output) -> Result<u64> {
        let mut bytes = 0;
        let mut held = self.held.iter().copied().peekable();
        while let Some((offset, at, mut len)) = held.next() {
            while let Some((_, _, more)) =
                held.next_if(|next| next.0 == offset + len as u64 && next.1 == at + len)
            {
                len += more;
            }
            output
                .file()
                .write_all_at(&self.buffer[at..at + len], offset)
                .map_err(|e| -> Error { output.error("write", e) })?;
            bytes += len as u64;
        }
        self.held.clear();
        self.used = 0;
        Ok(bytes)
    }
}
