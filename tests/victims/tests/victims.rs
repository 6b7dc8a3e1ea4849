//! The victims by themselves: undisturbed, each of them must find itself unharmed.

use farspace_victims::BLOCKING_KINDS;
use farspace_victims::harness::{Failure, Victim};
use std::time::Duration;

/// Starts, checks, and ends a victim; a skip is printed.
fn undisturbed(name: &str, args: &[&str]) {
    let story = || -> Result<(), Failure> {
        let mut victim = Victim::spawn(name, args)?;
        victim.check()?;
        victim.check_detached()?;
        victim.finish()
    };
    match story() {
        Err(Failure::Skip(reason)) => eprintln!("{name} {args:?} skipped: {reason}"),
        result => result.unwrap_or_else(|failure| panic!("{name} {args:?}: {failure}")),
    }
}

#[test]
fn quiet_ones() {
    for name in ["idle", "undumpable", "nproc", "elf32", "memory", "storm"] {
        undisturbed(name, &[]);
    }
}

#[test]
fn those_with_children() {
    for how in ["spin", "block"] {
        undisturbed("wait-all", &[how]);
    }
    for how in ["handler", "ignore", "nocldwait"] {
        undisturbed("sigchld", &[how]);
    }
    for how in ["subreaper", "pidns"] {
        undisturbed("reaper", &[how]);
    }
}

#[test]
fn confined_ones() {
    for how in ["kill", "errno", "strict"] {
        undisturbed("seccomp", &[how]);
    }
}

#[test]
fn ended_and_traced_ones() {
    for how in ["process", "leader"] {
        undisturbed("zombie", &[how]);
    }
    for how in ["running", "stopped"] {
        undisturbed("traced", &[how]);
    }
}

#[test]
fn every_blocking_call_returns_undisturbed() -> Result<(), Failure> {
    for kind in BLOCKING_KINDS {
        let mut victim = Victim::spawn("blocking", &[kind.name, "--ms", "50", "--late-ms", "5000"])?;
        victim.release()?;
        victim.finish()?;
    }
    Ok(())
}

/// A tester's own interruption: SIGSTOP and SIGCONT disturb the calls that are never restarted (signal(7)).
#[test]
fn a_disturbed_call_is_noticed() -> Result<(), Failure> {
    for kind in ["epoll", "semop", "io-getevents", "sigtimedwait"] {
        let mut victim = Victim::spawn("blocking", &[kind])?;
        std::process::Command::new("kill").args(["-STOP", &victim.pid().to_string()]).status().expect("kill");
        std::thread::sleep(Duration::from_millis(50));
        std::process::Command::new("kill").args(["-CONT", &victim.pid().to_string()]).status().expect("kill");
        match victim.release() {
            Err(Failure::Harmed(reason)) => assert!(reason.contains("Interrupted system call"), "{reason}"),
            other => panic!("{kind} did not notice: {other:?}"),
        }
    }
    Ok(())
}

#[test]
fn those_that_end_by_themselves() -> Result<(), Failure> {
    Victim::spawn("checksum", &["--rounds", "500", "--threads", "3"])?.result()?;
    Victim::spawn("exit-race", &["--after-us", "100", "--threads", "2"])?.result()?;
    let execs = Victim::spawn("exec-loop", &[])?;
    std::thread::sleep(Duration::from_millis(100));
    execs.finish()
}

#[test]
fn stopped_until_continued() -> Result<(), Failure> {
    let mut victim = Victim::spawn("stopped", &[])?;
    let stat = format!("/proc/{}/stat", victim.pid());
    while !std::fs::read_to_string(&stat).expect("stat").contains(") T ") {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::process::Command::new("kill").args(["-CONT", &victim.pid().to_string()]).status().expect("kill");
    victim.check_detached()?;
    victim.finish()
}

#[test]
fn memory_changes_on_request() -> Result<(), Failure> {
    let mut victim = Victim::spawn("memory", &["anon:64K", "thp:2M"])?;
    assert_eq!(victim.region("anon")?.len, 64 << 10);
    assert_eq!(victim.region("thp")?.addr % (2 << 20), 0);
    victim.command("write anon 10 100 77")?;
    victim.command("munmap thp")?;
    victim.check_detached()?;
    victim.finish()
}

#[test]
fn the_timeline_sees_a_stop() -> Result<(), Failure> {
    let mut victim = Victim::spawn("timeline", &[])?;
    victim.command("reset")?;
    std::process::Command::new("kill").args(["-STOP", &victim.pid().to_string()]).status().expect("kill");
    // The stop begins when the threads get a CPU for it.
    let is_stopped = |task: std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| stat.contains(") T "))
    };
    let tasks = format!("/proc/{}/task", victim.pid());
    while !std::fs::read_dir(&tasks).expect("it lives").flatten().all(is_stopped) {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(300));
    std::process::Command::new("kill").args(["-CONT", &victim.pid().to_string()]).status().expect("kill");
    // The sampler notices when it runs again, which may take its time on a busy machine.
    let begin = std::time::Instant::now();
    loop {
        let report = victim.command("report")?;
        let net = report.split_whitespace().find_map(|word| word.strip_prefix("net_ns=")).expect("net_ns");
        if net.parse::<u64>().expect("a number") > 150_000_000 {
            return Ok(());
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{report}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
