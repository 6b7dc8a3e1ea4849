//! Sharing the writing of a file between two CPUs.
//!
//! Most of the time of a write into the page cache goes into allocating and locking pages, not into copying, and
//! the writer holds the file's lock all the while. A second writer gains nothing, but a second thread that stores
//! into a mapping of the file needs no such lock. So the near end of the work is spliced, without a copy by this
//! process, and the far end is copied by a helper thread into a window of the mapped file, until the two meet: by
//! process_vm_readv(2) from the target itself, and from /proc/PID/mem, which is slower but doesn't unshare the pages,
//! from a snapshot.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use farspace_abi::{RemoteAddr, RemoteIoVec};
use farspace_sys::memory::{FileWindow, Memory};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::Extent;

/// Bytes that the splicing end takes at once.
const NEAR_BYTES: u64 = 16 << 20;
/// Bytes that the copying end takes at once, and maps.
const FAR_BYTES: u64 = 2 << 20;
/// Less than this isn't worth a thread.
const WORTHWHILE: u64 = 8 << 20;

/// How the far end is copied.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FarCopy<'a> {
    /// process_vm_readv(2).
    ReadV(i32),
    /// /proc/PID/mem.
    Memory(&'a Memory),
}

impl FarCopy<'_> {
    fn fill(self, window: &mut FileWindow, from: RemoteAddr) -> std::result::Result<u64, Errno> {
        match self {
            Self::ReadV(pid) => window.fill_by_readv(pid, from),
            Self::Memory(memory) => memory.read_into(from, window),
        }
    }
}

/// A list of ranges of the target, each with its place in a file, as one sequence of bytes.
#[derive(Debug)]
pub(crate) struct Work {
    ranges: Vec<RemoteIoVec>,
    offsets: Vec<u64>,
    /// Where each range begins in the sequence.
    begins: Vec<u64>,
    /// What neither end has taken yet.
    left: Mutex<(u64, u64)>,
    /// Bytes that the far end has copied.
    pub(crate) copied: AtomicU64,
    pub(crate) ended: AtomicBool,
}

impl Work {
    /// The work of writing the ranges to these places, if it can be shared: a regular file that is long enough and
    /// can be mapped, enough bytes, and a second CPU.
    pub(crate) fn shared(ranges: &[RemoteIoVec], places: &[Extent], file: BorrowedFd<'_>) -> Option<Self> {
        let total: u64 = ranges.iter().map(|range| range.len).sum();
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        if total < WORTHWHILE
            || cpus < 2
            || !is_mappable(file, places.iter().map(|p| p.offset + p.len).max()?)
        {
            return None;
        }
        let mut offsets = Vec::with_capacity(ranges.len());
        match places {
            [whole] if whole.len == total => {
                let mut at = whole.offset;
                for range in ranges {
                    offsets.push(at);
                    at += range.len;
                }
            }
            _ if places.len() == ranges.len() && places.iter().zip(ranges).all(|(p, r)| p.len == r.len) => {
                offsets.extend(places.iter().map(|place| place.offset));
            }
            _ => return None,
        }
        let begins =
            ranges.iter().scan(0, |at, range| Some(std::mem::replace(at, *at + range.len))).collect();
        Some(Self {
            ranges: ranges.to_vec(),
            offsets,
            begins,
            left: Mutex::new((0, total)),
            copied: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        })
    }

    /// Takes the next bytes from the near end: ranges and places.
    pub(crate) fn take_near(&self) -> Option<(Vec<RemoteIoVec>, Vec<Extent>)> {
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        let (begin, end) = *left;
        if begin >= end {
            return None;
        }
        let until = end.min(begin + NEAR_BYTES);
        left.0 = until;
        drop(left);
        Some(self.pieces(begin, until).unzip())
    }

