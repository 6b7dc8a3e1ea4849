//! `farspace predump` as a user meets it: chains, errors, and what is left when it or its target comes to an end.
//!
//! FARSPACE_TEST_KILLS overrides the number of kills.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farspace_image::criu::{ImageId, PageFlags};
use farspace_victims::harness::Victim;

#[path = "../../farspace-dump/tests/common/chain.rs"]
mod chain;
#[path = "common/leftovers.rs"]
mod leftovers;
#[path = "common/midway.rs"]
mod midway;
#[path = "common/mount.rs"]
mod mount;
#[path = "common/place.rs"]
mod place;
#[path = "common/run.rs"]
mod run;
#[path = "common/stopped.rs"]
mod stopped;
#[path = "common/victim.rs"]
mod victim;

use chain::{Chain, PAGE};
use leftovers::{LONG, View};
use mount::Mounted;
use place::Place;
use run::Run;

/// Kills, unless the environment says otherwise.
const KILLS: u32 = 60;
/// How long the leftovers of a killed farspace may take to vanish: the agent waits 1 s for a host that is dead.
const PATIENCE: Duration = Duration::from_millis(1_800);
/// How often at most something is begun anew that was over before this process got to it: it may have had no CPU for a while.
const TRIES: u32 = 20;

fn memory(regions: &[&str]) -> (Victim, String) {
    let victim = victim::spawn("memory", regions).expect("memory of these kinds is everywhere");
    let pid = victim.pid().to_string();
    (victim, pid)
}

fn predump(pid: &str, output: &Path, more: &[&str]) -> Run {
    let output = output.to_string_lossy();
    Run::new(&[&["predump", pid, "-o", &output], more].concat())
}

#[track_caller]
fn succeeds(run: &Run) -> serde_json::Value {
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    serde_json::from_slice(&run.stdout).expect("JSON")
}

/// All of a region is in the image, as it must be.
#[track_caller]
fn assert_has(victim: &Victim, name: &str, directory: &Path) {
    let region = victim.region(name).expect("asked for");
    let chain = Chain::open(directory, ImageId::Process(victim.pid() as u32)).expect("an image");
    for at in (region.addr..region.addr + region.len).step_by(PAGE as usize) {
        let page = chain.page(at).unwrap_or_else(|| panic!("{name}: nothing at {at:#x}"));
        assert!(page[..] == region.bytes(at - region.addr, PAGE)[..], "{name}: other contents at {at:#x}");
    }
}

#[test]
fn every_kind_of_memory_is_in_its_place() {
    let place = Place::new();
    let kinds = [
        "anon:1M",
        "thp",
        "readonly",
        "protnone",
        "dontfork",
        "filecow",
        "untouched",
        "shared",
        "fileshared",
    ];
    let (mut victim, pid) = memory(&kinds);
    let path = place.file("one");
    let report = succeeds(&predump(&pid, &path, &["--json"]));
    for kind in ["anon", "thp", "readonly", "protnone", "dontfork", "filecow"] {
        assert_has(&victim, kind, &path);
    }
    let chain = Chain::open(&path, ImageId::Process(victim.pid() as u32)).expect("an image");
    for kind in ["untouched", "shared", "fileshared"] {
        let region = victim.region(kind).expect("asked for");
        assert_eq!(chain.page(region.addr), None, "{kind}");
    }
    assert_eq!(report["iterations"][0]["shared_objects"], 1, "{report}");
    assert_eq!(report["iterations"][0]["stop_ns"], 0, "{report}");
    victim.check_detached().expect("unharmed");
    victim.finish().expect("unharmed");
}

