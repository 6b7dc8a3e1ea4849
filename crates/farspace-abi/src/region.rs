//! The one mapping that farspace makes in the target, and what lies where in it.
//!
//! ```text
//! 0x0000  code       read + execute   the blob, at most CODE_BYTES
//! 0x4000  context    read + write     BootContext, one page
//! 0x5000  stack      read + write     the agent's, grows down from REGION_BYTES
//! ```
//!
//! The host maps it read + execute as a whole; the bootstrap turns the second half into read + write, so no
//! page is ever writable and executable at once.

/// Bytes of the whole region.
pub const REGION_BYTES: usize = 0x8000;
/// Bytes set aside for code and constants, from offset 0.
pub const CODE_BYTES: usize = 0x4000;
/// Offset of the [`BootContext`](crate::boot::BootContext).
pub const CONTEXT_OFFSET: usize = CODE_BYTES;
/// Bytes of the read + write part: context page and stack.
pub const DATA_BYTES: usize = REGION_BYTES - CODE_BYTES;

/// First bytes of the context page of a region that farspace wrote ("farspace" in ASCII).
pub const MAGIC: u64 = u64::from_le_bytes(*b"farspace");

const _: () = assert!(REGION_BYTES.is_multiple_of(4096) && CODE_BYTES.is_multiple_of(4096));
