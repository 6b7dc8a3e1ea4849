//! A mapping of the target as a PT_LOAD segment.

use bitflags::bitflags;
use object::elf::{PF_R, PF_W, PF_X};

bitflags! {
    /// The target's access rights to a segment (`p_flags`, elf(5)).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct SegmentFlags: u32 {
        /// Readable.
        const READ = PF_R;
        /// Writable.
        const WRITE = PF_W;
        /// Executable.
        const EXECUTE = PF_X;
    }
}

/// One mapping of the target.
///
/// Address and lengths are multiples of [`PAGE_SIZE`](super::PAGE_SIZE).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// The first address in the target.
    pub vaddr: u64,
    /// Length in the target, in bytes.
    pub memsz: u64,
    /// Length in the file, in bytes, at most `memsz`; 0 for a mapping that is listed but not dumped.
    ///
    /// gdb takes the rest from the mapped file if it has one, and otherwise says that it can't be accessed.
    pub filesz: u64,
    /// The target's access rights.
    pub flags: SegmentFlags,
}
