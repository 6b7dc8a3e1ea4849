//! Dumps that go to another process or host, and arrive as the files that they would have been here.
//!
//! A transport, not a format: nothing of it is ever on a disk. Both sides say hello (magic, version, what comes: one file
//! or a directory of files), then the sender writes records, each with a head of 16 bytes:
//!
//! | record | then |
//! |---|---|
//! | open | number and name of the next file |
//! | pages | places in a file (offset and length, at most 1024), then their bytes, straight from the pages of the target |
//! | packed | the same, the bytes (at most 1 MiB) compressed by zstd |
//! | holes | places in a file that are holes from now on |
//! | length | where a file ends; what wasn't written is holes |
//! | ask | name of a file of the parent images (inventory or pagemap); the receiver answers with it |
//! | discard | a file that is not to be kept after all |
//! | sync | the receiver answers when it has taken everything until here |
//! | end | how many files and bytes there were; the receiver compares, gives them their names, and answers |
//! | fail | the sender gives up, and why |
//!
//! What is written to a place again replaces what was there, in the order of the records: so a dump that converges goes this
//! way, too. The receiver gives up by saying so and why, at any time. Without an end that is right nothing gets its name, so a broken
//! connection costs the whole dump and never leaves something that looks like one.
//!
//! | module | what |
//! |---|---|
//! | `address` | tcp:HOST:PORT and unix:PATH |
//! | `frame` | the records as bytes |
//! | `connection` | a socket that waits with a limit |
//! | `packer` | zstd |
//! | `pump` | from a socket into a file |
//! | `outgoing` | the sender |
//! | `images` | the images of a pre-dump as a stream |
//! | `incoming` | what a receiver does with the records |
//! | `receiver` | waiting for senders, and the files |

mod address;
mod connection;
mod error;
mod frame;
mod images;
mod incoming;
mod outgoing;
mod packer;
mod pump;
mod receiver;

use std::time::Duration;

pub use address::Address;
pub(crate) use connection::{Connection, Push, Trouble, Wait};
pub use error::StreamError;
pub(crate) use frame::Kind;
pub use frame::Malformed;
pub use images::StreamImages;
pub(crate) use incoming::Failure;
pub(crate) use outgoing::{Outgoing, Step};
pub(crate) use pump::{Leak, Pump};
pub use receiver::{ReceiveOptions, ReceiveReport, Receiver};

/// How long nothing may move on a connection, unless the caller says otherwise.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// A receiver, and how to send to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOptions {
    /// Where it listens.
    pub address: Address,
    /// Compresses with this level of zstd. The pages are then copied by this process instead of going straight from the
    /// target into the socket.
    pub compress: Option<i32>,
    /// How long the receiver may take nothing.
    pub timeout: Duration,
}

impl StreamOptions {
    /// To this address, uncompressed.
    pub fn to(address: Address) -> Self {
        Self { address, compress: None, timeout: TIMEOUT }
    }
}

#[cfg(test)]
mod tests;
