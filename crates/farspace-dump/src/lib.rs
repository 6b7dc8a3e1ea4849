//! Dumps of live processes at named consistency levels.
//!
//! [`dump`] writes an ELF core of a process that goes on running. What "consistent" means is the caller's
//! choice, [`Level`], and is named in the [`DumpReport`]. [`dump_tree`] does the same for a process and its descendants.
//!
//! | module | what |
//! |---|---|
//! | `capture` | the order of events at each level, for one process and for a tree: what happens while it is stopped |
//! | [`dirty`] | which pages have changed since the last look |
//! | `converge` | the level of that name: rounds of copying, and the stop |
//! | `census` | what /proc says of the process and its threads |
//! | `plan` | which mappings go into the core, and which of their pages exist |
//! | `program` | whether it is still the same program |
//! | `origin` | where pages are had from: the target or its snapshot |
//! | `write` | moving the pages into the file |
//! | [`predump`] | images in CRIU's formats, of processes that run |
//! | `place` | where the bytes of one file go: a file here, or a stream to a receiver |
//! | `output`, `output_directory` | a file, or a directory of files, that has its name only when it is complete |
//! | [`page_server`] | CRIU's page server, on either side of it |
//! | [`stream`] | the way of a dump to another process or host |

#![forbid(unsafe_code)]

mod capture;
mod census;
mod converge;
pub mod dirty;
mod error;
mod options;
mod origin;
mod output;
mod output_directory;
pub mod page_server;
mod place;
mod plan;
pub mod predump;
mod program;
mod report;
pub mod stream;
mod write;

pub use capture::{dump, dump_tree};
pub use converge::Round;
pub use error::{Error, Result};
pub use options::{DumpOptions, Filter, Level, OnMiss, Progress};
pub use output::Output;
pub use output_directory::OutputDirectory;
pub use place::Destination;
pub use report::{DumpReport, StopParts, TreeReport};
