//! Cores of live processes as gdb and readelf see them, against gcore's cores of the same process.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

mod common {
    pub(crate) mod child;
    pub(crate) mod core_file;
    pub(crate) mod debugger;
    pub(crate) mod dump;
    pub(crate) mod footprint;
    pub(crate) mod programs;
    pub(crate) mod reference;
    pub(crate) mod specimen;
    pub(crate) mod sysctl;
    pub(crate) mod workdir;
}

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use common::core_file::CoreFile;
use common::debugger::{self, Answers};
use common::dump::{LEVELS, dump};
use common::footprint::{Footprint, assert_clean};
use common::reference::{assert_readelf_accepts, gcore};
use common::specimen::Specimen;
use common::sysctl::Sysctl;
use common::workdir::Workdir;

const MIB: u64 = 1 << 20;

/// What gdb is asked, and what its answer must contain anyway (an equal answer may be equally wrong).
const QUESTIONS: [(&str, &str); 33] = [
    ("info threads", "(LWP "),
    ("thread apply all bt", "deep (depth=3)"),
    ("thread apply all bt full", "local = "),
    ("info sharedlibrary", "plugin.so"),
    ("thread apply all -c p $_siginfo", "Thread 9"),
    ("thread apply all info registers", "eflags"),
    ("thread apply all p $ymm0", "Thread 9"),
    ("thread apply all p $ymm15", "Thread 9"),
    ("thread apply all p $zmm0", "Thread 9"),
    ("thread apply all p $zmm31", "Thread 9"),
    ("thread apply all p $k1", "Thread 9"),
    ("thread apply all info all-registers", "mxcsr"),
    ("thread apply all info float", "Thread 9"),
    ("thread apply all p tls_value", " = 108"),
    ("p *list", "number = 1"),
    ("p plugin_tls", " = 77"),
    ("p plugin_global", " = 1001"),
    ("p counter", " = 42"),
    ("p root", " = 1.73205"),
    ("p constant", "constant text"),
    ("p *list->next->next", "number = 3"),
    ("p in_place", " = 10"),
    ("x/s private_memory + 4096", "private text"),
    ("x/s shared_memory + 4096", "shared text"),
    ("x/s none_memory + 4096", "unreadable text"),
    ("x/s unforked_memory + 4096", "unforked text"),
    ("x/s wiped_memory + 4096", "wiped text"),
    ("x/s locked_memory + 4096", "locked text"),
    ("x/s written_file_memory + 4096", "written text"),
    ("x/4c huge_memory + 4190000", "'h'"),
    ("x/2gx untouched_memory", "0x0000000000000000"),
    ("info auxv", "AT_SYSINFO_EHDR"),
    ("info proc mappings", "libc.so"),
];

fn ask(specimen: &Specimen, core: &Path) -> Answers {
    debugger::ask(&specimen.executable, core, &QUESTIONS.map(|(question, _)| question))
}

/// Answers about a running process, in which a restart is shown as the EINTR that it was.
///
/// Where a stop gives EINTR (epoll_wait), a visit makes the thread restart, and may stop it again before it did.
fn ask_running(specimen: &Specimen, core: &Path) -> Answers {
    let mut found = ask(specimen, core);
    for answer in &mut found.answers {
        *answer = answer.replace("0xfffffffffffffdfe  -514", "0xfffffffffffffffc  -4");
        *answer = answer.replace("sc_ret = -514", "sc_ret = -4");
    }
    found
}

/// Fails with every question that is answered differently.
#[track_caller]
fn assert_equal(ours: &Answers, theirs: &Answers, which: &str) {
    let known = theirs.warnings();
    let new: Vec<_> = ours.warnings().into_iter().filter(|line| !known.contains(line)).collect();
    assert!(new.is_empty(), "{which}: on opening the core gdb says {new:#?}");
    let mut wrong = String::new();
    for (i, (question, expected)) in QUESTIONS.iter().enumerate() {
        let (ours, theirs) = (&ours.answers[i], &theirs.answers[i]);
        if ours != theirs {
            wrong += &format!("\n== {question}\n{}", difference(ours, theirs));
        } else if !ours.contains(expected) {
            wrong += &format!("\n== {question}: no \"{expected}\" in\n{ours:.1000}");
        }
    }
    assert!(wrong.is_empty(), "{which}: gdb's answers differ from those for gcore's core:{wrong}");
}

