//! Getting the agent into a target and out again.
//!
//! The life of a visit, one module each:
//!
//! 1. [`freeze`] and [`borrow`]: stop one thread of the target, at a moment when it loses nothing by it;
//! 2. [`cave`]: make it run single system calls that it survives even if this process dies in between;
//! 3. `place`, by way of [`infect`]: map the region, write the blob, let the thread make the agent, give the thread back;
//! 4. [`agent`] and [`channel`]: talk to the agent over the mailbox; pass it descriptors; make it leave.
//!
//! Everything is undone on failure. See SAFETY.md for the invariants that the steps keep.

pub mod agent;
pub mod borrow;
pub mod cave;
pub mod channel;
mod context;
pub mod error;
mod exec_watch;
mod exit;
pub mod freeze;
mod guests;
pub mod infect;
mod keeper;
mod kick;
mod place;
mod region;
mod timing;

pub use agent::{Agent, RemoteFd};
pub use channel::{Channel, Pending, RemotePipe, SendFailure, Sent};
pub use error::{Error, Refusal, Result};
pub use freeze::{Frozen, FrozenThread};
pub use guests::{RemoteTask, reserve};
pub use infect::{infect, on_own_thread};
pub use region::places;

/// The agent, as compiled by the build script: code and constants, entered at offset 0.
pub(crate) static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/agent.bin"));

const _: () = assert!(BLOB.len() <= farspace_abi::region::CODE_BYTES);
