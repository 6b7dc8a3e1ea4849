//! Cores at the level `converge` of a program that changes its memory at random while the rounds go on: the core must be the
//! memory at the stop, byte for byte.
//!
//! The program comes to rest before the stop: the function that is told the progress waits for that. So there is something
//! to compare with. The same for a core that is sent to a receiver, and for a program with children that do likewise.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use farspace_dump::dirty::Tracking;
use farspace_dump::stream::{Address, ReceiveOptions, Receiver, StreamOptions};
use farspace_dump::{
    Destination, DumpOptions, DumpReport, Error, Filter, Level, OnMiss, Progress, TreeReport, dump, dump_tree,
};
use farspace_sys::RemoteAddr;
use farspace_sys::memory::Memory;
use farspace_sys::process::{self, Activity};
use farspace_victims::harness::Victim;
use object::Endianness;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

const PAGE: usize = 4096;
const CHILDREN: usize = 2;

/// Where a core goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    File,
    Stream { compress: Option<i32> },
}

const WAYS: [Way; 3] = [Way::File, Way::Stream { compress: None }, Way::Stream { compress: Some(1) }];

type Tell<'a> = &'a mut (dyn FnMut(Progress) -> ControlFlow<()> + Send);

/// Has `dump` write to a file or directory of this name, or send it to a receiver that does.
fn by<T: Send>(
    way: Way,
    path: &Path,
    dump: impl FnOnce(&Destination) -> Result<T, Error> + Send,
) -> Result<T, Error> {
    let Way::Stream { compress } = way else { return dump(&path.into()) };
    let address = Address::Unix(path.with_extension("socket"));
    let receiver = Receiver::listen(&address).expect("it listens");
    let to = Destination::Stream(StreamOptions { compress, ..StreamOptions::to(address) });
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || dump(&to));
        let options = ReceiveOptions::default();
        let received = receiver.receive(path, None, &options, &mut |_| ControlFlow::Continue(()));
        let sent = sender.join().expect("no panic");
        assert_eq!(received.is_ok(), sent.is_ok(), "{received:?} {:?}", sent.as_ref().err());
        assert_eq!(path.exists(), sent.is_ok());
        sent
    })
}

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
                if now == *page {
                    continue;
                }
                let differ: Vec<usize> = (0..PAGE).filter(|&i| now[i] != page[i]).collect();
                // The kernel tells a thread on which CPU it is (rseq(2)), whenever it is let go.
                let is_rseq = differ.first().zip(differ.last()).is_some_and(|(a, b)| a / 32 == b / 32);
                assert!(
                    is_rseq && std::mem::take(&mut rseq),
                    "{context}: the page at {at:#x} of {mapping:?} isn't that of the stop: {} bytes from {:?} on",
                    differ.len(),
                    differ.first()
                );
            }
        }
        assert_eq!(covered, mapping.end.0, "{context}: {mapping:?} isn't in the core");
    }
}

/// Has a program change its memory while `dump` has it for a target, and once more from when the first memory is copied, for on
/// a slow machine the other changes come before it is watched; it comes to rest when the progress is told the `wait_at`th
/// time, or then. Whether it did, and what `dump` says.
fn follow<T>(
    args: &[&str],
    run_ms: u64,
    wait_at: u64,
    dump: impl FnOnce(i32, Tell<'_>) -> Result<T, Error>,
    compare: impl FnOnce(i32, &T),
) -> Result<T, Error> {
    let mut victim = Victim::spawn("mapper", args).expect("it starts");
    let pid = victim.pid();
    victim.command("step 60").expect("unharmed");
    victim.send(&format!("run {run_ms}"));
    let mut calls = 0;
    let (mut is_again, mut is_resting) = (false, false);
    let report = dump(pid, &mut |told| {
        calls += 1;
        // One that stands still gives no answer.
        let is_held = process::status(pid).is_ok_and(|status| status.tracer != 0);
        if told.total_bytes > 0 && !is_again && !is_held {
            is_again = true;
            victim.answer().expect("unharmed");
            victim.send(&format!("run {run_ms}"));
        }
        if calls >= wait_at && is_again && !is_resting && !is_held {
            is_resting = true;
            victim.answer().expect("unharmed");
            family(pid).into_iter().for_each(rest);
        }
        ControlFlow::Continue(())
    });
    if !is_resting {
        // Fewer steps than that: nothing to compare with, but it must have worked.
        victim.answer().expect("unharmed");
    } else if let Ok(report) = &report {
        compare(pid, report);
    }
    victim.command("step 50").expect("unharmed");
    victim.command("exit").expect("unharmed");
    report
}

/// A process and its children, but for an agent.
fn family(pid: i32) -> Vec<i32> {
    let name = |pid: i32| fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
    let children = process::children(pid).unwrap_or_default();
    let is_one = |child: &i32| name(*child) == name(pid);
    [pid].into_iter().chain(children.into_iter().filter(is_one)).collect()
}

fn one(way: Way, seed: u64, options: &DumpOptions, run_ms: u64, wait_at: u64) -> Result<DumpReport, Error> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("core");
    let args = ["--seed", &seed.to_string()];
    let dump = |pid, tell: Tell<'_>| by(way, &path, |to| dump(pid, to, options, tell));
    let compare = |pid, _: &DumpReport| compare(pid, &path, &format!("seed {seed}, {way:?}"));
    follow(&args, run_ms, wait_at, dump, compare)
}

