//! The command as a user meets it: arguments, exit codes, one-line errors, reports.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixListener;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn farspace(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_farspace")).args(args).stdin(Stdio::null()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Runs it, expects this exit code and one line on stderr with these words.
#[track_caller]
fn fails(args: &[&str], code: i32, words: &[&str]) {
    let output = farspace(args);
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
    assert_eq!(errors.lines().count(), 1, "{args:?}: {errors}");
    assert!(errors.starts_with("farspace: "), "{errors}");
    for word in words {
        assert!(errors.contains(word), "{args:?}: no '{word}' in: {errors}");
    }
}

/// A demo target, and where its static memory is.
struct Target {
    child: Child,
    base: u64,
    len: u64,
}

impl Target {
    fn start(size: &str) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
        command.args(["demo-target", "--size", size]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let hello: Value = serde_json::from_str(&line).unwrap();
        let number = |name: &str| hello[name].as_u64().unwrap();
        Self { base: number("static_base"), len: number("static_len"), child }
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }

    /// Asks for a new checksum and compares it with the first; the target must also not have been disturbed.
    fn is_unharmed(&mut self) -> bool {
        let input = self.child.stdin.as_mut().unwrap();
        writeln!(input, "state\ncheck").unwrap();
        let mut lines = BufReader::new(self.child.stdout.as_mut().unwrap()).lines();
        let mut answer = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
        let (before, after) = (answer(), answer());
        before["checksum"] == after["checksum"] && after["disturbed"].as_array().unwrap().is_empty()
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the target's static memory starts with, read the plain way.
fn memory(target: &Target, len: usize) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; len];
    let mem = std::fs::File::open(format!("/proc/{}/mem", target.pid())).unwrap();
    mem.read_exact_at(&mut bytes, target.base).unwrap();
    bytes
}

#[test]
fn usage_errors() {
    fails(&[], 2, &["farspace --help"]);
    fails(&["frobnicate"], 2, &["frobnicate", "--help"]);
    fails(&["dump"], 2, &["<PID>", "farspace dump --help"]);
    fails(&["dump", "0", "-o", "x"], 2, &["<PID>"]);
    fails(&["dump", "1", "-o", "x", "--all", "--filter", "0x1"], 2, &["--all"]);
    fails(&["dump", "1", "-o", "x", "--level", "best"], 2, &["converge", "snapshot", "frozen", "fuzzy"]);
    fails(&["splice", "1", "nonsense", "-o", "x"], 2, &["nonsense", "0x7f0000001000+64K"]);
    fails(&["splice", "1", "0x1000+1", "-o", "tcp:host"], 2, &["tcp:HOST:PORT"]);
    fails(&["demo", "--size", "1"], 2, &["16M"]);
}

#[test]
fn wrong_outputs() {
    let dir = tempfile::tempdir().unwrap();
    let taken = dir.path().join("taken");
    std::fs::write(&taken, "precious").unwrap();
    let pid = std::process::id().to_string();
    fails(&["dump", &pid, "-o", taken.to_str().unwrap()], 6, &["exists", "--force"]);
    fails(&["dump", &pid, "-o", dir.path().to_str().unwrap()], 6, &["directory"]);
    assert_eq!(std::fs::read_to_string(&taken).unwrap(), "precious");
    fails(&["demo", "--size", "16M", "--dir", "/no/such"], 6, &["/no/such"]);
    fails(&["man", "--dir", "/no/such"], 6, &["/no/such"]);
}

#[test]
fn no_such_process() {
    // Above any pid_max (2^22, proc_sys_kernel(5)).
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out");
    fails(&["splice", "4194305", "0x1000+1", "-o", file.to_str().unwrap()], 3, &["4194305", "pid"]);
    assert!(!file.exists());
}

#[test]
fn too_large_a_demo_is_refused() {
    fails(&["demo", "--size", "1000T"], 1, &["memory", "--size"]);
}

