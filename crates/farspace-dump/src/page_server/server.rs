//! Takes pages as CRIU sends them, and keeps them as CRIU's images.

use std::fs::File;
use std::io::{self, BufWriter};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Instant;

use farspace_image::criu::{CriuError, ImageId, PageFlags, PageRun, PagemapWriter, pages_name};
use farspace_image::page_server::{Answer, MESSAGE_LEN, Request, Run};
use serde::Serialize;

use super::parent::ParentPages;
use crate::stream::{
    Connection, Failure, Leak, Malformed, Pump, Push, ReceiveOptions, Receiver, StreamError, Trouble, Wait,
};
use crate::{Error, OutputDirectory, Result};

/// Images that one client may send.
const MAX_IMAGES: usize = 65_536;

/// What was received.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PageServerReport {
    /// The image directory.
    pub path: PathBuf,
    /// Who sent it.
    pub sender: String,
    /// The pagemaps, by name.
    pub images: Vec<String>,
    /// Pages that were received.
    pub pages: u64,
    /// Pages that the parent has.
    pub pages_in_parent: u64,
    /// From the first message to the last, in ns.
    pub total_ns: u64,
    /// Who connected before and was turned away, and why.
    pub turned_away: Vec<String>,
}

impl Receiver {
    /// Waits for one client of CRIU's page server protocol, and writes the pagemap and pages images of what it sends into a
    /// new directory. `parent` is the directory of the images before, if there is one.
    ///
    /// Who connects and sends something else first is turned away, and the waiting goes on.
    ///
    /// # Errors
    ///
    /// The client breaks the protocol or the connection, goes away before it has asked whether everything is there, or
    /// refers to pages that the parent doesn't have; the images can't be written. Nothing is left then.
    pub fn serve_pages(
        &self,
        path: &Path,
        parent: Option<&Path>,
        options: &ReceiveOptions,
        step: &mut dyn FnMut(u64) -> ControlFlow<()>,
    ) -> Result<PageServerReport> {
        let mut report = PageServerReport { path: path.to_owned(), ..PageServerReport::default() };
        let parent = parent.map(found).transpose()?;
        let directory = OutputDirectory::create(path)?;
        if let Some(parent) = &parent {
            directory.link_parent(parent)?;
        }
        let (connection, first) = loop {
            let (connection, sender) = self.accept(options.timeout, step)?;
            match next(&connection, step) {
                Ok(Some(first)) => {
                    report.sender = sender;
                    break (connection, first);
                }
                Ok(None) => report.turned_away.push(format!("{sender}: it sent nothing")),
                Err(Trouble::Interrupted) => return Err(Error::Interrupted),
                Err(Trouble::Stream(error)) => report.turned_away.push(format!("{sender}: {error}")),
            }
        };
        let begin = Instant::now();
        let peer = report.sender.clone();
        let pump = Pump::new().map_err(|source| Error::Stream { peer: peer.clone(), source })?;
        let mut session = Session {
            connection: &connection,
            directory: &directory,
            parent: parent.as_deref(),
            pump,
            open: None,
            is_flushed: false,
            report: &mut report,
            step,
        };
        session.run(first).map_err(|failure| match failure {
            Failure::Here(error) => error,
            Failure::Trouble(Trouble::Interrupted) => Error::Interrupted,
            Failure::Trouble(Trouble::Stream(source)) => Error::Stream { peer, source },
        })?;
        directory.finish()?;
        report.total_ns = u64::try_from(begin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok(report)
    }
}

/// The next message; `None` at the end of the connection.
fn next(connection: &Connection, step: &mut dyn FnMut(u64) -> ControlFlow<()>) -> Wait<Option<Request>> {
    let mut bytes = [0; MESSAGE_LEN];
    let ask = &mut || step(0);
    match connection.receive(&mut bytes[..1], ask) {
        Err(Trouble::Stream(StreamError::Closed)) => return Ok(None),
        other => other?,
    }
    connection.receive(&mut bytes[1..], ask)?;
    Request::decode(&bytes).map(Some).map_err(|error| StreamError::PageServer(error).into())
}

/// A client under way.
struct Session<'a> {
    connection: &'a Connection,
    directory: &'a OutputDirectory,
    parent: Option<&'a Path>,
    pump: Pump,
    open: Option<Open>,
    /// Nothing has come since the client asked whether everything is there.
    is_flushed: bool,
    report: &'a mut PageServerReport,
    step: &'a mut dyn FnMut(u64) -> ControlFlow<()>,
}