fn tree(way: Way, seed: u64, options: &DumpOptions, run_ms: u64, wait_at: u64) -> Result<TreeReport, Error> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("cores");
    let args = ["--seed", &seed.to_string(), "--children", &CHILDREN.to_string()];
    let dump = |pid, tell: Tell<'_>| by(way, &path, |to| dump_tree(pid, to, options, tell));
    let compare = |pid, report: &TreeReport| {
        let context = format!("seed {seed}, {way:?}");
        let family = family(pid);
        assert_eq!(family.len(), 1 + CHILDREN, "{context}");
        for pid in family {
            assert!(report.processes.iter().any(|p| p.pid == pid), "{context}: {pid} in {report:?}");
            compare(pid, &path.join(format!("core.{pid}")), &format!("{context}, {pid}"));
        }
        once(&path, report, &context);
    };
    follow(&args, run_ms, wait_at, dump, compare)
}

/// Shared memory is in one core, and the others have said so.
fn once(path: &Path, report: &TreeReport, context: &str) {
    let mut holders: BTreeMap<u64, usize> = BTreeMap::new();
    for process in &report.processes {
        let core = fs::read(path.join(format!("core.{}", process.pid))).expect("readable");
        for mapping in process::mappings(process.pid).expect("it lives") {
            let (&start, &(data, _)) = match segments(&core).range(mapping.start.0..mapping.end.0).next() {
                Some(found) => (found.0, found.1),
                None => continue,
            };
            let is_shared = mapping.permissions[3] == b's' && mapping.inode != 0;
            if is_shared && data.is_empty() {
                let why = process.weaker.iter().find(|w| w.starts_with(&mapping.start.to_string()));
                assert!(
                    why.is_some_and(|why| why.contains("is shared, and in core.")),
                    "{context}: {start:#x} of {} is in no core: {:?}",
                    process.pid,
                    process.weaker
                );
            } else if is_shared {
                *holders.entry(mapping.inode).or_default() += 1;
            }
        }
    }
    assert!(!holders.is_empty() || report.processes.len() == 1, "{context}: no shared memory");
}

/// FARSPACE_TEST_TRACKING chooses how changes are noticed.
fn options() -> DumpOptions {
    let tracking = match std::env::var("FARSPACE_TEST_TRACKING").as_deref() {
        Ok("soft-dirty") => Some(Tracking::SoftDirty),
        Ok("none") => Some(Tracking::Nothing),
        _ => None,
    };
    // However long it takes on this machine.
    let max_downtime = None;
    DumpOptions {
        level: Level::Converge,
        filter: Filter::All,
        tracking,
        max_downtime,
        ..DumpOptions::default()
    }
}

#[test]
fn the_core_is_the_memory_at_the_stop() {
    for way in WAYS {
        let mut compared = 0;
        for seed in 1..=6 {
            let report = one(way, seed, &options(), 40, 1 + seed % 4)
                .unwrap_or_else(|e| panic!("seed {seed}, {way:?}: {e}"));
            assert_eq!(report.requested_level, "converge");
            compared += usize::from(report.level == "converge" && report.rounds.len() > 1);
        }
        assert!(compared > 0, "{way:?}: no dump had a round after the first");
    }
}

#[test]
fn the_cores_of_a_tree_are_the_memory_at_the_stop() {
    for way in WAYS {
        let mut compared = 0;
        for seed in 1..=4 {
            let report = tree(way, seed, &options(), 60, 1 + seed % 4)
                .unwrap_or_else(|e| panic!("seed {seed}, {way:?}: {e}"));
            assert_eq!((report.requested_level.as_str(), report.left_out.len()), ("converge", 0));
            compared +=
                usize::from(report.processes.iter().all(|p| p.level == "converge" && p.rounds.len() > 1));
        }
        assert!(compared > 0, "{way:?}: no dump had a round after the first for all");
    }
}

