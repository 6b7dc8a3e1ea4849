//! Pages on their way to the sink, in order, in pieces of a bounded size.

use std::ops::Range;

use farspace_image::criu::{PageFlags, PageRun};

use super::PageSink;
use super::areas::Area;
use super::memory::ProcessMemory;
use super::tracking::Look;
use crate::Result;
use crate::dirty::PageSet;

/// Bytes that go to a sink in one call at most.
const STEP: u64 = 64 << 20;
/// Runs that go to it in one call at most.
const RUNS: usize = 1024;

/// Runs on their way to the sink.
pub(super) struct Batch<'a, 'b> {
    sink: &'a mut (dyn PageSink + Send),
    source: &'a mut ProcessMemory<'b>,
    runs: Vec<PageRun>,
    bytes: u64,
    /// Pages given as present.
    pub(super) written: u64,
    /// Pages given as being in the parent.
    pub(super) in_parent: u64,
}

impl<'a, 'b> Batch<'a, 'b> {
    pub(super) fn new(sink: &'a mut (dyn PageSink + Send), source: &'a mut ProcessMemory<'b>) -> Self {
        Self { sink, source, runs: Vec::with_capacity(RUNS), bytes: 0, written: 0, in_parent: 0 }
    }

    /// The pages of a mapping that are there.
    pub(super) fn area(
        &mut self,
        area: &Area,
        look: &Look,
        unchanged: &PageSet,
        flags: PageFlags,
    ) -> Result<()> {
        let there = look.there.within(area.range());
        let old = unchanged.within(area.range());
        let mut old = old.runs().map(|run| run.base.0..run.base.0 + run.len).peekable();
        for run in there.runs() {
            let (mut at, end) = (run.base.0, run.base.0 + run.len);
            while at < end {
                // Each old run lies in one run of what is there.
                match old.peek() {
                    Some(next) if next.start == at => {
                        let until = next.end;
                        old.next();
                        self.push(at..until, PageFlags::PARENT)?;
                        at = until;
                    }
                    next => {
                        let until = next.map_or(end, |next| next.start.min(end));
                        self.push(at..until, PageFlags::PRESENT | flags)?;
                        at = until;
                    }
                }
            }
        }
        Ok(())
    }

    fn push(&mut self, range: Range<u64>, flags: PageFlags) -> Result<()> {
        let is_present = flags.contains(PageFlags::PRESENT);
        let mut at = range.start;
        while at < range.end {
            let room = if is_present { STEP - self.bytes } else { u64::MAX };
            let len = (range.end - at).min(room);
            self.runs.push(PageRun { vaddr: at, nr_pages: len / 4096, flags });
            at += len;
            if is_present {
                self.bytes += len;
                self.written += len / 4096;
            } else {
                self.in_parent += len / 4096;
            }
            if self.bytes >= STEP || self.runs.len() >= RUNS {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// Hands over what is left.
    pub(super) fn flush(&mut self) -> Result<()> {
        if !self.runs.is_empty() {
            self.sink.pages(&self.runs, self.source)?;
            self.runs.clear();
            self.bytes = 0;
        }
        self.source.check()
    }
}
