//! The patches of one address space.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::arch::x86_64::place::{self, Request};
use crate::arch::x86_64::traps::is_trap;
use crate::arch::x86_64::window::Window;
use crate::arch::x86_64::{JMP_REL32, PAGE, PATCH_LEN, WINDOW_MAX, relocate};
use crate::arena::Arena;
use crate::{Landing, Plan, Refusal, Site, Step};

/// The patches of one address space. A fork of the space has a clone.
///
/// # Invariants
///
/// * Windows don't overlap; neither do trampolines. Retired sites count until they are released.
/// * `trampolines` has one entry per site.
#[derive(Debug, Clone, Default)]
pub struct Patches {
    /// By the address of the `syscall`.
    sites: BTreeMap<u64, Site>,
    /// Start of the trampoline to the address of the `syscall`.
    trampolines: BTreeMap<u64, u64>,
    arena: Arena,
}

/// A plan that doesn't fit what has been committed since it was made. Plan again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the plan for {site:#x} is out of date: plan again")]
pub struct Stale {
    /// The plan's site.
    pub site: u64,
}

/// A patch that is to be taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    /// Address of the `syscall` instruction.
    pub site: u64,
    /// The stores that restore the original bytes, in order; see [`Step`]. Superfluous if the code is being unmapped.
    pub steps: [Step; PATCH_LEN + 1],
    /// The trampoline, for [`Patches::release`].
    pub trampoline: Range<u64>,
}

impl Patches {
    /// Decides how to rewrite the site `at`.
    ///
    /// * `code`: the guest's bytes from `at` on, as far as they lie in the same private, readable and executable mapping;
    ///   [`WINDOW_MAX`] of them are always enough. If other patches are near they are overlaid first.
    /// * `common`: where trampolines lead to; see [`layout`](crate::arch::x86_64::layout).
    /// * `free`: unmapped ranges of the guest's address space that may be used, ascending and disjoint. Pages that hold
    ///   trampolines already are known and needn't be listed.
    ///
    /// Nothing changes until [`commit`](Self::commit).
    ///
    /// # Errors
    ///
    /// [`Refusal`]: the site stays as it is.
    pub fn plan(&self, at: u64, code: &[u8], common: u64, free: &[Range<u64>]) -> Result<Plan, Refusal> {
        let window = Window::read(at, code)?;
        if let Some(site) = self.windows(&(at..window.end())).next() {
            return Err(Refusal::Overlap { site: site.at });
        }
        let len = relocate::len(&window);
        let request = Request { site: at, len, reach: relocate::reach(&window) };
        let place = place::find(&request, &self.arena, free).ok_or(Refusal::NoRoom)?;
        let code = relocate::code(&window, place.at, common);
        let [a, b, c, d] = (place.at.wrapping_sub(at + PATCH_LEN as u64) as u32).to_le_bytes();
        // INVARIANT: place::find returns distances of trapping bytes only.
        debug_assert!([a, b, c, d].into_iter().all(is_trap));
        let site = Site {
            at,
            window_len: window.len() as u8,
            original: window.original(),
            patched: [JMP_REL32, a, b, c, d],
            trampoline: place.at..place.at + len as u64,
            after: place.at + crate::arch::x86_64::layout::AFTER_AT as u64,
            marks: code.marks.into(),
            retired: false,
        };
        let new_page = place.is_new_page.then_some(place.at & !(PAGE - 1));
        Ok(Plan { site, trampoline: code.bytes, new_page })
    }

    /// Takes up a plan: from now on the lookups know it. Called between writing the trampoline and the first step.
    ///
    /// # Errors
    ///
    /// [`Stale`] if another commit or release since has taken the place or the page.
    pub fn commit(&mut self, plan: Plan) -> Result<&Site, Stale> {
        let site = plan.site;
        let (start, len) = (site.trampoline.start, (site.trampoline.end - site.trampoline.start) as usize);
        let is_placeable = match plan.new_page {
            Some(page) => !self.arena.holds(page),
            None => self.arena.is_free(start, len),
        };
        if !is_placeable || self.windows(&site.window()).next().is_some() {
            return Err(Stale { site: site.at });
        }
        self.arena.take(start, len);
        self.trampolines.insert(start, site.at);
        Ok(self.sites.entry(site.at).or_insert(site))
    }

