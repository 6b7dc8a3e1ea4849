//! Cores at the level `converge` of a program that changes its memory at random while the rounds go on: the core must be the
//! memory at the stop, byte for byte.
//!
//! The program comes to rest before the stop: the function that is told the progress waits for that. So there is something
//! to compare with.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use farspace_dump::{DumpOptions, DumpReport, Error, Filter, Level, OnMiss, dump};
use farspace_sys::RemoteAddr;
use farspace_sys::memory::Memory;
use farspace_sys::process::{self, Activity};
use farspace_victims::harness::Victim;
use object::Endianness;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

const PAGE: usize = 4096;

fn rest(pid: i32) {
    while process::activity(pid, pid) != (Activity::Blocked { nr: 0 }) {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// The segments of a core: first address, contents, and length in memory.
fn segments(core: &[u8]) -> BTreeMap<u64, (&[u8], u64)> {
    let header = object::elf::FileHeader64::<Endianness>::parse(core).expect("an ELF file");
    let endian = header.endian().expect("known");
    let mut segments = BTreeMap::new();
    for program in header.program_headers(endian, core).expect("program headers") {
        if program.p_type(endian) == object::elf::PT_LOAD {
            let data = program.data(endian, core).expect("inside of the file");
            segments.insert(program.p_vaddr(endian), (data, program.p_memsz(endian)));
        }
    }
    segments
}

/// Compares a core with the target, which stands still.
fn compare(pid: i32, path: &Path, context: &str) {
    let core = fs::read(path).expect("readable");
    let memory = Memory::open(pid).expect("readable");
    let segments = segments(&core);
    let mut rseq = true;
    for mapping in process::mappings(pid).expect("it lives") {
        if mapping.name.starts_with(b"[vvar") || mapping.name.starts_with(b"[vsyscall") {
            continue;
        }
        let mut covered = mapping.start.0;
        for (&start, &(data, len)) in segments.range(mapping.start.0..mapping.end.0) {
            assert_eq!(start, covered, "{context}: a gap in {mapping:?}");
            covered = start + len;
            for (at, page) in (start..).step_by(PAGE).zip(data.chunks(PAGE)) {
                let mut now = [0; PAGE];
                // Beyond the end of a file.
                let _ = memory.read_exact(RemoteAddr(at), &mut now);
                let differ: Vec<usize> = (0..PAGE).filter(|&i| now[i] != page[i]).collect();
                // The kernel tells a thread on which CPU it is (rseq(2)), whenever it is let go.
                let is_rseq = differ.first().zip(differ.last()).is_some_and(|(a, b)| a / 32 == b / 32);
                assert!(
                    differ.is_empty() || is_rseq && std::mem::take(&mut rseq),
                    "{context}: the page at {at:#x} of {mapping:?} isn't that of the stop: {} bytes from {:?} on",
                    differ.len(),
                    differ.first()
                );
            }
        }
        assert_eq!(covered, mapping.end.0, "{context}: {mapping:?} isn't in the core");
    }
}

fn follow(seed: u64, options: &DumpOptions, run_ms: u64, wait_at: u64) -> Result<DumpReport, Error> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("core");
    let mut victim = Victim::spawn("mapper", &["--seed", &seed.to_string()]).expect("it starts");
    let pid = victim.pid();
    victim.command("step 60").expect("unharmed");
    victim.send(&format!("run {run_ms}"));
    let mut calls = 0;
    let mut is_resting = false;
    let come_to_rest = |victim: &mut Victim| {
        victim.answer().expect("unharmed");
        rest(pid);
    };
    let report = dump(pid, &path.as_path().into(), options, &mut |_| {
        calls += 1;
        if calls == wait_at && !is_resting {
            is_resting = true;
            come_to_rest(&mut victim);
        }
        ControlFlow::Continue(())
    });
    let context = format!("seed {seed}");
    if !is_resting {
        // Fewer steps than that: nothing to compare with, but it must have worked.
        victim.answer().expect("unharmed");
    } else if report.is_ok() {
        compare(pid, &path, &context);
    }
    victim.command("step 50").expect("unharmed");
    victim.command("exit").expect("unharmed");
    report
}

fn options() -> DumpOptions {
    DumpOptions { level: Level::Converge, filter: Filter::All, ..DumpOptions::default() }
}

#[test]
fn the_core_is_the_memory_at_the_stop() {
    let mut compared = 0;
    for seed in 1..=8 {
        let report =
            follow(seed, &options(), 40, 1 + seed % 4).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        assert_eq!(report.requested_level, "converge");
        compared += usize::from(report.level == "converge" && report.rounds.len() > 1);
    }
    assert!(compared > 0, "no dump had a round after the first");
}

#[test]
fn a_stop_that_would_be_too_long() {
    for (on_miss, level) in [(OnMiss::Frozen, "frozen"), (OnMiss::Snapshot, "snapshot")] {
        let options = DumpOptions { max_downtime: Some(Duration::ZERO), on_miss, ..options() };
        let report = follow(11, &options, 20, 2).expect("a dump all the same");
        assert_eq!(report.level, level, "{report:?}");
        assert!(report.missed.is_some());
    }
    let options = DumpOptions { max_downtime: Some(Duration::ZERO), on_miss: OnMiss::Fail, ..options() };
    assert!(matches!(follow(11, &options, 20, 2), Err(Error::Downtime { .. })));
}
