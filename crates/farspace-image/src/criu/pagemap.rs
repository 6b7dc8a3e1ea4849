//! pagemap-*.img: which pages there are, and where.

use std::io::{Read, Write};
use std::ops::Range;

use bitflags::bitflags;

use super::message::{PagemapEntry, PagemapHead};
use super::stream::{Kind, read_magic, read_message, write_magic, write_message};
use super::{CriuError, PAGE_SIZE};

bitflags! {
    /// Where a page is (criu/include/pagemap.h).
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub struct PageFlags: u32 {
        /// PE_PARENT: the parent has it.
        const PARENT = 1 << 0;
        /// PE_LAZY: a restore may fetch it when it is first used.
        const LAZY = 1 << 1;
        /// PE_PRESENT: it is in the pages file.
        const PRESENT = 1 << 2;
    }
}

/// Neighbouring pages with the same flags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageRun {
    /// First address; of a shared memory object, offset in it. In bytes, a multiple of [`PAGE_SIZE`].
    pub vaddr: u64,
    /// Length in pages, not 0.
    pub nr_pages: u64,
    /// Where they are.
    pub flags: PageFlags,
}

impl PageRun {
    /// Length in bytes.
    pub fn len_bytes(&self) -> u64 {
        self.nr_pages * PAGE_SIZE
    }

    /// The addresses.
    pub fn range(&self) -> Range<u64> {
        self.vaddr..self.vaddr + self.len_bytes()
    }

    /// Fails unless the run lies behind `end` and within 64 bits, has pages, and each is in one place.
    fn check(&self, end: u64) -> Result<(), CriuError> {
        let wrong = |why| Err(CriuError::Run { vaddr: self.vaddr, nr_pages: self.nr_pages, why });
        let len = self.nr_pages.checked_mul(PAGE_SIZE);
        if !self.vaddr.is_multiple_of(PAGE_SIZE) {
            return wrong("its address is not a page's");
        }
        if self.nr_pages == 0 {
            return wrong("it is empty");
        }
        if len.and_then(|len| self.vaddr.checked_add(len)).is_none() {
            return wrong("it goes beyond the last address");
        }
        if self.vaddr < end {
            return wrong("it begins before the end of the one before it");
        }
        if self.flags.contains(PageFlags::PRESENT | PageFlags::PARENT) {
            return wrong("it is both here and in the parent");
        }
        Ok(())
    }
}

/// Writes a pagemap, run by run.
#[derive(Debug)]
pub struct PagemapWriter<W> {
    to: W,
    /// Not written yet, for the next may continue it.
    last: Option<PageRun>,
    end: u64,
}

impl<W: Write> PagemapWriter<W> {
    /// Begins a pagemap whose present pages are in pages-`pages_id`.img.
    ///
    /// # Errors
    ///
    /// Those of `to`.
    pub fn new(mut to: W, pages_id: u32) -> Result<Self, CriuError> {
        write_magic(Kind::Pagemap, &mut to)?;
        write_message(&PagemapHead { pages_id }, &mut to)?;
        Ok(Self { to, last: None, end: 0 })
    }

    /// Notes pages; those that continue the run before with the same flags become one with it.
    ///
    /// # Errors
    ///
    /// Those of the file; [`CriuError::Run`] for one that isn't behind all others.
    pub fn push(&mut self, run: PageRun) -> Result<(), CriuError> {
        run.check(self.end)?;
        self.end = run.range().end;
        match &mut self.last {
            Some(last) if last.range().end == run.vaddr && last.flags == run.flags => {
                last.nr_pages += run.nr_pages;
                Ok(())
            }
            last => match last.replace(run) {
                Some(run) => Self::write(&mut self.to, run),
                None => Ok(()),
            },
        }
    }

    /// Writes what is left and gives the file back.
    ///
    /// # Errors
    ///
    /// Those of the file.
    pub fn finish(mut self) -> Result<W, CriuError> {
        if let Some(run) = self.last {
            Self::write(&mut self.to, run)?;
        }
        self.to.flush()?;
        Ok(self.to)
    }

