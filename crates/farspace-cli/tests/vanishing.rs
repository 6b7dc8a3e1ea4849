//! Targets that end or become another program while their memory is being read.
//!
//! farspace is stopped in the middle, then the target's fate is sealed, then farspace goes on: it must end in time
//! with a clear error and without an output, or with one that is complete.

use std::cell::Cell;
use std::fs;
use std::io::Read as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farspace_victims::harness::{Region, Victim};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

#[path = "common/midway.rs"]
mod midway;
#[path = "common/place.rs"]
mod place;
#[path = "common/run.rs"]
mod run;
#[path = "common/stopped.rs"]
mod stopped;
#[path = "common/victim.rs"]
mod victim;

use place::Place;
use run::Run;

const LEVELS: [&str; 4] = ["converge", "snapshot", "frozen", "fuzzy"];
/// How often at most something is begun anew that was over before this process got to it: it may have had no CPU for a while.
const TRIES: u32 = 20;

fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).expect("a process to signal");
}

fn start(args: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("farspace starts")
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
    assert!(begin.elapsed() < Duration::from_secs(60), "{:?}: {}", begin.elapsed(), run.stderr);
    run
}

/// Dumps a victim; `fate` happens to it in the middle.
fn dump_midway(level: &str, more: &[&str], fate: impl Fn(&mut Victim)) -> (Run, Victim) {
    let place = Place::new();
    let mut victim = victim::spawn("memory", &["anon:256M"]).expect("anonymous memory");
    let (pid, region) = (victim.pid().to_string(), victim.region("anon").expect("asked for"));
    let file = place.file("out");
    let midway = || {
        let mut farspace =
            start(&[&["dump", &pid, "-o", &file.to_string_lossy(), "--level", level], more].concat());
        if midway::stop(&mut farspace, place.path()) {
            return Some(farspace);
        }
        let run = Run::ended(farspace.wait_with_output().expect("an end"));
        assert_eq!(run.code, Some(0), "{level}: {}", run.stderr);
        fs::remove_file(&file).expect("a core");
        None
    };
    let farspace = (0..TRIES).find_map(|_| midway()).expect("over each time before it could be stopped");
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
        let is_refused = || {
            let (run, _victim) = dump_midway(level, &[], |victim| {
                signal(victim.pid() as u32, Signal::SIGKILL);
            });
            run.code == Some(1)
        };
        // Half of the memory can't be read any more, unless farspace was stopped late.
        let tries = if ["fuzzy", "frozen"].contains(&level) { TRIES } else { 1 };
        let is_ever_refused = (0..tries).any(|_| is_refused());
        assert!(is_ever_refused || tries == 1, "{level}: complete each time");
    }
}

/// Dumps a victim that executes another program in the middle: that is unharmed, and has nothing of farspace in it.
fn exec_midway(level: &str, more: &[&str]) -> Run {
    let context = format!("{level}, {more:?}");
    let is_ready = |victim: &mut Victim| assert!(victim.answer().expect("exec").starts_with("ready"));
    let was_held = Cell::new(false);
    let (run, mut victim) = dump_midway(level, more, |victim| {
        // A frozen target execs later.
        was_held.set(midway::is_held(victim.pid()));
        victim.send("exec");
        if !was_held.get() {
            is_ready(victim);
        }
    });
    if was_held.get() {
        is_ready(&mut victim);
    }
    victim.check_detached().unwrap_or_else(|failure| panic!("{context}: {failure}"));
    victim.finish().unwrap_or_else(|failure| panic!("{context}: {failure}"));
    run
}

#[test]
fn execing_while_being_dumped() {
    for level in LEVELS {
        exec_midway(level, &[]);
    }
}

/// Whatever reads the memory: what a program had at an address is no page of the one before it.
#[test]
fn execing_while_being_read() {
    for mechanism in ["agent", "pidmem", "readv"] {
        // Unless farspace was stopped late, when it had read everything.
        let is_refused = || exec_midway("fuzzy", &["--mechanism", mechanism]).code == Some(1);
        assert!((0..TRIES).any(|_| is_refused()), "{mechanism}: complete each time");
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
                // Late each time, on a busy machine, it may not have met the same program twice.
                _ if run.stderr.contains("try again") || run.stderr.contains("prepare a visit") => {}
                _ => run.fails(1, &[&pid, "ended or executed another program"]),
            }
            place.is_empty();
        }
        victim.finish().unwrap_or_else(|failure| panic!("{failure}"));
    }
}
