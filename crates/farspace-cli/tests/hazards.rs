//! Targets in every state that could be disturbed by a visit, or could disturb it.
//!
//! Each works, is copied from with the reason in the report, or is refused with a clear error. None is disturbed:
//! the victims notice (tests/victims).

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use farspace_sys::process::{self, Activity};
use farspace_victims::BLOCKING_KINDS;
use farspace_victims::harness::{Failure, Victim};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[path = "common/leftovers.rs"]
mod leftovers;
#[path = "common/user.rs"]
mod user;
#[path = "common/victim.rs"]
mod victim;
#[path = "common/visit.rs"]
mod visit;

use leftovers::View;
use user::{Nobody, become_nobody, is_root};
use visit::Visit;

const LEVELS: [&str; 4] = ["converge", "snapshot", "frozen", "fuzzy"];
/// How long something of farspace may linger in a target after a regular end.
const PATIENCE: Duration = Duration::from_secs(20);

/// Visits a victim in every way, several times; it stays unharmed, and nothing is left.
#[track_caller]
fn survives(name: &str, args: &[&str]) {
    survives_levels(name, args, &LEVELS);
}

#[track_caller]
fn survives_levels(name: &str, args: &[&str], levels: &[&str]) {
    let Some(mut victim) = victim::spawn(name, args) else { return };
    for round in 0..5 {
        let text =
            |(code, message): (i32, String)| panic!("{name} {args:?}, round {round}: exit {code}: {message}");
        Visit::splice(victim.pid()).unwrap_or_else(text).by_agent();
        unharmed(&mut victim, round);
        Visit::dump(victim.pid(), levels[round % levels.len()]).unwrap_or_else(text).by_agent();
        unharmed(&mut victim, round);
    }
    ends_well(victim);
}

#[track_caller]
fn unharmed(victim: &mut Victim, round: usize) {
    victim.check_detached().unwrap_or_else(|failure| panic!("round {round}: {failure}"));
}

#[track_caller]
fn ends_well(victim: Victim) {
    victim.finish().unwrap_or_else(|failure| panic!("{failure}"));
}

/// Every blocking call that is restarted, or that must be made to look so (signal(7)).
#[test]
fn blocking_calls() {
    let mut harmed = Vec::new();
    // vfork's parent is in an uninterruptible sleep: another test. A write that has moved some of its bytes returns
    // short at any interruption: the kernel keeps no way to go on, and write(2) promises none.
    let others = ["vfork", "write-pipe-partial"];
    for kind in BLOCKING_KINDS.iter().filter(|kind| !others.contains(&kind.name)) {
        // How late doesn't matter: a stop can't be hidden from some of those that have a timeout, for the kernel forgets how much
        // of it was left, and on a busy machine all are late. A call that never returns is no answer.
        let args = [kind.name, "--ms", "500", "--late-ms", "100000"];
        let Some(victim) = victim::spawn("blocking", &args) else { continue };
        if let Err(failure) = disturb(victim) {
            harmed.push(format!("{}: {failure}", kind.name));
        }
    }
    assert!(harmed.is_empty(), "{}", harmed.join("\n"));
}

fn disturb(mut victim: Victim) -> Result<(), Failure> {
    let visits = match visit_often(victim.pid()) {
        Ok(visits) => visits,
        Err((code, message)) => {
            // A target that has ended has said why.
            victim.release()?;
            victim.finish()?;
            return Err(Failure::Broken(format!("exit {code}: {message}")));
        }
    };
    victim.release()?;
    victim.finish()?;
    match visits.iter().find(|visit| !visit.is_by_agent()) {
        Some(visit) => Err(Failure::Broken(format!("by {}: {}", visit.mechanism, visit.reasons))),
        None => Ok(()),
    }
}

fn visit_often(pid: i32) -> Result<Vec<Visit>, (i32, String)> {
    let splices = (0..4).map(|_| Visit::splice(pid));
    splices.chain(LEVELS.into_iter().map(|level| Visit::dump(pid, level))).collect()
}