    /// In pieces whose numbers of pages fit the format.
    fn write(to: &mut W, run: PageRun) -> Result<(), CriuError> {
        // criu counts pages in an int here and there.
        const MOST: u64 = 1 << 30;
        let mut done = 0;
        while done < run.nr_pages {
            let nr_pages = (run.nr_pages - done).min(MOST);
            let entry = PagemapEntry {
                vaddr: run.vaddr + done * PAGE_SIZE,
                nr_pages: nr_pages as u32,
                in_parent: None,
                flags: Some(run.flags.bits()),
            };
            write_message(&entry, to)?;
            done += nr_pages;
        }
        Ok(())
    }
}

/// Reads a pagemap, run by run; ends after the first error.
#[derive(Debug)]
pub struct PagemapReader<R> {
    from: R,
    pages_id: u32,
    end: u64,
    buffer: Vec<u8>,
    failed: bool,
}

impl<R: Read> PagemapReader<R> {
    /// Reads the head.
    ///
    /// # Errors
    ///
    /// It isn't a pagemap, or damaged.
    pub fn new(mut from: R) -> Result<Self, CriuError> {
        let mut buffer = Vec::new();
        read_magic(Kind::Pagemap, &mut from)?;
        let head: PagemapHead =
            read_message(Kind::Pagemap, &mut from, &mut buffer)?.ok_or(CriuError::Empty)?;
        Ok(Self { from, pages_id: head.pages_id, end: 0, buffer, failed: false })
    }

    /// N of the pages-N.img that has the present pages.
    pub fn pages_id(&self) -> u32 {
        self.pages_id
    }

    fn entry(&mut self) -> Result<Option<PageRun>, CriuError> {
        let Some(entry): Option<PagemapEntry> =
            read_message(Kind::Pagemap, &mut self.from, &mut self.buffer)?
        else {
            return Ok(None);
        };
        // Older images say only whether it is in the parent.
        let flags = match (entry.in_parent, entry.flags) {
            (Some(true), flags) => {
                PageFlags::from_bits_truncate(flags.unwrap_or(0)).difference(PageFlags::PRESENT)
                    | PageFlags::PARENT
            }
            (_, Some(flags)) => PageFlags::from_bits_truncate(flags),
            (_, None) => PageFlags::PRESENT,
        };
        let run = PageRun { vaddr: entry.vaddr, nr_pages: entry.nr_pages.into(), flags };
        run.check(self.end)?;
        self.end = run.range().end;
        Ok(Some(run))
    }
}

impl<R: Read> Iterator for PagemapReader<R> {
    type Item = Result<PageRun, CriuError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let next = self.entry().transpose();
        self.failed = !matches!(next, Some(Ok(_)));
        next
    }
}

/// A pagemap in memory: 24 bytes for each run, whose length in the file was at least 8.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pagemap {
    /// N of the pages-N.img that has the present pages.
    pub pages_id: u32,
    /// The runs, by address, without overlaps.
    runs: Vec<PageRun>,
}

impl Pagemap {
    /// Reads all of it.
    ///
    /// # Errors
    ///
    /// It isn't a pagemap, or damaged.
    pub fn read(from: impl Read) -> Result<Self, CriuError> {
        let reader = PagemapReader::new(from)?;
        let pages_id = reader.pages_id();
        Ok(Self { pages_id, runs: reader.collect::<Result<_, _>>()? })
    }

    /// The runs, by address.
    pub fn runs(&self) -> &[PageRun] {
        &self.runs
    }

    /// The parts of `range` that have an entry, wherever the pages are; neighbours are one.
    pub fn listed(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + '_ {
        let first = self.runs.partition_point(|run| run.range().end <= range.start);
        let runs = self.runs.get(first..).unwrap_or_default();
        let mut parts = runs
            .iter()
            .map(PageRun::range)
            .take_while({
                let end = range.end;
                move |run| run.start < end
            })
            .map(move |run| run.start.max(range.start)..run.end.min(range.end))
            .peekable();
        std::iter::from_fn(move || {
            let mut part = parts.next()?;
            while let Some(next) = parts.next_if(|next| next.start == part.end) {
                part.end = next.end;
            }
            Some(part)
        })
    }

    /// How many bytes the pages file has, if it is complete; `None` if no file can be that long.
    pub fn pages_bytes(&self) -> Option<u64> {
        let present = self.runs.iter().filter(|run| run.flags.contains(PageFlags::PRESENT));
        present.map(PageRun::len_bytes).try_fold(0_u64, u64::checked_add)
    }
}
