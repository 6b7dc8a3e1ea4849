//! Sends the pages of a pre-dump to a page server, CRIU's or farspace's.
//!
//! The pagemaps and the pages go there; inventory, statistics and the link to the parent stay in a directory here, as with
//! `criu pre-dump --page-server`.

use std::ops::ControlFlow;
use std::os::fd::AsFd as _;

use farspace_image::criu::{DumpStats, ImageId, Inventory, PageFlags, PageRun};
use farspace_image::page_server::{Answer, Request, Run};

use crate::dirty::PageSet;
use crate::predump::{ImageDirectory, PageSink, PageSource, Place};
use crate::stream::{Connection, Push, StreamError, StreamOptions, Trouble};
use crate::{Error, Result};

/// Shorter runs are copied together with their messages: less work than handing each to the agent.
const SHORT: u64 = 64 << 10;
/// Bytes that are collected before they are sent.
const COLLECTED: usize = 256 << 10;
/// Pages of one message: CRIU counts them in an int.
const MOST: u64 = 1 << 18;

/// A page server, and the directory of what isn't sent to it.
#[derive(Debug)]
pub struct PageServer {
    connection: Connection,
    peer: String,
    here: ImageDirectory,
    image: Option<ImageId>,
    collected: Vec<u8>,
}

impl PageServer {
    /// Connects. Compression is no part of the protocol: `options.compress` is ignored.
    ///
    /// # Errors
    ///
    /// Nobody listens.
    pub fn connect(options: &StreamOptions, here: ImageDirectory) -> Result<Self> {
        let peer = options.address.to_string();
        let error = |source| Error::Stream { peer: peer.clone(), source };
        let socket = options.address.connect().map_err(|e| error(StreamError::Connect(e)))?;
        let connection = Connection::new(socket, options.timeout).map_err(error)?;
        Ok(Self { connection, peer, here, image: None, collected: Vec::new() })
    }

    /// The directory here.
    pub fn here(&self) -> &ImageDirectory {
        &self.here
    }

    fn send(&self, bytes: &[u8], push: Push) -> Result<()> {
        self.connection.send(bytes, push, &mut || ControlFlow::Continue(())).map_err(|e| self.fail(e))
    }

    fn flush(&mut self) -> Result<()> {
        let bytes = std::mem::take(&mut self.collected);
        self.send(&bytes, Push::Later)
    }

    /// Asks, and reads the answer.
    fn ask<const N: usize>(&mut self, request: Request) -> Result<[u8; N]> {
        self.flush()?;
        self.send(&request.encode(), Push::Now)?;
        let mut answer = [0; N];
        self.connection
            .receive(&mut answer, &mut || ControlFlow::Continue(()))
            .map_err(|trouble| self.fail(trouble))?;
        Ok(answer)
    }

    fn fail(&self, trouble: Trouble) -> Error {
        match trouble {
            Trouble::Interrupted => Error::Interrupted,
            Trouble::Stream(source) => self.error(source),
        }
    }

    fn error(&self, source: StreamError) -> Error {
        Error::Stream { peer: self.peer.clone(), source }
    }

    /// One message, and its pages if there are any.
    fn run(&mut self, image: ImageId, run: PageRun, memory: &mut dyn PageSource) -> Result<()> {
        let nr_pages = run.nr_pages as u32;
        let message = Request::Add(image, Run { address: run.vaddr, nr_pages, flags: run.flags }).encode();
        self.collected.extend(message);
        if !run.flags.contains(PageFlags::PRESENT) {
            return Ok(());
        }
        if run.len_bytes() < SHORT {
            let at = self.collected.len();
            self.collected.resize(at + run.len_bytes() as usize, 0);
            memory.read(run.vaddr, &mut self.collected[at..])?;
            return if self.collected.len() > COLLECTED { self.flush() } else { Ok(()) };
        }
        self.flush()?;
        memory.splice(&[run], Place::Stream(self.connection.fd().as_fd())).map_err(|error| match error {
            Error::Target(e) if e.operation() == farspace::WRITE_OUT => {
                self.error(StreamError::of(e.errno()))
            }
            other => other,
        })
    }
}

impl PageSink for PageServer {
    fn parent_inventory(&mut self) -> Result<Option<Inventory>> {
        self.here.parent_inventory()
    }

    /// The server says only whether it has a parent of the image; it refuses pages that aren't there.
    fn parent(&mut self, image: ImageId, there: &PageSet) -> Result<Option<PageSet>> {
        let answer: [u8; 4] = self.ask(Request::Parent(image))?;
        Ok((i32::from_le_bytes(answer) == 1).then(|| there.clone()))
    }

    fn begin(&mut self, image: ImageId) -> Result<()> {
        let _has_parent: [u8; 1] = self.ask(Request::Open(image, Answer::HasParent))?;
        self.image = Some(image);
        Ok(())
    }

    fn pages(&mut self, runs: &[PageRun], memory: &mut dyn PageSource) -> Result<()> {
        let Some(image) = self.image else { return Ok(()) };
        for run in runs {
            let mut done = 0;
            while done < run.nr_pages {
                let nr_pages = (run.nr_pages - done).min(MOST);
                let vaddr = run.vaddr + done * 4096;
                self.run(image, PageRun { vaddr, nr_pages, flags: run.flags }, memory)?;
                done += nr_pages;
            }
        }
        Ok(())
    }

    fn end(&mut self) -> Result<()> {
        self.image = None;
        self.flush()
    }

    fn finish(&mut self, inventory: &Inventory, stats: &DumpStats) -> Result<()> {
        let status: [u8; 4] = self.ask(Request::Flush)?;
        match i32::from_le_bytes(status) {
            0 => self.here.finish(inventory, stats),
            status => {
                Err(self.error(StreamError::Peer(format!("it has not taken everything (status {status})"))))
            }
        }
    }
}
