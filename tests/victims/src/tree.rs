//! A process tree that lives by itself, without a tester's pipes, so that it can be frozen, ended and restored elsewhere:
//! a parent and a child, each with threads, memory of many kinds and shared memory. Both change part of their memory all
//! the time and check all of it against what it must be.
//!
//! `DIR/parent` and `DIR/child` say how far they are: `rounds N checks M`, M being how often all memory was checked.
//! Whoever finds something wrong says so in `DIR/harmed`, and ends with status 1.

use crate::work::Block;
use crate::{Verdict, option, pattern, sys};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::time::Duration;

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;
/// Words that a page's content is made of, and that are looked at.
const WORDS: usize = 8;
/// Pages that are checked in each round, beside those that are written to.
const SLICE: usize = 256;

pub(crate) fn main(args: &[String]) -> Verdict {
    let plan = Plan {
        directory: option(args, "--dir", String::from("."))?.into(),
        cold_pages: option(args, "--cold-mib", 16_usize)? * 256,
        hot_pages: option(args, "--hot", 40)?,
        pause: Duration::from_millis(option(args, "--pause-ms", 5)?),
    };
    let shared = Area::map(1 << 20, libc::MAP_SHARED, None)?;
    for slot in 0..2 {
        shared.put(slot, 0, 0);
        shared.put(slot, 1, !0);
    }
    // While there is one thread only.
    sys::fork(|| {
        let lived = sys::die_with_parent().and_then(|()| live(&plan, "child", 1, &shared));
        i32::from(lived.is_err())
    })?;
    live(&plan, "parent", 0, &shared)
}

struct Plan {
    directory: PathBuf,
    /// Pages without huge ones that are written to once in a while.
    cold_pages: usize,
    /// How many of them are written to in each round.
    hot_pages: usize,
    pause: Duration,
}

/// Lives until something is wrong.
fn live(plan: &Plan, name: &str, slot: usize, shared: &Area) -> Verdict {
    for thread in 0..2 {
        let directory = plan.directory.clone();
        let work = move || compute(slot as u64 * 2 + thread, &directory);
        std::thread::Builder::new().spawn(work).map_err(|e| format!("thread: {e}"))?;
    }
    let lived = Life::begin(plan, slot as u64).and_then(|mut life| {
        loop {
            life.round(plan, slot, shared)?;
            let text = format!("rounds {} checks {}\n", life.rounds, life.checks);
            std::fs::write(plan.directory.join(name), text).map_err(|e| format!("{name}: {e}"))?;
            std::thread::sleep(plan.pause);
        }
    });
    lived.map_err(|reason| harmed(&plan.directory, &format!("{name}: {reason}")))
}

fn harmed(directory: &Path, reason: &str) -> String {
    let _ = std::fs::write(directory.join("harmed"), format!("{reason}\n"));
    std::process::exit(1)
}

/// A thread that computes in its own memory; registers that are lost show in the sum.
fn compute(seed: u64, directory: &Path) {
    let mut block = Block::new(seed, 64 << 10);
    let mut rounds = 0;
    loop {
        for _ in 0..8 {
            block.advance();
        }
        rounds += 8;
        if block.sum() != block.expected(rounds) {
            harmed(directory, &format!("thread {seed}: a wrong sum after {rounds} rounds"));
        }
        std::thread::sleep(Duration::from_millis(7));
    }
}

/// One process's private memory.
struct Life {
    /// Checked page by page, in turn.
    areas: Vec<Area>,
    /// Mapped, filled and unmapped again.
    ring: Vec<Area>,
    /// Only ever read: the kernel's pages of zeros.
    zeros: Area,
    random: u64,
    rounds: u64,
    checks: u64,
    cursor: (usize, usize),
}

impl Life {
    const COLD: usize = 0;
    const HUGE: usize = 1;
    const MOVED: usize = 2;
    const DROPPED: usize = 3;

    fn begin(plan: &Plan, seed: u64) -> Result<Self, String> {
        let cold = Area::map(plan.cold_pages * PAGE, libc::MAP_PRIVATE, Some(libc::MADV_NOHUGEPAGE))?;
        let huge = Area::map(2 * HUGE, libc::MAP_PRIVATE, Some(libc::MADV_HUGEPAGE))?;
        let (moved, dropped) =
            (Area::map(32 * PAGE, libc::MAP_PRIVATE, None)?, Area::map(32 * PAGE, libc::MAP_PRIVATE, None)?);
        let zeros = Area::map(2 * HUGE, libc::MAP_PRIVATE, Some(libc::MADV_HUGEPAGE))?;
        let mut areas = vec![cold, huge, moved, dropped];
        for area in &mut areas {
            (0..area.pages()).for_each(|page| area.write(page));
        }
        Ok(Self { areas, ring: Vec::new(), zeros, random: seed, rounds: 0, checks: 0, cursor: (0, 0) })
    }

    fn below(&mut self, limit: usize) -> usize {
        self.random += 1;
        (pattern::word(77, self.random) % limit as u64) as usize
    }

