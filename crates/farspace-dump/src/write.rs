//! Moving the pages into the file.

use std::ops::ControlFlow;

use farspace::{Extent, Sink};
use farspace_sys::{RemoteAddr, RemoteIoVec};

use crate::dirty::PageSet;
use crate::origin::Origin;
use crate::output::Output;
use crate::place::Place;
use crate::plan::{self, Planned, Route};
use crate::{Error, Progress, Result};

const PAGE: u64 = 4096;
/// Runs that are moved by one request: bounds the lists, not the bytes.
const RUNS: usize = 1024;

/// The file that is being written, and how far it is.
pub(crate) struct Writer<'a> {
    pub(crate) place: &'a Place,
    pub(crate) progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
    pub(crate) done: Progress,
    /// Bytes that couldn't be had, by the mapping they are in.
    pub(crate) missing: Vec<(Vec<u8>, u64)>,
    /// The same, by page.
    pub(crate) unreadable: PageSet,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(
        place: &'a Place,
        progress: &'a mut dyn FnMut(Progress) -> ControlFlow<()>,
        done: Progress,
    ) -> Self {
        Self { place, progress, done, missing: Vec::new(), unreadable: PageSet::default() }
    }

    /// Writes the pages of one mapping to `offset` in the file.
    pub(crate) fn mapping(&mut self, origin: &mut Origin<'_>, planned: &Planned, offset: u64) -> Result<()> {
        let runs = planned.runs(&mut origin.pagemap)?;
        let start = planned.mapping.start;
        let mut missing = 0;
        for runs in runs.chunks(RUNS) {
            missing += match planned.traits.route() {
                Route::Any => self.runs(origin, runs, start, offset)?,
                route => self.copied(origin, route, runs, start, offset)?,
            };
        }
        if missing > 0 {
            self.missing.push((planned.mapping.name.clone(), missing));
        }
        Ok(())
    }

    /// Moves runs that are as far apart in the file as they are in memory, where `start` belongs to `offset`. Returns the
    /// bytes that couldn't be had.
    pub(crate) fn runs(
        &mut self,
        origin: &mut Origin<'_>,
        runs: &[RemoteIoVec],
        start: RemoteAddr,
        offset: u64,
    ) -> Result<u64> {
        match self.place {
            Place::Here(output) => self.by_splice(output, origin, runs, start, offset),
            Place::There(remote) => {
                let (done, progress) = (&mut self.done, &mut self.progress);
                let missing = remote.runs(origin, runs, start, offset, &mut |bytes| {
                    done.done_bytes += bytes;
                    progress(*done)
                })?;
                self.unreadable.add(&missing);
                Ok(missing.bytes())
            }
        }
    }

    /// Moves the runs; a page that can't be had is copied by the other route or left as a hole. Returns the
    /// bytes that couldn't be had at all.
    fn by_splice(
        &mut self,
        output: &Output,
        origin: &mut Origin<'_>,
        runs: &[RemoteIoVec],
        start: RemoteAddr,
        offset: u64,
    ) -> Result<u64> {
        let mut left = runs.to_vec();
        let mut missing = 0;
        while !left.is_empty() {
            let extents: Vec<_> = left
                .iter()
                .map(|run| Extent { offset: offset + (run.base.0 - start.0), len: run.len })
                .collect();
            let mut sink = Sink::scattered(output.fd(), &extents);
            let (done, progress) = (&mut self.done, &mut self.progress);
            let transfer = origin.splice(&left, &mut sink, &mut |bytes| {
                done.done_bytes += bytes;
                progress(*done)
            })?;
            let Some((stuck, _)) = transfer.stopped else { break };
            let page = RemoteAddr(stuck.0 & !(PAGE - 1));
            missing +=
                self.copied(origin, Route::Tracer, &[RemoteIoVec { base: page, len: PAGE }], start, offset)?;
            left = plan::after(&left, RemoteAddr(page.0 + PAGE));
        }
        Ok(missing)
    }

    /// Copies the runs page by page where they resist; returns the bytes that couldn't be had.
    pub(crate) fn copied(
        &mut self,
        origin: &Origin<'_>,
        route: Route,
        runs: &[RemoteIoVec],
        start: RemoteAddr,
        offset: u64,
    ) -> Result<u64> {
        let mut buffer = vec![0; 64 * PAGE as usize];
        let mut missing = 0;
        for run in runs {
            let mut at = run.base.0;
            while at < run.base.0 + run.len {
                let want = (run.base.0 + run.len - at).min(buffer.len() as u64) as usize;
                let n = origin.copy(route, RemoteAddr(at), &mut buffer[..want]);
                if n == 0 {
                    missing += PAGE.min(want as u64);
                    self.unreadable.insert(at..at + PAGE.min(want as u64));
                    at += PAGE.min(want as u64);
                    continue;
                }
                let to = offset + (at - start.0);
                self.place.write_at(to, &buffer[..n])?;
                at += n as u64;
                self.done.done_bytes += n as u64;
                if (self.progress)(self.done).is_break() {
                    return Err(Error::Interrupted);
                }
            }
        }
        Ok(missing)
    }
}
