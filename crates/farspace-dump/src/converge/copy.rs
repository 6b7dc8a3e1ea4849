//! Moving pages into the file: long runs by splice, short ones together.

use std::time::{Duration, Instant};

use farspace::Extent;
use farspace_image::core_file::Segment;
use farspace_sys::RemoteIoVec;
use farspace_sys::pagemap::Pagemap;

use super::gather::{Gather, Run, Whose};
use super::pace::Speed;
use super::places::{Piece, Places};
use super::work::Work;
use crate::capture::job::To;
use crate::dirty::PageSet;
use crate::origin::Origin;
use crate::place::Place;
use crate::plan::{Planned, Route};
use crate::write::Writer;
use crate::{Progress, Result};

/// Runs from this length on are spliced while the target runs.
const LONG: u64 = 128 << 10;
/// Bytes that are copied together while the target runs: they stay in the processor's cache.
const LIVE: usize = 1 << 20;
/// Bytes that are copied in the stop before any of them is written.
pub(super) const HELD: usize = 10 << 20;
/// Runs that are spliced by one request.
const RUNS: usize = 1024;

/// The file, as far as it is.
pub(super) struct Copier {
    pid: i32,
    pub(super) places: Places,
    /// Bytes that are left for the header.
    pub(super) room: u64,
    /// How fast short runs are had from the target.
    speed: Speed,
    /// How fast more than can be held is had and written: the last time that there was so much.
    speed_to_file: Speed,
    /// Pages that have been written to the file.
    written: PageSet,
    /// Pages that couldn't be had.
    pub(super) unreadable: PageSet,
    done: Progress,
    /// Bytes of memory in the finished file.
    pub(super) contents_bytes: u64,
}

impl Copier {
    pub(super) fn new(pid: i32, room: u64) -> Self {
        Self {
            pid,
            places: Places::from(room),
            room,
            speed: Speed::default(),
            speed_to_file: Speed::default(),
            written: PageSet::default(),
            unreadable: PageSet::default(),
            done: Progress { done_bytes: 0, total_bytes: 0 },
            contents_bytes: 0,
        }
    }

    /// Gives all that is dumped its place.
    pub(super) fn cover(&mut self, planned: &[Planned]) {
        for planned in planned.iter().filter(|planned| planned.dumped_bytes > 0) {
            self.places.cover(RemoteIoVec { base: planned.mapping.start, len: planned.dumped_bytes });
        }
    }

    pub(super) fn pagemap(&self, pid: i32) -> Result<Pagemap> {
        Ok(Pagemap::open(pid)?)
    }

    /// Copies while the target runs.
    pub(super) fn live(
        &mut self,
        to: &mut To<'_>,
        origin: &mut Origin<'_>,
        gather: &mut Gather,
        work: &Work,
    ) -> Result<()> {
        self.done.total_bytes += work.bytes;
        self.by_length(to, origin, gather, work, LIVE)?;
        self.note(work);
        Ok(())
    }

