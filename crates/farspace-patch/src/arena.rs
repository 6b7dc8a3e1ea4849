//! Which bytes of which pages hold trampolines.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::arch::x86_64::PAGE;

/// Words of a page's map: one bit per byte.
const WORDS: usize = PAGE as usize / 64;

/// A page whose largest gap is shorter than this, in bytes, isn't looked at any more: hardly a trampoline fits.
const WORTH_LOOKING: usize = 40;

/// The pages that hold trampolines.
#[derive(Debug, Clone, Default)]
pub(crate) struct Arena {
    pages: BTreeMap<u64, Page>,
    /// Pages with a gap of at least [`WORTH_LOOKING`].
    open: BTreeSet<u64>,
}

#[derive(Debug, Clone)]
struct Page {
    used: Box<[u64; WORDS]>,
    largest_gap: usize,
}

impl Arena {
    /// The pages with addresses in a range that may have `len` bytes left, ascending.
    pub(crate) fn open(&self, range: RangeInclusive<u64>, len: usize) -> impl Iterator<Item = u64> {
        let pages = (!range.is_empty()).then(|| self.open.range(range)).into_iter().flatten();
        pages.copied().filter(move |page| self.pages.get(page).is_some_and(|page| page.largest_gap >= len))
    }

    /// Returns whether the page is one of the arena's.
    pub(crate) fn holds(&self, page: u64) -> bool {
        self.pages.contains_key(&page)
    }

    /// All pages, ascending.
    pub(crate) fn pages(&self) -> impl Iterator<Item = u64> {
        self.pages.keys().copied()
    }

    /// Returns whether the bytes lie in one page of the arena and are unused.
    pub(crate) fn is_free(&self, at: u64, len: usize) -> bool {
        let (page, offset) = split(at);
        offset + len <= PAGE as usize
            && self
                .pages
                .get(&page)
                .is_some_and(|page| masks(offset, len).all(|(i, mask)| page.used[i] & mask == 0))
    }

    /// Marks bytes of one page as used, and makes the page one of the arena's.
    pub(crate) fn take(&mut self, at: u64, len: usize) {
        let (address, offset) = split(at);
        let empty = || Page { used: Box::new([0; WORDS]), largest_gap: PAGE as usize };
        let page = self.pages.entry(address).or_insert_with(empty);
        masks(offset, len).for_each(|(i, mask)| page.used[i] |= mask);
        self.measure(address);
    }

    /// Marks bytes as unused. Returns the page if it holds nothing any more; it isn't the arena's from then on.
    pub(crate) fn give_back(&mut self, at: u64, len: usize) -> Option<u64> {
        let (address, offset) = split(at);
        let page = self.pages.get_mut(&address)?;
        masks(offset, len).for_each(|(i, mask)| page.used[i] &= !mask);
        if page.used.iter().all(|word| *word == 0) {
            self.pages.remove(&address);
            self.open.remove(&address);
            return Some(address);
        }
        self.measure(address);
        None
    }

    fn measure(&mut self, address: u64) {
        let Some(page) = self.pages.get_mut(&address) else { return };
        page.largest_gap = largest_gap(&page.used);
        if page.largest_gap >= WORTH_LOOKING {
            self.open.insert(address);
        } else {
            self.open.remove(&address);
        }
    }
}

/// Page and offset of an address.
fn split(at: u64) -> (u64, usize) {
    (at & !(PAGE - 1), (at & (PAGE - 1)) as usize)
}

/// The words that the bytes belong to, with their bits. What is beyond the page is left out.
fn masks(offset: usize, len: usize) -> impl Iterator<Item = (usize, u64)> {
    let end = (offset + len).min(PAGE as usize);
    (offset / 64..end.div_ceil(64)).map(move |i| {
        let from = offset.saturating_sub(i * 64);
        let to = (end - i * 64).min(64);
        (i, (u64::MAX >> (64 - (to - from))) << from)
    })
}

/// Length of the longest run of zeros.
fn largest_gap(used: &[u64; WORDS]) -> usize {
    let (mut largest, mut current) = (0, 0);
    for &word in used {
        let (mut rest, mut left) = (word, 64);
        while left > 0 {
            let zeros = (rest.trailing_zeros() as usize).min(left);
            current += zeros;
            largest = largest.max(current);
            left -= zeros;
            rest = rest.checked_shr(zeros as u32).unwrap_or(0);
            let ones = (rest.trailing_ones() as usize).min(left);
            if ones > 0 {
                current = 0;
                left -= ones;
                rest = rest.checked_shr(ones as u32).unwrap_or(0);
            }
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_and_gives_back() {
        let mut arena = Arena::default();
        arena.take(0x1010, 100);
        assert!(!arena.is_free(0x1073, 1) && arena.is_free(0x1074, 50) && arena.is_free(0x1000, 16));
        assert!(!arena.is_free(0x100f, 2) && !arena.is_free(0x1ff0, 17) && arena.is_free(0x1ff0, 16));
        arena.take(0x1100, 64);
        assert_eq!(arena.give_back(0x1010, 100), None);
        assert!(arena.is_free(0x1000, 256));
        assert_eq!(arena.give_back(0x1100, 64), Some(0x1000));
        assert!(!arena.holds(0x1000));
    }

    #[test]
    fn gaps_are_measured_across_words() {
        let mut arena = Arena::default();
        arena.take(0x1000, 1);
        arena.take(0x1fff, 1);
        assert_eq!(arena.pages[&0x1000].largest_gap, 4094);
        arena.take(0x1800, 128);
        assert_eq!(arena.pages[&0x1000].largest_gap, 2047);
        assert_eq!(arena.open(0..=u64::MAX, 2047).count(), 1);
        assert_eq!(arena.open(0..=u64::MAX, 2048).count(), 0);
    }

    #[test]
    fn a_full_page_is_closed() {
        let mut arena = Arena::default();
        arena.take(0x1000, 4090);
        assert_eq!(arena.open(0..=u64::MAX, 1).count(), 0);
        arena.give_back(0x1000, 64);
        assert_eq!(arena.open(0..=u64::MAX, 1).count(), 1);
    }
}
