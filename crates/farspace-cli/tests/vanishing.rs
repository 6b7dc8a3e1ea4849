//! Targets that end or become another program while their memory is being read.
//!
//! farspace is stopped in the middle, then the target's fate is sealed, then farspace goes on: it must end in time
//! with a clear error and without an output, or with one that is complete.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farspace_victims::harness::{Region, Victim};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

#[path = "common/place.rs"]
mod place;
#[path = "common/run.rs"]
mod run;
#[path = "common/victim.rs"]
mod victim;

use place::Place;
use run::Run;

const LEVELS: [&str; 4] = ["converge", "snapshot", "frozen", "fuzzy"];

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("a process to signal");
}

fn start(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("farspace starts")
}

/// Stops farspace while it writes: once its nameless output in `directory` has pages. False if it was faster.
fn stop_midway(farspace: &Child, directory: &Path) -> bool {
    let descriptors = format!("/proc/{}/fd", farspace.id());
    let is_growing = |entry: fs::DirEntry| {
        let to = fs::read_link(entry.path()).unwrap_or_default();
        to.starts_with(directory) && fs::metadata(entry.path()).is_ok_and(|m| m.blocks() > 64)
    };
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(20) {
        let Ok(entries) = fs::read_dir(&descriptors) else { return false };
        if entries.flatten().any(is_growing) {
            signal(farspace.id(), Signal::SIGSTOP);
            return true;
        }
    }
    panic!("farspace writes nothing");
}

/// The dump holds the whole region, and it is right.
fn assert_complete(core: &Path, region: Region) {
    let bytes = fs::read(core).expect("a readable core");
    let header = object::elf::FileHeader64::<object::Endianness>::parse(&*bytes).expect("an ELF file");
    let endian = header.endian().expect("known");
    let segments = header.program_headers(endian, &*bytes).expect("program headers");
    let range = region.addr..region.addr + region.len;
    let segment = segments
        .iter()
        .find(|s| s.p_vaddr(endian) <= range.start && range.end <= s.p_vaddr(endian) + s.p_memsz(endian))
        .expect("the region's segment");
    let offset = (segment.p_offset(endian) + range.start - segment.p_vaddr(endian)) as usize;
    let held = &bytes[offset..offset + region.len as usize];
    assert!(held == region.bytes(0, region.len), "the memory in the core is wrong");
}

/// Ends farspace, bounded in time.
fn finish(farspace: Child) -> Run {
    let begin = Instant::now();
    signal(farspace.id(), Signal::SIGCONT);
    let run = Run::ended(farspace.wait_with_output().expect("an end"));
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}: {}", begin.elapsed(), run.stderr);
    run
}

/// Dumps a victim; `fate` happens to it in the middle.
fn dump_midway(level: &str, more: &[&str], fate: impl Fn(&mut Victim)) -> (Run, Victim) {
    let place = Place::new();
    let mut victim = victim::spawn("memory", &["anon:256M"]).expect("anonymous memory");
    let (pid, region) = (victim.pid().to_string(), victim.region("anon").expect("asked for"));
    let file = place.file("out");
    let farspace = start(&[&["dump", &pid, "-o", &file.to_string_lossy(), "--level", level], more].concat());
    let stopped = stop_midway(&farspace, place.path());
    assert!(stopped, "{level}: over before it could be stopped");
    fate(&mut victim);
    let run = finish(farspace);
    if run.code == Some(0) {
        assert_complete(&file, region);
    } else {
        run.fails(1, &[&pid, "ended or executed another program"]);
        place.is_empty();
    }
    eprintln!("{level}: exit {:?}", run.code);
    (run, victim)
}

#[test]
fn killed_while_being_dumped() {
    for level in LEVELS {
        let (run, victim) = dump_midway(level, &[], |victim| {
            signal(victim.pid() as u32, Signal::SIGKILL);
        });
        // Half of the memory can't have been read any more.
        assert_ne!((level, run.code), ("fuzzy", Some(0)));
        assert_ne!((level, run.code), ("frozen", Some(0)));
        drop(victim);
    }
}

#[test]
fn execing_while_being_dumped() {
    for level in LEVELS {
        let (_, mut victim) = dump_midway(level, &[], |victim| {
            victim.send("exec");
            // A frozen target execs later.
            if level != "frozen" {
                assert!(victim.answer().expect("exec").starts_with("ready"));
            }
        });
        if level == "frozen" {
            assert!(victim.answer().expect("exec").starts_with("ready"));
        }
        // The new program has nothing of farspace in it.
        victim.check_detached().unwrap_or_else(|failure| panic!("{level}: {failure}"));
        victim.finish().unwrap_or_else(|failure| panic!("{level}: {failure}"));
    }
}

