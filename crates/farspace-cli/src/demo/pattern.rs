//! What the target's regions hold, and what a copy of them proves.
//!
//! The *static* region holds pseudo-random words whose checksum the target tells. The *hot* region is rewritten
//! from its first word to its last, over and over, by one thread: in round `g` word `i` becomes `g << 32 | i`.
//! Stores of one thread reach memory in order, so at every instant the region is a prefix of round `g` followed by
//! a suffix of round `g - 1`. A copy with any other shape mixes several instants.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes in a page of the regions.
pub(crate) const PAGE: usize = 4096;
const WORDS: usize = PAGE / 8;

/// A page of the static region.
#[derive(Clone)]
#[repr(align(4096))]
pub(crate) struct StaticPage(pub(crate) [u64; WORDS]);

/// A page of the hot region.
#[repr(align(4096))]
pub(crate) struct HotPage([AtomicU64; WORDS]);

impl StaticPage {
    /// The page with this index.
    pub(crate) fn new(index: u64) -> Self {
        Self(std::array::from_fn(|word| mix(index * WORDS as u64 + word as u64)))
    }
}

impl HotPage {
    /// The page with this index, as of round 1.
    pub(crate) fn new(index: usize) -> Self {
        Self(std::array::from_fn(|word| AtomicU64::new(hot_word(1, (index * WORDS + word) as u64))))
    }

    /// Changes one word.
    pub(crate) fn touch(&self, word: usize, value: u64) {
        self.0[word % WORDS].store(value, Ordering::Relaxed);
    }

    /// Writes round `generation` into the page with this index.
    pub(crate) fn write(&self, generation: u64, index: usize) {
        for (word, slot) in self.0.iter().enumerate() {
            // Release keeps compiler and processor from letting a later word become visible first.
            slot.store(hot_word(generation, (index * WORDS + word) as u64), Ordering::Release);
        }
    }
}

fn hot_word(generation: u64, index: u64) -> u64 {
    generation << 32 | index
}

/// splitmix64: every bit of the index reaches every bit of the word.
fn mix(index: u64) -> u64 {
    let mut z = index.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A running checksum over words; the order counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Checksum {
    // Four lanes, so that the multiplications overlap.
    lanes: [u64; 4],
}

impl Checksum {
    /// Adds words; only the last call may have a number of them that four does not divide.
    pub(crate) fn words(&mut self, words: impl Iterator<Item = u64>) {
        for (word, lane) in words.zip((0..4).cycle()) {
            let mixed = (self.lanes[lane] ^ word).rotate_left(29);
            self.lanes[lane] = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
    }

    /// The result.
    pub(crate) fn finish(&self) -> u64 {
        self.lanes.iter().fold(0, |sum, lane| mix(sum ^ lane))
    }
}

/// The words of a copy.
pub(crate) fn words(bytes: &[u8]) -> impl Iterator<Item = u64> + '_ {
    bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word))
}

/// Judges a copy of the hot region while it is read.
#[derive(Clone, Debug, Default)]
pub(crate) struct HotCheck {
    index: u64,
    first: u64,
    last: u64,
    steps: u64,
    misplaced: u64,
    ascents: u64,
}

/// What a copy of the hot region turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HotVerdict {
    /// The region at one instant, in this round.
    OneInstant {
        /// The round that was being written.
        generation: u64,
    },
    /// Pieces of several instants.
    Torn {
        /// How often one round gives way to another that cannot follow it.
        seams: u64,
    },
    /// Words that are not where they belong: a wrong copy.
    Wrong,
}

impl HotCheck {
    /// Looks at the next bytes of the copy.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        for word in words(bytes) {
            let generation = word >> 32;
            self.misplaced += u64::from(word & 0xffff_ffff != self.index || generation == 0);
            if self.index == 0 {
                self.first = generation;
            } else if generation != self.last {
                self.steps += 1;
                self.ascents += u64::from(generation > self.last);
            }
            self.last = generation;
            self.index += 1;
        }
    }

    /// The verdict.
    pub(crate) fn finish(&self) -> HotVerdict {
        let one_instant = self.steps == 0 || (self.steps == 1 && self.last + 1 == self.first);
        match () {
            () if self.misplaced > 0 || self.index == 0 => HotVerdict::Wrong,
            () if one_instant => HotVerdict::OneInstant { generation: self.first },
            () => HotVerdict::Torn { seams: self.steps.max(self.ascents) },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(generations: &[u64]) -> HotVerdict {
        let mut check = HotCheck::default();
        for (index, generation) in generations.iter().enumerate() {
            check.bytes(&hot_word(*generation, index as u64).to_le_bytes());
        }
        check.finish()
    }

    #[test]
    fn prefix_and_suffix_are_one_instant() {
        assert_eq!(check(&[5, 5, 5]), HotVerdict::OneInstant { generation: 5 });
        assert_eq!(check(&[5, 4, 4]), HotVerdict::OneInstant { generation: 5 });
    }

    #[test]
    fn anything_else_is_torn_or_wrong() {
        assert_eq!(check(&[5, 6, 6]), HotVerdict::Torn { seams: 1 });
        assert_eq!(check(&[6, 4, 4]), HotVerdict::Torn { seams: 1 });
        assert_eq!(check(&[5, 4, 5]), HotVerdict::Torn { seams: 2 });
        assert_eq!(check(&[]), HotVerdict::Wrong);
        let mut zeros = HotCheck::default();
        zeros.bytes(&[0; 16]);
        assert_eq!(zeros.finish(), HotVerdict::Wrong);
    }

    #[test]
    fn checksum_sees_order_and_value() {
        let sum = |words: &[u64]| {
            let mut sum = Checksum::default();
            sum.words(words.iter().copied());
            sum.finish()
        };
        assert_ne!(sum(&[1, 2]), sum(&[2, 1]));
        assert_ne!(sum(&[1, 2, 0, 0, 0]), sum(&[1, 2, 0, 0, 1]));
    }

    #[test]
    fn hot_page_matches_its_check() {
        let page = HotPage::new(0);
        page.write(7, 0);
        let mut check = HotCheck::default();
        page.0.iter().for_each(|w| check.bytes(&w.load(Ordering::Relaxed).to_le_bytes()));
        assert_eq!(check.finish(), HotVerdict::OneInstant { generation: 7 });
    }
}
