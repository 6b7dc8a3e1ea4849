//! The images of a pre-dump, sent to a receiver that keeps them as the directory that they would be here.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Mutex, PoisonError};

use farspace_image::criu::{
    CriuError, DumpStats, INVENTORY, ImageId, Inventory, PageFlags, PageRun, PagemapReader, PagemapWriter,
    STATS, pages_name,
};

use super::frame::{Kind, MAX_PACKED};
use super::{Outgoing, StreamError, StreamOptions};
use crate::dirty::PageSet;
use crate::predump::{PageSink, PageSource, Place};
use crate::{Error, Result};

/// Bytes of a pagemap that are collected before they are sent.
const COLLECTED: usize = 64 << 10;

/// A receiver as the place of a pre-dump's images.
///
/// What the parent images are is known to the receiver, and asked of it.
pub struct StreamImages {
    stream: Outgoing,
    image: Option<Image>,
    images: u32,
}

/// The image under way.
struct Image {
    pagemap: PagemapWriter<Shared>,
    collected: Shared,
    pagemap_file: u32,
    pagemap_bytes: u64,
    pages_file: u32,
    pages_bytes: u64,
}

/// Bytes that a pagemap's writer has written.
#[derive(Clone, Debug, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    /// What has been written since, if it is at least so much.
    fn take(&self, at_least: usize) -> Vec<u8> {
        let mut bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if bytes.len() < at_least { Vec::new() } else { std::mem::take(&mut bytes) }
    }
}

impl io::Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl StreamImages {
    /// Connects.
    ///
    /// # Errors
    ///
    /// Nobody listens, or who does is no receiver.
    pub fn connect(options: &StreamOptions) -> Result<Self> {
        Ok(Self { stream: Outgoing::connect(options, Kind::Directory)?, image: None, images: 0 })
    }

    /// Tells the receiver why there is no more.
    pub fn give_up(&self, why: &Error) {
        if !matches!(why, Error::Stream { .. }) {
            self.stream.give_up(&why.to_string());
        }
    }

    fn whole(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        let file = self.stream.open(name)?;
        self.stream.write_at(file, 0, bytes)?;
        self.stream.set_len(file, bytes.len() as u64)
    }

    /// Sends what has been collected of the pagemap.
    fn send_pagemap(stream: &mut Outgoing, image: &mut Image, at_least: usize) -> Result<()> {
        let bytes = image.collected.take(at_least);
        stream.write_at(image.pagemap_file, image.pagemap_bytes, &bytes)?;
        image.pagemap_bytes += bytes.len() as u64;
        Ok(())
    }
}

/// An image that makes no sense, the receiver's parent or one of ours.
fn wrong(stream: &Outgoing, error: CriuError) -> Error {
    stream.error(StreamError::Image(error))
}

impl PageSink for StreamImages {
    fn parent_inventory(&mut self) -> Result<Option<Inventory>> {
        match self.stream.ask(INVENTORY)? {
            None => Ok(None),
            Some(bytes) => {
                Inventory::read(&mut bytes.as_slice()).map(Some).map_err(|e| wrong(&self.stream, e))
            }
        }
    }

    fn parent(&mut self, image: ImageId, there: &PageSet) -> Result<Option<PageSet>> {
        let Some(bytes) = self.stream.ask(&image.pagemap_name())? else { return Ok(None) };
        let read = || {
            let mut set = PageSet::default();
            for run in PagemapReader::new(bytes.as_slice())? {
                // Whatever the image says, this doesn't grow beyond what there is.
                set.add(&there.within(run?.range()));
            }
            Ok(set)
        };
        read().map(Some).map_err(|e| wrong(&self.stream, e))
    }

    fn begin(&mut self, image: ImageId) -> Result<()> {
        self.images += 1;
        let pagemap_file = self.stream.open(&image.pagemap_name())?;
        let pages_file = self.stream.open(&pages_name(self.images))?;
        let collected = Shared::default();
        let pagemap =
            PagemapWriter::new(collected.clone(), self.images).map_err(|e| wrong(&self.stream, e))?;
        self.image =
            Some(Image { pagemap, collected, pagemap_file, pagemap_bytes: 0, pages_file, pages_bytes: 0 });
        Ok(())
    }

    fn pages(&mut self, runs: &[PageRun], memory: &mut dyn PageSource) -> Result<()> {
        let Some(image) = &mut self.image else { return Ok(()) };
        let present: Vec<PageRun> =
            runs.iter().filter(|run| run.flags.contains(PageFlags::PRESENT)).copied().collect();
        let bytes: u64 = present.iter().map(PageRun::len_bytes).sum();
        if self.stream.packs() {
            let mut buffer = Vec::new();
            for run in &present {
                for at in run.range().step_by(MAX_PACKED as usize) {
                    buffer.resize((run.range().end - at).min(MAX_PACKED) as usize, 0);
                    memory.read(at, &mut buffer)?;
                    self.stream.packed_at(image.pages_file, image.pages_bytes, &buffer)?;
                    image.pages_bytes += buffer.len() as u64;
                }
            }
        } else if bytes > 0 {
            self.stream.announce(image.pages_file, image.pages_bytes, bytes)?;
            let moved = memory.splice(&present, Place::Stream(self.stream.fd().as_fd()));
            moved.map_err(|error| match error {
                Error::Target(e) if e.operation() == farspace::WRITE_OUT => self.stream.broken(e.errno()),
                other => other,
            })?;
            image.pages_bytes += bytes;
        }
        for run in runs {
            image.pagemap.push(*run).map_err(|e| wrong(&self.stream, e))?;
        }
        Self::send_pagemap(&mut self.stream, image, COLLECTED)
    }

    fn end(&mut self) -> Result<()> {
        let Some(image) = self.image.take() else { return Ok(()) };
        let Image { pagemap, collected, pagemap_file, pagemap_bytes, pages_file, pages_bytes } = image;
        pagemap.finish().map_err(|e| wrong(&self.stream, e))?;
        self.stream.write_at(pagemap_file, pagemap_bytes, &collected.take(0))?;
        self.stream.set_len(pages_file, pages_bytes)
    }

    fn finish(&mut self, inventory: &Inventory, stats: &DumpStats) -> Result<()> {
        let mut bytes = Vec::new();
        stats.write(&mut bytes).map_err(|e| wrong(&self.stream, e))?;
        self.whole(STATS, &bytes)?;
        bytes.clear();
        inventory.write(&mut bytes).map_err(|e| wrong(&self.stream, e))?;
        self.whole(INVENTORY, &bytes)?;
        self.stream.finish()
    }
}
