//! The ELF core file of an x86-64 process (core(5), elf(5)).
//!
//! ```text
//! offset 0   ELF header
//!            program headers: PT_NOTE, then one PT_LOAD per segment
//!            section header 0, only with 65,535 or more program headers (PN_XNUM)
//!            notes
//!            hole up to the next page
//!            data of segment 0, of segment 1, ... each from a page boundary
//! ```
//!
//! Everything before the data is the *header* and is written by [`CoreLayout::write_header`]. The data is not
//! this crate's business: [`CoreLayout::segment_offset`] says where a segment's bytes belong, a page that is
//! absent in the target is left as a hole, and at the end the file is set to [`CoreLayout::file_len`].

mod error;
mod headers;
mod layout;
mod mapped_file;
mod notes;
mod process;
mod segment;
mod thread;
mod xsave;

pub use error::LayoutError;
pub use layout::{CoreLayout, PAGE_SIZE};
pub use mapped_file::{FILE_NOTE_MAX, MappedFile};
pub use process::Process;
pub use segment::{Segment, SegmentFlags};
pub use thread::{CpuTimes, FPREGS_LEN, NR_REGS, SIGINFO_LEN, SIGINFO_STOPPED, Thread};
pub use xsave::{XSAVE_MIN_LEN, trim_xsave};

/// All that a core says about a process, apart from its memory.
#[derive(Clone, Debug, Default)]
pub struct CoreSpec {
    /// The process as a whole (NT_PRPSINFO).
    pub process: Process,
    /// The bytes of `/proc/PID/auxv` (NT_AUXV); empty leaves the note out, and gdb then finds no shared library
    /// and no thread name.
    pub auxv: Vec<u8>,
    /// The mapped files in order of address (NT_FILE); empty leaves the note out.
    pub files: Vec<MappedFile>,
    /// The threads (NT_PRSTATUS and register notes), at least one; the first is the one gdb selects.
    pub threads: Vec<Thread>,
    /// The memory mappings in order of address (PT_LOAD).
    pub segments: Vec<Segment>,
}
