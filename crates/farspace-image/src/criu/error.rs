//! What is wrong with an image.

use std::io;

use thiserror::Error;

/// Why an image can't be read or written.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CriuError {
    /// The file can't be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file doesn't begin as such an image does.
    #[error("it begins with {found:#x}, not with {wanted:#x}: this is no such image of CRIU")]
    Magic {
        /// What is expected.
        wanted: u32,
        /// What is there.
        found: u32,
    },
    /// The file ends in the middle of something.
    #[error("it is cut off; it was not written to its end")]
    Cut,
    /// A message is longer than any of its kind.
    #[error("it has a message of {len} bytes, and {max} are the most: it is damaged")]
    Long {
        /// Length in bytes.
        len: u32,
        /// The longest one.
        max: u32,
    },
    /// A message can't be decoded.
    #[error("it has a message that can't be decoded ({0}): it is damaged")]
    Message(#[from] prost::DecodeError),
    /// A message is missing.
    #[error("it is empty; it was not written to its end")]
    Empty,
    /// A run of pages that can't be.
    #[error("it has an impossible run of {nr_pages} pages at {vaddr:#x}: {why}")]
    Run {
        /// First address, or offset in a shared memory object.
        vaddr: u64,
        /// Length in pages.
        nr_pages: u64,
        /// What is wrong with it.
        why: &'static str,
    },
}
