//! `farspace syscall`: calls in a victim that must not notice anything but what they were asked to do.

#![expect(clippy::unwrap_used, reason = "a failed step of a test is a failed test")]

use std::fs;
use std::io::Read as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use farspace_victims::harness::Victim;
use serde_json::Value;

#[path = "common/run.rs"]
mod run;
#[path = "common/victim.rs"]
mod victim;

use run::Run;

const RW: &str = "PROT_READ|PROT_WRITE";
const ANONYMOUS: &str = "MAP_PRIVATE|MAP_ANONYMOUS";

/// A victim with memory of known content.
fn memory() -> Victim {
    victim::spawn("memory", &["anon:64K"]).expect("anonymous memory is everywhere")
}

fn syscall(victim: &Victim, args: &[&str]) -> Run {
    let pid = victim.pid().to_string();
    Run::new(&[&["syscall", &pid], args].concat())
}

/// The report of a call that was made, whatever it returned.
#[track_caller]
fn report(victim: &Victim, args: &[&str]) -> Value {
    let run = syscall(victim, &[args, &["--json"]].concat());
    assert!(matches!(run.code, Some(0 | 7)) && run.stderr.is_empty(), "{args:?}: {run:?}");
    let report: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(run.code == Some(7), report["errno"].is_string(), "{report}");
    report
}

/// The result of a call that succeeded.
#[track_caller]
fn result(victim: &Victim, args: &[&str]) -> u64 {
    report(victim, args)["result"].as_i64().and_then(|result| u64::try_from(result).ok()).unwrap()
}

