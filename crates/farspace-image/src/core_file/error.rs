//! What makes a core impossible.

use thiserror::Error;

use super::XSAVE_MIN_LEN;
use crate::auxv;

/// Why a [`CoreSpec`](super::CoreSpec) can't be laid out.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// There is no thread.
    #[error("a core needs at least one thread; the process may have exited meanwhile")]
    NoThreads,
    /// An xsave area is too short.
    #[error(
        "the xsave area of thread {tid} has {len} bytes, fewer than the {XSAVE_MIN_LEN} of the smallest one"
    )]
    ShortXsave {
        /// The thread.
        tid: i32,
        /// Length found, in bytes.
        len: usize,
    },
    /// The auxiliary vector ends in the middle of an entry.
    #[error("the auxiliary vector has {len} bytes, not a multiple of {}", auxv::ENTRY_LEN)]
    CutAuxv {
        /// Length found, in bytes.
        len: usize,
    },
    /// A segment's address or a length is not a multiple of the page size, or `filesz` is above `memsz`, or the end
    /// is past the address space.
    #[error(
        "segment {index} at {vaddr:#x} has an address or a length that is impossible: memsz {memsz:#x}, filesz {filesz:#x}"
    )]
    BadSegment {
        /// Its place in [`CoreSpec::segments`](super::CoreSpec::segments).
        index: usize,
        /// Its first address.
        vaddr: u64,
        /// Its length in the target, in bytes.
        memsz: u64,
        /// Its length in the file, in bytes.
        filesz: u64,
    },
    /// A segment begins before the end of the one before it.
    #[error("segment {index} at {vaddr:#x} overlaps the segment before it or is out of order")]
    SegmentOrder {
        /// Its place in [`CoreSpec::segments`](super::CoreSpec::segments).
        index: usize,
        /// Its first address.
        vaddr: u64,
    },
    /// The data of a segment can't be where it is said to be.
    #[error("segment {index} can't have its data at {offset:#x} of the core: not there, or taken")]
    BadPlace {
        /// Its place in [`CoreSpec::segments`](super::CoreSpec::segments).
        index: usize,
        /// The file offset that it was given.
        offset: u64,
    },
    /// The file would be longer than a file offset can say.
    #[error("the core would be longer than 2^63 - 1 bytes; dump fewer mappings (see --filter)")]
    TooLong,
}
