//! What a user meets when something goes wrong: one line, the documented exit code, and nothing left behind.
//!
//! `cargo test --test errors -- --nocapture` prints every message, to be read aloud.

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use farspace_victims::harness::Victim;

#[path = "common/mount.rs"]
mod mount;
#[path = "common/place.rs"]
mod place;
#[path = "common/run.rs"]
mod run;
#[path = "common/user.rs"]
mod user;
#[path = "common/victim.rs"]
mod victim;

use mount::Mounted;
use place::Place;
use run::Run;
use user::{Nobody, become_nobody, is_root};

/// Above any pid_max (2^22, proc_sys_kernel(5)).
const NO_PID: &str = "4194305";
/// Somewhere; for commands that fail before it matters.
const ANYWHERE: &str = "0x10000+4K";

/// A victim with memory to read.
fn memory(len: &str) -> (Victim, String) {
    let victim = victim::spawn("memory", &[&format!("anon:{len}")]).expect("anonymous memory is everywhere");
    let region = victim.region("anon").expect("asked for");
    (victim, format!("{:#x}+{}", region.addr, region.len))
}

fn dump(pid: &str, output: &Path) -> Run {
    Run::new(&["dump", pid, "-o", &output.to_string_lossy()])
}

fn splice(pid: &str, range: &str, output: &Path) -> Run {
    Run::new(&["splice", pid, range, "-o", &output.to_string_lossy()])
}

/// Changes a directory's permissions.
fn allow(place: &Place, mode: u32) {
    fs::set_permissions(place.path(), fs::Permissions::from_mode(mode)).expect("chmod");
}

