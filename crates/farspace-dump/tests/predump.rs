//! Chains of pre-dumps of a program that changes its memory at random: what a restore would put together from the images
//! must be the program's memory, byte for byte.
//!
//! FARSPACE_TEST_ROUNDS and FARSPACE_TEST_SEED make it longer, or another one.

use std::ops::ControlFlow;
use std::path::Path;

use farspace_dump::predump::{ImageDirectory, PredumpOptions, PredumpReport, Predumper};
use farspace_image::criu::{ImageId, PageFlags};
use farspace_sys::RemoteIoVec;
use farspace_sys::memory::Memory;
use farspace_sys::pagemap::{ENTRY_FILE, ENTRY_PRESENT, ENTRY_SWAPPED, Pagemap};
use farspace_sys::process::{self, Activity};
use farspace_victims::harness::Victim;

#[path = "common/chain.rs"]
mod chain;

use chain::{Chain, PAGE};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Waits until the program has come to rest, in the read of its next command.
fn rest(pid: i32) {
    while process::activity(pid, pid) != (Activity::Blocked { nr: 0 }) {
        std::thread::sleep(std::time::Duration::from_micros(50));
    }
}

fn write(predumper: &mut Predumper, path: &Path, parent: Option<&Path>) -> PredumpReport {
    let mut directory = ImageDirectory::create(path, parent).expect("created");
    let done = predumper.iterate(&mut directory, &mut |_| ControlFlow::Continue(()));
    done.unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Compares the images with the program, which stands still: all that it has of its own is there, and what is there is right.
fn compare(pid: i32, directory: &Path, context: &str) -> u64 {
    let chain = Chain::open(directory, ImageId::Process(pid as u32)).expect("an image");
    let memory = Memory::open(pid).expect("readable");
    let pagemap = Pagemap::open(pid).expect("readable");
    let mut seen = 0;
    for mapping in process::mappings(pid).expect("it lives") {
        let name = mapping.name.as_slice();
        let is_vdso = name == b"[vdso]";
        let is_left_out = name.starts_with(b"[v") && !is_vdso || name.starts_with(b"/anon_hugepage");
        let range = RemoteIoVec { base: mapping.start, len: mapping.len_bytes() };
        if mapping.permissions[3] == b's' || is_left_out {
            let listed = chain
                .runs()
                .iter()
                .find(|run| mapping.start.0 < run.range().end && run.vaddr < mapping.end.0);
            assert_eq!(
                listed,
                None,
                "{context}: {} has no place in the image",
                String::from_utf8_lossy(name)
            );
            continue;
        }
        let mut entries = Vec::new();
        pagemap.entries(range, &mut |at, entry| entries.push((at, entry))).expect("readable");
        for (at, entry) in entries {
            let is_there = entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0 && entry & ENTRY_FILE == 0;
            let mut bytes = [0; PAGE as usize];
            match chain.page(at.0) {
                Some(page) => {
                    memory.read_exact(at, &mut bytes).expect("it is in a mapping");
                    assert!(
                        page == bytes,
                        "{context}: the page at {at} has other contents (entry {entry:#x})"
                    );
                    seen += 1;
                }
                // The zero page.
                None if is_there => {
                    memory.read_exact(at, &mut bytes).expect("it is in a mapping");
                    assert!(
                        bytes == [0; PAGE as usize],
                        "{context}: the page at {at} is missing (entry {entry:#x})"
                    );
                }
                None => assert!(!is_vdso, "{context}: the vDSO isn't there as a whole"),
            }
        }
    }
    let listed: u64 = chain.runs().iter().map(|run| run.nr_pages).sum();
    assert_eq!(seen, listed, "{context}: the image has pages that are in no mapping");
    listed
}

#[test]
fn chains_are_the_programs_memory() {
    let rounds = setting("FARSPACE_TEST_ROUNDS", 24);
    let seed = setting("FARSPACE_TEST_SEED", 7);
    let mut pages_in_parent = 0;
    for seed in seed..seed + 3 {
        let place = tempfile::tempdir().expect("a directory");
        let mut victim = Victim::spawn("mapper", &["--seed", &seed.to_string()]).expect("it starts");
        let pid = victim.pid();
        let options = PredumpOptions { keeps_tracking: true, ..PredumpOptions::default() };
        let mut predumper = Predumper::new(pid, options).expect("it lives");
        victim.command("step 30").expect("unharmed");
        let mut parent = None;
        for round in 0..rounds {
            let path = place.path().join(round.to_string());
            let is_live = round % 3 == 2;
            if is_live {
                victim.send("run 20");
            } else {
                victim.command(&format!("step {}", 1 + round % 7 * 4)).expect("unharmed");
            }
            if !is_live {
                rest(pid);
            }
            let report = write(&mut predumper, &path, parent.as_deref());
            if is_live {
                victim.answer().expect("unharmed");
            } else {
                let context = format!("seed {seed}, round {round}, {:?}", report.tracking);
                assert!(compare(pid, &path, &context) > 0);
            }
            pages_in_parent += report.pages_in_parent;
            parent = Some(path);
        }
        drop(predumper);
        victim.finish().expect("unharmed");
    }
    // Where changes can be told, not everything was written each time.
    assert!(pages_in_parent > 0 || farspace::probe::write_tracking().is_err());
}

/// Ends a tree however the test ends.
struct Tree(std::process::Child);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_tree_has_an_image_for_each_process_and_one_for_what_they_share() {
    let place = tempfile::tempdir().expect("a directory");
    let directory = place.path().to_string_lossy().into_owned();
    let mut command = std::process::Command::new(farspace_victims::harness::program().expect("it is built"));
    command.args(["tree", "--dir", &directory, "--cold-mib", "4"]);
    let tree = Tree(command.spawn().expect("it starts"));
    let checks = |name: &str| -> u64 {
        let text = std::fs::read_to_string(place.path().join(name)).unwrap_or_default();
        text.split_whitespace().nth(3).and_then(|n| n.parse().ok()).unwrap_or(0)
    };
    let wait = |least: u64| {
        while checks("parent").min(checks("child")) < least {
            assert!(
                !place.path().join("harmed").exists(),
                "{:?}",
                std::fs::read_to_string(place.path().join("harmed"))
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    };
    wait(1);
    let pid = tree.0.id() as i32;
    let mut predumper = Predumper::new(pid, PredumpOptions::default()).expect("it lives");
    let path = place.path().join("images");
    let report = write(&mut predumper, &path, None);
    assert_eq!((report.processes, report.shared_objects), (2, 1), "{report:?}");
    let names: Vec<String> = std::fs::read_dir(&path)
        .expect("there")
        .map(|entry| entry.expect("there").file_name().to_string_lossy().into_owned())
        .collect();
    let images: Vec<ImageId> = names.iter().filter_map(|name| ImageId::from_pagemap_name(name)).collect();
    let shared: Vec<_> = images.iter().filter(|image| matches!(image, ImageId::Shared(_))).collect();
    assert_eq!((images.len(), shared.len()), (3, 1), "{names:?}");
    let chain = Chain::open(&path, *shared[0]).expect("an image");
    let words = |page: [u8; PAGE as usize]| {
        let word = |at: usize| u64::from_le_bytes(page[at..at + 8].try_into().expect("8 bytes"));
        (word(0), !word(512))
    };
    // It is aligned in a larger mapping, of which nothing else is written to.
    let begin = chain.runs()[0].vaddr;
    for slot in 0..2 {
        let (rounds, again) = words(chain.page(begin + slot * PAGE).expect("written to"));
        assert!(
            rounds > 0 && (again == rounds || again == rounds - 1 || again == rounds + 1),
            "{rounds} {again}"
        );
    }
    let of_child = images
        .iter()
        .find(|image| !matches!(image, ImageId::Shared(_)) && **image != ImageId::Process(pid as u32));
    let chain = Chain::open(&path, *of_child.expect("the child's")).expect("an image");
    assert!(
        chain
            .runs()
            .iter()
            .any(|run| run.flags == PageFlags::PRESENT | PageFlags::LAZY && run.nr_pages >= 4 * 256)
    );
    // Unharmed: both check all of their memory once more.
    let before = checks("parent").min(checks("child"));
    wait(before + 2);
}