/// Its only thread is in state D until the child execs or ends.
#[test]
fn a_vfork_parent() {
    let Some(mut victim) = victim::spawn("blocking", &["vfork"]) else { return };
    let visit = Visit::splice(victim.pid()).expect("memory can be copied");
    visit.copied_for("uninterruptible sleep");
    assert!(visit.took < Duration::from_secs(20), "{:?}", visit.took);
    for level in LEVELS {
        let begin = Instant::now();
        let (code, message) = Visit::dump(victim.pid(), level).expect_err("no thread can be stopped");
        assert!(code == 5 && message.contains("uninterruptible sleep"), "{level}: {code}: {message}");
        assert!(begin.elapsed() < Duration::from_secs(30), "{:?}", begin.elapsed());
    }
    victim.release().unwrap_or_else(|failure| panic!("{failure}"));
    ends_well(victim);
}

#[test]
fn wait_loops() {
    survives("wait-all", &["spin"]);
    survives("wait-all", &["block"]);
}

/// A loop of waitpid(-1, __WALL) must not see the helper, however often it is made.
#[test]
fn wait_loops_a_hundred_times() {
    for how in ["spin", "block"] {
        let Some(mut victim) = victim::spawn("wait-all", &[how]) else { return };
        for round in 0..50 {
            Visit::splice(victim.pid()).expect("a visit").by_agent();
            unharmed(&mut victim, round);
        }
        ends_well(victim);
    }
}

#[test]
fn own_sigchld_handling() {
    for how in ["handler", "ignore", "nocldwait"] {
        survives("sigchld", &[how]);
    }
}

#[test]
fn reapers_of_orphans() {
    // These look with __WALL all the time, and would see the child that holds a snapshot (SAFETY.md).
    let levels = &["converge", "frozen", "fuzzy"];
    survives_levels("reaper", &["subreaper"], levels);
    survives_levels("reaper", &["pidns"], levels);
}

#[test]
fn a_snapshot_of_an_init() {
    if !is_root("a pid namespace") {
        return;
    }
    let mut init = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "sleep", "300"])
        .spawn()
        .expect("unshare starts");
    let children = format!("/proc/{0}/task/{0}/children", init.id());
    let begin = std::time::Instant::now();
    let pid: i32 = loop {
        let text = std::fs::read_to_string(&children).unwrap_or_default();
        let pid = text.trim().parse().ok();
        let name = |pid| std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        // Asleep, it maps no more libraries.
        let asleep = Activity::Blocked { nr: libc::SYS_clock_nanosleep as u64 };
        let is_ready = |&pid: &i32| name(pid).trim() == "sleep" && process::activity(pid, pid) == asleep;
        if let Some(pid) = pid.filter(is_ready) {
            break pid;
        }
        assert!(begin.elapsed() < PATIENCE, "no sleep below unshare");
        std::thread::sleep(Duration::from_millis(5));
    };
    let before = View::of(pid);
    for _ in 0..3 {
        let fail = |(code, message): (i32, String)| panic!("exit {code}: {message}");
        Visit::dump(pid, "snapshot").unwrap_or_else(fail).by_agent();
        before.wait_clean(pid, PATIENCE).expect("nothing is left");
    }
    init.kill().expect("still there");
    init.wait().expect("reaped");
}

#[test]
fn storms() {
    for storm in ["fork", "mmap", "thread", "exec"] {
        survives("storm", &[storm]);
    }
    survives("storm", &[]);
}

#[test]
fn undumpable() {
    survives("undumpable", &[]);
    survives("undumpable", &["--uid", "65533"]);
}

#[test]
fn undumpable_for_its_own_user() {
    if !is_root("changing the user") {
        return;
    }
    let nobody = Nobody::new();
    let Some(victim) = victim::spawn("undumpable", &["--uid", "65534"]) else { return };
    let visited = Visit::splice_by(nobody.farspace(&[]), victim.pid());
    let (code, message) = visited.expect_err("not even the same user may");
    assert!(code == 4 && message.contains("CAP_SYS_PTRACE"), "{code}: {message}");
    ends_well(victim);
}

