//! Waiting for a sender, and the files that it sends.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use farspace::Extent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use serde::Serialize;

use super::address::Listener;
use super::connection::{Connection, Push, Trouble};
use super::frame::{self, HEAD, Kind, Malformed, Reply};
use super::incoming::{Failure, Incoming, Step};
use super::{Address, StreamError, TIMEOUT};
use crate::{Error, Output, OutputDirectory, Result, output};

/// How long who connects may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// How often the caller is asked whether to go on waiting.
const ASK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };

/// How to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveOptions {
    /// Replaces a file that exists. A directory is only replaced if it is empty.
    pub overwrite: bool,
    /// How long the sender may send nothing.
    pub timeout: Duration,
}

impl Default for ReceiveOptions {
    fn default() -> Self {
        Self { overwrite: false, timeout: TIMEOUT }
    }
}

/// What was received.
#[derive(Clone, Debug, Serialize)]
pub struct ReceiveReport {
    /// The file or directory.
    pub path: PathBuf,
    /// Who sent it.
    pub sender: String,
    /// The names of the files, as sent.
    pub files: Vec<String>,
    /// Bytes of memory and headers that were written, what was written twice counted twice.
    pub bytes: u64,
    /// From the first byte to the last, in ns.
    pub total_ns: u64,
    /// Who connected before and was turned away, and why.
    pub turned_away: Vec<String>,
}

/// A socket that senders connect to. A Unix socket's path is removed when dropped.
#[derive(Debug)]
pub struct Receiver {
    listener: Listener,
    address: Address,
}

impl Receiver {
    /// Listens; port 0 of tcp: is any free one.
    ///
    /// # Errors
    ///
    /// The address is taken, or not this host's.
    pub fn listen(address: &Address) -> Result<Self> {
        let failed = |e| Error::Stream { peer: address.to_string(), source: StreamError::Listen(e) };
        let listener = Listener::bind(address).map_err(failed)?;
        let address = listener.address().map_err(failed)?;
        Ok(Self { listener, address })
    }

    /// Where it listens.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Waits for a sender and writes what it sends to `path`: a file, or a directory if it sends several. Where `path` is a
    /// directory that exists a single file goes into it, under the name that it was sent with.
    ///
    /// `parent` is the image directory that a pre-dump continues, if there is one.
    ///
    /// Who connects and doesn't say hello properly is turned away, and the waiting goes on. `step` is told the bytes of
    /// each step, 0 where nothing moves; `Break` ends it.
    ///
    /// # Errors
    ///
    /// The sender gives up, breaks the protocol or the connection; the files can't be written. Nothing of it is left.
    pub fn receive(
        &self,
        path: &Path,
        parent: Option<&Path>,
        options: &ReceiveOptions,
        step: Step<'_>,
    ) -> Result<ReceiveReport> {
        let mut turned_away = Vec::new();
        let (connection, sender, kind) = loop {
            let (connection, sender) = self.accept(options.timeout, step)?;
            match hello(&connection, step) {
                Ok(kind) => break (connection, sender, kind),
                Err(Trouble::Interrupted) => return Err(Error::Interrupted),
                Err(Trouble::Stream(error)) => {
                    refuse(&connection, &error.to_string());
                    turned_away.push(format!("{sender}: {error}"));
                }
            }
        };
        let begin = Instant::now();
        let failed = |failure: Failure| {
            let error = match failure {
                Failure::Here(error) => error,
                Failure::Trouble(Trouble::Interrupted) => Error::Interrupted,
                Failure::Trouble(Trouble::Stream(source)) => Error::Stream { peer: sender.clone(), source },
            };
            // What the sender has said itself needn't be told to it.
            if !matches!(&error, Error::Stream { source: StreamError::Peer(_), .. }) {
                refuse(&connection, &error.to_string());
            }
            error
        };
        let mut store = Store::new(path, parent, kind, options.overwrite).map_err(|e| failed(e.into()))?;
        let ready = connection.send(&Reply::Ready.encode(), Push::Now, &mut || step(0));
        let received = match ready {
            Ok(()) => Incoming::new(&connection, &mut store, step).run(),
            Err(trouble) => Err(trouble.into()),
        };
        let (path, files, bytes) = match received {
            Ok(bytes) => match store.finish() {
                Ok((path, files)) => (path, files, bytes),
                Err(error) => return Err(failed(error.into())),
            },
            Err(failure) => {
                // Gone before the sender hears of it, and tries again.
                drop(store);
                return Err(failed(failure));
            }
        };
        // The files are there, whether or not the sender hears it.
        let _ =
            connection.send(&Reply::Done { bytes }.encode(), Push::Now, &mut || ControlFlow::Continue(()));
        let total_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(ReceiveReport { path, sender, files, bytes, total_ns, turned_away })
    }

    pub(crate) fn accept(&self, timeout: Duration, step: Step<'_>) -> Result<(Connection, String)> {
        let failed = |source| Error::Stream { peer: self.address.to_string(), source };
        loop {
            match self.listener.accept() {
                Ok((socket, sender)) => {
                    return Ok((Connection::new(socket, timeout).map_err(failed)?, sender));
                }
                // Who went away again, or an interrupted call.
                Err(e)
                    if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match poll(&mut [PollFd::new(&self.listener, PollFlags::IN)], Some(&ASK)) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(errno) => return Err(failed(StreamError::of(errno))),
                    }
                    if step(0).is_break() {
                        return Err(Error::Interrupted);
                    }
                }
                Err(e) => return Err(failed(StreamError::Listen(e))),
            }
        }
    }
}