/// Whatever reads the memory: what a program had at an address is no page of the one before it.
#[test]
fn execing_while_being_read() {
    for mechanism in ["agent", "pidmem", "readv"] {
        let (run, mut victim) = dump_midway("fuzzy", &["--mechanism", mechanism], |victim| {
            victim.send("exec");
            assert!(victim.answer().expect("exec").starts_with("ready"));
        });
        assert_eq!(run.code, Some(1), "{mechanism}: {}", run.stderr);
        victim.check_detached().unwrap_or_else(|failure| panic!("{mechanism}: {failure}"));
        victim.finish().unwrap_or_else(|failure| panic!("{mechanism}: {failure}"));
    }
}

/// Splices a victim into a socket that nobody reads from until `fate` has happened.
fn splice_midway(fate: impl Fn(&mut Victim)) -> Victim {
    let place = Place::new();
    let mut victim = victim::spawn("memory", &["anon:64M"]).expect("anonymous memory");
    let (pid, region) = (victim.pid().to_string(), victim.region("anon").expect("asked for"));
    let socket = place.file("socket");
    let listener = UnixListener::bind(&socket).expect("bind");
    let range = format!("{:#x}+{}", region.addr, region.len);
    let farspace = start(&["splice", &pid, &range, "-o", &format!("unix:{}", socket.display())]);
    let (mut peer, _) = listener.accept().expect("a connection");
    let mut first = vec![0; 1 << 16];
    peer.read_exact(&mut first).expect("the first bytes");
    fate(&mut victim);
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("the rest");
    let run = finish(farspace);
    // What did arrive is the old program's memory: the agent keeps it as long as the transfer takes.
    let got = [first, rest].concat();
    assert!(got == region.bytes(0, got.len() as u64), "wrong bytes");
    if run.code != Some(0) {
        run.fails(1, &[&pid, "ended or executed another program"]);
    } else {
        assert_eq!(got.len() as u64, region.len);
    }
    victim
}

#[test]
fn killed_while_being_spliced() {
    drop(splice_midway(|victim| signal(victim.pid() as u32, Signal::SIGKILL)));
}

#[test]
fn execing_while_being_spliced() {
    let mut victim = splice_midway(|victim| {
        victim.send("exec");
        assert!(victim.answer().expect("exec").starts_with("ready"));
    });
    victim.check_detached().unwrap_or_else(|failure| panic!("{failure}"));
    victim.finish().unwrap_or_else(|failure| panic!("{failure}"));
}

/// Ended or execing within the first moments, when the agent is being placed.
#[test]
fn ending_while_farspace_attaches() {
    let place = Place::new();
    let file = place.file("out");
    for round in 0..40 {
        let after = (round * 250).to_string();
        let victim =
            victim::spawn("exit-race", &["--after-us", &after, "--threads", "2"]).expect("everywhere");
        let pid = victim.pid().to_string();
        let level = LEVELS[round % LEVELS.len()];
        let run = Run::new(&["dump", &pid, "-o", &file.to_string_lossy(), "--level", level]);
        match run.code {
            Some(0) => fs::remove_file(&file).expect("a core"),
            Some(3) => run.fails(3, &[&pid]),
            _ => run.fails(1, &[&pid, "ended or executed another program"]),
        }
        place.is_empty();
        victim.result().unwrap_or_else(|failure| panic!("round {round}, {level}: {failure}"));
    }
}

#[test]
fn execing_all_the_time() {
    let place = Place::new();
    let file = place.file("out");
    for threads in ["1", "6"] {
        let victim = victim::spawn("exec-loop", &["--threads", threads]).expect("everywhere");
        let pid = victim.pid().to_string();
        for round in 0..30 {
            let level = LEVELS[round % LEVELS.len()];
            let run = Run::new(&["dump", &pid, "-o", &file.to_string_lossy(), "--level", level]);
            match run.code {
                Some(0) => fs::remove_file(&file).expect("a core"),
                _ => run.fails(1, &[&pid, "ended or executed another program"]),
            }
            place.is_empty();
        }
        victim.finish().unwrap_or_else(|failure| panic!("{failure}"));
    }
}
