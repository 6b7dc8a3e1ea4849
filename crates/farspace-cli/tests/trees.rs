//! `farspace dump --tree`: a process and its descendants at one instant, and nobody stays stopped.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

#[expect(dead_code, clippy::unwrap_used, reason = "a test's own; and not all that these can do is needed")]
mod common {
    pub(crate) mod child;
    pub(crate) mod core_file;
    pub(crate) mod place;
    pub(crate) mod run;
    pub(crate) mod stream;
    pub(crate) mod talk;
}

#[path = "common/mount.rs"]
mod mount;

use common::child::Running;
use common::core_file::CoreFile;
use common::place::{self, Place};
use common::run::Run;
use common::stream::{Receiving, dump};
use mount::Mounted;

/// A family of processes (programs/family.py).
fn family(args: &[&str]) -> Running {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/programs/family.py");
    let mut family = Running::start(Command::new("python3").arg(script).args(args));
    assert_eq!(family.line(), "ready");
    family
}

/// Asks it whether all is well.
#[track_caller]
fn assert_well(mut family: Running) {
    family.tell("?");
    assert_eq!(family.line(), "well");
}

/// The process and its descendants.
fn tree(pid: i32) -> Vec<i32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(&pid) = found.get(at) {
        at += 1;
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
        let children: Vec<i32> = children
            .flat_map(|text| text.split_whitespace().flat_map(str::parse).collect::<Vec<_>>())
            .collect();
        found.extend(children);
    }
    found
}

