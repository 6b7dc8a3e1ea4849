//! Pre-dumps: images of memory in CRIU's formats, made while the processes run.
//!
//! | module | what |
//! |---|---|
//! | `sink` | the border between those who find pages and those who keep or send them |
//! | `directory` | an image directory that has its name only when it is complete |

mod directory;
mod sink;

pub use directory::ImageDirectory;
pub use sink::{PageSink, PageSource, Place};
