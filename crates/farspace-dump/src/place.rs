//! Where the bytes of one file go: a file here, or a stream to a receiver that has one.

use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use farspace::Extent;
use farspace_image::core_file::CoreLayout;
use farspace_sys::{RemoteAddr, RemoteIoVec};
use rustix::io::Errno;

use crate::dirty::PageSet;
use crate::origin::Origin;
use crate::output::{Output, punch};
use crate::output_directory::OutputDirectory;
use crate::stream::{Kind, Outgoing, Step, StreamOptions};
use crate::{Error, Result};

/// Where a dump goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// This file or directory.
    Path(PathBuf),
    /// A receiver: `farspace receive`, or a [`Receiver`](crate::stream::Receiver).
    Stream(StreamOptions),
}

impl From<&Path> for Destination {
    fn from(path: &Path) -> Self {
        Self::Path(path.to_owned())
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => write!(f, "{}", path.display()),
            Self::Stream(options) => write!(f, "{}", options.address),
        }
    }
}

/// An unfinished file, here or there. Dropped, nothing of it is left.
pub(crate) enum Place {
    Here(Output),
    There(Remote),
}

/// An unfinished directory of files, here or there. Dropped, nothing of it is left.
pub(crate) enum Folder {
    Here(OutputDirectory),
    There(Arc<Mutex<Outgoing>>),
}

impl Folder {
    /// Begins a dump of several files.
    pub(crate) fn create(to: &Destination) -> Result<Self> {
        match to {
            Destination::Path(path) => Ok(Self::Here(OutputDirectory::create(path)?)),
            Destination::Stream(options) => {
                Ok(Self::There(Arc::new(Mutex::new(Outgoing::connect(options, Kind::Directory)?))))
            }
        }
    }

    /// Begins a file of it.
    pub(crate) fn file(&self, name: &str) -> Result<Place> {
        match self {
            Self::Here(directory) => {
                Ok(Place::Here(Output::part(directory.file(name)?, directory.path().join(name))))
            }
            Self::There(stream) => {
                let file = lock(stream).open(name)?;
                Ok(Place::There(Remote { stream: stream.clone(), file }))
            }
        }
    }

    /// What the caller calls it.
    pub(crate) fn path(&self) -> PathBuf {
        match self {
            Self::Here(directory) => directory.path().to_owned(),
            Self::There(stream) => PathBuf::from(lock(stream).peer()),
        }
    }

    /// Takes a file out again.
    pub(crate) fn discard(&self, place: Place, name: &str) -> Result<()> {
        match (self, place) {
            (Self::Here(directory), _) => directory.remove(name),
            (Self::There(stream), Place::There(remote)) => lock(stream).discard(remote.file),
            (Self::There(_), Place::Here(_)) => Ok(()),
        }
    }

    /// Gives everything its name.
    pub(crate) fn finish(self) -> Result<()> {
        match self {
            Self::Here(directory) => directory.finish(),
            Self::There(stream) => lock(&stream).finish(),
        }
    }

    /// Tells a receiver why there is no more.
    pub(crate) fn give_up(&self, why: &Error) {
        match (self, why) {
            (Self::Here(_), _) | (_, Error::Stream { .. }) => {}
            (Self::There(stream), why) => lock(stream).give_up(&why.to_string()),
        }
    }
}

/// A file of a stream.
pub(crate) struct Remote {
    stream: Arc<Mutex<Outgoing>>,
    file: u32,
}

/// Bytes in a buffer of this process that belong to a place in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    /// Offset in the file, in bytes.
    pub(crate) offset: u64,
    /// Index in the buffer.
    pub(crate) at: usize,
    /// Length, in bytes.
    pub(crate) len: usize,
}

impl Place {
    /// Begins a dump of one file; `name` is what a receiver calls it that wasn't told a name.
    pub(crate) fn create(to: &Destination, name: &str, overwrite: bool) -> Result<Self> {
        match to {
            Destination::Path(path) => Ok(Self::Here(Output::create(path, overwrite)?)),
            Destination::Stream(options) => {
                let mut stream = Outgoing::connect(options, Kind::File)?;
                let file = stream.open(name)?;
                Ok(Self::There(Remote { stream: Arc::new(Mutex::new(stream)), file }))
            }
        }
    }

    /// The file, if it is one of this host.
    pub(crate) fn here(&self) -> Option<&Output> {
        match self {
            Self::Here(output) => Some(output),
            Self::There(_) => None,
        }
    }

