//! The sample target and what is done to it: dump it live, check the dump, copy it the usual way, compare.
//!
//! | file | what |
//! |---|---|
//! | `target` | the target process: a region that stays, one that is written all the time, blocked threads |
//! | `pattern` | what the regions hold, and how to tell whether a copy of them is one instant |
//! | `gap` | how long a thread of the target was kept from running |
//! | `protocol`, `client` | how the demo talks to its target |
//! | `dump_file` | reading memory out of a core or a plain copy |
//! | `baseline` | process_vm_readv + write |
//! | `room` | is there enough memory and disk |

pub(crate) mod baseline;
pub(crate) mod client;
pub(crate) mod dump_file;
mod gap;
pub(crate) mod pattern;
mod protocol;
pub(crate) mod room;
pub(crate) mod target;
