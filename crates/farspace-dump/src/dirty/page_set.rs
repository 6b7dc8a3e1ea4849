//! Sets of pages, by page table.

use std::collections::BTreeMap;
use std::ops::Range;

use farspace_sys::RemoteIoVec;

/// Size of a page of x86-64, in bytes.
pub(crate) const PAGE: u64 = 4096;
/// Bytes that one page table covers.
pub(super) const TABLE: u64 = 512 * PAGE;

/// One bit for each page of a page table.
type Bits = [u64; 8];

/// A set of pages of an address space. Its size is 64 bytes and a little for every 2 MiB of addresses in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageSet {
    /// By number of the page table; never without a bit.
    tables: BTreeMap<u64, Bits>,
}

impl PageSet {
    /// True if it has no page.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// How many bytes of memory its pages are.
    pub fn bytes(&self) -> u64 {
        self.tables.values().flatten().map(|word| u64::from(word.count_ones()) * PAGE).sum()
    }

    /// True if it has the page at this address.
    pub fn contains(&self, address: u64) -> bool {
        let page = (address % TABLE / PAGE) as usize;
        self.tables.get(&(address / TABLE)).is_some_and(|bits| bits[page / 64] >> (page % 64) & 1 != 0)
    }

    /// Adds all pages that a range of addresses touches.
    pub fn insert(&mut self, range: Range<u64>) {
        for (number, mask) in masks(range) {
            let bits = self.tables.entry(number).or_default();
            bits.iter_mut().zip(mask).for_each(|(word, mask)| *word |= mask);
        }
    }

    /// Takes all pages out that a range of addresses touches.
    pub fn remove(&mut self, range: Range<u64>) {
        // Long ranges without a page in them are common.
        let numbers: Vec<u64> = self.tables.range(tables(&range)).map(|(&number, _)| number).collect();
        for number in numbers {
            let mask = mask(number, &range);
            self.change(number, |word, mask| word & !mask, &mask);
        }
    }

    /// Adds the pages of another set.
    pub fn add(&mut self, other: &Self) {
        for (&number, more) in &other.tables {
            let bits = self.tables.entry(number).or_default();
            bits.iter_mut().zip(more).for_each(|(word, more)| *word |= more);
        }
    }

    /// Takes the pages of another set out.
    pub fn subtract(&mut self, other: &Self) {
        for (&number, less) in &other.tables {
            self.change(number, |word, less| word & !less, less);
        }
    }

    /// The pages that are in both.
    #[must_use]
    pub fn common(&self, other: &Self) -> Self {
        let mut common = Self::default();
        let (few, many) = if self.tables.len() < other.tables.len() { (self, other) } else { (other, self) };
        for (&number, bits) in &few.tables {
            let Some(more) = many.tables.get(&number) else { continue };
            let both: Bits = std::array::from_fn(|i| bits[i] & more[i]);
            if both != Bits::default() {
                common.tables.insert(number, both);
            }
        }
        common
    }

    /// The pages that lie in a range of addresses.
    #[must_use]
    pub fn within(&self, range: Range<u64>) -> Self {
        let mut within = Self::default();
        for (&number, bits) in self.tables.range(tables(&range)) {
            let mask = mask(number, &range);
            let both: Bits = std::array::from_fn(|i| bits[i] & mask[i]);
            if both != Bits::default() {
                within.tables.insert(number, both);
            }
        }
        within
    }

    /// The pages that are in none of these ranges, which are in order of address. Takes time for each range, and for what
    /// is between them.
    #[must_use]
    pub fn outside(&self, ranges: impl Iterator<Item = Range<u64>>) -> Self {
        let mut outside = Self::default();
        let mut from = 0;
        for range in ranges.chain(std::iter::once(u64::MAX..u64::MAX)) {
            // A page that a range touches at its beginning or end is in it.
            let (gap, next) =
                (from..range.start & !(PAGE - 1), range.end.saturating_add(PAGE - 1) & !(PAGE - 1));
            if gap.start < gap.end {
                outside.add(&self.within(gap));
            }
            from = from.max(next);
        }
        outside
    }

    /// Its pages in order of address, neighbours together.
    pub fn runs(&self) -> impl Iterator<Item = RemoteIoVec> + '_ {
        let mut pages = self.tables.iter().flat_map(|(&number, bits)| table_runs(number, bits)).peekable();
        std::iter::from_fn(move || {
            let mut run: RemoteIoVec = pages.next()?;
            while let Some(next) = pages.next_if(|next| next.base.0 == run.base.0 + run.len) {
                run.len += next.len;
            }
            Some(run)
        })
    }

    /// For each page table with pages of this set in the range: the address of the first of them.
    pub(super) fn first_pages(&self, range: Range<u64>) -> impl Iterator<Item = u64> + '_ {
        self.tables.range(tables(&range)).filter_map(move |(&number, bits)| {
            let mask = mask(number, &range);
            (0..8).find_map(|i| match bits[i] & mask[i] {
                0 => None,
                word => Some(number * TABLE + (i as u64 * 64 + u64::from(word.trailing_zeros())) * PAGE),
            })
        })
    }

    fn change(&mut self, number: u64, with: impl Fn(u64, u64) -> u64, mask: &Bits) {
        let Some(bits) = self.tables.get_mut(&number) else { return };
        bits.iter_mut().zip(mask).for_each(|(word, &mask)| *word = with(*word, mask));
        if *bits == Bits::default() {
            self.tables.remove(&number);
        }
    }
}