#[test]
fn iterations_of_one_run_are_a_chain() {
    if let Err(errno) = farspace::probe::write_tracking() {
        eprintln!("skipped: no write protection here: {errno}");
        return;
    }
    let place = Place::new();
    let (victim, pid) = memory(&["anon:8M"]);
    let path = place.file("chain");
    let report = succeeds(&predump(&pid, &path, &["--iterations", "3", "--interval", "0.05", "--json"]));
    let iterations = report["iterations"].as_array().expect("a list");
    assert_eq!(iterations.len(), 3);
    for (iteration, number) in iterations.iter().zip(1..) {
        let directory = path.join(number.to_string());
        assert_eq!(iteration["path"], directory.to_string_lossy().as_ref());
        assert_has(&victim, "anon", &directory);
        let written = iteration["pages_written"].as_u64().expect("a number");
        // It has slept all the time.
        assert!(
            if number == 1 { written > 2048 } else { written < 200 },
            "iteration {number}: {written} pages"
        );
    }
    assert_eq!(fs::read_link(path.join("3/parent")).expect("a link"), Path::new("../2"));
    victim.finish().expect("unharmed");
}

#[test]
fn a_predump_on_top_of_another_run_is_right() {
    let place = Place::new();
    let (mut victim, pid) = memory(&["anon:1M"]);
    let (one, two) = (place.file("one"), place.file("two"));
    assert_eq!(predump(&pid, &one, &[]).code, Some(0));
    victim.command("write anon 8192 4096 99").expect("written");
    let run = predump(&pid, &two, &["--parent", &one.to_string_lossy(), "--verbose"]);
    assert_eq!(run.code, Some(0), "{}", run.stderr);
    assert_eq!(fs::read_link(two.join("parent")).expect("a link"), Path::new("../one"));
    let (chain, region) = (
        Chain::open(&two, ImageId::Process(victim.pid() as u32)).expect("an image"),
        victim.region("anon").expect("asked for"),
    );
    let changed = chain.page(region.addr + 8192).expect("there");
    let read = farspace_sys::memory::Memory::open(victim.pid()).expect("readable");
    let mut now = [0; PAGE as usize];
    read.read_exact(farspace_sys::RemoteAddr(region.addr + 8192), &mut now).expect("readable");
    assert!(changed == now);
    // Whether only the change was written is a matter of the kernel, and said.
    let is_linked = chain.runs().iter().any(|run| run.flags == PageFlags::PARENT && run.nr_pages > 100);
    assert!(is_linked || run.stderr.contains("CONFIG_MEM_SOFT_DIRTY"), "{}", run.stderr);
    victim.finish().expect("unharmed");
}

#[test]
fn crit_decodes_every_image() {
    if Command::new("crit").arg("--version").output().is_err() {
        eprintln!("skipped: crit isn't here (Debian: criu)");
        return;
    }
    let place = Place::new();
    let (victim, pid) = memory(&["anon:64K", "shared"]);
    let path = place.file("one");
    assert_eq!(predump(&pid, &path, &[]).code, Some(0));
    let mut decoded = 0;
    for entry in fs::read_dir(&path).expect("there").flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("pages-") {
            continue;
        }
        let output = Command::new("crit").args(["decode", "-i"]).arg(entry.path()).output().expect("crit");
        let error = String::from_utf8_lossy(&output.stderr);
        // A Python that isn't Debian's doesn't have Debian's modules.
        if error.contains("No module named") {
            eprintln!("skipped: crit doesn't work here: {error}");
            return;
        }
        assert!(output.status.success(), "{name}: {error}");
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(json["entries"].as_array().is_some_and(|entries| !entries.is_empty()), "{name}: {json}");
        decoded += 1;
    }
    // Inventory, statistics, the process, the shared memory.
    assert_eq!(decoded, 4);
    victim.finish().expect("unharmed");
}

