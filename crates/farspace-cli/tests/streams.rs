//! `farspace dump` to `farspace receive`: what arrives is what a dump to a file is, and nothing arrives by halves.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use farspace_victims::harness::{Region, Victim};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "common/core_file.rs"]
#[expect(dead_code, clippy::unwrap_used, reason = "a test's own; and no text is looked for in these cores")]
mod core_file;
#[path = "common/mount.rs"]
mod mount;
#[path = "common/place.rs"]
mod place;
#[path = "common/run.rs"]
#[expect(dead_code, reason = "all runs are of commands that were made elsewhere")]
mod run;
#[path = "common/stopped.rs"]
mod stopped;
#[path = "common/stream.rs"]
mod stream;
#[path = "common/victim.rs"]
mod victim;

use core_file::CoreFile;
use mount::Mounted;
use place::Place;
use run::Run;
use stream::{Receiving, dump};

const LEVELS: [&str; 4] = ["converge", "snapshot", "frozen", "fuzzy"];
const ANY: &str = "tcp:127.0.0.1:0";

fn memory(size: &str) -> (Victim, Region) {
    let victim = victim::spawn("memory", &[size]).expect("anonymous memory");
    let region = victim.region("anon").expect("asked for");
    (victim, region)
}

/// All of the region is in the core, and right.
#[track_caller]
fn assert_complete(core: &Path, region: &Region) {
    let core = CoreFile::open(core);
    for offset in (0..region.len).step_by(4096) {
        let page = core.page(region.addr + offset).expect("in the core");
        assert!(page == *region.bytes(offset, 4096), "the page at {offset:#x} is wrong");
    }
}