/// The lines that only one of the two has.
fn difference(ours: &str, theirs: &str) -> String {
    let only = |this: &str, other: &str, sign: char| {
        let missing = this.lines().filter(|line| !other.lines().any(|o| o == *line));
        missing.take(20).map(|line| format!("{sign} {line}\n")).collect::<String>()
    };
    only(ours, theirs, '+') + &only(theirs, ours, '-')
}

/// Fails if pages that both cores hold differ.
#[track_caller]
fn assert_same_memory(specimen: &Specimen, ours: &Path, theirs: &Path, which: &str) {
    let (ours, theirs) = (CoreFile::open(ours), CoreFile::open(theirs));
    let (mut compared, mut wrong) = (0, String::new());
    for segment in theirs.segments() {
        for address in (segment.address..segment.address + segment.len).step_by(4096) {
            let (Some(a), Some(b)) = (ours.page(address), theirs.page(address)) else { continue };
            compared += 1;
            if a != b {
                let bytes = a.iter().zip(&b).filter(|(a, b)| a != b).count();
                let first = a.iter().zip(&b).position(|(a, b)| a != b).unwrap_or_default();
                wrong +=
                    &format!("\n{bytes} bytes from {address:#x} + {first:#x}: {}", specimen.mapping(address));
            }
        }
    }
    assert!(wrong.is_empty(), "{which}: pages differ from gcore's:{wrong}");
    assert!(compared > 1024, "{which}: only {compared} pages are in both cores");
}

#[test]
fn stopped_process_looks_as_in_gcores_core() {
    let dir = Workdir::with_room(512 * MIB);
    let specimen = Specimen::start(&dir, "plain");
    let pid = specimen.pid();
    let (maps, footprint) = (specimen.maps(), Footprint::of(pid));
    // A thread that was stopped in a sleep goes on in restart_syscall: let that be so for the first core, too.
    specimen.stop();
    specimen.resume();
    specimen.stop();
    let theirs = gcore(pid, &dir.join("gcore"), &[]);
    let theirs_all = gcore(pid, &dir.join("gcore-all"), &["-a"]);
    let answers = (ask(&specimen, &theirs), ask(&specimen, &theirs_all));
    for level in LEVELS {
        let (ours, ours_all) = (dir.join(level), dir.join(&format!("{level}-all")));
        dump(pid, &ours, level, &[]);
        dump(pid, &ours_all, level, &["--all"]);
        assert!(specimen.is_stopped(), "{level}: the stopped process goes on");
        assert_readelf_accepts(&ours);
        assert_same_memory(&specimen, &ours, &theirs, level);
        assert_same_memory(&specimen, &ours_all, &theirs_all, level);
        assert_equal(&ask(&specimen, &ours), &answers.0, level);
        assert_equal(&ask(&specimen, &ours_all), &answers.1, &format!("{level} --all"));
    }
    specimen.resume();
    assert_clean(pid, &footprint);
    assert_eq!(specimen.maps(), maps);
}

#[test]
fn running_process_looks_as_in_gcores_core() {
    let dir = Workdir::with_room(512 * MIB);
    let specimen = Specimen::start(&dir, "plain");
    let pid = specimen.pid();
    let footprint = Footprint::of(pid);
    specimen.stop();
    specimen.resume();
    let theirs = gcore(pid, &dir.join("gcore"), &[]);
    let answers = ask_running(&specimen, &theirs);
    let maps = specimen.maps();
    for level in LEVELS {
        specimen.settle();
        let ours = dir.join(level);
        dump(pid, &ours, level, &[]);
        assert_readelf_accepts(&ours);
        let ours = ask_running(&specimen, &ours);
        assert_equal(&ours, &answers, level);
        // A stopped process has none, to gdb; a running one was stopped for the core.
        assert_eq!(ours.answers.concat().matches("si_signo = 19").count(), 10, "{level}: siginfo");
    }
    specimen.settle();
    assert_clean(pid, &footprint);
    assert_eq!(specimen.maps(), maps);
}