/// The image that is filled.
struct Open {
    image: ImageId,
    pagemap: PagemapWriter<BufWriter<File>>,
    pages: File,
    pages_bytes: u64,
    pages_path: PathBuf,
    parent: Option<ParentPages>,
}

impl Session<'_> {
    fn run(&mut self, first: Request) -> Result<(), Failure> {
        let mut request = Some(first);
        while let Some(now) = request {
            self.is_flushed = matches!(now, Request::Flush | Request::Close);
            match now {
                Request::Open(image, answer) => self.open(image, answer)?,
                Request::Parent(image) => {
                    let has_parent = self.parent_of(image)?.is_some();
                    self.answer(&i32::from(has_parent).to_le_bytes())?;
                }
                Request::Add(image, run) => self.add(image, run)?,
                Request::Flush | Request::Close => {
                    self.close()?;
                    self.answer(&0_i32.to_le_bytes())?;
                    if now == Request::Close {
                        break;
                    }
                }
            }
            request = next(self.connection, self.step)?;
        }
        if self.is_flushed { Ok(()) } else { Err(StreamError::Closed.into()) }
    }

    fn open(&mut self, image: ImageId, answer: Answer) -> Result<(), Failure> {
        self.close()?;
        if self.report.images.len() == MAX_IMAGES {
            return Err(Malformed::Count(MAX_IMAGES as u64 + 1).into());
        }
        let name = image.pagemap_name();
        let pages_id = self.report.images.len() as u32 + 1;
        let pagemap = self.directory.file(&name)?;
        let pages = self.directory.file(&pages_name(pages_id))?;
        let path = self.directory.path().join(&name);
        let pagemap = PagemapWriter::new(BufWriter::new(pagemap), pages_id).map_err(|e| written(&path, e))?;
        let parent = self.parent_of(image)?;
        let has_parent = parent.is_some();
        let pages_path = self.directory.path().join(pages_name(pages_id));
        self.open = Some(Open { image, pagemap, pages, pages_bytes: 0, pages_path, parent });
        self.report.images.push(name);
        match answer {
            Answer::HasParent => self.answer(&[u8::from(has_parent)]),
            Answer::None => Ok(()),
        }
    }

    fn add(&mut self, image: ImageId, run: Run) -> Result<(), Failure> {
        let path = self.directory.path().join(image.pagemap_name());
        let Some(open) = self.open.as_mut().filter(|open| open.image == image) else {
            return Err(StreamError::NotOpen(image.to_string()).into());
        };
        let page_run = PageRun { vaddr: run.address, nr_pages: run.nr_pages.into(), flags: run.flags };
        if run.flags.contains(PageFlags::PARENT) {
            if !open.parent.as_mut().is_some_and(|parent| parent.have(page_run.range())) {
                let what = format!("{} pages at {:#x} of {image}", run.nr_pages, run.address);
                return Err(StreamError::NotInParent(what).into());
            }
            self.report.pages_in_parent += page_run.nr_pages;
        }
        // Refused before its pages are read: out of order, or twice.
        open.pagemap.push(page_run).map_err(|error| match error {
            CriuError::Io(source) => Failure::Here(output("write", &path, source)),
            other => StreamError::OutOfOrder(other.to_string()).into(),
        })?;
        let bytes = run.bytes_following();
        if bytes > 0 {
            let moved = self.pump.run(self.connection, &open.pages, open.pages_bytes, bytes, self.step);
            moved.map_err(|leak| match leak {
                Leak::Trouble(trouble) => Failure::Trouble(trouble),
                Leak::File(source) => output("write", &open.pages_path, source).into(),
            })?;
            open.pages_bytes += bytes;
            self.report.pages += page_run.nr_pages;
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), Failure> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let path = self.directory.path().join(open.image.pagemap_name());
        open.pagemap.finish().map_err(|e| written(&path, e))?;
        Ok(())
    }

    fn parent_of(&self, image: ImageId) -> Result<Option<ParentPages>> {
        self.parent.map_or(Ok(None), |parent| ParentPages::open(parent, image))
    }

    fn answer(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let step = &mut self.step;
        Ok(self.connection.send(bytes, Push::Now, &mut || step(0))?)
    }
}

/// The parent, by a name without links.
fn found(parent: &Path) -> Result<PathBuf> {
    let failed = |source: io::Error| Error::Parent { path: parent.to_owned(), source: source.into() };
    parent.canonicalize().map_err(failed)
}

fn written(path: &Path, error: CriuError) -> Error {
    let source = match error {
        CriuError::Io(source) => source,
        other => io::Error::other(other),
    };
    output("write", path, source)
}

fn output(operation: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Output { operation, path: path.to_owned(), source }
}
