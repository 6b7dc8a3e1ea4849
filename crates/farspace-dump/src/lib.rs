//! Dumps of live processes at named consistency levels.
//!
//! [`dump`] writes an ELF core of a process that goes on running. What "consistent" means is the caller's
//! choice, [`Level`], and is named in the [`DumpReport`].
//!
//! | module | what |
//! |---|---|
//! | `capture` | the order of events at each level: what happens while the target is stopped |
//! | [`dirty`] | which pages have changed since the last look |
//! | `census` | what /proc says of the process and its threads |
//! | `plan` | which mappings go into the core, and which of their pages exist |
//! | `program` | whether it is still the same program |
//! | `origin` | where pages are had from: the target or its snapshot |
//! | `write` | moving the pages into the file |
//! | [`predump`] | images in CRIU's formats, of processes that run |
//! | `output` | a file that has its name only when it is complete |

#![forbid(unsafe_code)]

mod capture;
mod census;
pub mod dirty;
mod error;
mod options;
mod origin;
mod output;
mod plan;
pub mod predump;
mod program;
mod report;
mod write;

pub use capture::dump;
pub use error::{Error, Result};
pub use options::{DumpOptions, Filter, Level, Progress};
pub use output::Output;
pub use report::DumpReport;
