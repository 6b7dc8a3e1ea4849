//! farspace itself doesn't get a CPU for a while: a busy machine, a virtual machine that is stopped.
//!
//! At whatever moment that is, the target goes on as if nothing had been, and the visit succeeds: late, or anew.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use farspace_victims::harness::Failure;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "common/victim.rs"]
mod victim;

/// Where in a visit of some 10 ms the stalls are, in steps of this.
const STEP: Duration = Duration::from_micros(300);

/// Dumps the target, stopped after `after` for as long as `stall`.
fn dump(pid: i32, level: &str, file: &Path, after: Duration, stall: Duration) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_farspace"));
    command.args(["dump", &pid.to_string(), "--level", level, "-o"]).arg(file);
    let piped = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let farspace = piped.spawn().expect("farspace starts");
    let begin = Instant::now();
    while begin.elapsed() < after {
        std::hint::spin_loop();
    }
    let signal = |signal| kill(Pid::from_raw(farspace.id() as i32), signal).expect("not reaped yet");
    signal(Signal::SIGSTOP);
    std::thread::sleep(stall);
    signal(Signal::SIGCONT);
    farspace.wait_with_output().expect("an end")
}

/// Dumps victims in blocking calls of this kind, with stalls at many moments.
fn stalls(kind: &str, rounds: u32, step: Duration, stall: Duration) {
    let place = tempfile::tempdir().expect("a temporary directory");
    let mut harmed = Vec::new();
    for round in 0..rounds {
        let args = [kind, "--ms", "400", "--late-ms", "20000"];
        let Some(mut victim) = victim::spawn("blocking", &args) else { return };
        let level = ["converge", "fuzzy", "snapshot", "frozen"][round as usize % 4];
        let (file, after) = (place.path().join("out"), step * round);
        let run = dump(victim.pid(), level, &file, after, stall);
        let ended = victim.release().and_then(|_| victim.finish());
        let stderr = String::from_utf8_lossy(&run.stderr);
        // What it says of a machine that stalls it in each attempt.
        if !run.status.success() && !stderr.contains("try again") {
            harmed.push(format!("{level}, {after:?}: {}: {stderr}", run.status));
        }
        match ended {
            Ok(()) | Err(Failure::Skip(_)) => {}
            Err(failure) => harmed.push(format!("{level}, {after:?}: {failure}")),
        }
        let _ = std::fs::remove_file(file);
    }
    assert!(harmed.is_empty(), "{}", harmed.join("\n"));
}

/// Longer than the borrowed thread waits to be taken back. No EINTR may come of it.
#[test]
fn while_a_thread_is_borrowed() {
    for kind in ["epoll-timeout", "semop"] {
        stalls(kind, 40, STEP, Duration::from_millis(90));
    }
}

/// Longer than an agent waits for its host, and than a thread is given to stop.
#[test]
fn while_the_agent_waits_for_hello() {
    stalls("epoll", 16, 2 * STEP, Duration::from_millis(1200));
}

/// Longer than an agent waits for its host, before and after each single step of the tracer: strace(1) makes it wait there.
#[test]
fn at_each_step() {
    const STEPS: u32 = 32;
    const AT_ONCE: u32 = 4;
    const STALL: &str = "1300ms";
    /// One that sleeps, one that does nothing but exec, one whose agent lives under a tracer, one whose agent is a thread.
    const TARGETS: [&[&str]; 4] = [
        &["blocking", "epoll", "--ms", "400", "--late-ms", "60000"],
        &["exec-loop"],
        &["seccomp", "errno"],
        &["reaper", "subreaper"],
    ];
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        eprintln!("skipped: strace is not installed");
        return;
    }
    let visit = |step: u32, when: &str, target: &[&str]| -> Result<(), String> {
        let Some(mut victim) = victim::spawn(target[0], &target[1..]) else { return Ok(()) };
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=ptrace", "-e"]);
        strace.arg(format!("inject=ptrace:delay_{when}={STALL}:when={step}"));
        strace.arg(env!("CARGO_BIN_EXE_farspace"));
        strace.args(["syscall", &victim.pid().to_string(), "msync", "0", "0", "0"]);
        let run = strace.stdin(Stdio::null()).output().expect("strace starts");
        let released = if target[0] == "blocking" { victim.release().map(drop) } else { Ok(()) };
        let ended = released.and_then(|()| victim.finish());
        let context = format!("{target:?}, delay_{when}, step {step}");
        let stderr = String::from_utf8_lossy(&run.stderr);
        ended.map_err(|failure| format!("{context}: {failure}; {stderr}"))?;
        // Each attempt is stalled at the same step, and a program that is another one a moment later may not be there to be
        // asked.
        if run.status.success() || stderr.contains("try again") || target[0] == "exec-loop" {
            return Ok(());
        }
        Err(format!("{context}: {}: {stderr}", run.status))
    };
    let mut harmed = Vec::new();
    for first in (1..=STEPS).step_by(AT_ONCE as usize) {
        std::thread::scope(|scope| {
            let visits: Vec<_> = (first..first + AT_ONCE)
                .flat_map(|step| ["enter", "exit"].map(|when| (step, when)))
                .flat_map(|(step, when)| TARGETS.map(|target| (step, when, target)))
                .map(|(step, when, target)| scope.spawn(move || visit(step, when, target)))
                .collect();
            let done = visits.into_iter().map(|visit| visit.join().expect("no panic"));
            harmed.extend(done.filter_map(Result::err));
        });
    }
    assert!(harmed.is_empty(), "{}", harmed.join("\n"));
}