    /// The pieces of ranges between two positions of the sequence.
    fn pieces(&self, begin: u64, until: u64) -> impl Iterator<Item = (RemoteIoVec, Extent)> + '_ {
        let first = self.begins.partition_point(|&at| at <= begin).saturating_sub(1);
        (first..self.ranges.len()).take_while(move |&i| self.begins[i] < until).filter_map(move |i| {
            let (range, at) = (self.ranges[i], self.begins[i]);
            let skip = begin.saturating_sub(at);
            let len = (at + range.len).min(until) - at - skip;
            let place = Extent { offset: self.offsets[i] + skip, len };
            (len > 0).then(|| (RemoteIoVec::new(range.base.0.wrapping_add(skip), len), place))
        })
    }

    /// Copies from the far end until the ends meet, or something can't be copied: then the near end gets there.
    pub(crate) fn copy_far_end(&self, copy: FarCopy<'_>, file: &OwnedFd) {
        while !self.ended.load(Ordering::Relaxed) {
            let (from, until) = {
                let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
                let (begin, end) = *left;
                // Leave the last steps to the near end, so that it never waits long for this one.
                if end < begin + NEAR_BYTES {
                    return;
                }
                left.1 = end - FAR_BYTES;
                (left.1, end)
            };
            for (range, place) in self.pieces(from, until) {
                let copied = FileWindow::map(file, place.offset, place.len)
                    .and_then(|mut window| copy.fill(&mut window, range.base));
                if copied != Ok(place.len) {
                    // Given back: the near end splices it, and finds out what is wrong.
                    self.left.lock().unwrap_or_else(PoisonError::into_inner).1 = until;
                    return;
                }
            }
            self.copied.fetch_add(until - from, Ordering::Relaxed);
        }
    }
}

/// The address that is `bytes` into the sequence.
pub(crate) fn locate(ranges: &[RemoteIoVec], mut bytes: u64) -> Option<RemoteAddr> {
    for range in ranges {
        if bytes < range.len {
            return Some(RemoteAddr(range.base.0.wrapping_add(bytes)));
        }
        bytes -= range.len;
    }
    None
}

/// True for a regular file that reaches to `end`, is open for both reading and writing, and goes through the cache.
fn is_mappable(file: BorrowedFd<'_>, end: u64) -> bool {
    let flags = rustix::fs::fcntl_getfl(file).unwrap_or(OFlags::empty());
    let Ok(stat) = rustix::fs::fstat(file) else { return false };
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && flags & OFlags::RWMODE == OFlags::RDWR
        && !flags.intersects(OFlags::DIRECT | OFlags::APPEND)
        && stat.st_size as u64 >= end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn work(lens: &[u64]) -> Work {
        let ranges: Vec<_> = lens.iter().map(|&len| RemoteIoVec::new(0x10000, len)).collect();
        let begins =
            ranges.iter().scan(0, |at, range| Some(std::mem::replace(at, *at + range.len))).collect();
        let left = Mutex::new((0, lens.iter().sum()));
        let offsets = (0..lens.len() as u64).map(|i| i << 32).collect();
        Work { ranges, offsets, begins, left, copied: AtomicU64::new(0), ended: AtomicBool::new(false) }
    }

    #[test]
    fn pieces_cover_exactly_what_was_asked_for() {
        let work = work(&[10, 20, 30]);
        let pieces: Vec<_> = work.pieces(5, 35).collect();
        assert_eq!(
            pieces,
            [
                (RemoteIoVec::new(0x10005, 5), Extent { offset: 5, len: 5 }),
                (RemoteIoVec::new(0x10000, 20), Extent { offset: 1 << 32, len: 20 }),
                (RemoteIoVec::new(0x10000, 5), Extent { offset: 2 << 32, len: 5 }),
            ]
        );
        assert_eq!(work.pieces(30, 60).map(|(range, _)| range.len).sum::<u64>(), 30);
    }

    #[test]
    fn the_near_end_takes_everything_in_order() {
        let work = work(&[NEAR_BYTES + 1, 3 * NEAR_BYTES]);
        let mut total = 0;
        while let Some((ranges, places)) = work.take_near() {
            assert_eq!(ranges.len(), places.len());
            total += ranges.iter().map(|range| range.len).sum::<u64>();
        }
        assert_eq!(total, 4 * NEAR_BYTES + 1);
    }
}
