//! Where a trampoline may be: at addresses whose distance from the site consists of trapping bytes.

use std::ops::{Range, RangeInclusive};

use super::traps::{TRAPS, is_trap};
use super::{PAGE, PATCH_LEN};
use crate::arena::Arena;

/// What is to be placed.
#[derive(Debug)]
pub(crate) struct Request {
    /// Address of the `syscall` instruction.
    pub(crate) site: u64,
    /// Length of the trampoline, at most a page.
    pub(crate) len: usize,
    /// Addresses from which everything it refers to is in reach.
    pub(crate) reach: RangeInclusive<u64>,
}

/// Where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) at: u64,
    pub(crate) is_new_page: bool,
}

/// The order in which the highest byte of the distance is tried for a new page: below the site first, near before far; then
/// above, far before near. A heap grows upwards behind the program and isn't to be met, and mappings of the kernel's
/// choice avoid what is there.
const HIGHEST: [u8; 20] = [
    0xf4, 0xea, 0xd6, 0xce, 0xcc, 0x9a, 0x82, 0x61, 0x60, 0x3f, 0x37, 0x2f, 0x27, 0x1f, 0x1e, 0x17, 0x16,
    0x0e, 0x07, 0x06,
];

/// The order for the middle bytes: first those with many others near them, so that the page will also do for other
/// sites in the same code.
const MIDDLE: [u8; 20] = [
    0x17, 0x16, 0x1f, 0x1e, 0x07, 0x06, 0x0e, 0x61, 0x60, 0xce, 0xcc, 0xd6, 0x27, 0x2f, 0x37, 0x3f, 0x9a,
    0x82, 0xea, 0xf4,
];

/// Finds a place: in a page that holds trampolines already, or else in a new one inside of `free` (ascending, disjoint).
pub(crate) fn find(request: &Request, arena: &Arena, free: &[Range<u64>]) -> Option<Place> {
    shared(request, arena).or_else(|| fresh(request, arena, free))
}

fn shared(request: &Request, arena: &Arena) -> Option<Place> {
    let lowest = *request.reach.start() & !(PAGE - 1);
    arena.open(lowest..=*request.reach.end(), request.len).find_map(|page| {
        in_page(request, page)
            .find(|at| request.reach.contains(at) && arena.is_free(*at, request.len))
            .map(|at| Place { at, is_new_page: false })
    })
}

/// The addresses in `page` that the site can jump to.
fn in_page(request: &Request, page: u64) -> impl Iterator<Item = u64> + use<> {
    let origin = request.site + PATCH_LEN as u64;
    let first = page.wrapping_sub(origin) as i64;
    let last = first.saturating_add(PAGE as i64 - request.len as i64);
    // Distances whose upper three bytes are the same come in blocks of 256.
    let blocks = (first >> 8)..=(last >> 8);
    blocks
        .filter(|block| {
            i32::try_from(block << 8).is_ok() && block.to_le_bytes()[..3].iter().all(|b| is_trap(*b))
        })
        .flat_map(|block| TRAPS.map(|byte| (block << 8) | i64::from(byte)))
        .filter(move |distance| (first..=last).contains(distance))
        .map(move |distance| origin.wrapping_add_signed(distance))
}

fn fresh(request: &Request, arena: &Arena, free: &[Range<u64>]) -> Option<Place> {
    let origin = request.site + PATCH_LEN as u64;
    for (highest, high) in HIGHEST.into_iter().flat_map(|d3| MIDDLE.map(|d2| (d3, d2))) {
        let base = i32::from_le_bytes([0, 0, high, highest]);
        let Some(lowest) = origin.checked_add_signed(base.into()) else { continue };
        if !touches(free, lowest, lowest.saturating_add(0xffff)) {
            continue;
        }
        let mut full = None; // the page that was looked at last, if it can't be had
        for (low, lowest_byte) in MIDDLE.into_iter().flat_map(|d1| TRAPS.map(|d0| (d1, d0))) {
            let at = lowest + u64::from(u16::from_le_bytes([lowest_byte, low]));
            let page = at & !(PAGE - 1);
            if full == Some(page) || at + request.len as u64 > page + PAGE || !request.reach.contains(&at) {
                continue;
            }
            if !arena.holds(page) && contains(free, page) {
                return Some(Place { at, is_new_page: true });
            }
            full = Some(page);
        }
    }
    None
}

/// Returns whether one of the ranges has an address from `first` to `last`.
fn touches(free: &[Range<u64>], first: u64, last: u64) -> bool {
    let next = free.partition_point(|range| range.end <= first);
    free.get(next).is_some_and(|range| range.start <= last)
}

/// Returns whether one of the ranges contains the whole page.
fn contains(free: &[Range<u64>], page: u64) -> bool {
    let next = free.partition_point(|range| range.end <= page);
    free.get(next).is_some_and(|range| range.start <= page && page.saturating_add(PAGE) <= range.end)
}

#[cfg(test)]
mod tests;