#[test]
fn doctor_reports() {
    let human = farspace(&["doctor"]);
    assert!(human.status.success());
    assert!(text(&human.stdout).lines().all(|line| line.chars().count() <= 100));
    let report: Value = serde_json::from_slice(&farspace(&["doctor", "--json"]).stdout).unwrap();
    let capabilities = report["capabilities"].as_array().unwrap();
    for name in
        ["kernel", "process_vmsplice", "vmsplice-zero-copy", "ptrace-permission", "write-tracking", "cpus"]
    {
        let found = capabilities.iter().find(|c| c["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        assert!(["yes", "partly", "no"].contains(&found["found"].as_str().unwrap()));
        assert!(!found["meaning"].as_str().unwrap().is_empty());
    }
    assert!(report["verdict"]["mechanism"].is_string());
    let tracking = report["verdict"]["tracking"].as_str().unwrap();
    assert!(["write-protect", "soft-dirty", "none"].contains(&tracking));
    // What it says is what a dump does.
    let mut sleep = std::process::Command::new("sleep").arg("100").spawn().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let core = dir.path().join("core");
    // However long the stop takes on this machine.
    let pid = sleep.id().to_string();
    let dump = farspace(&["dump", &pid, "--json", "--max-downtime", "60000", "-o", core.to_str().unwrap()]);
    let _ = (sleep.kill(), sleep.wait());
    let dumped: Value = serde_json::from_slice(&dump.stdout).unwrap();
    let levels = report["verdict"]["dump_levels"].as_array().unwrap();
    assert_eq!(levels.contains(&"converge".into()), dumped["level"] == "converge", "{dumped}");
    if dumped["level"] == "converge" {
        assert_eq!(dumped["tracking"], tracking);
    }
}

#[test]
fn help_and_man_tell_exit_codes() {
    let help = farspace(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("130"));
    let dir = tempfile::tempdir().unwrap();
    assert!(farspace(&["man", "--dir", dir.path().to_str().unwrap()]).status.success());
    for page in ["farspace.1", "farspace-dump.1", "farspace-splice.1", "farspace-bench-exec.1"] {
        let page = std::fs::read_to_string(dir.path().join(page)).unwrap();
        assert!(page.contains("EXIT STATUS") && page.contains(".TH"));
    }
    assert!(text(&farspace(&["man"]).stdout).contains("farspace"));
}

#[test]
fn completions_for_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = farspace(&["completions", shell]);
        let script = text(&script.stdout);
        assert!(script.contains("splice") && !script.contains("demo-target"), "{shell}");
    }
}

#[test]
fn closed_stdout_is_quiet() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    let mut child = command.arg("doctor").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), String::new()));
}

#[test]
fn splices_to_every_sink() {
    let mut target = Target::start("1M");
    let range = format!("{:#x}+{}", target.base, 100_000);
    let expected = memory(&target, 100_000);
    let dir = tempfile::tempdir().unwrap();

    let stdout = farspace(&["splice", &target.pid(), &range, "-o", "-"]);
    assert!(stdout.status.success() && stdout.stdout == expected, "{}", text(&stdout.stderr));

    let file = dir.path().join("file");
    let report = farspace(&["splice", &target.pid(), &range, "-o", file.to_str().unwrap(), "--json"]);
    let report: Value = serde_json::from_slice(&report.stdout).unwrap();
    assert_eq!(report["bytes"], 100_000);
    assert!(std::fs::read(&file).unwrap() == expected);

    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let receiver = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes
    });
    assert!(
        farspace(&["splice", &target.pid(), &range, "-o", &format!("unix:{}", socket.display())])
            .status
            .success()
    );
    assert!(receiver.join().unwrap() == expected);

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let output = format!("tcp:{}", listener.local_addr().unwrap());
    let receiver = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut bytes).unwrap();
        bytes
    });
    assert!(farspace(&["splice", &target.pid(), &range, "-o", &output]).status.success());
    assert!(receiver.join().unwrap() == expected);
    assert!(target.is_unharmed());
}

#[test]
fn unreadable_memory_leaves_no_file() {
    let mut target = Target::start("1M");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fails(&["splice", &target.pid(), "0x10+1", "-o", file.to_str().unwrap()], 1, &["0x10", "maps"]);
    assert!(!file.exists());
    assert!(target.is_unharmed());
}