#[test]
fn absent_pages_are_holes() {
    let dir = Workdir::with_room(512 * MIB);
    let specimen = Specimen::start(&dir, "sparse");
    // The specimen tells where the text of every kind is: a page into the memory.
    let start = specimen.address("sparse") - 4096;
    for level in LEVELS {
        let path = dir.join(level);
        let report = dump(specimen.pid(), &path, level, &[]);
        let file = fs::metadata(&path).unwrap();
        let held = file.blocks() * 512;
        assert!(file.len() > 1024 * MIB, "{level}: the core has {} bytes", file.len());
        assert!(held < 32 * MIB, "{level}: the core takes {held} bytes of the disk");
        assert!(report["bytes_written"].as_u64().unwrap() < 32 * MIB, "{report}");
        let core = CoreFile::open(&path);
        for (offset, text) in [(0, "first"), (512 * MIB, "middle"), (1024 * MIB - 4096, "last"), (4096, "")] {
            assert_eq!(core.text(start + offset).as_deref(), Some(text), "{level}: at {offset:#x}");
        }
        let answers = ["x/s sparse_memory + (512 << 20)", "x/2gx sparse_memory + (100 << 20)"];
        let answers = debugger::ask(&specimen.executable, &path, &answers).answers;
        assert!(answers[0].contains("\"middle\""), "{level}: {}", answers[0]);
        assert!(answers[1].contains("0x0000000000000000"), "{level}: {}", answers[1]);
    }
}

#[test]
fn coredump_filter_decides() {
    let dir = Workdir::with_room(512 * MIB);
    let specimen = Specimen::start(&dir, "plain");
    let setting = format!("/proc/{}/coredump_filter", specimen.pid());
    // Of core(5): 1 private anonymous, 2 shared anonymous, 4 private file, 8 shared file.
    let kinds = [("private", 1), ("shared", 2), ("none", 1), ("written_file", 1), ("file", 8)];
    for level in LEVELS {
        for mask in [0x0u32, 0x1, 0x2, 0x8, 0x33, 0x7f] {
            fs::write(&setting, format!("{mask:#x}")).unwrap();
            let (own, given) = (dir.join("own"), dir.join("given"));
            dump(specimen.pid(), &own, level, &["--force"]);
            fs::write(&setting, "0x33").unwrap();
            dump(specimen.pid(), &given, level, &["--force", "--filter", &format!("{mask:#x}")]);
            for core in [CoreFile::open(&own), CoreFile::open(&given)] {
                for (kind, bit) in kinds {
                    let found = core.page(specimen.address(kind)).is_some();
                    assert_eq!(found, mask & bit != 0, "{level}: {kind} memory with the filter {mask:#x}");
                }
                assert!(core.page(specimen.address("undumped")).is_none(), "{level}, {mask:#x}");
            }
        }
        let all = dir.join("all");
        dump(specimen.pid(), &all, level, &["--force", "--all"]);
        let all = CoreFile::open(&all);
        for (kind, text) in [
            ("private", "private text"),
            ("shared", "shared text"),
            ("none", "unreadable text"),
            ("file", "file text"),
            ("written_file", "written text"),
            ("unforked", "unforked text"),
            ("undumped", "undumped text"),
            ("wiped", "wiped text"),
            ("locked", "locked text"),
        ] {
            let found = all.text(specimen.address(kind));
            assert_eq!(found.as_deref(), Some(text), "{level} --all: {kind} memory");
        }
    }
}

/// More segments than the ELF header's field can count (PN_XNUM, elf(5)).
#[test]
fn more_mappings_than_an_elf_header_counts() {
    // Stays in force until the process has gone.
    let limit = match Sysctl::at_least("vm/max_map_count", 140_000) {
        Ok(limit) => limit,
        Err(reason) => return eprintln!("skipped: vm.max_map_count can't be raised: {reason}"),
    };
    let dir = Workdir::with_room(1024 * MIB);
    let specimen = Specimen::start(&dir, "many");
    let start = specimen.address("many") - 4096;
    for level in LEVELS {
        let path = dir.join(level);
        let report = dump(specimen.pid(), &path, level, &[]);
        assert!(report["segments"].as_u64().unwrap() > 66_000, "{report}");
        assert_readelf_accepts(&path);
        let core = CoreFile::open(&path);
        assert_eq!(core.text(start + 65_999 * 4096).as_deref(), Some("the last of many"), "{level}");
        let questions = ["x/s many_memory + 65999 * 4096", "p counter"];
        let answers = debugger::ask(&specimen.executable, &path, &questions).answers;
        assert!(answers[0].contains("the last of many"), "{level}: {}", answers[0]);
        assert!(answers[1].contains(" = 42"), "{level}: {}", answers[1]);
        fs::remove_file(&path).unwrap();
    }
    drop(specimen);
    drop(limit);
}
