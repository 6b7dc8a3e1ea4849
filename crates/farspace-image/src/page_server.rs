//! The messages of CRIU's page server, as of CRIU 3.17.1 (criu/page-xfer.c; <https://criu.org/Page_server>).
//!
//! `criu dump --page-server` sends the memory to it instead of writing pagemap and pages images. A client says which image it
//! fills (a process's or a shared memory segment's), then for each run of pages one message, followed by the pages if they
//! are present. All messages are 24 bytes; numbers are the machine's, so little endian here.
//!
//! The id of shared memory has 56 bits.
//!
//! | client | server |
//! |---|---|
//! | [`Request::Parent`]: is there a parent image of this? | 4 bytes: 1 yes, 0 no |
//! | [`Request::Open`]: what follows is of this image | 1 byte: 1 if there is a parent image |
//! | [`Request::Add`] and the pages, if present | - |
//! | [`Request::Flush`], [`Request::Close`]: is everything there? | 4 bytes: 0 yes |
//!
//! Nothing is said of a client that goes away without a flush: the server takes it as broken.

use crate::criu::{ImageId, PAGE_SIZE, PageFlags};

/// Length of a message in bytes.
pub const MESSAGE_LEN: usize = 24;
/// Addresses of processes end here (x86-64, four levels of page tables); offsets in shared memory are smaller, too.
pub const ADDRESS_END: u64 = 1 << 47;

/// Numbers of the commands, in the lower 16 bits of the first word. The flags of a run are in the upper ones.
mod command {
    pub(super) const ADD: u32 = 1;
    pub(super) const HOLE: u32 = 2;
    pub(super) const OPEN: u32 = 3;
    pub(super) const OPEN2: u32 = 4;
    pub(super) const PARENT: u32 = 5;
    pub(super) const ADD_F: u32 = 6;
    pub(super) const CLOSE: u32 = 0x1023;
    pub(super) const FORCE_CLOSE: u32 = 0x1024;
    pub(super) const BITS: u32 = 16;
}

/// Kinds of images, in the lower 8 bits of a destination.
mod destination {
    pub(super) const PROCESS: u64 = 1;
    pub(super) const SHARED: u64 = 2;
    pub(super) const BITS: u32 = 8;
    /// What CRIU before 3.3 sent: the position in a list that changed.
    pub(super) const PROCESS_BEFORE: [u64; 4] = [10, 11, 16, 17];
    pub(super) const SHARED_BEFORE: [u64; 7] = [27, 28, 29, 32, 33, 34, 35];
}

/// Some pages in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first page's address in bytes, a multiple of 4096.
    pub address: u64,
    /// How many, not 0.
    pub nr_pages: u32,
    /// What is known of them.
    pub flags: PageFlags,
}

impl Run {
    /// Bytes that follow the message.
    pub fn bytes_following(&self) -> u64 {
        if self.flags.contains(PageFlags::PRESENT) { u64::from(self.nr_pages) * PAGE_SIZE } else { 0 }
    }

    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        u64::from(self.nr_pages) * PAGE_SIZE
    }
}

/// How a server answers to an [`Request::Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With a byte: 1 if there is a parent image.
    HasParent,
    /// Not at all (the older command).
    None,
}

/// A message of a client's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// What follows is of this image.
    Open(ImageId, Answer),
    /// Is there a parent of this image?
    Parent(ImageId),
    /// Pages of an image.
    Add(ImageId, Run),
    /// Is everything there? More may follow.
    Flush,
    /// Is everything there? The server is to end.
    Close,
}

/// A message that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// An unknown command, or one that only the other direction has.
    #[error("page server command {0:#x} is unknown")]
    Command(u32),
    /// Unknown flags of pages.
    #[error("page flags {0:#x} are unknown, or contradict each other")]
    Flags(u32),
    /// Neither a process nor shared memory, or an id that can't be.
    #[error("destination {0:#x} is no image")]
    Destination(u64),
    /// A run of no pages, off a page's start, or beyond the addresses of a process.
    #[error("{nr_pages} pages at {address:#x} can't be")]
    Run {
        /// The first page.
        address: u64,
        /// How many.
        nr_pages: u32,
    },
}