/// The end of the first round is still in the socket when the target is to be stopped, as the target's own pages. What it
/// writes to them after the stop is not in the core.
#[test]
fn what_the_receiver_has_not_taken_yet() {
    const PAGES: u64 = 2048;
    const TAIL: u64 = 1 << 20;
    for run in 0..5 {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("core");
        let args = ["--pages", &PAGES.to_string(), "--pause-us", "2000"];
        let mut victim = Victim::spawn("sweep", &args).expect("it starts");
        let (pid, region) = (victim.pid(), victim.region("anon").expect("named"));
        let receiver = Receiver::listen(&Address::Tcp("127.0.0.1:0".into())).expect("it listens");
        let to = Destination::Stream(StreamOptions::to(receiver.address().clone()));
        let total = AtomicU64::new(u64::MAX);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                dump(pid, &to, &DumpOptions { max_rounds: 1, ..DumpOptions::default() }, &mut |told| {
                    if told.total_bytes > 0 {
                        total.store(told.total_bytes, Ordering::Relaxed);
                    }
                    ControlFlow::Continue(())
                })
            });
            let (mut received, mut has_waited) = (0_u64, false);
            let mut step = |bytes| {
                received += bytes;
                if !has_waited && received.saturating_add(TAIL) > total.load(Ordering::Relaxed) {
                    has_waited = true;
                    std::thread::sleep(Duration::from_millis(400));
                }
                ControlFlow::Continue(())
            };
            let taken = receiver.receive(&path, None, &ReceiveOptions::default(), &mut step);
            sender.join().expect("no panic").expect("sent");
            taken.expect("received");
            assert!(has_waited);
        });
        assert_eq!(victim.command("exit").expect("unharmed"), "ok");
        let core = fs::read(&path).expect("readable");
        let segments = segments(&core);
        let (start, (data, _)) = segments.range(..=region.addr).next_back().expect("in the core");
        let at = (region.addr - start) as usize;
        let pages = data[at..at + region.len as usize].chunks(PAGE);
        let numbers: Vec<u64> =
            pages.map(|page| u64::from_le_bytes(page[..8].try_into().expect("eight"))).collect();
        let last = numbers.iter().copied().max().expect("some");
        for (page, number) in (0..).zip(numbers) {
            assert_eq!(number, last - (last - page) % PAGES, "run {run}: page {page}, last {last}");
        }
    }
}

#[test]
fn a_stop_that_would_be_too_long() {
    let zero = |on_miss| DumpOptions { max_downtime: Some(Duration::ZERO), on_miss, ..options() };
    for way in [WAYS[0], WAYS[1]] {
        for (on_miss, level) in [(OnMiss::Frozen, "frozen"), (OnMiss::Snapshot, "snapshot")] {
            let report = one(way, 11, &zero(on_miss), 20, 2).expect("a dump all the same");
            assert_eq!(report.level, level, "{report:?}");
            assert!(report.missed.is_some());
            let report = tree(way, 11, &zero(on_miss), 20, 2).expect("dumps all the same");
            assert_eq!(report.level, level, "{report:?}");
            assert!(report.processes.iter().all(|process| process.missed.is_some()));
        }
        assert!(matches!(one(way, 11, &zero(OnMiss::Fail), 20, 2), Err(Error::Downtime { .. })));
        assert!(matches!(tree(way, 11, &zero(OnMiss::Fail), 20, 2), Err(Error::Downtime { .. })));
    }
}

/// What the page map doesn't show of memory that isn't the process's alone is in the core all the same.
#[test]
fn shared_memory_that_nobody_may_read() {
    let victim = Victim::spawn("memory", &["sharednone:1M", "protnone"]).expect("it starts");
    for level in [Level::Converge, Level::Frozen, Level::Snapshot, Level::Fuzzy] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("core");
        let options = DumpOptions { level, ..options() };
        dump(victim.pid(), &(&*path).into(), &options, &mut |_| ControlFlow::Continue(())).expect("a dump");
        let core = fs::read(&path).expect("readable");
        for name in ["sharednone", "protnone"] {
            let region = victim.region(name).expect("named");
            let segments = segments(&core);
            let (start, (data, _)) = segments.range(..=region.addr).next_back().expect("in the core");
            let at = (region.addr - start) as usize;
            assert!(data[at..at + region.len as usize] == region.bytes(0, region.len), "{name}, {level:?}");
        }
    }
    victim.finish().expect("unharmed");
}