    fn round(&mut self, plan: &Plan, slot: usize, shared: &Area) -> Verdict {
        for _ in 0..plan.hot_pages {
            let page = self.below(plan.cold_pages);
            self.areas[Self::COLD].change(page)?;
        }
        let page = self.below(2 * HUGE / PAGE);
        self.areas[Self::HUGE].change(page)?;
        let page = self.below(32);
        self.areas[Self::DROPPED].drop_page(page)?;
        if self.rounds.is_multiple_of(8) {
            self.areas[Self::MOVED].relocate()?;
        }
        self.ring.push(Area::filled(64 * PAGE)?);
        if self.ring.len() > 4 {
            let oldest = self.ring.remove(0);
            (0..oldest.pages()).try_for_each(|page| oldest.check(page))?;
            oldest.unmap()?;
        }
        for _ in 0..SLICE {
            self.check_next()?;
        }
        self.rounds += 1;
        shared.put(slot, 0, self.rounds);
        shared.put(slot, 1, !self.rounds);
        let other = 1 - slot;
        // The first is written before the second. Where it stays the same the second is as new, or one round older.
        let (first, second) = loop {
            let (first, second) = (shared.get(other, 0), !shared.get(other, 1));
            if shared.get(other, 0) == first {
                break (first, second);
            }
        };
        if second != first && second.wrapping_add(1) != first {
            return Err(format!("shared memory: {first} and {second}"));
        }
        Ok(())
    }

    /// Checks one more page; after the last one everything was.
    fn check_next(&mut self) -> Verdict {
        let (area, page) = self.cursor;
        self.areas[area].check(page)?;
        self.cursor = if page + 1 < self.areas[area].pages() { (area, page + 1) } else { (area + 1, 0) };
        if self.cursor.0 == self.areas.len() {
            self.cursor = (0, 0);
            for page in 0..self.zeros.pages() {
                if self.zeros.get(page, 0) != 0 {
                    return Err(format!("page {page} of what is only read isn't zeros"));
                }
            }
            self.checks += 1;
        }
        Ok(())
    }
}

/// Pages whose content is a function of their number and of how often they were written.
struct Area {
    at: usize,
    len: usize,
    versions: Vec<u32>,
}

impl Area {
    fn map(len: usize, sharing: i32, advice: Option<i32>) -> Result<Self, String> {
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, sharing | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let at = unsafe { libc::mmap(null_mut(), len + HUGE, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            return Err(format!("mmap: {}", std::io::Error::last_os_error()));
        }
        // Aligned, so that huge pages fit; what is before and behind is given back.
        let (start, at) = (at as usize, (at as usize).next_multiple_of(HUGE));
        for (from, to) in [(start, at), (at + len, start + len + HUGE)] {
            if from < to {
                // SAFETY: within the new mapping, beside what is used of it.
                sys::os("munmap", unsafe { libc::munmap(from as *mut _, to - from) })?;
            }
        }
        if let Some(advice) = advice {
            // SAFETY: within the new mapping.
            sys::os("madvise", unsafe { libc::madvise(at as *mut _, len, advice) })?;
        }
        Ok(Self { at, len, versions: vec![0; len / PAGE] })
    }

    fn filled(len: usize) -> Result<Self, String> {
        let mut area = Self::map(len, libc::MAP_PRIVATE, None)?;
        (0..area.pages()).for_each(|page| area.write(page));
        Ok(area)
    }

    fn pages(&self) -> usize {
        self.len / PAGE
    }

    fn word(&self, page: usize, index: usize) -> *mut u64 {
        (self.at + page * PAGE + index * (PAGE / WORDS)) as *mut u64
    }

    fn put(&self, page: usize, index: usize, value: u64) {
        // SAFETY: within the mapping, aligned; volatile because others read it, and no reference exists.
        unsafe { self.word(page, index).write_volatile(value) };
    }

    fn get(&self, page: usize, index: usize) -> u64 {
        // SAFETY: as above.
        unsafe { self.word(page, index).read_volatile() }
    }

    fn expected(&self, page: usize, index: usize) -> u64 {
        pattern::word(self.versions[page].into(), (page * WORDS + index) as u64)
    }

    fn write(&mut self, page: usize) {
        self.versions[page] += 1;
        (0..WORDS).for_each(|index| self.put(page, index, self.expected(page, index)));
    }

    fn check(&self, page: usize) -> Verdict {
        for index in 0..WORDS {
            let (found, expected) = (self.get(page, index), self.expected(page, index));
            if found != expected {
                let (at, version) = (self.word(page, index), self.versions[page]);
                return Err(format!(
                    "{found:#x} at {at:?}, expected {expected:#x} (written {version} times)"
                ));
            }
        }
        Ok(())
    }

    fn change(&mut self, page: usize) -> Verdict {
        self.check(page)?;
        self.write(page);
        Ok(())
    }

    /// Gives a page back to the kernel: zeros, until it is written again.
    fn drop_page(&mut self, page: usize) -> Verdict {
        self.check(page)?;
        let at = self.word(page, 0).cast();
        // SAFETY: within the mapping, whose content no one else relies on.
        sys::os("madvise", unsafe { libc::madvise(at, PAGE, libc::MADV_DONTNEED) })?;
        if (0..WORDS).any(|index| self.get(page, index) != 0) {
            return Err(format!("page {page} was dropped and isn't zeros"));
        }
        self.write(page);
        Ok(())
    }

    /// Moves all pages to another address.
    fn relocate(&mut self) -> Verdict {
        let new = Self::map(self.len, libc::MAP_PRIVATE, None)?;
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
        let (from, to) = (self.at as *mut libc::c_void, new.at as *mut libc::c_void);
        // SAFETY: both are this program's own mappings, and no reference to them exists.
        let moved = unsafe { libc::mremap(from, self.len, self.len, flags, to) };
        if moved == libc::MAP_FAILED {
            return Err(format!("mremap: {}", std::io::Error::last_os_error()));
        }
        self.at = new.at;
        (0..self.pages()).try_for_each(|page| self.check(page))
    }

    fn unmap(self) -> Verdict {
        // SAFETY: this program's own mapping, which is used no more.
        sys::os("munmap", unsafe { libc::munmap(self.at as *mut _, self.len) }).map(drop)
    }
}
