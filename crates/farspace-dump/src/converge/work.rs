//! Which pages are to be copied at one moment.

use std::collections::HashSet;

use farspace_sys::RemoteIoVec;
use farspace_sys::pagemap::Pagemap;
use farspace_sys::process::Mapping;

use super::copy::Copier;
use super::gather::Run;
use crate::Result;
use crate::dirty::{Changes, Coverage, PageSet, coverage};
use crate::plan::Planned;

/// When something is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// The first round: everything.
    First,
    /// Another round: what has changed in memory that is watched.
    Later,
    /// The stop: what has changed, and all that isn't watched.
    Last,
}

/// Runs to be copied.
#[derive(Debug, Default)]
pub(super) struct Work {
    pub(super) runs: Vec<Run>,
    pub(super) bytes: u64,
    /// For each mapping, by its first address: the number of its first run.
    mappings: Vec<(u64, usize)>,
}

impl Work {
    /// What is to be copied.
    ///
    /// # Errors
    ///
    /// The target is gone.
    pub(super) fn new(
        moment: Moment,
        planned: &[Planned],
        changes: &Changes,
        known: &PageSet,
        copier: &Copier,
        pagemap: &mut Pagemap,
    ) -> Result<Self> {
        let untracked: HashSet<u64> = changes.untracked.iter().map(|(range, _)| range.base.0).collect();
        let mut work = Self::default();
        for planned in planned.iter().filter(|planned| planned.dumped_bytes > 0) {
            let start = planned.mapping.start.0;
            let end = start + planned.dumped_bytes;
            let is_watched = is_watched(planned) && !untracked.contains(&start);
            let full = coverage(&planned.mapping) == Coverage::Full;
            work.mappings.push((start, work.runs.len()));
            // There may be very many runs: they are in memory once.
            match (is_watched, moment) {
                (true, Moment::Later) => work.add(planned, copier, changes.changed.within(start..end).runs()),
                (true, _) if full => {
                    let mut pages = changes.changed.within(start..end);
                    if moment == Moment::Last {
                        pages.add(&copier.unreadable.within(start..end));
                    }
                    work.add(planned, copier, pages.runs());
                }
                // What isn't the target's own may have changed in any case.
                (true, Moment::Last) => {
                    let mut pages = PageSet::default();
                    pages.insert(start..end);
                    let mut clean = known.within(start..end);
                    clean.subtract(&changes.changed);
                    clean.subtract(&copier.unreadable);
                    pages.subtract(&clean);
                    work.add(planned, copier, pages.runs());
                }
                (false, Moment::Later) => {}
                // Even a copy refers to the page, for a moment.
                (false, Moment::First) if planned.traits.is_hugetlb => {}
                _ => work.add(planned, copier, planned.runs(pagemap)?.into_iter()),
            }
        }
        Ok(work)
    }

    fn add(&mut self, planned: &Planned, copier: &Copier, runs: impl Iterator<Item = RemoteIoVec>) {
        for run in runs {
            for piece in copier.places.pieces(run) {
                self.bytes += piece.range.len;
                self.runs.push(Run { piece, route: planned.traits.route() });
            }
        }
    }

    /// The runs of the mappings for which `is_first` is true, and the others.
    pub(super) fn split(&self, is_first: impl Fn(u64) -> bool) -> (Self, Self) {
        let (mut first, mut second) = (Self::default(), Self::default());
        let ends = self.mappings.iter().skip(1).map(|(_, run)| *run).chain([self.runs.len()]);
        for (&(mapping, begin), end) in self.mappings.iter().zip(ends) {
            let into = if is_first(mapping) { &mut first } else { &mut second };
            into.mappings.push((mapping, into.runs.len()));
            for run in &self.runs[begin..end] {
                into.bytes += run.piece.range.len;
                into.runs.push(*run);
            }
        }
        (first, second)
    }
}

/// The mappings that are watched.
pub(super) fn watched(planned: &[Planned]) -> Vec<Mapping> {
    planned.iter().filter(|planned| is_watched(planned)).map(|planned| planned.mapping.clone()).collect()
}

/// Of a mapping that is dumped in part there is little, and to watch a part would split it in two.
fn is_watched(planned: &Planned) -> bool {
    planned.dumped_bytes > 0
        && planned.dumped_bytes == planned.mapping.len_bytes()
        && !matches!(coverage(&planned.mapping), Coverage::None(_))
}

/// Room for the header at the beginning of the file, in bytes: for many more mappings and threads than there are now. It
/// costs nothing, for the file is sparse.
pub(super) fn header_room(mappings: usize, threads: usize) -> u64 {
    /// A program header and the longest entry of NT_FILE but for its name.
    const PER_MAPPING: u64 = 56 + 24 + 200;
    /// Registers with AVX-512, and the rest.
    const PER_THREAD: u64 = 8 << 10;
    let mappings = 2 * mappings as u64 + 1024;
    let threads = 2 * threads as u64 + 64;
    (mappings * PER_MAPPING + threads * PER_THREAD).next_multiple_of(1 << 20)
}