#[test]
fn no_space_is_an_output_error() {
    let mut target = Target::start("1M");
    fails(
        &["splice", &target.pid(), &format!("{:#x}+64K", target.base), "-o", "/dev/full"],
        6,
        &["No space left"],
    );
    assert!(target.is_unharmed());
}

#[test]
fn interrupt_ends_a_stalled_splice() {
    let mut target = Target::start("16M");
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    let range = format!("{:#x}+{}", target.base, target.len);
    command.args(["splice", &target.pid(), &range, "-o", &format!("unix:{}", socket.display())]);
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    // It stays open and nobody reads.
    let _connection = listener.accept().unwrap();
    std::thread::sleep(Duration::from_millis(300));
    let start = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(text(&output.stderr).lines().count(), 1);
    assert!(target.is_unharmed());
    let tasks = std::fs::read_dir(format!("/proc/{}/task", target.pid())).unwrap().count();
    assert_eq!(tasks, 6, "an extra task stayed in the target");
}

#[test]
fn dumps_at_every_level() {
    let mut target = Target::start("1M");
    let dir = tempfile::tempdir().unwrap();
    let core = dir.path().join("core");
    for level in ["converge", "snapshot", "frozen", "fuzzy"] {
        let path = core.to_str().unwrap();
        // However long the stop takes on this machine.
        let args =
            ["dump", &target.pid(), "-o", path, "--force", "--json", "--max-downtime", "60000", "--level"];
        let output = farspace(&[&args[..], &[level]].concat());
        assert!(output.status.success(), "{level}: {}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["level"], &report["threads"]), (&Value::from(level), &Value::from(6)));
        assert!(std::fs::read(&core).unwrap().starts_with(b"\x7fELF"));
    }
    assert!(target.is_unharmed());
    fails(&["dump", "4194305", "-o", dir.path().join("none").to_str().unwrap()], 3, &["4194305"]);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn demo_verifies_its_dumps() {
    let dir = tempfile::tempdir().unwrap();
    let output = farspace(&[
        "demo",
        "--size",
        "16M",
        "--rounds",
        "1",
        "--json",
        "--dir",
        dir.path().to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["verified"], &report["unharmed"]), (&Value::from(true), &Value::from(true)));
    assert_eq!(report["rows"][0]["one_instant"], true);
    assert_eq!(report["rows"].as_array().unwrap().len(), 3);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

/// The rows of `bench exec` that are there on every kernel; each may be a skip with a reason instead.
const EXEC_BASELINES: [&str; 11] = [
    "native-getpid",
    "sysemu-one-cpu",
    "sysemu-two-cpus",
    "sysemu-unpinned",
    "local-sigsys",
    "shared-line-two-cpus",
    "shared-line-unpinned",
    "futex-one-cpu",
    "futex-two-cpus",
    "user-notif-one-cpu",
    "user-notif-two-cpus",
];

#[test]
fn bench_exec_reports() {
    let output = farspace(&["bench", "exec", "--quick", "--json"]);
    let skips = text(&output.stderr);
    assert!(output.status.success(), "{skips}");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(report["machine"].is_string() && report["kernel"].is_string(), "{report}");
    let rows = report["rows"].as_array().unwrap();
    for name in EXEC_BASELINES {
        let Some(row) = rows.iter().find(|row| row["name"] == name) else {
            assert!(skips.contains(&format!("skipped {name}: ")), "no row {name}: {skips}");
            continue;
        };
        assert_eq!(row["unit"], "ns", "{row}");
        let (best, median) = (row["best"].as_f64().unwrap(), row["median"].as_f64().unwrap());
        assert!(0.0 < best && best <= median, "{row}");
        assert!(row["n"].as_u64().unwrap() >= 3, "{row}");
        assert_eq!((row.get("baseline"), row.get("ratio")), (None, None), "{row}");
    }
    // What every kernel can do is never a skip.
    assert!(rows.iter().any(|row| row["name"] == "native-getpid"), "{report}");
}
