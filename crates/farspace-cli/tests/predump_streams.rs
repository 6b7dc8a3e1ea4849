//! `farspace predump` to a receiver and to a page server: the images there are what they would have been here.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use farspace_image::criu::{ImageId, PageFlags, Pagemap, pages_name};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
#[expect(dead_code, reason = "nothing is dumped here")]
mod stream;
#[path = "common/victim.rs"]
mod victim;

use mount::Mounted;
use place::Place;
use run::Run;
use stream::Receiving;

fn predump(pid: i32, args: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(["predump", &pid.to_string()]).args(args).stdin(Stdio::null());
    Run::of(&mut command)
}

#[track_caller]
fn assert_ok(run: &Run) {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
}

/// All pages of a process in an image directory, by address.
fn pages(directory: &Path, pid: i32) -> BTreeMap<u64, Vec<u8>> {
    let name = ImageId::Process(pid as u32).pagemap_name();
    let map =
        Pagemap::read(std::fs::File::open(directory.join(name)).expect("a pagemap")).expect("a pagemap");
    let bytes = std::fs::read(directory.join(pages_name(map.pages_id))).expect("pages");
    let (mut all, mut at) = (BTreeMap::new(), 0);
    for run in map.runs().iter().filter(|run| run.flags.contains(PageFlags::PRESENT)) {
        for address in run.range().step_by(4096) {
            all.insert(address, bytes[at..at + 4096].to_vec());
            at += 4096;
        }
    }
    assert_eq!(at, bytes.len());
    all
}

/// The same addresses, and the same bytes but for where the kernel notes the CPU of a thread (rseq(2)), and what a
/// visit's system calls leave on a stack.
#[track_caller]
fn assert_same(here: &BTreeMap<u64, Vec<u8>>, there: &BTreeMap<u64, Vec<u8>>) {
    assert!(here.len() > 1000);
    assert!(here.keys().eq(there.keys()), "{} and {} pages", here.len(), there.len());
    let differ = here.iter().filter(|(address, bytes)| there.get(address) != Some(bytes)).count();
    assert!(differ <= 3, "{differ} pages differ");
}

#[test]
fn images_arrive() {
    let victim = victim::spawn("memory", &["anon:6M"]).expect("anonymous memory");
    let pid = victim.pid();
    stopped::stop(pid);
    let place = Place::new();
    let path = |name: &str| place.file(name).to_string_lossy().into_owned();
    assert_ok(&predump(pid, &["-o", &path("here")]));
    let here = pages(&place.file("here"), pid);

    for (name, more) in [("there", &[][..]), ("packed", &["--compress=1"])] {
        let receiving = Receiving::start("tcp:127.0.0.1:0", &place.file(name), &[]);
        let address = receiving.address.clone();
        assert_ok(&predump(pid, &[&["-o", &address], more].concat()));
        assert_ok(&receiving.finish());
        assert_same(&here, &pages(&place.file(name), pid));
        let names = |name: &str| {
            let entries = std::fs::read_dir(place.file(name)).expect("a directory").flatten();
            entries.map(|entry| entry.file_name()).collect::<std::collections::BTreeSet<_>>()
        };
        assert_eq!(names("here"), names(name));
    }

    let receiving = Receiving::start("tcp:127.0.0.1:0", &place.file("pages"), &["--page-server"]);
    let address = receiving.address.clone();
    assert_ok(&predump(pid, &["-o", &path("rest"), "--page-server", &address]));
    assert_ok(&receiving.finish());
    assert_same(&here, &pages(&place.file("pages"), pid));
    assert!(place.file("rest").join("inventory.img").exists());

    // The next of a chain: the receiver has the parent, and is asked what it has.
    let receiving = Receiving::start("tcp:127.0.0.1:0", &place.file("next"), &["--parent", &path("there")]);
    let address = receiving.address.clone();
    assert_ok(&predump(pid, &["-o", &address]));
    assert_ok(&receiving.finish());
    assert_eq!(std::fs::read_link(place.file("next").join("parent")).expect("a link"), Path::new("../there"));
    kill(Pid::from_raw(pid), Signal::SIGCONT).expect("a process");
    victim.finish().expect("unharmed");
}