/// The victim is unharmed and ends well.
#[track_caller]
fn unharmed(victim: Victim) {
    victim.finish().unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn no_space() {
    if !is_root("mounting a small file system") {
        return;
    }
    let Some(mounted) = Mounted::new("size=1m") else { return };
    let place = &mounted.place;
    let (victim, range) = memory("8M");
    let pid = victim.pid().to_string();
    let file = place.file("out");
    for level in ["converge", "snapshot", "frozen", "fuzzy"] {
        let run = Run::new(&["dump", &pid, "-o", &file.to_string_lossy(), "--level", level]);
        run.fails(6, &["out", "No space left", "free some space"]);
        place.is_empty();
    }
    splice(&pid, &range, &file).fails(6, &["out", "No space left", "free some space"]);
    place.is_empty();
    unharmed(victim);
}

#[test]
fn a_full_device() {
    let (victim, range) = memory("1M");
    splice(&victim.pid().to_string(), &range, Path::new("/dev/full"))
        .fails(6, &["/dev/full", "No space left"]);
    assert!(fs::metadata("/dev/full").is_ok());
    unharmed(victim);
}

#[test]
fn a_file_size_limit() {
    let place = Place::new();
    let (victim, range) = memory("8M");
    let (pid, file) = (victim.pid().to_string(), place.file("out"));
    for args in [
        ["dump", &pid, "-o", &file.to_string_lossy()].as_slice(),
        &["splice", &pid, &range, "-o", &file.to_string_lossy()],
    ] {
        // Blocks of 512 bytes in every shell (ulimit, POSIX). SIGXFSZ is ignored, as by many servers.
        let shell = "ulimit -f 100; trap '' XFSZ; exec \"$@\"";
        let run =
            Run::of(Command::new("sh").args(["-c", shell, "sh", env!("CARGO_BIN_EXE_farspace")]).args(args));
        run.fails(6, &["out", "File too large", "ulimit -f"]);
        place.is_empty();
    }
    unharmed(victim);
}

#[test]
fn a_reader_that_goes_away() {
    let (victim, range) = memory("8M");
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(["splice", &victim.pid().to_string(), &range, "-o", "-"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("farspace starts");
    let mut reader = child.stdout.take().expect("piped");
    // It works, and then nobody reads any more.
    reader.read_exact(&mut [0; 100]).expect("the first bytes");
    drop(reader);
    let output = child.wait_with_output().expect("an end");
    Run::ended(output).fails(6, &["standard output", "roken pipe", "receiver"]);
    unharmed(victim);
}

#[test]
fn a_socket_that_is_closed() {
    let place = Place::new();
    let (victim, range) = memory("32M");
    let pid = victim.pid().to_string();

    let socket = place.file("socket");
    let listener = UnixListener::bind(&socket).expect("bind");
    let peer =
        std::thread::spawn(move || listener.accept().map(|(mut peer, _)| peer.read_exact(&mut [0; 100])));
    let name = format!("unix:{}", socket.display());
    Run::new(&["splice", &pid, &range, "-o", &name]).fails(6, &[&name, "receiver"]);
    peer.join().expect("no panic").expect("accepted").expect("read");

    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let name = format!("tcp:{}", listener.local_addr().expect("bound"));
    let peer = std::thread::spawn(move || {
        listener.accept().map(|(mut peer, _): (TcpStream, _)| peer.read_exact(&mut [0; 100]))
    });
    Run::new(&["splice", &pid, &range, "-o", &name]).fails(6, &[&name, "receiver"]);
    peer.join().expect("no panic").expect("accepted").expect("read");
    // Nobody listens any more.
    Run::new(&["splice", &pid, &range, "-o", &name]).fails(6, &[&name, "refused", "start the receiver"]);
    let name = format!("unix:{}", place.file("none").display());
    Run::new(&["splice", &pid, &range, "-o", &name]).fails(6, &[&name]);
    unharmed(victim);
}

#[test]
fn a_directory_that_is_read_only() {
    if !is_root("changing the user") {
        return;
    }
    let (nobody, place) = (Nobody::new(), Place::new());
    allow(&place, 0o555);
    // It is the user's own process, so the directory is all that is wrong.
    let mut command = Command::new("sleep");
    command.arg("100");
    become_nobody(&mut command);
    let mut target = command.spawn().expect("sleep starts");
    let (pid, file) = (target.id().to_string(), place.file("out").to_string_lossy().into_owned());
    Run::of(&mut nobody.farspace(&["dump", &pid, "-o", &file]))
        .fails(6, &["out", "Permission denied", "choose a directory"]);
    let run = Run::of(&mut nobody.farspace(&["splice", &pid, ANYWHERE, "-o", &file]));
    run.fails(6, &["out", "Permission denied", "choose a directory"]);
    place.is_empty();

    if let Some(Mounted { place }) = &Mounted::new("ro") {
        let file = place.file("out");
        dump(&pid, &file).fails(6, &["out", "ead-only", "choose a directory"]);
        splice(&pid, ANYWHERE, &file).fails(6, &["out", "ead-only", "choose a directory"]);
        place.is_empty();
    }
    target.kill().expect("killed");
    target.wait().expect("ended");
}

#[test]
fn an_output_that_exists() {
    let place = Place::new();
    let (victim, range) = memory("64K");
    let (pid, file) = (victim.pid().to_string(), place.file("out"));
    fs::write(&file, "precious").expect("written");
    let link = place.file("link");
    std::os::unix::fs::symlink("nowhere", &link).expect("linked");
    for path in [&file, &link] {
        let name = path.file_name().expect("a name").to_string_lossy();
        dump(&pid, path).fails(6, &[&name, "exists", "--force"]);
        splice(&pid, &range, path).fails(6, &[&name, "exists", "--force"]);
    }
    assert_eq!(fs::read_to_string(&file).expect("there"), "precious");
    assert_eq!(place.names(), ["link", "out"]);
    unharmed(victim);
}

#[test]
fn a_failed_dump_leaves_the_file_that_it_was_to_replace() {
    let place = Place::new();
    let file = place.file("out");
    fs::write(&file, "precious").expect("written");
    Run::new(&["dump", NO_PID, "-o", &file.to_string_lossy(), "--force"]).fails(3, &[NO_PID]);
    Run::new(&["splice", NO_PID, ANYWHERE, "-o", &file.to_string_lossy(), "--force"]).fails(3, &[NO_PID]);
    let (victim, _) = memory("64K");
    let pid = victim.pid().to_string();
    Run::new(&["splice", &pid, "0x10+1", "-o", &file.to_string_lossy(), "--force"]).fails(1, &["0x10", &pid]);
    assert_eq!(fs::read_to_string(&file).ok().as_deref(), Some("precious"), "the old file is gone");
    unharmed(victim);
}

#[test]
fn a_directory_that_is_missing_or_is_the_output() {
    let place = Place::new();
    let (victim, range) = memory("64K");
    let pid = victim.pid().to_string();
    let file = place.file("missing/out");
    dump(&pid, &file).fails(6, &["missing/out", "No such file or directory", "create the directory"]);
    splice(&pid, &range, &file)
        .fails(6, &["missing/out", "No such file or directory", "create the directory"]);
    for extra in [None, Some("--force")] {
        let path = place.path().to_string_lossy().into_owned();
        let dump = [["dump", &pid, "-o", &path].as_slice(), extra.as_slice()].concat();
        Run::new(&dump).fails(6, &[&path, "directory", "give a file name"]);
        let splice = [["splice", &pid, &range, "-o", &path].as_slice(), extra.as_slice()].concat();
        Run::new(&splice).fails(6, &[&path, "directory", "give a file name"]);
    }
    place.is_empty();
    unharmed(victim);
}

#[test]
fn a_pid_that_is_none() {
    let place = Place::new();
    let file = place.file("out");
    dump(NO_PID, &file).fails(3, &[NO_PID, "No such process", "pid"]);
    splice(NO_PID, ANYWHERE, &file).fails(3, &[NO_PID, "No such process", "pid"]);
    for bad in ["0", "-1", "1.5", "self", "99999999999"] {
        let file = file.to_string_lossy();
        // `=` and `--` keep clap from taking -1 for an option.
        Run::new(&["dump", "-o", &file, "--", bad]).fails(2, &[bad, "farspace dump --help"]);
        Run::new(&["splice", "-o", &file, "--", bad, ANYWHERE]).fails(2, &[bad, "farspace splice --help"]);
    }
    place.is_empty();
}

#[test]
fn a_zombie() {
    let Some(victim) = victim::spawn("zombie", &["process"]) else { return };
    let (place, pid) = (Place::new(), victim.pid().to_string());
    let file = place.file("out");
    dump(&pid, &file).fails(3, &[&pid, "zombie"]);
    splice(&pid, ANYWHERE, &file).fails(3, &[&pid, "zombie"]);
    place.is_empty();
    unharmed(victim);
}

#[test]
fn a_kernel_thread() {
    // kthreadd's children; none is visible in a container.
    let is_kernel_thread = |pid: &String| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.split_whitespace().nth(1) == Some("2"))
    };
    let names =
        fs::read_dir("/proc").expect("/proc").flatten().map(|e| e.file_name().to_string_lossy().into_owned());
    let Some(pid) = names.filter(|n| n.parse::<i32>().is_ok()).find(is_kernel_thread) else {
        eprintln!("skipped: no kernel thread is visible here");
        return;
    };
    let place = Place::new();
    let file = place.file("out");
    dump(&pid, &file).fails(3, &[&pid, "kernel thread"]);
    splice(&pid, ANYWHERE, &file).fails(3, &[&pid, "kernel thread"]);
    place.is_empty();
}

#[test]
fn farspace_itself() {
    let place = Place::new();
    let file = place.file("out").to_string_lossy().into_owned();
    let on_itself = |args: &str| {
        let script = format!("exec \"$0\" {args} -o '{file}'");
        Run::of(Command::new("sh").args(["-c", &script, env!("CARGO_BIN_EXE_farspace")]))
    };
    on_itself("dump $$").fails(2, &["farspace itself", "pid"]);
    on_itself(&format!("splice $$ {ANYWHERE}")).fails(2, &["farspace itself", "pid"]);
    place.is_empty();
}

#[test]
fn somebody_elses_process() {
    if !is_root("a process that nobody may touch") {
        return;
    }
    let (nobody, place) = (Nobody::new(), Place::new());
    allow(&place, 0o777);
    let (victim, range) = memory("64K");
    let (pid, file) = (victim.pid().to_string(), place.file("out").to_string_lossy().into_owned());
    for level in ["converge", "snapshot", "frozen", "fuzzy"] {
        let run = Run::of(&mut nobody.farspace(&["dump", &pid, "-o", &file, "--level", level]));
        run.fails(4, &[&pid, "ermi", "CAP_SYS_PTRACE"]);
    }
    Run::of(&mut nobody.farspace(&["splice", &pid, &range, "-o", &file]))
        .fails(4, &[&pid, "ermi", "CAP_SYS_PTRACE"]);
    place.is_empty();
    unharmed(victim);
}

#[test]
fn a_process_under_a_debugger() {
    let (victim, range) = memory("64K");
    let (place, pid) = (Place::new(), victim.pid().to_string());
    let mut strace = Command::new("strace");
    strace.args(["-f", "-q", "-e", "trace=none", "-p", &pid]).stderr(Stdio::null());
    let Ok(mut strace) = strace.spawn() else {
        eprintln!("skipped: strace is not installed");
        return;
    };
    let tracer = |tid: &str| {
        let status = fs::read_to_string(format!("/proc/{pid}/task/{tid}/status")).unwrap_or_default();
        status.lines().any(|line| line == format!("TracerPid:\t{}", strace.id()))
    };
    let threads = || fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    while !threads().all(|entry| tracer(&entry.file_name().to_string_lossy())) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }

    let file = place.file("out");
    for level in ["converge", "snapshot", "frozen", "fuzzy"] {
        let run = Run::new(&["dump", &pid, "-o", &file.to_string_lossy(), "--level", level]);
        run.fails(5, &[&pid, "already traced by pid", &strace.id().to_string(), "detach"]);
        assert!(!run.stderr.contains("--level"), "no level works: {}", run.stderr);
    }
    let run = Run::new(&["splice", &pid, &range, "-o", &file.to_string_lossy(), "--mechanism", "agent"]);
    run.fails(5, &[&pid, "already traced by pid", &strace.id().to_string(), "detach"]);
    place.is_empty();
    strace.kill().expect("killed");
    strace.wait().expect("ended");
    unharmed(victim);
}

