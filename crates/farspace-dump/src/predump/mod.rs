//! Pre-dumps: images of memory in CRIU's formats, made while the processes run.
//!
//! A pre-dump has the memory of a process and its descendants, each page as of some moment while it was made. The next one
//! has what changed since and refers to the first for the rest, and so on; `criu dump --prev-images-dir --track-mem` then
//! stops the processes for the last changes only.
//!
//! | module | what |
//! |---|---|
//! | `session` | one pre-dump after another |
//! | `work` | process by process, then what they share |
//! | `batch` | pages on their way to the sink |
//! | `tree` | the processes that it is of |
//! | `areas` | which memory of a process is in its image |
//! | `tracking` | which pages have changed since the parent |
//! | `memory` | the pages of a process |
//! | `shared` | shared memory objects |
//! | `sink` | the border between those who find pages and those who keep or send them |
//! | `directory` | an image directory that has its name only when it is complete |

mod areas;
mod batch;
mod directory;
mod memory;
mod options;
mod session;
mod shared;
mod sink;
mod tracking;
mod tree;
mod work;

pub use directory::ImageDirectory;
pub(crate) use directory::{link_target, remove_abandoned};
pub use options::{PredumpOptions, PredumpReport};
pub use session::Predumper;
pub use sink::{PageSink, PageSource, Place};