#[track_caller]
fn assert_ok(run: &Run) {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

#[test]
fn every_level_arrives() {
    let (victim, region) = memory("anon:6M");
    for level in LEVELS {
        for listen in [ANY, "unix:"] {
            for more in [&[][..], &["--compress"], &["--compress=-5"], &["--mechanism", "pidmem"]] {
                if level == "snapshot" && more.contains(&"pidmem") {
                    continue;
                }
                let place = Place::new();
                let socket = format!("unix:{}", place.file("socket").display());
                let listen = if listen == ANY { ANY } else { &socket };
                let receiving = Receiving::start(listen, &place.file("core"), &["--json"]);
                let args = [&["--level", level, "--json"], more].concat();
                let sent = Run::of(&mut dump(victim.pid(), &receiving.address, &args));
                let received = receiving.finish();
                assert_ok(&sent);
                assert_ok(&received);
                let report: serde_json::Value = serde_json::from_slice(&received.stdout).expect("JSON");
                assert_eq!(report["files"][0], format!("core.{}", victim.pid()), "{report}");
                // The socket is gone, and nothing else was left.
                assert_eq!(place.names(), ["core"]);
                assert_complete(&place.file("core"), &region);
            }
        }
    }
    victim.finish().expect("unharmed");
}

/// What a dump to a file is and what arrives are the same, page by page.
#[test]
fn arrives_as_it_would_be_here() {
    let (victim, _) = memory("anon:4M");
    let pid = Pid::from_raw(victim.pid());
    stopped::stop(victim.pid());
    let place = Place::new();
    let here = place.file("here").to_string_lossy().into_owned();
    let receiving = Receiving::start(ANY, &place.file("there"), &[]);
    assert_ok(&Run::of(&mut dump(victim.pid(), &receiving.address, &["--level", "frozen", "--all"])));
    assert_ok(&receiving.finish());
    assert_ok(&Run::of(&mut dump(victim.pid(), &here, &["--level", "frozen", "--all"])));
    kill(pid, Signal::SIGCONT).expect("a process");
    let [here, there] = ["here", "there"].map(|name| CoreFile::open(&place.file(name)));
    // The agent's mappings are in neither.
    assert_eq!(here.segments().len(), there.segments().len());
    let mut different = 0;
    for segment in here.segments() {
        for address in (segment.address..segment.address + segment.len).step_by(4096) {
            let (here, there) = (here.page(address), there.page(address));
            let (here, there) = (here.expect("in the core"), there.expect("in the core"));
            // The kernel writes the CPU that a thread runs on next to its stack (rseq(2)), and a visit can move it.
            let bytes = here.iter().zip(&there).filter(|(a, b)| a != b).count();
            assert!(bytes <= 12, "{bytes} bytes of the page at {address:#x} differ");
            different += usize::from(bytes > 0);
        }
    }
    assert!(different <= 2, "{different} pages differ, and there are two threads");
}

/// Copies bytes from one side to the other, and cuts after so many.
fn cut_after(bytes: u64, to: &str) -> (String, thread::JoinHandle<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp:{}", listener.local_addr().expect("bound"));
    let to = to.trim_start_matches("tcp:").to_owned();
    let copied = thread::spawn(move || {
        let (mut from, _) = listener.accept().expect("a sender");
        let mut onward = TcpStream::connect(to).expect("a receiver");
        let (mut back, mut answers) =
            (from.try_clone().expect("cloned"), onward.try_clone().expect("cloned"));
        let returning = thread::spawn(move || {
            let _ = std::io::copy(&mut answers, &mut back);
        });
        let mut left = bytes;
        let mut buffer = vec![0; 64 << 10];
        while left > 0 {
            let most = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match from.read(&mut buffer[..most]) {
                Ok(0) | Err(_) => break,
                Ok(n) if onward.write_all(&buffer[..n]).is_err() => break,
                Ok(n) => left -= n as u64,
            }
        }
        let _ = onward.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
        let _ = returning.join();
        bytes - left
    });
    (address, copied)
}

/// The connection is cut after any number of bytes: both sides say so, nothing is left, the target runs on.
#[test]
fn a_cut_connection_leaves_nothing() {
    let (victim, region) = memory("anon:8M");
    let whole = {
        let place = Place::new();
        let receiving = Receiving::start(ANY, &place.file("core"), &[]);
        let (address, copied) = cut_after(u64::MAX, &receiving.address);
        assert_ok(&Run::of(&mut dump(victim.pid(), &address, &["--level", "frozen"])));
        assert_ok(&receiving.finish());
        copied.join().expect("no panic")
    };
    assert!(whole > region.len);
    for (at, level) in (0..32u64).zip(LEVELS.iter().cycle()) {
        // Heads are few: half of the cuts are near the beginning and the end, where most of them are.
        let after = match at % 4 {
            0 => at,
            1 => whole - 1 - at,
            _ => at * whole / 32,
        };
        let place = Place::new();
        let receiving = Receiving::start(ANY, &place.file("core"), &[]);
        let (address, copied) = cut_after(after, &receiving.address);
        let sent = Run::of(&mut dump(victim.pid(), &address, &["--level", level]));
        if copied.join().expect("no panic") < after {
            // The stream was shorter this time: nothing was cut.
            assert_ok(&sent);
            assert_ok(&receiving.finish());
            continue;
        }
        sent.fails(6, &[&address]);
        // Without a whole hello it is a stranger, and the receiver goes on waiting.
        if after < 16 {
            assert_ok(&Run::of(&mut dump(victim.pid(), &receiving.address, &["--level", level])));
            let received = receiving.finish();
            assert_ok(&received);
            assert!(received.stderr.contains("turned away"), "{}", received.stderr);
            assert_complete(&place.file("core"), &region);
        } else {
            receiving.finish().fails(1, &["127.0.0.1"]);
            place.is_empty();
        }
    }
    victim.finish().expect("unharmed");
}

#[test]
fn no_space_at_the_receiver() {
    let Some(mounted) = Mounted::new("size=4m") else { return };
    let (victim, _) = memory("anon:24M");
    for more in [&[][..], &["--compress"]] {
        for level in LEVELS {
            let receiving = Receiving::start(ANY, &mounted.place.file("core"), &[]);
            let args = [&["--level", level], more].concat();
            let sent = Run::of(&mut dump(victim.pid(), &receiving.address, &args));
            sent.fails(6, &["the other side gave up", "No space left", "free some space"]);
            receiving.finish().fails(6, &["core", "No space left", "free some space"]);
            mounted.place.is_empty();
        }
    }
    victim.finish().expect("unharmed");
}

#[test]
fn nobody_listens() {
    let (victim, _) = memory("anon:1M");
    let place = Place::new();
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port").port();
    let sent = Run::of(&mut dump(victim.pid(), &format!("tcp:127.0.0.1:{port}"), &[]));
    sent.fails(6, &["Connection refused", "start the receiver first"]);
    let socket = format!("unix:{}", place.file("socket").display());
    Run::of(&mut dump(victim.pid(), &socket, &[])).fails(6, &["start the receiver first"]);
    let taken = Receiving::start(&socket, &place.file("core"), &[]);
    let output = place.file("other");
    let mut second = std::process::Command::new(env!("CARGO_BIN_EXE_farspace"));
    second.args(["receive", "--listen", &socket, "-o"]).arg(&output);
    Run::of(&mut second).fails(1, &["cannot listen", "in use"]);
    kill(Pid::from_raw(taken.pid() as i32), Signal::SIGTERM).expect("a process");
    let ended = taken.finish();
    assert_eq!(ended.code, Some(130), "{}", ended.stderr);
    place.is_empty();
}

/// Who is no receiver is found out before anything is sent.
#[test]
fn not_a_receiver() {
    let (victim, _) = memory("anon:1M");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp:{}", listener.local_addr().expect("bound"));
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a sender");
        stream.write_all(b"220 mail.example ESMTP ready\r\n").expect("sent");
        let mut got = Vec::new();
        let _ = stream.read_to_end(&mut got);
        got.len()
    });
    Run::of(&mut dump(victim.pid(), &address, &[])).fails(6, &["doesn't speak farspace's protocol"]);
    // A hello, and nothing of the target.
    assert_eq!(server.join().expect("no panic"), 16);
}