#[test]
fn what_cannot_be_written_or_read_is_said() {
    let place = Place::new();
    let (victim, pid) = memory(&["anon:64K"]);
    let taken = place.file("taken");
    fs::create_dir(&taken).expect("made");
    fs::write(taken.join("file"), "").expect("made");
    predump(&pid, &taken, &[]).fails(6, &["taken", "exists"]);
    predump(&pid, &place.file("no/where"), &[])
        .fails(6, &["no/where", "No such file", "create the directory"]);
    predump("4194305", &place.file("one"), &[]).fails(3, &["4194305"]);
    let nowhere = place.file("nowhere").to_string_lossy().into_owned();
    predump(&pid, &place.file("one"), &["--parent", &nowhere]).fails(2, &["nowhere", "parent"]);
    let broken = place.file("broken");
    fs::create_dir(&broken).expect("made");
    fs::write(broken.join("inventory.img"), [0xff; 64]).expect("made");
    let parent = broken.to_string_lossy().into_owned();
    predump(&pid, &place.file("one"), &["--parent", &parent]).fails(2, &["inventory.img", "no such image"]);
    let mut names = place.names();
    names.sort();
    assert_eq!(names, ["broken", "taken"], "nothing else is left");
    victim.finish().expect("unharmed");
}

#[test]
fn a_full_disk_leaves_no_images() {
    let Some(mounted) = Mounted::new("size=2m") else { return };
    let (victim, pid) = memory(&["anon:8M"]);
    let path = mounted.place.file("one");
    predump(&pid, &path, &[]).fails(6, &["one", "No space left", "free some space"]);
    mounted.place.is_empty();
    let (small, pid) = memory(&["anon:64K"]);
    assert_eq!(predump(&pid, &path, &[]).code, Some(0), "the next one has room");
    victim.finish().expect("unharmed");
    small.finish().expect("unharmed");
}

/// Starts a predump and kills it, or its target, after a while.
fn start(pid: &str, output: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(["predump", pid, "--iterations", "2", "--interval", "0", "-o"]).arg(output);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it starts")
}

/// The image directories that look finished are.
fn assert_finished(path: &Path, pid: i32) {
    for directory in ["1", "2"].map(|number| path.join(number)).iter().filter(|path| path.exists()) {
        assert!(directory.join("inventory.img").exists(), "{}", directory.display());
        let chain = Chain::open(directory, ImageId::Process(pid as u32)).expect("an image");
        let pages: Vec<u64> =
            chain.runs().iter().flat_map(|run| run.range().step_by(PAGE as usize)).collect();
        assert!(pages.iter().all(|page| chain.page(*page).is_some()));
    }
}

#[test]
fn the_target_outlives_every_kill() {
    let kills = std::env::var("FARSPACE_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let seed: u64 = std::env::var("FARSPACE_TEST_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or(42);
    let mut victim = victim::spawn("memory", &["anon:4M"]).expect("anonymous memory");
    let pid = victim.pid();
    std::thread::sleep(Duration::from_millis(30));
    let before = View::of(pid);
    let place = Place::new();
    let whole = Instant::now();
    assert!(start(&pid.to_string(), &place.file("whole")).wait().is_ok_and(|status| status.success()));
    let whole = whole.elapsed();
    let mut killed = 0;
    for n in 0..kills {
        let path = place.file("out");
        let mut child = start(&pid.to_string(), &path);
        // Anywhere in it, evenly.
        std::thread::sleep(
            whole.mul_f64(farspace_victims::pattern::word(seed, n.into()) as f64 / u64::MAX as f64),
        );
        let _ = child.kill();
        killed += u32::from(child.wait().is_ok_and(|status| !status.success()));
        assert_finished(&path, pid);
        if let Err(left) = before.wait_clean(pid, PATIENCE) {
            // A region may stay for the next visit.
            assert!(left.0.iter().all(|(kind, _)| matches!(*kind, "mapping" | "vdso")), "kill {n}: {left}");
        }
        victim.check().unwrap_or_else(|failure| panic!("kill {n}: {failure}"));
        // The next run succeeds, and takes away what the killed one has left.
        let again = place.file("again");
        let run = predump(&pid.to_string(), &again, &[]);
        assert_eq!(run.code, Some(0), "kill {n}: {}", run.stderr);
        let _ = fs::remove_dir_all(&path);
        fs::remove_dir_all(&again).expect("it is there");
    }
    eprintln!("{killed} of {kills} kills came before the end");
    before.wait_clean(pid, LONG).unwrap_or_else(|left| panic!("{left}"));
    assert!(!is_protected(pid), "write protection is left");
    victim.finish().expect("unharmed");
}

/// True if a userfaultfd still watches memory of the process (VmFlags um, uw; proc_pid_smaps(5)).
fn is_protected(pid: i32) -> bool {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).expect("readable");
    smaps
        .lines()
        .filter(|line| line.starts_with("VmFlags:"))
        .any(|line| line.split(' ').any(|flag| flag == "uw" || flag == "um"))
}