/// Nobody in it is stopped or traced, if not now then soon.
#[track_caller]
fn assert_running(pid: i32) {
    let begin = Instant::now();
    loop {
        let held: Vec<String> = tree(pid)
            .into_iter()
            .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/status")).ok())
            .filter(|s| !s.contains("TracerPid:\t0\n") || s.contains("State:\tT") || s.contains("State:\tt"))
            .collect();
        if held.is_empty() {
            return;
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "still held: {held:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn all_of_a_family() {
    let family = family(&["3"]);
    let begin = Instant::now();
    // The grandchildren come a moment later.
    while tree(family.pid()).len() < 7 && begin.elapsed() < Duration::from_secs(30) {
        thread::sleep(Duration::from_millis(5));
    }
    let pids: BTreeSet<i32> = tree(family.pid()).into_iter().collect();
    assert_eq!(pids.len(), 7);
    for level in ["converge", "snapshot", "frozen", "fuzzy"] {
        for remote in [false, true] {
            let place = Place::new();
            let args = ["--tree", "--level", level, "--json"];
            let output = place.file("cores");
            let receiving = remote.then(|| Receiving::start("tcp:127.0.0.1:0", &output, &[]));
            let to = receiving.as_ref().map_or(output.to_string_lossy().into_owned(), |r| r.address.clone());
            let run = Run::of(&mut dump(family.pid(), &to, &args));
            assert_eq!(run.code, Some(0), "{}", run.stderr);
            if let Some(receiving) = receiving {
                let received = receiving.finish();
                assert_eq!(received.code, Some(0), "{}", received.stderr);
            }
            let report: serde_json::Value = serde_json::from_slice(&run.stdout).expect("JSON");
            let processes = report["processes"].as_array().expect("a list");
            assert_eq!(report["left_out"].as_array().map(Vec::len), Some(0), "{report}");
            let named = processes.iter().map(|p| p["pid"].as_i64().expect("a pid") as i32).collect();
            assert_eq!(pids, named);
            // The 4 MiB that they share are in one of them, and the others say where.
            let mut with_shared = 0;
            for process in processes {
                let core = CoreFile::open(&output.join(format!("core.{}", process["pid"])));
                let is_shared = |bytes: &[u8; 4096]| (0..4096).all(|i| bytes[i] == ((i * 7) & 255) as u8);
                let pages = core.segments().iter().flat_map(|s| (s.address..s.address + s.len).step_by(4096));
                let nr = pages.filter(|page| core.page(*page).is_some_and(|bytes| is_shared(&bytes))).count();
                let weaker = process["weaker"].to_string();
                if nr >= 1024 {
                    with_shared += 1;
                } else {
                    assert!(weaker.contains("is shared, and in core."), "{nr} pages: {weaker}");
                }
            }
            assert_eq!(with_shared, 1, "{level}");
            assert_running(family.pid());
        }
    }
    assert_well(family);
}

/// Processes that come and go all the time are no obstacle, and none stays stopped.
#[test]
fn a_fork_storm() {
    let family = family(&["2", "storm"]);
    let mut done = 0;
    for level in ["converge", "frozen", "snapshot", "fuzzy"].iter().cycle().take(12) {
        let place = Place::new();
        let to = place.file("cores").to_string_lossy().into_owned();
        let run = Run::of(&mut dump(family.pid(), &to, &["--tree", "--level", level]));
        match run.code {
            Some(0) => {
                done += 1;
                assert!(place.file("cores").join(format!("core.{}", family.pid())).exists());
            }
            // The one thing that may go wrong, and says so.
            code => {
                assert_eq!(code, Some(1), "{}", run.stderr);
                assert!(run.stderr.contains("there were still new ones"), "{}", run.stderr);
                place.is_empty();
            }
        }
        assert_running(family.pid());
    }
    // A stop that takes more than its five seconds, on a busy machine, is such a thing.
    assert!(done > 0, "none of 12 dumps was made");
    assert_well(family);
}

/// farspace killed at any moment: everybody runs on.
#[test]
fn killed_at_any_moment() {
    let family = family(&["3", "storm"]);
    let place = Place::new();
    for at in 0..60u64 {
        let to = place.file(&format!("cores.{at}")).to_string_lossy().into_owned();
        let level = ["frozen", "snapshot", "converge"][at as usize % 3];
        let mut command = dump(family.pid(), &to, &["--tree", "--level", level]);
        let mut farspace = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        // Spread over the first 200 ms.
        thread::sleep(Duration::from_micros(at * 7919 % 200 * 1000));
        let _ = farspace.kill();
        let status = farspace.wait().expect("an end");
        assert_running(family.pid());
        // Killed when all was done, it has left the cores, and they are whole.
        let exists = place.file(&format!("cores.{at}")).exists();
        assert!(exists || !status.success(), "kill {at}: {status}");
        if exists {
            let core = CoreFile::open(&place.file(&format!("cores.{at}/core.{}", family.pid())));
            assert!(!core.segments().is_empty(), "kill {at}");
        }
    }
    assert_well(family);
}

/// No space for the second of the cores, or in the middle of one: nothing is left, and nobody stays stopped.
#[test]
fn no_space() {
    let Some(mounted) = Mounted::new("size=12m") else { return };
    let family = family(&["3"]);
    let to = mounted.place.file("cores").to_string_lossy().into_owned();
    for level in ["converge", "snapshot", "frozen", "fuzzy"] {
        let run = Run::of(&mut dump(family.pid(), &to, &["--tree", "--level", level]));
        run.fails(6, &["core", "No space left", "free some space"]);
        mounted.place.is_empty();
        assert_running(family.pid());
        let receiving = Receiving::start("tcp:127.0.0.1:0", &mounted.place.file("cores"), &[]);
        let run = Run::of(&mut dump(family.pid(), &receiving.address, &["--tree", "--level", level]));
        run.fails(6, &["the other side gave up", "No space left"]);
        receiving.finish().fails(6, &["core", "No space left"]);
        mounted.place.is_empty();
        assert_running(family.pid());
    }
    assert_well(family);
}

#[test]
fn what_is_taken_is_kept() {
    let family = family(&["1"]);
    let place = Place::new();
    std::fs::create_dir(place.file("cores"))
        .and_then(|()| std::fs::write(place.file("cores").join("x"), "x"))
        .expect("made");
    let to = place.file("cores").to_string_lossy().into_owned();
    Run::of(&mut dump(family.pid(), &to, &["--tree"])).fails(6, &["cores", "exists"]);
    assert_eq!(place.names(), ["cores"]);
    assert_well(family);
}