    /// Writes bytes of this process.
    pub(crate) fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Here(output) => {
                output.file().write_all_at(bytes, offset).map_err(|e| output.error("write", e))
            }
            Self::There(remote) => remote.lock().write_at(remote.file, offset, bytes),
        }
    }

    /// Writes many pieces of a buffer.
    pub(crate) fn write_held(&self, buffer: &[u8], held: &[Held]) -> Result<()> {
        match self {
            Self::Here(output) => held.iter().try_for_each(|held| {
                let bytes = &buffer[held.at..held.at + held.len];
                output.file().write_all_at(bytes, held.offset).map_err(|e| output.error("write", e))
            }),
            Self::There(remote) => remote.lock().write_held(remote.file, buffer, held),
        }
    }

    /// Makes holes in what was written.
    pub(crate) fn punch(&self, holes: &[Extent]) -> Result<()> {
        match self {
            Self::Here(output) => holes
                .iter()
                .try_for_each(|hole| punch(output.file(), *hole).map_err(|e| output.error("write", e))),
            Self::There(remote) => remote.lock().punch(remote.file, holes),
        }
    }

    /// Makes a file here at least this long: only then is it written from both ends.
    pub(crate) fn extend(&self, len: u64) -> Result<()> {
        self.here().map_or(Ok(()), |output| output.extend(len))
    }

    /// Says where the file ends; what wasn't written is holes.
    pub(crate) fn set_len(&self, len: u64) -> Result<()> {
        match self {
            Self::Here(output) => output.file().set_len(len).map_err(|e| output.error("write", e)),
            Self::There(remote) => remote.lock().set_len(remote.file, len),
        }
    }

    /// Writes everything of a core but the memory, and makes the file as long as it will be.
    pub(crate) fn write_header(&self, layout: &CoreLayout) -> Result<()> {
        let mut header = Header { place: self, at: 0 };
        layout.write_header(&mut header).map_err(|e| match e.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => self.error(source),
        })?;
        self.set_len(layout.file_len())
    }

    /// Returns once nothing that was written can change any more, whatever the target does.
    pub(crate) fn settle(&self, step: Step<'_>) -> Result<()> {
        match self {
            // A file has its own copy.
            Self::Here(_) => Ok(()),
            Self::There(remote) => remote.lock().settle(step),
        }
    }

    /// What an error on this file is, that came through a splice.
    pub(crate) fn broken(&self, errno: Errno) -> Error {
        match self {
            Self::Here(output) => output.error("write", errno.into()),
            Self::There(remote) => remote.lock().broken(errno),
        }
    }

    /// Gives the file its name.
    pub(crate) fn finish(self) -> Result<()> {
        match self {
            Self::Here(output) => output.finish(),
            Self::There(remote) => remote.lock().finish(),
        }
    }

    /// Tells a receiver why there is no more.
    pub(crate) fn give_up(&self, why: &Error) {
        match (self, why) {
            // It knows, or can't be told.
            (Self::Here(_), _) | (_, Error::Stream { .. }) => {}
            (Self::There(remote), why) => remote.lock().give_up(&why.to_string()),
        }
    }

    fn error(&self, source: io::Error) -> Error {
        match self {
            Self::Here(output) => output.error("write", source),
            Self::There(remote) => remote.lock().broken(Errno::from_io_error(&source).unwrap_or(Errno::IO)),
        }
    }
}

impl Remote {
    /// Moves runs of a mapping that begins at `start` to where it begins in the file. Returns the pages that couldn't be had.
    pub(crate) fn runs(
        &self,
        origin: &mut Origin<'_>,
        runs: &[RemoteIoVec],
        start: RemoteAddr,
        offset: u64,
        step: Step<'_>,
    ) -> Result<PageSet> {
        let place = |run: &RemoteIoVec| Extent { offset: offset + (run.base.0 - start.0), len: run.len };
        let places: Vec<_> = runs.iter().map(place).collect();
        self.lock().pages(self.file, origin, runs, &places, step)
    }

    fn lock(&self) -> MutexGuard<'_, Outgoing> {
        lock(&self.stream)
    }
}

fn lock(stream: &Mutex<Outgoing>) -> MutexGuard<'_, Outgoing> {
    stream.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A file as the writer of a header wants it.
struct Header<'a> {
    place: &'a Place,
    at: u64,
}

impl io::Write for Header<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.place.write_at(self.at, bytes).map_err(io::Error::other)?;
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Seek for Header<'_> {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let at = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::Current(by) => self.at.checked_add_signed(by),
            // Where the file ends isn't known here.
            io::SeekFrom::End(_) => None,
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
