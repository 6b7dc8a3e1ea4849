//! CRIU's memory images, as `criu pre-dump` 3.17.1 writes them and `criu dump --prev-images-dir` reads them.
//!
//! ```text
//! DIR/inventory.img          when the images were made
//! DIR/parent                 symbolic link to the directory with the pages that these images leave out
//! DIR/pagemap-PID.img        which pages of a process are there, and where: a head, then entries by address
//! DIR/pagemap-shmem-ID.img   the same for a shared memory object; addresses are offsets in it
//! DIR/pages-N.img            the pages that a pagemap names as present, without anything else, in its order
//! DIR/stats-dump             what the dump cost
//! ```
//!
//! A page is *present* (its bytes are in the pages file), or *in the parent* (the same page of the parent's
//! pagemap has them, or refers further). A page that isn't listed is zeros, or in its mapped file.
//!
//! Format: <https://criu.org/Images>, <https://criu.org/Memory_dumps>. Each image begins with one or two magic
//! numbers, then come Protocol Buffers messages, each behind its length; all numbers are little-endian. What is read
//! here is hostile input: lengths are bounded and addresses are checked.

mod error;
mod inventory;
mod message;
mod name;
mod pagemap;
mod stats;
mod stream;

pub use error::CriuError;
pub use inventory::{Inventory, PreDumpMode};
pub use name::{INVENTORY, ImageId, PARENT, STATS, pages_name};
pub use pagemap::{PageFlags, PageRun, Pagemap, PagemapReader, PagemapWriter};
pub use stats::DumpStats;

/// Bytes of a page: x86-64's.
pub const PAGE_SIZE: u64 = 4096;

#[cfg(test)]
mod tests;

#[cfg(any(test, fuzzing))]
pub mod fuzzing;
