//! Where in the file the pages of each address go: settled when an address is first seen, and never changed.
//!
//! Mappings come, go, grow and move while a dump is under way. So the places belong to addresses, not to mappings; a
//! mapping that has grown gets a second place for what is new, and a second segment in the core. What isn't in any
//! mapping at the end is cut out of the file, which is sparse.

use std::collections::BTreeMap;
use std::ops::Range;

use farspace_sys::RemoteIoVec;

/// Addresses and their places in the file, all multiples of the page size.
#[derive(Debug)]
pub(super) struct Places {
    /// By first address: length, and offset in the file.
    map: BTreeMap<u64, (u64, u64)>,
    next: u64,
}

/// A part of a range that is in one piece in the file, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) range: RemoteIoVec,
    /// Offset in the file, in bytes.
    pub(super) offset: u64,
}

impl Places {
    /// Places from this offset on.
    pub(super) fn from(offset: u64) -> Self {
        Self { map: BTreeMap::new(), next: offset }
    }

    /// The first offset that is nobody's.
    pub(super) fn end(&self) -> u64 {
        self.next
    }

    /// Gives every address of a range a place.
    pub(super) fn cover(&mut self, range: RemoteIoVec) {
        let end = range.base.0 + range.len;
        let mut at = range.base.0;
        while at < end {
            let before = self.map.range(..=at).next_back();
            if let Some((&start, &(len, _))) = before
                && start + len > at
            {
                at = start + len;
                continue;
            }
            let until = self.map.range(at..end).next().map_or(end, |(&start, _)| start);
            self.map.insert(at, (until - at, self.next));
            self.next += until - at;
            at = until;
        }
    }

    /// The pieces of a range, in order of address; what has no place is left out.
    pub(super) fn pieces(&self, range: RemoteIoVec) -> impl Iterator<Item = Piece> + '_ {
        let (start, end) = (range.base.0, range.base.0 + range.len);
        let first = self.map.range(..=start).next_back().map_or(start, |(&first, _)| first);
        self.map.range(first..end).filter_map(move |(&place, &(len, offset))| {
            let from = place.max(start);
            let until = (place + len).min(end);
            (from < until).then(|| Piece {
                range: RemoteIoVec::new(from, until - from),
                offset: offset + (from - place),
            })
        })
    }

    /// Parts of the file that belong to addresses outside of these ranges, which are in order of address.
    pub(super) fn unused(&self, used: &[RemoteIoVec]) -> Vec<Range<u64>> {
        let mut unused = Vec::new();
        for (&place, &(len, offset)) in &self.map {
            let first = used.partition_point(|range| range.base.0 + range.len <= place);
            let mut at = place;
            for range in used[first..].iter().take_while(|range| range.base.0 < place + len) {
                if range.base.0 > at {
                    unused.push(offset + (at - place)..offset + (range.base.0 - place));
                }
                at = at.max(range.base.0 + range.len);
            }
            if at < place + len {
                unused.push(offset + (at - place)..offset + len);
            }
        }
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> RemoteIoVec {
        RemoteIoVec::new(start << 12, (end - start) << 12)
    }

    fn piece(start: u64, end: u64, offset: u64) -> Piece {
        Piece { range: range(start, end), offset: offset << 12 }
    }

    #[test]
    fn an_address_keeps_its_place() {
        let mut places = Places::from(0x1000);
        places.cover(range(10, 20));
        places.cover(range(30, 40));
        // Grown at both ends, and over a gap.
        places.cover(range(5, 35));
        assert_eq!(places.end(), 0x1000 + (10 + 10 + 5 + 10) * 4096);
        let pieces: Vec<_> = places.pieces(range(8, 33)).collect();
        assert_eq!(pieces, [piece(8, 10, 24), piece(10, 20, 1), piece(20, 30, 26), piece(30, 33, 11)]);
        assert_eq!(places.pieces(range(100, 101)).count(), 0);
        assert_eq!(places.pieces(range(0, 6)).collect::<Vec<_>>(), [piece(5, 6, 21)]);
    }

    #[test]
    fn what_is_left_over() {
        let mut places = Places::from(0);
        places.cover(range(10, 20));
        places.cover(range(30, 40));
        let unused = places.unused(&[range(0, 12), range(15, 16), range(39, 50)]);
        let pages = |range: &Range<u64>| (range.start >> 12, range.end >> 12);
        assert_eq!(unused.iter().map(pages).collect::<Vec<_>>(), [(2, 5), (6, 10), (10, 19)]);
        assert_eq!(places.unused(&[]).len(), 2);
    }
}