/// The process lives on in other threads; its first is a zombie and has no memory. Visited or refused.
#[test]
fn a_leader_that_ended() {
    let Some(mut victim) = victim::spawn("zombie", &["leader"]) else { return };
    for (round, level) in LEVELS.into_iter().enumerate() {
        for visit in [Visit::splice(victim.pid()), Visit::dump(victim.pid(), level)] {
            if let Err((code, message)) = visit {
                assert!(code == 3 && message.contains("zombie"), "{code}: {message}");
            }
            unharmed(&mut victim, round);
        }
    }
    ends_well(victim);
}

/// No further task is allowed: the agent can't be made, unless by somebody whom the limit doesn't bind.
#[test]
fn the_limit_of_tasks_is_reached() {
    let Some(mut victim) = victim::spawn("nproc", &[]) else { return };
    for round in 0..5 {
        Visit::splice(victim.pid()).expect("copied").copied_for("RLIMIT_NPROC");
        unharmed(&mut victim, round);
        for level in ["frozen", "fuzzy"] {
            Visit::dump(victim.pid(), level).expect("copied").copied_for("RLIMIT_NPROC");
        }
        let (code, message) = Visit::dump(victim.pid(), "snapshot").expect_err("a snapshot is a fork");
        assert!(code == 5 && message.contains("RLIMIT_NPROC"), "{code}: {message}");
        unharmed(&mut victim, round);
    }
    ends_well(victim);
}

#[test]
fn seccomp_filters() {
    if !is_root("suspending a filter") {
        return;
    }
    for how in ["kill", "errno"] {
        survives("seccomp", &[how]);
    }
}

#[test]
fn seccomp_strict() {
    let Some(mut victim) = victim::spawn("seccomp", &["strict"]) else { return };
    for round in 0..5 {
        Visit::splice(victim.pid()).expect("an answer");
        unharmed(&mut victim, round);
        for level in LEVELS {
            match Visit::dump(victim.pid(), level) {
                Ok(_) => {}
                Err((code, message)) => {
                    assert!(code == 5 && message.contains("seccomp"), "{code}: {message}")
                }
            }
        }
        unharmed(&mut victim, round);
    }
    // It can't look at itself, and its exit is not an exit_group.
    assert_eq!(victim.command("exit").expect("an answer"), "ok");
}

/// Without the right to suspend the filter, the memory is copied.
#[test]
fn seccomp_filters_without_privileges() {
    if !is_root("changing the user") {
        return;
    }
    let nobody = Nobody::new();
    for how in ["kill", "errno"] {
        let Some(mut victim) = victim::spawn_with("seccomp", &[how], become_nobody) else { return };
        for round in 0..3 {
            let visit = Visit::splice_by(nobody.farspace(&[]), victim.pid());
            visit.expect("copied").copied_for("seccomp");
            unharmed(&mut victim, round);
        }
        ends_well(victim);
    }
}

/// An unprivileged user's own process is visited like any other.
#[test]
fn without_privileges() {
    if !is_root("changing the user") {
        return;
    }
    let nobody = Nobody::new();
    let Some(mut victim) = victim::spawn_with("idle", &[], become_nobody) else { return };
    for round in 0..5 {
        Visit::splice_by(nobody.farspace(&[]), victim.pid()).expect("a visit").by_agent();
        unharmed(&mut victim, round);
    }
    ends_well(victim);
}

#[test]
fn stopped_stays_stopped() {
    let Some(mut victim) = victim::spawn("stopped", &[]) else { return };
    let is_stopped = |pid: i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    // Back in its stop, if it wasn't there all the time.
    let comes_to_rest = |pid: i32, after: &str| {
        let begin = Instant::now();
        while !is_stopped(pid) {
            assert!(begin.elapsed() < PATIENCE, "it runs after {after}");
            std::thread::sleep(Duration::from_millis(1));
        }
    };
    comes_to_rest(victim.pid(), "its own stop");
    for level in LEVELS {
        Visit::splice(victim.pid()).expect("a visit").by_agent();
        comes_to_rest(victim.pid(), "a splice");
        Visit::dump(victim.pid(), level).expect("a visit").by_agent();
        comes_to_rest(victim.pid(), level);
    }
    kill(Pid::from_raw(victim.pid()), Signal::SIGCONT).expect("continued");
    victim.check_detached().unwrap_or_else(|failure| panic!("{failure}"));
    ends_well(victim);
}