    /// Takes back all patches whose window or trampoline overlaps a range of addresses: because the guest changes,
    /// protects or unmaps the code, maps over the trampolines, or a thread has landed in the [`Landing::Middle`].
    ///
    /// The sites are retired: lookups by address still know them, so that threads inside find their way.
    pub fn undo(&mut self, range: Range<u64>) -> Vec<Undone> {
        let mut found: Vec<u64> = self
            .windows(&range)
            .chain(self.within(&range))
            .filter(|site| !site.retired)
            .map(Site::at)
            .collect();
        found.sort_unstable();
        found.dedup();
        let undo = |at| {
            let site = self.sites.get_mut(&at)?;
            site.retired = true;
            Some(Undone { site: at, steps: site.undo_steps(), trampoline: site.trampoline() })
        };
        found.into_iter().filter_map(undo).collect()
    }

    /// Forgets a retired site, given the start of its trampoline, when its original bytes are back and no thread's
    /// instruction pointer, nor one that is saved anywhere, is in the trampoline. Returns the page that holds nothing any
    /// more, if so: it can be unmapped.
    ///
    /// Does nothing for a site that isn't retired.
    pub fn release(&mut self, trampoline: u64) -> Option<u64> {
        let at = *self.trampolines.get(&trampoline)?;
        let site = self.sites.get(&at).filter(|site| site.retired)?;
        let len = (site.trampoline.end - site.trampoline.start) as usize;
        self.sites.remove(&at);
        self.trampolines.remove(&trampoline);
        self.arena.give_back(trampoline, len)
    }

    /// What a thread must do that has trapped, or is to be continued, at `ip`; none if no patch has that byte.
    ///
    /// `ip` is the instruction's address:
    /// [`faulting_address`](crate::arch::x86_64::traps::faulting_address) computes it from a frame.
    pub fn landing(&self, ip: u64) -> Option<Landing<'_>> {
        let (_, site) = self.sites.range(..=ip).next_back()?;
        site.patch().contains(&ip).then(|| site.landing(ip))
    }

    /// The site whose trampoline contains `ip`.
    pub fn in_trampoline(&self, ip: u64) -> Option<&Site> {
        let (_, at) = self.trampolines.range(..=ip).next_back()?;
        self.sites.get(at).filter(|site| site.trampoline.contains(&ip))
    }

    /// The original address that an instruction pointer inside a trampoline stands for: what the guest is told in
    /// signal frames and fault reports. None if `ip` is in no trampoline.
    ///
    /// Before [`Site::after`] that is the `syscall` itself.
    pub fn origin(&self, ip: u64) -> Option<u64> {
        self.in_trampoline(ip).map(|site| site.origin(ip))
    }

    /// Puts the original bytes over a copy of the guest's memory from `at` on, so that its readers never see a patch.
    ///
    /// The undoing of retired sites must be complete.
    pub fn overlay(&self, at: u64, memory: &mut [u8]) {
        let end = at.saturating_add(memory.len() as u64);
        for site in self.windows(&(at..end)).filter(|site| !site.retired) {
            for (address, byte) in site.patch().zip(site.original) {
                let offset = address.checked_sub(at).and_then(|offset| usize::try_from(offset).ok());
                if let Some(place) = offset.and_then(|offset| memory.get_mut(offset)) {
                    *place = byte;
                }
            }
        }
    }

    /// All sites, retired ones as well, by address.
    pub fn sites(&self) -> impl Iterator<Item = &Site> {
        self.sites.values()
    }

    /// The site at an address.
    pub fn site(&self, at: u64) -> Option<&Site> {
        self.sites.get(&at)
    }

    /// The pages that hold trampolines, ascending.
    pub fn pages(&self) -> impl Iterator<Item = u64> {
        self.arena.pages()
    }

    /// The sites whose window overlaps a range.
    fn windows(&self, range: &Range<u64>) -> impl Iterator<Item = &Site> {
        overlapping(&self.sites, range, WINDOW_MAX as u64).filter(|site| overlap(&site.window(), range))
    }

    /// The sites whose trampoline overlaps a range.
    fn within(&self, range: &Range<u64>) -> impl Iterator<Item = &Site> {
        overlapping(&self.trampolines, range, PAGE)
            .filter_map(|at| self.sites.get(at))
            .filter(|site| overlap(&site.trampoline, range))
    }
}

/// The values whose keys may begin something of at most `longest` bytes that overlaps a range.
fn overlapping<'a, T>(
    map: &'a BTreeMap<u64, T>,
    range: &Range<u64>,
    longest: u64,
) -> impl Iterator<Item = &'a T> {
    let keys = range.start.saturating_sub(longest)..range.end;
    (!keys.is_empty()).then(|| map.range(keys)).into_iter().flatten().map(|(_, value)| value)
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    !a.is_empty() && !b.is_empty() && a.start < b.end && b.start < a.end
}

#[cfg(test)]
mod tests;