#[test]
fn a_32_bit_program() {
    let Some(victim) = victim::spawn("elf32", &[]) else { return };
    let (place, pid) = (Place::new(), victim.pid().to_string());
    let file = place.file("out");
    for level in ["converge", "snapshot", "frozen", "fuzzy"] {
        let run = Run::new(&["dump", &pid, "-o", &file.to_string_lossy(), "--level", level]);
        run.fails(5, &[&pid, "32-bit"]);
        assert!(!run.stderr.contains("--level"), "no level works: {}", run.stderr);
    }
    let run = Run::new(&["splice", &pid, ANYWHERE, "-o", &file.to_string_lossy(), "--mechanism", "agent"]);
    run.fails(5, &[&pid, "32-bit"]);
    place.is_empty();
    unharmed(victim);
}

#[test]
fn memory_that_is_not_there() {
    let (victim, range) = memory("64K");
    let (place, pid) = (Place::new(), victim.pid().to_string());
    let file = place.file("out");
    splice(&pid, "0x10+1", &file).fails(1, &[&pid, "0x10", "maps"]);
    let both = ["splice", &pid, &range, "0x10+1", "-o", &file.to_string_lossy()];
    Run::new(&both).fails(1, &[&pid, "0x10", "maps"]);
    place.is_empty();
    unharmed(victim);
}

#[test]
fn closed_standard_descriptors() {
    let (victim, _) = memory("64K");
    let (place, pid) = (Place::new(), victim.pid().to_string());
    let script = "exec \"$0\" dump \"$1\" -o \"$2\" <&- >&- 2>&-";
    let mut command = Command::new("sh");
    command
        .args(["-c", script, env!("CARGO_BIN_EXE_farspace"), &pid])
        .arg(place.file("out"))
        .process_group(0);
    let run = Run::of(&mut command);
    // What it had to say went nowhere, but the core is one and nothing was written into it by mistake.
    assert!(matches!(run.code, Some(0 | 6)), "{run:?}");
    if let Ok(core) = fs::read(place.file("out")) {
        assert!(core.starts_with(b"\x7fELF"));
    }
    unharmed(victim);
}