fn go_on(child: &Child) {
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT).expect("ours");
}

/// Predumps a victim; `fate` happens to it in the middle. The predump ends in time, with images that are whole or with one line
/// and none.
fn during(args: &[&str], fate: impl Fn(&mut Victim)) -> (Victim, Run, PathBuf, Place) {
    let place = Place::new();
    let mut victim = victim::spawn("memory", args).expect("anonymous memory");
    let path = place.file("out");
    let midway = || {
        let mut child = start(&victim.pid().to_string(), &path);
        if midway::stop(&mut child, place.path()) {
            if !midway::is_held(victim.pid()) {
                return Some(child);
            }
            go_on(&child);
        }
        let run = Run::ended(child.wait_with_output().expect("an end"));
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        fs::remove_dir_all(&path).expect("images");
        None
    };
    let child = (0..TRIES).find_map(|_| midway()).expect("over each time before it could be stopped");
    fate(&mut victim);
    go_on(&child);
    let begin = Instant::now();
    let run = Run::ended(child.wait_with_output().expect("an end"));
    assert!(begin.elapsed() < Duration::from_secs(60), "{}", run.stderr);
    (victim, run, path, place)
}

#[test]
fn a_target_that_ends_is_an_error() {
    let is_refused = || {
        let (victim, run, path, _place) = during(&["anon:256M"], |victim| {
            let pid = nix::unistd::Pid::from_raw(victim.pid());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).expect("ours");
        });
        assert_finished(&path, victim.pid());
        if run.code == Some(0) {
            return false;
        }
        // Which of the two says whether it happened while farspace attached, to go on.
        let code = if run.code == Some(3) { 3 } else { 1 };
        run.fails(code, &[&victim.pid().to_string(), "ended or executed another program"]);
        assert!(!path.join("2").exists());
        true
    };
    // Unless farspace was stopped late, when it had read everything.
    assert!((0..TRIES).any(|_| is_refused()), "complete each time");
}

#[test]
fn a_target_that_executes_another_program_is_an_error() {
    let (victim, run, path, _place) = during(&["anon:256M"], |victim| {
        victim.send("exec");
        assert!(victim.answer().expect("exec").starts_with("ready"));
    });
    if run.code != Some(0) {
        // Which of the two says whether it happened while farspace attached.
        let code = if run.code == Some(3) { 3 } else { 1 };
        run.fails(code, &[&victim.pid().to_string(), "ended or executed another program"]);
        assert!(!path.join("2").exists());
    }
    // The new program may have been visited while it looked at itself for the first time, so it can't tell.
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", victim.pid())).expect("it runs");
    assert!(
        maps.contains("victim") && !maps.contains("farspace-mailbox") && !maps.contains("userfaultfd"),
        "{maps}"
    );
}

#[test]
fn children_that_come_and_go_are_no_error() {
    let place = Place::new();
    let mut victim = victim::spawn("storm", &["fork", "mmap", "thread"]).expect("forks");
    let pid = victim.pid().to_string();
    for n in 0..5 {
        let run = predump(&pid, &place.file(&n.to_string()), &[]);
        assert_eq!(run.code, Some(0), "{}", run.stderr);
        victim.check().expect("unharmed");
    }
    victim.finish().expect("unharmed");
}