/// Under a debugger: copied from, or visited by a thread that isn't traced; the debugger keeps its control.
#[test]
fn traced_by_another() {
    for how in ["running", "stopped"] {
        let Some(mut victim) = victim::spawn("traced", &[how]) else { return };
        for round in 0..5 {
            let visit = Visit::splice(victim.pid()).expect("a visit");
            assert!(
                visit.mechanism == "agent" || visit.reasons.contains("already traced by pid"),
                "{visit:?}"
            );
            for level in LEVELS {
                let (code, message) = Visit::dump(victim.pid(), level).expect_err("a debugger has a thread");
                assert!(code == 5 && message.contains("already traced by pid"), "{code}: {message}");
            }
            unharmed(&mut victim, round);
        }
        ends_well(victim);
    }
}

#[test]
fn a_32_bit_program() {
    let Some(mut victim) = victim::spawn("elf32", &[]) else { return };
    for round in 0..5 {
        Visit::splice(victim.pid()).expect("copied").copied_for("32-bit");
        unharmed(&mut victim, round);
    }
    ends_well(victim);
}

/// Several visitors at a time.
#[test]
fn visitors_at_the_same_time() {
    let Some(mut victim) = victim::spawn("idle", &[]) else { return };
    let pid = victim.pid();
    let before = View::of(pid);
    for round in 0..10 {
        let visitors: Vec<_> = (0..4).map(|_| std::thread::spawn(move || Visit::splice(pid))).collect();
        for visitor in visitors {
            // Two can't trace one thread at a time: the other may be told so, or that its turn doesn't come.
            let visit = visitor.join().expect("no panic").expect("a visit");
            let reasons = ["already traced by pid", "timed out"];
            assert!(visit.is_by_agent() || reasons.iter().any(|r| visit.reasons.contains(r)), "{visit:?}");
        }
        before.wait_clean(pid, PATIENCE).unwrap_or_else(|left| panic!("round {round}: {left}"));
        unharmed(&mut victim, round);
    }
    ends_well(victim);
}

/// A process that is not the first in a pid namespace of its own.
#[test]
fn in_a_pid_namespace() {
    if !is_root("making a pid namespace") {
        return;
    }
    let mut unshare = Command::new("unshare");
    unshare.args(["--pid", "--fork", "--kill-child", "sh", "-c", "sleep 100 & wait"]).stdin(Stdio::null());
    let mut unshare = unshare.spawn().expect("unshare is everywhere");
    let sleep = descendant(&unshare, "sleep");
    // It has started when it sleeps.
    while !std::fs::read_to_string(format!("/proc/{sleep}/wchan")).is_ok_and(|at| at.contains("nanosleep")) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = View::of(sleep);
    for level in LEVELS {
        Visit::splice(sleep).expect("a visit").by_agent();
        Visit::dump(sleep, level).expect("a visit").by_agent();
        before.wait_clean(sleep, PATIENCE).unwrap_or_else(|left| panic!("{left}"));
    }
    unshare.kill().expect("killed");
    unshare.wait().expect("ended");
}

/// Waits for a descendant of this name.
fn descendant(root: &Child, name: &str) -> i32 {
    let begin = Instant::now();
    let mut line = Vec::new();
    while begin.elapsed() < PATIENCE {
        for pid in std::mem::take(&mut line) {
            if std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name) {
                return pid;
            }
            let children = leftovers::children(pid);
            line.extend(children);
        }
        if line.is_empty() {
            line.push(root.id() as i32);
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    panic!("no {name} below {}", root.id());
}