fn hello(connection: &Connection, step: Step<'_>) -> Result<Kind, Trouble> {
    let mut head = [0; HEAD];
    connection.receive_until(&mut head, Instant::now() + HELLO.min(connection.timeout()), &mut || step(0))?;
    Ok(frame::read_hello(&head)?)
}

fn refuse(connection: &Connection, why: &str) {
    let text: String = why.chars().take(frame::MAX_TEXT / 4).collect();
    connection.part(&Reply::Refused { text_len: text.len() }.encode(), text.as_bytes());
}

/// The files of one stream, until they have their names. Dropped, they are gone.
pub(crate) struct Store {
    path: PathBuf,
    overwrite: bool,
    names: Vec<String>,
    parent: Option<PathBuf>,
    shape: Shape,
}

enum Shape {
    File(Option<Output>),
    /// A file that is not to be kept is none any more.
    Directory(OutputDirectory, Vec<Option<File>>),
}

impl Store {
    pub(crate) fn new(path: &Path, parent: Option<&Path>, kind: Kind, overwrite: bool) -> Result<Self> {
        let failed =
            |parent: &Path, e: io::Error| Error::Parent { path: parent.to_owned(), source: e.into() };
        let parent = parent.map(|p| p.canonicalize().map_err(|e| failed(p, e))).transpose()?;
        let shape = match kind {
            Kind::File if path.is_dir() => Shape::File(None),
            Kind::File => Shape::File(Some(Output::create(path, overwrite)?)),
            Kind::Directory => {
                let directory = OutputDirectory::create(path)?;
                if let Some(parent) = &parent {
                    directory.link_parent(parent)?;
                }
                Shape::Directory(directory, Vec::new())
            }
        };
        Ok(Self { path: path.to_owned(), overwrite, names: Vec::new(), parent, shape })
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.shape {
            Shape::File(_) => Kind::File,
            Shape::Directory(..) => Kind::Directory,
        }
    }

    pub(crate) fn files(&self) -> u32 {
        self.names.len() as u32
    }

    pub(crate) fn open(&mut self, name: &str) -> Result<()> {
        match &mut self.shape {
            Shape::File(Some(_)) => {}
            Shape::File(output) => {
                self.path.push(name);
                *output = Some(Output::create(&self.path, self.overwrite)?);
            }
            Shape::Directory(directory, files) => files.push(Some(directory.file(name)?)),
        }
        self.names.push(name.to_owned());
        Ok(())
    }

    /// A file of the parent images, if there is one.
    pub(crate) fn parent_file(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(parent) = &self.parent else { return Ok(None) };
        let path = parent.join(name);
        let failed = |e: io::Error| Error::Parent { path: path.clone(), source: e.into() };
        match std::fs::metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Ok(found) if found.len() > frame::MAX_CONTENT => Err(failed(io::ErrorKind::FileTooLarge.into())),
            _ => std::fs::read(&path).map(Some).map_err(failed),
        }
    }

    pub(crate) fn set_len(&self, file: u32, len: u64) -> Result<(), Failure> {
        self.file(file)?.set_len(len).map_err(|e| self.error(file, e).into())
    }

    pub(crate) fn punch(&self, file: u32, hole: Extent) -> Result<(), Failure> {
        output::punch(self.file(file)?, hole).map_err(|e| self.error(file, e).into())
    }

    pub(crate) fn write(&self, file: u32, bytes: &[u8], offset: u64) -> Result<(), Failure> {
        self.file(file)?.write_all_at(bytes, offset).map_err(|e| self.error(file, e).into())
    }

    /// Removes a file of a directory.
    pub(crate) fn discard(&mut self, file: u32) -> Result<(), Failure> {
        let Shape::Directory(directory, files) = &mut self.shape else {
            return Err(Malformed::File(file).into());
        };
        let taken = files.get_mut(file as usize).and_then(Option::take);
        let (Some(_), Some(name)) = (taken, self.names.get(file as usize)) else {
            return Err(Malformed::File(file).into());
        };
        Ok(directory.remove(name)?)
    }

    /// Gives everything its name; path and names.
    pub(crate) fn finish(self) -> Result<(PathBuf, Vec<String>)> {
        match self.shape {
            Shape::File(Some(output)) => output.finish()?,
            Shape::File(None) => {}
            Shape::Directory(directory, files) => {
                directory.finish()?;
                let kept = self.names.into_iter().zip(files).filter_map(|(name, file)| file.map(|_| name));
                return Ok((self.path, kept.collect()));
            }
        }
        Ok((self.path, self.names))
    }

    pub(crate) fn file(&self, file: u32) -> Result<&File, Malformed> {
        match &self.shape {
            Shape::File(Some(output)) if file < self.files() => Ok(output.file()),
            Shape::Directory(_, files) => {
                files.get(file as usize).and_then(Option::as_ref).ok_or(Malformed::File(file))
            }
            Shape::File(_) => Err(Malformed::File(file)),
        }
    }

    pub(crate) fn error(&self, file: u32, source: io::Error) -> Error {
        let path = match (self.kind(), self.names.get(file as usize)) {
            (Kind::Directory, Some(name)) => self.path.join(name),
            _ => self.path.clone(),
        };
        Error::Output { operation: "write", path, source }
    }
}