    /// How long so many bytes take in the stop.
    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        if bytes <= HELD as u64 { self.speed.time_for(bytes) } else { self.speed_to_file.time_for(bytes) }
    }

    /// Copies from a target that stands still. What fits is only held: [`Copier::finish`] writes it.
    pub(super) fn stopped(
        &mut self,
        to: &mut To<'_>,
        origin: &mut Origin<'_>,
        gather: &mut Gather,
        work: &Work,
    ) -> Result<()> {
        self.done.total_bytes += work.bytes;
        if work.bytes <= gather.room() {
            let whose = Whose { pid: self.pid, memory: &origin.memory };
            let mut runs = work.runs.as_slice();
            while !runs.is_empty() {
                let taken = gather.take(whose, runs, HELD)?;
                runs = &runs[taken..];
            }
            self.unreadable.add(&gather.take_unreadable());
        } else {
            self.by_length(to, origin, gather, work, HELD)?;
            // What was spliced is the target's until a receiver has it.
            to.place.settle(&mut |_| (to.progress)(self.done))?;
        }
        self.note(work);
        Ok(())
    }

    /// Copies from a snapshot, not by process_vm_readv, which would unshare its pages.
    pub(super) fn forked(&mut self, to: &mut To<'_>, origin: &mut Origin<'_>, work: &Work) -> Result<()> {
        self.done.total_bytes += work.bytes;
        to.place.extend(self.places.end())?;
        self.spliced(to, origin, work.runs.iter().filter(|run| run.route == Route::Any))?;
        let mut writer = Writer::new(to.place, &mut *to.progress, self.done);
        for run in work.runs.iter().filter(|run| run.route != Route::Any) {
            let range = run.piece.range;
            writer.copied(origin, run.route, &[range], range.base, run.piece.offset)?;
        }
        self.done = writer.done;
        self.unreadable.add(&writer.unreadable);
        self.note(work);
        Ok(())
    }

    /// Long runs are spliced, the others copied together, so many bytes at once.
    fn by_length(
        &mut self,
        to: &mut To<'_>,
        origin: &mut Origin<'_>,
        gather: &mut Gather,
        work: &Work,
        limit: usize,
    ) -> Result<()> {
        let begin = Instant::now();
        to.place.extend(self.places.end())?;
        let is_long = |run: &Run| run.piece.range.len >= LONG && run.route == Route::Any;
        self.spliced(to, origin, work.runs.iter().filter(|run| is_long(run)))?;
        self.gathered(to, origin, gather, work.runs.iter().filter(|run| !is_long(run)), limit)?;
        if work.bytes > HELD as u64 {
            self.speed_to_file = Speed::of(work.bytes, begin.elapsed());
        }
        Ok(())
    }

    fn note(&mut self, work: &Work) {
        for run in &work.runs {
            let range = run.piece.range;
            self.written.insert(range.base.0..range.base.0 + range.len);
        }
    }

    /// Runs that are neighbours in the file as they are in memory go out by one request.
    fn spliced<'r>(
        &mut self,
        to: &mut To<'_>,
        origin: &mut Origin<'_>,
        runs: impl Iterator<Item = &'r Run>,
    ) -> Result<()> {
        let mut writer = Writer::new(to.place, &mut *to.progress, self.done);
        let mut runs = runs.peekable();
        while let Some(first) = runs.next() {
            let shift = |run: &Run| run.piece.offset.wrapping_sub(run.piece.range.base.0);
            let mut ranges = vec![first.piece.range];
            while ranges.len() < RUNS
                && let Some(next) = runs.next_if(|next| shift(next) == shift(first))
            {
                ranges.push(next.piece.range);
            }
            writer.runs(origin, &ranges, first.piece.range.base, first.piece.offset)?;
        }
        self.done = writer.done;
        self.unreadable.add(&writer.unreadable);
        Ok(())
    }

    /// A few at a time: there may be very many.
    fn gathered<'r>(
        &mut self,
        to: &mut To<'_>,
        origin: &mut Origin<'_>,
        gather: &mut Gather,
        runs: impl Iterator<Item = &'r Run>,
        limit: usize,
    ) -> Result<()> {
        // There may be bytes of other processes in it, which stay until they have a file.
        let mut own;
        let gather = if gather.is_empty() {
            gather
        } else {
            own = Gather::new(LIVE);
            &mut own
        };
        // None may be longer than what is held at once.
        let mut pieces = runs.flat_map(|run| {
            (0..run.piece.range.len).step_by(LIVE).map(move |from| {
                let (start, len) = (run.piece.range.base.0 + from, run.piece.range.len - from);
                let range = RemoteIoVec::new(start, len.min(LIVE as u64));
                Run { piece: Piece { range, offset: run.piece.offset + from }, ..*run }
            })
        });
        let mut next: Vec<Run> = Vec::with_capacity(RUNS);
        loop {
            next.extend(pieces.by_ref().take(RUNS - next.len()));
            if next.is_empty() {
                break;
            }
            let begin = Instant::now();
            let taken = gather.take(Whose { pid: self.pid, memory: &origin.memory }, &next, limit)?;
            let took = begin.elapsed();
            next.drain(..taken);
            let bytes = gather.write_out(self.pid, to.place)?;
            self.speed.add(bytes, took);
            self.done.done_bytes += bytes;
            if (to.progress)(self.done).is_break() {
                return Err(crate::Error::Interrupted);
            }
        }
        self.unreadable.add(&gather.take_unreadable());
        Ok(())
    }

    /// The segments of the core, and where in the file they are: one for each mapping, more where it has grown.
    pub(super) fn segments(&self, planned: &[Planned]) -> (Vec<Segment>, Vec<u64>) {
        let (mut segments, mut offsets) = (Vec::new(), Vec::new());
        for planned in planned {
            let whole = planned.segment();
            let end = whole.vaddr + whole.memsz;
            let dumped = RemoteIoVec { base: planned.mapping.start, len: planned.dumped_bytes };
            let first = segments.len();
            for piece in self.places.pieces(dumped) {
                let (vaddr, filesz) = (piece.range.base.0, piece.range.len);
                segments.push(Segment { vaddr, memsz: filesz, filesz, ..whole });
                offsets.push(piece.offset);
            }
            match segments.get_mut(first..).and_then(<[Segment]>::last_mut) {
                Some(last) => last.memsz = end - last.vaddr,
                None => {
                    segments.push(whole);
                    offsets.push(self.places.end());
                }
            }
        }
        (segments, offsets)
    }

    /// Writes what is held, and makes holes of what isn't in the target any more. Returns the bytes that couldn't be had, by
    /// the name of their mapping.
    pub(super) fn finish(
        &mut self,
        place: &Place,
        gather: &mut Gather,
        planned: &[Planned],
        work: &Work,
        settled: PageSet,
    ) -> Result<Vec<(Vec<u8>, u64)>> {
        place.extend(self.places.end())?;
        gather.write_out(self.pid, place)?;
        let dumped: Vec<RemoteIoVec> = planned
            .iter()
            .filter(|planned| planned.dumped_bytes > 0)
            .map(|planned| RemoteIoVec { base: planned.mapping.start, len: planned.dumped_bytes })
            .collect();
        let mut contents = settled;
        for run in &work.runs {
            let range = run.piece.range;
            contents.insert(range.base.0..range.base.0 + range.len);
        }
        contents.subtract(&self.unreadable);
        self.contents_bytes = contents.bytes();
        let mut stale = std::mem::take(&mut self.written);
        stale.subtract(&contents);
        let mut holes: Vec<Extent> = stale
            .runs()
            .flat_map(|run| self.places.pieces(run).collect::<Vec<_>>())
            .map(|piece| Extent { offset: piece.offset, len: piece.range.len })
            .collect();
        let unused = self.places.unused(&dumped).into_iter();
        holes.extend(unused.map(|unused| Extent { offset: unused.start, len: unused.end - unused.start }));
        place.punch(&holes)?;
        let missing = |planned: &Planned| {
            let start = planned.mapping.start.0;
            let bytes = self.unreadable.within(start..start + planned.dumped_bytes).bytes();
            (bytes > 0).then(|| (planned.mapping.name.clone(), bytes))
        };
        Ok(planned.iter().filter_map(missing).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_written_in_the_stop_too() {
        let mut copier = Copier::new(1, 0);
        copier.speed.add(4 << 20, Duration::from_millis(1));
        copier.speed_to_file = Speed::of(4 << 20, Duration::from_millis(4));
        assert_eq!(copier.time_for(HELD as u64), Duration::from_micros(2500));
        assert_eq!(copier.time_for(16 << 20), Duration::from_millis(16));
    }
}
