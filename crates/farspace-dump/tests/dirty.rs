//! The tracker against a program that changes its memory at random: an image that is kept up to date by what the tracker
//! says must be the program's memory, byte for byte.
//!
//! FARSPACE_TEST_ROUNDS and FARSPACE_TEST_SEED make it longer, or another one.

use std::collections::HashMap;

use farspace::Target;
use farspace_dump::dirty::{Changes, Coverage, PageSet, Tracker, Tracking, coverage};
use farspace_sys::memory::Memory;
use farspace_sys::pagemap::{ENTRY_FILE, ENTRY_PRESENT, ENTRY_SWAPPED, Pagemap};
use farspace_sys::process::{self, Activity, Mapping};
use farspace_sys::{RemoteAddr, RemoteIoVec};
use farspace_victims::harness::Victim;

const PAGE: usize = 4096;

/// The contents of the target, as far as the tracker has told.
struct Image {
    pages: HashMap<u64, Box<[u8; PAGE]>>,
    memory: Memory,
    pagemap: Pagemap,
}

impl Image {
    fn new(pid: i32) -> Self {
        let memory = Memory::open(pid).expect("readable");
        Self { pages: HashMap::new(), memory, pagemap: Pagemap::open(pid).expect("readable") }
    }

    fn update(&mut self, changes: &Changes) {
        for at in pages(&changes.gone) {
            self.pages.remove(&at);
        }
        for at in pages(&changes.changed) {
            let mut page = Box::new([0; PAGE]);
            match self.memory.read_exact(RemoteAddr(at), page.as_mut_slice()) {
                Ok(()) => drop(self.pages.insert(at, page)),
                // Unmapped since: the next look says so.
                Err(_) => drop(self.pages.remove(&at)),
            }
        }
    }

    /// Compares with the target, which stands still.
    fn compare(&self, maps: &[Mapping], changes: &Changes, context: &str) {
        let mut seen = 0;
        for mapping in maps {
            let covered = coverage(mapping);
            let range = RemoteIoVec { base: mapping.start, len: mapping.len_bytes() };
            if matches!(covered, Coverage::None(_)) || changes.untracked.iter().any(|(r, _)| *r == range) {
                continue;
            }
            let mut there = Vec::new();
            let mut entry_of = |at: RemoteAddr, entry: u64| {
                let is_own = entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 && entry & ENTRY_FILE == 0;
                there.push((at.0, is_own, entry));
            };
            self.pagemap.entries(range, &mut entry_of).expect("readable");
            for (at, is_own, entry) in there {
                let mut page = [0; PAGE];
                let is_in_image = self.pages.contains_key(&at);
                if is_own || is_in_image && covered == Coverage::OwnPages {
                    self.memory.read_exact(RemoteAddr(at), &mut page).expect("a page that is there");
                }
                let image = self.pages.get(&at).map_or([0; PAGE], |page| **page);
                seen += usize::from(is_in_image);
                assert!(
                    image == page,
                    "{context}: the page at {at:#x} of {}-{} has changed (entry {entry:#x}, in the image: {}, now told: {}); {}",
                    mapping.start,
                    mapping.end,
                    is_in_image,
                    changes.changed.contains(at),
                    difference(&image, &page)
                );
            }
        }
        assert_eq!(seen, self.pages.len(), "{context}: the image has pages that are in no mapping");
    }
}

fn difference(image: &[u8; PAGE], page: &[u8; PAGE]) -> String {
    let differ: Vec<usize> = (0..PAGE).filter(|&i| image[i] != page[i]).collect();
    format!(
        "{} bytes differ from {:?} on: {:?} in the image",
        differ.len(),
        differ.first(),
        differ.iter().take(8).map(|&i| (image[i], page[i])).collect::<Vec<_>>()
    )
}

fn pages(set: &PageSet) -> impl Iterator<Item = u64> + '_ {
    set.runs().flat_map(|run| (run.base.0..run.base.0 + run.len).step_by(PAGE))
}

fn maps(target: &Target) -> Vec<Mapping> {
    let mut maps = process::mappings(target.pid()).expect("it lives");
    maps.retain(|mapping| !target.owns(mapping));
    maps
}

/// Waits until the program has come to rest, in the read of its next command.
fn rest(pid: i32) {
    while process::activity(pid, pid) != (Activity::Blocked { nr: 0 }) {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// One program from its start to its end: some looks while it stands still, some while it runs.
fn follow(seed: u64, tracking: Tracking, looks: u64) -> Result<(), farspace_dump::Error> {
    let mut victim = Victim::spawn("mapper", &["--seed", &seed.to_string()]).expect("it starts");
    let target = Target::attach(victim.pid()).expect("it can be visited");
    let mut tracker = Tracker::start(&target, Some(tracking))?;
    let mut image = Image::new(victim.pid());
    victim.command("step 30").expect("unharmed");
    image.update(&tracker.arm(&target, &maps(&target))?);
    for look in 0..looks {
        let context = format!("seed {seed}, {}, look {look}", tracking.name());
        let is_live = look % 3 == 2;
        if is_live {
            victim.send("run 30");
            for n in 0..6 {
                let list = maps(&target);
                let changes = if n % 2 == 0 {
                    tracker.glance(&target, &list)?
                } else {
                    tracker.rescan(&target, &list)?
                };
                image.update(&changes);
            }
            victim.answer().expect("unharmed");
        } else {
            victim.command(&format!("step {}", 1 + look % 7 * 4)).expect("unharmed");
        }
        rest(victim.pid());
        let list = maps(&target);
        let changes = if look % 4 == 3 { tracker.settle(&list)? } else { tracker.rescan(&target, &list)? };
        image.update(&changes);
        image.compare(&list, &changes, &context);
    }
    tracker.disarm();
    target.detach().expect("it leaves");
    victim.command("step 50").expect("unharmed");
    victim.command("exit").expect("unharmed");
    Ok(())
}

fn follow_some(tracking: Tracking, programs: u64) {
    let first = setting("FARSPACE_TEST_SEED", 1);
    let programs = setting("FARSPACE_TEST_ROUNDS", programs);
    for seed in first..first + programs {
        match follow(seed, tracking, 40) {
            Ok(()) => {}
            Err(farspace_dump::Error::NoTracking { reason, .. }) => {
                eprintln!("skipped: {}: {reason}", tracking.name());
                return;
            }
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
}

#[test]
fn by_write_protection() {
    follow_some(Tracking::WriteProtect, 3);
}

#[test]
fn by_soft_dirty_bits() {
    follow_some(Tracking::SoftDirty, 3);
}

#[test]
fn by_nothing() {
    follow_some(Tracking::Nothing, 1);
}