/// A receiver that takes nothing, from the beginning or after a while: given up after the time that was allowed, and so
/// the target isn't held longer either.
#[test]
fn a_receiver_that_stalls() {
    let (victim, _) = memory("anon:64M");
    for level in LEVELS {
        for answers in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = format!("tcp:{}", listener.local_addr().expect("bound"));
            let begin = Instant::now();
            let args = ["--level", level, "--timeout", "1"];
            let sender = dump(victim.pid(), &address, &args).spawn().expect("starts");
            let (mut stream, _) = listener.accept().expect("a sender");
            if answers {
                let mut hello = [0; 16];
                stream.read_exact(&mut hello).expect("a hello");
                let ready = [&0x101_u32.to_le_bytes()[..], &2_u32.to_le_bytes(), b"FARSPACE"].concat();
                stream.write_all(&ready).expect("taken");
            }
            let sent = Run::ended(sender.wait_with_output().expect("an end"));
            sent.fails(6, &["nothing moved for 1 s", "--timeout"]);
            assert!(begin.elapsed() < Duration::from_secs(60), "{:?}", begin.elapsed());
        }
    }
    victim.finish().expect("unharmed");
}

/// A dump of a target over a slow connection; `fate` happens to the target when its memory is under way.
fn sent_midway(level: &str, fate: impl Fn(&mut Victim)) -> (Run, Victim) {
    let (mut victim, region) = memory("anon:128M");
    let place = Place::new();
    let receiving = Receiving::start(ANY, &place.file("core"), &[]);
    let (address, under_way, goes_on) = slow(&receiving.address);
    let sender = dump(victim.pid(), &address, &["--level", level]).spawn().expect("starts");
    under_way.recv().expect("memory of the target");
    fate(&mut victim);
    drop(goes_on);
    let sent = Run::ended(sender.wait_with_output().expect("an end"));
    let received = receiving.finish();
    if sent.code == Some(0) {
        assert_ok(&received);
        assert_complete(&place.file("core"), &region);
    } else {
        sent.fails(1, &["ended or executed another program"]);
        received.fails(1, &[]);
        place.is_empty();
    }
    (sent, victim)
}

/// A target that ends in the middle: both sides say so, and nothing is left; or it was over already.
#[test]
fn a_target_that_ends() {
    for level in LEVELS {
        let (sent, _victim) = sent_midway(level, |victim| {
            kill(Pid::from_raw(victim.pid()), Signal::SIGKILL).expect("a process");
        });
        // Only a snapshot may have all of the memory by then.
        assert!(sent.code == Some(1) || level == "snapshot", "{level} is complete");
    }
}

/// The same of a target that executes another program: it is that program, unharmed.
#[test]
fn a_target_that_executes_another_program() {
    for level in LEVELS {
        let execs = |victim: &mut Victim| {
            assert!(victim.answer().expect("exec").starts_with("ready"), "{level}");
        };
        // A frozen one does it later.
        let is_frozen = level == "frozen";
        let (sent, mut victim) = sent_midway(level, |victim| {
            victim.send("exec");
            if !is_frozen {
                execs(victim);
            }
        });
        if is_frozen {
            execs(&mut victim);
        }
        let is_complete = ["snapshot", "frozen"].contains(&level);
        assert_eq!(sent.code == Some(0), is_complete, "{level}: {}", sent.stderr);
        victim.check_detached().unwrap_or_else(|failure| panic!("{level}: {failure}"));
        victim.finish().unwrap_or_else(|failure| panic!("{level}: {failure}"));
    }
}