#[track_caller]
fn unharmed(victim: Victim) {
    victim.finish().unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn memory_from_mmap_to_munmap() {
    let mut victim = memory();
    let address = format!("{:#x}", result(&victim, &["mmap", "0", "64K", RW, ANONYMOUS, "-1"]));
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("in");
    fs::write(&file, "hello from a file").unwrap();
    let fd = format!("fd:{}", file.display());
    assert_eq!(result(&victim, &["pread64", &fd, &address, "5", "0"]), 5);

    let out = place.path().join("out");
    fs::write(&out, "").unwrap();
    assert_eq!(result(&victim, &["write", &format!("fd:{}", out.display()), &address, "6"]), 6);
    assert_eq!(fs::read(&out).unwrap(), b"hello\0");

    assert_eq!(result(&victim, &["mprotect", &address, "4K", "PROT_READ"]), 0);
    assert_eq!(report(&victim, &["pread64", &fd, &address, "5", "0"])["errno"], "EFAULT");
    assert_eq!(result(&victim, &["madvise", &address, "64K", "MADV_DONTNEED"]), 0);
    assert_eq!(result(&victim, &["mprotect", &address, "64K", RW]), 0);
    let moved = result(&victim, &["mremap", &address, "64K", "1M", "MREMAP_MAYMOVE"]);
    assert_eq!(result(&victim, &["munmap", &format!("{moved:#x}"), "1M"]), 0);
    victim.check_detached().unwrap();
    unharmed(victim);
}

#[test]
fn bytes_of_the_target_to_descriptors_of_the_caller() {
    let victim = memory();
    let region = victim.region("anon").unwrap();
    let expected = region.bytes(0, 24);
    let address = format!("{:#x}", region.addr);
    // By number, inherited from this test.
    let run = syscall(&victim, &["write", "1", &address, "24"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(0), ""));
    assert_eq!(&run.stdout[..24], expected);
    assert_eq!(&run.stdout[24..], format!("write(1, {address}, 24) = 24\n").as_bytes());
    // By name, from an array in the target.
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("out");
    fs::write(&file, "").unwrap();
    let iov = format!("iov:{address}+8,{:#x}+16", region.addr + 8);
    assert_eq!(result(&victim, &["writev", &format!("fd:{}", file.display()), &iov, "2"]), 24);
    assert_eq!(fs::read(&file).unwrap(), expected);
    unharmed(victim);
}

#[test]
fn buffers_in_and_out() {
    let victim = memory();
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("in");
    fs::write(&file, "0123456789").unwrap();
    let fd = format!("fd:{}", file.display());
    let run = syscall(&victim, &["read", &fd, "out:16", "16"]);
    let text = String::from_utf8(run.stdout).unwrap();
    assert!(text.starts_with(&format!("read({fd}, out:16, 16) = 10\nargument 2, 16 bytes:\n")), "{text}");
    assert!(text.contains("|0123456789......|"), "{text}");

    let report = report(&victim, &["getcwd", "out:8", "8", "--any"]);
    assert_eq!(report["outputs"][0]["hex"], "2f00000000000000", "the agent is in /");
    assert_eq!(result(&victim, &["write", &fd, "in:414243", "3"]), 3);
    assert_eq!(result(&victim, &["pwrite64", &fd, "str:xyz", "3", "3"]), 3);
    let copy = format!("in:@{}", file.display());
    assert_eq!(fs::read(&file).unwrap(), b"ABCxyz6789");
    assert_eq!(result(&victim, &["pwrite64", &fd, &copy, "10", "10"]), 10);
    assert_eq!(fs::read(&file).unwrap(), b"ABCxyz6789ABCxyz6789");
    unharmed(victim);
}

#[test]
fn an_errno_is_a_result_with_an_exit_code() {
    let victim = memory();
    let run = syscall(&victim, &["mprotect", "1", "4096", "PROT_READ"]);
    assert_eq!((run.code, run.stderr.as_str()), (Some(7), ""));
    assert_eq!(run.stdout, b"mprotect(1, 4096, PROT_READ) = -1 EINVAL (Invalid argument)\n");
    let report = report(&victim, &["write", "77", "str:x", "1"]);
    assert_eq!((&report["result"], &report["errno"]), (&Value::from(-9), &Value::from("EBADF")));
    assert_eq!(report["error"], "Bad file descriptor");
    unharmed(victim);
}

#[test]
fn calls_that_are_not_made() {
    let mut victim = memory();
    let refused = |args: &[&str], words: &[&str]| syscall(&victim, args).fails(2, words);
    refused(&["getpid"], &["getpid", "not one of the calls on memory", "--any", "agent"]);
    for call in ["execve", "exit_group", "clone3", "rt_sigreturn", "ptrace", "seccomp", "close", "setuid"] {
        refused(&[call, "--any"], &[call, "not made", "can't be changed"]);
    }
    // exit_group, with a bit that the kernel doesn't look at, and as the x32 ABI's.
    refused(&["0x1000000e7", "--any"], &["not made", "x86-64"]);
    refused(&["0x400000e7", "--any"], &["not made", "x86-64"]);
    refused(&["prctl", "4", "0", "--any"], &["prctl", "PR_GET_DUMPABLE"]);
    refused(&["mmapp"], &["mmapp", "there is mmap"]);
    refused(&["mmap", "0", "4K", "PROT_REED"], &["PROT_REED", "PROT_READ"]);
    refused(&["read", "fd:/no/such", "out:1", "1"], &["/no/such", "No such file"]);
    refused(&["read", "fd:99", "out:1", "1"], &["fd:99", "Bad file descriptor", "99<>FILE"]);
    refused(&["munmap", "1", "2", "3", "4", "5", "6", "7"], &["7"]);
    // A pid that is the agent's, not the target's.
    assert_ne!(result(&victim, &["getpid", "--any"]), victim.pid() as u64);
    victim.check_detached().unwrap();
    unharmed(victim);
}

#[test]
fn farspaces_own_memory_is_left_alone() {
    let victim = memory();
    let everything = ["0", "0x7ffffffff000"];
    for call in [
        &["munmap", everything[0], everything[1]][..],
        &["mprotect", everything[0], everything[1], "PROT_NONE"],
        &["madvise", everything[0], everything[1], "MADV_DONTNEED"],
        &["mmap", everything[0], everything[1], "PROT_NONE", "MAP_PRIVATE|MAP_ANONYMOUS|MAP_FIXED", "-1"],
        &["mremap", everything[0], "4K", everything[1], "MREMAP_MAYMOVE|MREMAP_FIXED", everything[0]],
        &["462", everything[0], everything[1], "--any"],
    ] {
        syscall(&victim, call)
            .fails(2, &[&victim.pid().to_string(), "farspace's own", "leave that range out"]);
    }
    unharmed(victim);
}

#[test]
fn targets_without_an_agent() {
    Run::new(&["syscall", "4194305", "brk", "0"]).fails(3, &["4194305", "pid"]);
    let Some(victim) = victim::spawn("elf32", &[]) else { return };
    syscall(&victim, &["brk", "0"]).fails(5, &[&victim.pid().to_string(), "32-bit"]);
    unharmed(victim);
}

#[test]
fn interrupt_ends_a_call_that_blocks() {
    let mut victim = memory();
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(["syscall", &victim.pid().to_string(), "read", "0", "out:8", "8"]);
    command.stdin(Stdio::from(reader.try_clone().unwrap())).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    // Before it has blocked the signal, for the thread that waits for it, the signal would be its end.
    let blocks_interrupts = || {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
        let blocked = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).unwrap().trim().to_owned();
        u64::from_str_radix(&blocked, 16).unwrap() & 1 << (libc::SIGINT - 1) != 0
    };
    while !blocks_interrupts() {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(500));
    victim.check().unwrap();
    let begin = Instant::now();
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let run = Run::ended(child.wait_with_output().unwrap());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    run.fails(130, &["interrupted"]);
    victim.check_detached().unwrap();
    // Nobody else has the pipe any more.
    drop(writer);
    assert_eq!(reader.read(&mut [0; 8]).unwrap(), 0);
    unharmed(victim);
}
