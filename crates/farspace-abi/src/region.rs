//! The one range of addresses that farspace takes in the target, and what lies where in it.
//!
//! ```text
//! 0x0000  code       read + execute        the blob, at most CODE_BYTES
//! 0x4000  context    read + write          BootContext, one page
//! 0x5000  stack      read + write          the agent's, grows down from PRIVATE_BYTES
//! 0x8000  mailboxes  read + write, shared  see mailbox
//! ```
//!
//! The host maps the first three read + execute as a whole; the bootstrap turns the second half into read + write, so no
//! page is ever writable and executable at once. The agent maps the mailboxes behind them.
//!
//! All of it is far from where the kernel puts mappings: a target may map over what it has just unmapped (MAP_FIXED), for
//! nobody else takes addresses in a process with one thread.

use crate::mailbox::SHARED_BYTES;

/// Bytes of the whole region.
pub const REGION_BYTES: usize = PRIVATE_BYTES + SHARED_BYTES;
/// Bytes of what is no shared memory, from offset 0; the mailboxes come next.
pub const PRIVATE_BYTES: usize = 0x8000;
/// Bytes set aside for code and constants, from offset 0.
pub const CODE_BYTES: usize = 0x4000;
/// Offset of the [`BootContext`](crate::boot::BootContext).
pub const CONTEXT_OFFSET: usize = CODE_BYTES;
/// Bytes of context page and stack.
pub const DATA_BYTES: usize = PRIVATE_BYTES - CODE_BYTES;

/// First bytes of the context page of a region that farspace wrote ("farspace" in ASCII).
pub const MAGIC: u64 = u64::from_le_bytes(*b"farspace");

const _: () = assert!(REGION_BYTES.is_multiple_of(4096) && CODE_BYTES.is_multiple_of(4096));