impl Request {
    /// The bytes of the message.
    pub fn encode(self) -> [u8; MESSAGE_LEN] {
        let image = |command, image| message(command, 0, 0, encode_image(image));
        match self {
            Self::Open(to, Answer::HasParent) => image(command::OPEN2, to),
            Self::Open(to, Answer::None) => image(command::OPEN, to),
            Self::Parent(of) => image(command::PARENT, of),
            Self::Add(to, run) => {
                let command = command::ADD_F | run.flags.bits() << command::BITS;
                message(command, run.nr_pages, run.address, encode_image(to))
            }
            Self::Flush => message(command::CLOSE, 0, 0, 0),
            Self::Close => message(command::FORCE_CLOSE, 0, 0, 0),
        }
    }

    /// Reads a message.
    ///
    /// # Errors
    ///
    /// It makes no sense; what follows can't be read then.
    pub fn decode(bytes: &[u8; MESSAGE_LEN]) -> Result<Self, Malformed> {
        let small = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let (word, nr_pages) = (small(0), small(4));
        let (address, to) = (large(&bytes[8..16]), large(&bytes[16..]));
        let flags = word >> command::BITS;
        match word & ((1 << command::BITS) - 1) {
            command::OPEN2 => Ok(Self::Open(decode_image(to)?, Answer::HasParent)),
            command::OPEN => Ok(Self::Open(decode_image(to)?, Answer::None)),
            command::PARENT => Ok(Self::Parent(decode_image(to)?)),
            command::ADD => Self::add(to, address, nr_pages, PageFlags::PRESENT.bits()),
            command::HOLE => Self::add(to, address, nr_pages, PageFlags::PARENT.bits()),
            command::ADD_F => Self::add(to, address, nr_pages, flags),
            command::CLOSE => Ok(Self::Flush),
            command::FORCE_CLOSE => Ok(Self::Close),
            _ => Err(Malformed::Command(word)),
        }
    }

    fn add(to: u64, address: u64, nr_pages: u32, flags: u32) -> Result<Self, Malformed> {
        let known = PageFlags::from_bits(flags);
        // Pages are here, or in the parent, or will be asked for.
        let both = PageFlags::PARENT | PageFlags::PRESENT;
        let known = known.filter(|f| !f.is_empty() && !f.contains(both)).ok_or(Malformed::Flags(flags))?;
        let end = address.checked_add(u64::from(nr_pages) * PAGE_SIZE);
        if nr_pages == 0 || !address.is_multiple_of(PAGE_SIZE) || end.is_none_or(|end| end > ADDRESS_END) {
            return Err(Malformed::Run { address, nr_pages });
        }
        Ok(Self::Add(decode_image(to)?, Run { address, nr_pages, flags: known }))
    }
}

fn encode_image(image: ImageId) -> u64 {
    match image {
        ImageId::Process(pid) => u64::from(pid) << destination::BITS | destination::PROCESS,
        ImageId::Shared(id) => id << destination::BITS | destination::SHARED,
    }
}

fn decode_image(number: u64) -> Result<ImageId, Malformed> {
    let kind = number & ((1 << destination::BITS) - 1);
    let id = number >> destination::BITS;
    let is = |now, before: &[u64]| kind == now || before.contains(&kind);
    if is(destination::PROCESS, &destination::PROCESS_BEFORE) {
        // A pid is a positive number of 32 bits.
        let pid = u32::try_from(id).ok().filter(|pid| i32::try_from(*pid).is_ok_and(|pid| pid > 0));
        pid.map(ImageId::Process).ok_or(Malformed::Destination(number))
    } else if is(destination::SHARED, &destination::SHARED_BEFORE) {
        Ok(ImageId::Shared(id))
    } else {
        Err(Malformed::Destination(number))
    }
}

fn message(command: u32, nr_pages: u32, address: u64, to: u64) -> [u8; MESSAGE_LEN] {
    let mut bytes = [0; MESSAGE_LEN];
    bytes[..4].copy_from_slice(&command.to_le_bytes());
    bytes[4..8].copy_from_slice(&nr_pages.to_le_bytes());
    bytes[8..16].copy_from_slice(&address.to_le_bytes());
    bytes[16..].copy_from_slice(&to.to_le_bytes());
    bytes
}

fn large(bytes: &[u8]) -> u64 {
    bytes.try_into().map_or(0, u64::from_le_bytes)
}

#[cfg(test)]
mod tests;