/// A target that forks, maps and starts threads all the time: the core arrives, and it and its children are unharmed.
#[test]
fn a_target_that_forks() {
    let mut victim = victim::spawn("storm", &["fork", "mmap", "thread"]).expect("everywhere");
    for level in LEVELS {
        let place = Place::new();
        let receiving = Receiving::start(ANY, &place.file("core"), &[]);
        // However long the stop takes on this machine, it is to be this level.
        let args = ["--level", level, "--json", "--max-downtime", "60000"];
        let sent = Run::of(&mut dump(victim.pid(), &receiving.address, &args));
        assert_ok(&sent);
        assert_ok(&receiving.finish());
        let report: serde_json::Value = serde_json::from_slice(&sent.stdout).expect("JSON");
        let core = CoreFile::open(&place.file("core"));
        assert!(core.segments().len() > 10 && report["level"] == level, "{report}");
        victim.check_detached().unwrap_or_else(|failure| panic!("{level}: {failure}"));
    }
    victim.finish().expect("unharmed");
}

/// The target writes all the time, and the receiver is slow: what the target writes after the stop is in no page, although
/// the pages themselves are in the socket's queue.
#[test]
fn one_instant_at_a_slow_receiver() {
    let converge = &["--level", "converge"][..];
    // What has changed last fits into farspace's memory, and doesn't.
    let cases: [(u64, &[&str]); 5] = [
        (512, converge),
        (6144, converge),
        (6144, &["--level", "converge", "--compress=1"]),
        (6144, &["--level", "frozen"]),
        (6144, &["--level", "snapshot"]),
    ];
    for (pages, args) in cases {
        let sweep = ["--pages", &pages.to_string()];
        let mut victim = victim::spawn("sweep", &sweep).expect("everywhere");
        let region = victim.region("anon").expect("named");
        let place = Place::new();
        let receiving = Receiving::start(ANY, &place.file("core"), &[]);
        let (address, _copied, _) = slow(&receiving.address);
        assert_ok(&Run::of(&mut dump(victim.pid(), &address, args)));
        assert_ok(&receiving.finish());
        assert_eq!(victim.command("exit").expect("unharmed"), "ok");
        let core = CoreFile::open(&place.file("core"));
        let number = |page: u64| {
            let bytes = core.page(region.addr + page * 4096).expect("in the core");
            u64::from_le_bytes(bytes[..8].try_into().expect("eight"))
        };
        let numbers: Vec<u64> = (0..pages).map(number).collect();
        let last = numbers.iter().copied().max().expect("some");
        for (page, number) in (0..).zip(numbers) {
            let expected = last - (last - page) % pages;
            assert_eq!(number, expected, "page {page} of {pages} with {args:?}, last {last}");
        }
    }
}

/// A connection of some 100 MB/s; it says when there is some memory in it, and not only what comes before, and then waits for
/// the sender's end.
fn slow(to: &str) -> (String, mpsc::Receiver<()>, mpsc::Sender<()>) {
    const BEFORE: usize = 1 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("tcp:{}", listener.local_addr().expect("bound"));
    let to = to.trim_start_matches("tcp:").to_owned();
    let (tell, under_way) = mpsc::channel();
    let (goes_on, until) = mpsc::channel::<()>();
    thread::spawn(move || {
        let (mut from, _) = listener.accept().expect("a sender");
        let mut onward = TcpStream::connect(to).expect("a receiver");
        let (mut back, mut answers) =
            (from.try_clone().expect("cloned"), onward.try_clone().expect("cloned"));
        thread::spawn(move || {
            let _ = std::io::copy(&mut answers, &mut back);
            let _ = back.shutdown(Shutdown::Write);
        });
        let (mut buffer, mut so_far) = (vec![0; 256 << 10], 0);
        while let Ok(n) = from.read(&mut buffer) {
            if n == 0 || onward.write_all(&buffer[..n]).is_err() {
                break;
            }
            so_far += n;
            if so_far > BEFORE {
                let _ = tell.send(());
                // Once; nothing is ever sent.
                let _ = until.recv();
            }
            thread::sleep(Duration::from_millis(2));
        }
        let _ = onward.shutdown(Shutdown::Write);
    });
    (address, under_way, goes_on)
}
