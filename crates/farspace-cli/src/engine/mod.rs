//! The only files that call the library: `dump`, `predump`, `receive`, `attach`, `call` and `file`.
//!
//! They translate between the command line's types and the library's, and turn its errors into [`Failure`]s.
//!
//! [`Failure`]: crate::failure::Failure

use std::os::fd::OwnedFd;

mod attach;
mod call;
mod dump;
mod file;
mod predump;
mod receive;

pub(crate) use attach::Attached;
pub(crate) use call::{CallOutcome, CallPermit, CallResult, check_call};
pub(crate) use dump::{DumpOutcome, DumpRequest, FilterChoice, TreeOutcome, dump, dump_tree};
pub(crate) use file::NewFile;
pub(crate) use predump::{Iteration, PredumpRequest, Predumps};
pub(crate) use receive::{receive, serve_pages};

/// An open output and its name for messages.
#[derive(Debug)]
pub(crate) struct Output {
    /// The descriptor.
    pub(crate) fd: OwnedFd,
    /// What the user calls it.
    pub(crate) name: String,
}
