//! What the embedder has mapped in a space.

use std::collections::BTreeMap;
use std::ops::Range;

use farspace_abi::vcpu::{RESERVED_BASE, RESERVED_END};

use crate::space::Protection;

/// Lowest address that is ever used for code of ours (vm.mmap_min_addr).
const LOWEST: u64 = 0x1_0000;
/// End of user space with four-level page tables, less the guard page.
const HIGHEST: u64 = 0x7fff_ffff_f000;

/// A mapping, as far as patching cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mapping {
    end: u64,
    protection: Protection,
    is_private: bool,
}

/// The mappings of a space, by start.
#[derive(Clone, Debug, Default)]
pub(crate) struct Maps(BTreeMap<u64, Mapping>);

impl Maps {
    pub(crate) fn map(&mut self, range: Range<u64>, protection: Protection, is_private: bool) {
        self.unmap(range.clone());
        self.0.insert(range.start, Mapping { end: range.end, protection, is_private });
    }

    pub(crate) fn unmap(&mut self, range: Range<u64>) {
        self.split(range.start);
        self.split(range.end);
        let starts: Vec<_> = self.0.range(range).map(|(start, _)| *start).collect();
        for start in starts {
            self.0.remove(&start);
        }
    }

    pub(crate) fn protect(&mut self, range: Range<u64>, protection: Protection) {
        self.split(range.start);
        self.split(range.end);
        for (_, mapping) in self.0.range_mut(range) {
            mapping.protection = protection;
        }
    }

    /// Bytes that are mapped.
    pub(crate) fn bytes(&self) -> u64 {
        self.0.iter().map(|(start, mapping)| mapping.end - start).sum()
    }

    /// Makes `at` a boundary between mappings.
    fn split(&mut self, at: u64) {
        if let Some((start, mapping)) = self.0.range_mut(..at).next_back()
            && mapping.end > at
        {
            let upper = *mapping;
            mapping.end = at;
            debug_assert!(*start < at);
            self.0.insert(at, upper);
        }
    }

    /// Bytes from `at` to the end of code that nobody can write to: private, executable and read-only.
    pub(crate) fn code_bytes(&self, at: u64) -> u64 {
        let found = self.0.range(..=at).next_back().filter(|(_, mapping)| {
            mapping.is_private
                && mapping.protection.contains(Protection::EXECUTE)
                && !mapping.protection.contains(Protection::WRITE)
        });
        found.map_or(0, |(_, mapping)| mapping.end.saturating_sub(at))
    }

    /// The unmapped ranges within `near`, ascending.
    pub(crate) fn free(&self, near: Range<u64>) -> Vec<Range<u64>> {
        let mut free = Vec::new();
        let mut from = near.start.max(LOWEST);
        let end = near.end.min(HIGHEST);
        let ours = (RESERVED_BASE, RESERVED_END);
        let mut taken: Vec<_> =
            self.0.iter().map(|(start, mapping)| (*start, mapping.end)).chain([ours]).collect();
        taken.sort_unstable();
        for (start, stop) in taken {
            if start > from && from < end {
                free.push(from..start.min(end));
            }
            from = from.max(stop);
        }
        if from < end {
            free.push(from..end);
        }
        free
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_are_split_and_replaced() {
        let code = Protection::READ | Protection::EXECUTE;
        let mut maps = Maps::default();
        maps.map(0x40_0000..0x50_0000, code, true);
        maps.protect(0x44_0000..0x45_0000, code | Protection::WRITE);
        assert_eq!(maps.code_bytes(0x43_fff0), 0x10);
        assert_eq!(maps.code_bytes(0x44_0000), 0);
        assert_eq!(maps.code_bytes(0x45_0000), 0xb_0000);
        maps.map(0x46_0000..0x47_0000, code, false);
        assert_eq!(maps.code_bytes(0x46_0000), 0);
        maps.unmap(0x40_0000..0x48_0000);
        assert_eq!(maps.free(0x30_0000..0x60_0000), [0x30_0000..0x48_0000, 0x50_0000..0x60_0000]);
    }

    #[test]
    fn the_engines_own_range_is_never_free() {
        let maps = Maps::default();
        let near = RESERVED_BASE - 0x1000..RESERVED_END + 0x1000;
        assert_eq!(maps.free(near.clone()), [near.start..RESERVED_BASE, RESERVED_END..near.end]);
    }
}
