//! Between those who find pages and those who keep or send them.

use std::os::fd::BorrowedFd;

use farspace::Sink;
use farspace_image::criu::{DumpStats, ImageId, Inventory, PageRun};

use crate::Result;
use crate::dirty::PageSet;

/// Where the images of a predump go: a directory, or another machine.
///
/// In this order: [`parent_inventory`](Self::parent_inventory); then for each image [`parent`](Self::parent),
/// [`begin`](Self::begin), [`pages`](Self::pages) as often as needed, [`end`](Self::end); then
/// [`finish`](Self::finish), without which the whole is incomplete and must not look otherwise.
pub trait PageSink {
    /// What the parent's inventory says; `None` without a parent.
    ///
    /// # Errors
    ///
    /// There is a parent, and it can't be read.
    fn parent_inventory(&mut self) -> Result<Option<Inventory>>;

    /// Which of these pages the parent has of an image, itself or by its own parents; `None` without a parent, or where it
    /// doesn't have that image.
    ///
    /// # Errors
    ///
    /// The parent has it, and it can't be read.
    fn parent(&mut self, image: ImageId, there: &PageSet) -> Result<Option<PageSet>>;

    /// Begins the image of a process's memory or of a shared memory object.
    ///
    /// # Errors
    ///
    /// It can't be written or sent.
    fn begin(&mut self, image: ImageId) -> Result<()>;

    /// Takes runs of pages of the image that was begun, in order of address. `memory` has those that are present; the
    /// others are in the parent.
    ///
    /// # Errors
    ///
    /// They can't be written or sent; whatever `memory` says.
    fn pages(&mut self, runs: &[PageRun], memory: &mut dyn PageSource) -> Result<()>;

    /// Ends the image that was begun.
    ///
    /// # Errors
    ///
    /// It can't be written or sent.
    fn end(&mut self) -> Result<()>;

    /// Completes the whole.
    ///
    /// # Errors
    ///
    /// It can't be written or sent; something else has its name by now.
    fn finish(&mut self, inventory: &Inventory, stats: &DumpStats) -> Result<()>;
}

/// The memory that an image is of.
///
/// A page that has vanished since it was found is read as zeros: the target has unmapped or dropped it, or has ended, and
/// tracking tells the next iteration so.
pub trait PageSource {
    /// Moves the pages of the runs to a place, one after the other, without a copy where that can be; exactly as many
    /// bytes as the runs are long.
    ///
    /// # Errors
    ///
    /// The place fails ([`farspace::WRITE_OUT`]); the caller has broken it off. A stream then has an unknown part of the
    /// bytes.
    fn splice(&mut self, runs: &[PageRun], to: Place<'_>) -> Result<()>;

    /// Copies the pages from `vaddr` on, a page's first address, until the buffer is full.
    ///
    /// # Errors
    ///
    /// The caller has broken it off.
    fn read(&mut self, vaddr: u64, buffer: &mut [u8]) -> Result<()>;
}

/// Where bytes go.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Into a file that is long enough already, from this offset on.
    File(BorrowedFd<'a>, u64),
    /// Into a socket or pipe.
    Stream(BorrowedFd<'a>),
}

impl<'a> Place<'a> {
    /// The sink for what comes after the first `done` bytes.
    pub fn after(self, done: u64) -> Sink<'a> {
        match self {
            Self::File(fd, offset) => Sink::file_at(fd, offset + done),
            Self::Stream(fd) => Sink::stream(fd),
        }
    }
}