/// The numbers of the page tables that a range of addresses touches.
fn tables(range: &Range<u64>) -> Range<u64> {
    if range.is_empty() { 0..0 } else { range.start / TABLE..(range.end - 1) / TABLE + 1 }
}

/// The pages of one table that a range touches.
fn mask(number: u64, range: &Range<u64>) -> Bits {
    let start = range.start.max(number * TABLE) - number * TABLE;
    let end = range.end.min((number + 1) * TABLE).saturating_sub(number * TABLE);
    if start >= end {
        return Bits::default();
    }
    let (first, last) = ((start / PAGE) as usize, ((end - 1) / PAGE) as usize);
    std::array::from_fn(|i| {
        let (low, high) = (first.max(i * 64), last.min(i * 64 + 63));
        if low > high { 0 } else { (u64::MAX >> (63 - (high - low))) << (low - i * 64) }
    })
}

fn masks(range: Range<u64>) -> impl Iterator<Item = (u64, Bits)> {
    tables(&range).map(move |number| (number, mask(number, &range)))
}

fn table_runs(number: u64, bits: &Bits) -> impl Iterator<Item = RemoteIoVec> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < 512 {
            let word = bits[at / 64] >> (at % 64);
            if word == 0 {
                at = (at / 64 + 1) * 64;
                continue;
            }
            let start = at + word.trailing_zeros() as usize;
            let len = (bits[start / 64] >> (start % 64)).trailing_ones() as usize;
            at = start + len;
            return Some(RemoteIoVec::new(number * TABLE + start as u64 * PAGE, len as u64 * PAGE));
        }
        None
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn pages(set: &PageSet) -> BTreeSet<u64> {
        set.runs().flat_map(|run| (run.base.0..run.base.0 + run.len).step_by(PAGE as usize)).collect()
    }

    #[test]
    fn runs_go_on_over_words_and_tables() {
        let mut set = PageSet::default();
        set.insert(TABLE - 70 * PAGE..TABLE + 200 * PAGE);
        set.insert(5 * TABLE..5 * TABLE + 1);
        let runs: Vec<_> = set.runs().collect();
        assert_eq!(runs[0], RemoteIoVec::new(TABLE - 70 * PAGE, 270 * PAGE));
        assert_eq!(runs[1..], [RemoteIoVec::new(5 * TABLE, PAGE)]);
        assert_eq!(set.bytes(), 271 * PAGE);
        assert_eq!(set.first_pages(0..u64::MAX).collect::<Vec<_>>(), [TABLE - 70 * PAGE, TABLE, 5 * TABLE]);
    }

    #[test]
    fn as_a_set_of_numbers() {
        // A sequence like xorshift's; any will do.
        let mut state = 88_172_645_463_325_252_u64;
        let mut random = move |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let (mut set, mut model) = (PageSet::default(), BTreeSet::new());
        for _ in 0..2000 {
            let start = random(2000);
            let range = start..start + random(700);
            let bytes = range.start * PAGE..range.end * PAGE;
            let touched = range.map(|page| page * PAGE);
            match random(5) {
                0 | 1 => {
                    set.insert(bytes);
                    model.extend(touched);
                }
                2 => {
                    set.remove(bytes);
                    touched.for_each(|page| model.retain(|&p| p != page));
                }
                3 => {
                    let mut other = PageSet::default();
                    other.insert(bytes.clone());
                    assert_eq!(set.common(&other), set.within(bytes.clone()));
                    let mut outside = set.clone();
                    outside.remove(bytes.clone());
                    assert_eq!(set.outside([0..1, bytes].into_iter()), {
                        outside.remove(0..1);
                        outside
                    });
                    set.subtract(&other);
                    touched.for_each(|page| model.retain(|&p| p != page));
                }
                _ => {
                    let within = set.within(bytes.clone());
                    assert_eq!(pages(&within), model.range(bytes).copied().collect());
                    set.add(&within);
                }
            }
            assert_eq!(pages(&set), model);
            assert_eq!(set.bytes(), model.len() as u64 * PAGE);
            assert_eq!(set.is_empty(), model.is_empty());
            let page = random(3000) * PAGE;
            assert_eq!(set.contains(page), model.contains(&page));
        }
    }
}
