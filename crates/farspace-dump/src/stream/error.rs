//! What can go wrong between the two sides.

use std::io;
use std::time::Duration;

use super::frame::Malformed;

/// A stream that failed. Nothing of it has its final name at the receiver.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    /// The other side can't be reached.
    #[error("cannot connect: {0}{hint}", hint = connect_hint(.0))]
    Connect(#[source] io::Error),
    /// The address can't be listened on.
    #[error("cannot listen: {0}{hint}", hint = listen_hint(.0))]
    Listen(#[source] io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}; nothing unfinished is kept, start both sides again")]
    Broken(#[source] io::Error),
    /// The connection ended where more should have come.
    #[error(
        "the other side closed the connection before the end; nothing unfinished is kept, start both sides again"
    )]
    Closed,
    /// Nothing came, or nothing was taken, for so long.
    #[error("nothing moved for {} s; nothing unfinished is kept, start both sides again or allow more by --timeout", .0.as_secs_f32())]
    Stalled(Duration),
    /// The other side said something that isn't right.
    #[error("{0}; is it a farspace of this version?")]
    Malformed(#[from] Malformed),
    /// An image of the receiver's parent, or one that is sent.
    #[error("an image makes no sense: {0}; make the chain anew without a parent")]
    Image(#[source] farspace_image::criu::CriuError),
    /// A message of CRIU's page server protocol that makes no sense.
    #[error("{0}; is it a CRIU from 1.3 on, without --tls or lazy pages?")]
    PageServer(#[from] farspace_image::page_server::Malformed),
    /// Pages of an image that wasn't begun.
    #[error("it sent pages of {0} without having begun it; start both sides again")]
    NotOpen(String),
    /// Pages that the parent doesn't have.
    #[error(
        "it refers to {0} in the parent images, which don't have them; make the chain anew without a parent"
    )]
    NotInParent(String),
    /// Pages that an image can't hold there.
    #[error("it sent pages that no image can hold: {0}; start both sides again")]
    OutOfOrder(String),
    /// The other side gave up, and says why.
    #[error("the other side gave up: {0}")]
    Peer(String),
}

impl StreamError {
    /// What an error of a read or write on the socket is.
    pub(crate) fn of(error: rustix::io::Errno) -> Self {
        Self::Broken(error.into())
    }
}

fn connect_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => {
            "; start the receiver first: farspace receive --listen ADDRESS -o FILE"
        }
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "; check the address, and that no firewall is in between"
        }
        io::ErrorKind::PermissionDenied => "; the socket belongs to another user",
        _ => "; check the host's name and that it can be resolved",
    }
}

fn listen_hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => "; choose another, or remove the socket that an earlier run has left",
        io::ErrorKind::PermissionDenied => "; choose a port above 1023, or a directory that you can write to",
        _ => "; check that it is an address of this host",
    }
}