/// No space where the images go: both sides say so, nothing is left there, and the target runs on.
#[test]
fn no_space_at_the_receiver() {
    let Some(mounted) = Mounted::new("size=4m") else { return };
    let victim = victim::spawn("memory", &["anon:24M"]).expect("anonymous memory");
    let path = mounted.place.file("images");
    for more in [&[][..], &["--compress"]] {
        let receiving = Receiving::start("tcp:127.0.0.1:0", &path, &[]);
        let address = receiving.address.clone();
        let sent = predump(victim.pid(), &[&["-o", &address], more].concat());
        sent.fails(6, &["the other side gave up", "No space left", "free some space"]);
        receiving.finish().fails(6, &["images", "No space left", "free some space"]);
        mounted.place.is_empty();
    }
    let rest = Place::new();
    let receiving = Receiving::start("tcp:127.0.0.1:0", &path, &["--page-server"]);
    let (address, here) = (receiving.address.clone(), rest.file("rest").to_string_lossy().into_owned());
    let sent = predump(victim.pid(), &["-o", &here, "--page-server", &address]);
    assert_eq!(sent.code, Some(6), "{}", sent.stderr);
    receiving.finish().fails(6, &["images", "No space left", "free some space"]);
    mounted.place.is_empty();
    rest.is_empty();
    victim.finish().expect("unharmed");
}

/// The target is killed in the middle, or forks all the time.
#[test]
fn targets_that_end_or_fork() {
    for after_ms in [5_u64, 20, 60, 150] {
        let victim = victim::spawn("memory", &["anon:192M"]).expect("anonymous memory");
        let place = Place::new();
        let receiving = Receiving::start("tcp:127.0.0.1:0", &place.file("images"), &["--timeout", "10"]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
        command.args(["predump", &victim.pid().to_string(), "-o", &receiving.address]).stdin(Stdio::null());
        let sender = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
        std::thread::sleep(std::time::Duration::from_millis(after_ms));
        kill(Pid::from_raw(victim.pid()), Signal::SIGKILL).expect("a process");
        let sent = Run::ended(sender.wait_with_output().expect("an end"));
        if sent.code == Some(0) {
            assert_ok(&receiving.finish());
        } else {
            assert!([Some(1), Some(3)].contains(&sent.code), "{}", sent.stderr);
            assert_eq!(sent.stderr.lines().count(), 1, "{}", sent.stderr);
            // Before anybody has connected it goes on waiting.
            kill(Pid::from_raw(receiving.pid() as i32), Signal::SIGTERM).expect("a process");
            let received = receiving.finish();
            assert!([Some(1), Some(130)].contains(&received.code), "{}", received.stderr);
            place.is_empty();
        }
    }
    let mut victim = victim::spawn("storm", &["fork", "mmap", "thread"]).expect("everywhere");
    for _ in 0..3 {
        let place = Place::new();
        let receiving = Receiving::start("tcp:127.0.0.1:0", &place.file("images"), &[]);
        let address = receiving.address.clone();
        assert_ok(&predump(victim.pid(), &["-o", &address]));
        assert_ok(&receiving.finish());
        assert!(pages(&place.file("images"), victim.pid()).len() > 10);
        victim.check_detached().expect("unharmed");
    }
    victim.finish().expect("unharmed");
}

#[test]
fn what_does_not_go_together() {
    let pid = std::process::id() as i32;
    let place = Place::new();
    let dir = place.file("x").to_string_lossy().into_owned();
    predump(pid, &["-o", "tcp:h:1", "--page-server", "tcp:h:2"]).fails(2, &["--page-server"]);
    predump(pid, &["-o", "tcp:h:1", "--iterations", "2"]).fails(2, &["one iteration"]);
    predump(pid, &["-o", "tcp:h:1", "--parent", "x"]).fails(2, &["--parent", "farspace receive"]);
    predump(pid, &["-o", &dir, "--page-server", "tcp:h:1", "--compress"]).fails(2, &["--compress"]);
    place.is_empty();
}
