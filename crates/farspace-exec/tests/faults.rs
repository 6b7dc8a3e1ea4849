//! Faults: a supervisor that is killed, stubs that are killed or stopped, and what is left after many of everything.
//!
//! FARSPACE_TEST_KILLS overrides the number of kills.

use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use farspace_exec::{Engine, Error, Event, Protection, RemoteAddr};

#[path = "hostile/random.rs"]
mod random;
#[path = "faults/supervisor.rs"]
mod supervisor;
#[path = "faults/tasks.rs"]
mod tasks;

use random::Random;
use supervisor::{CALLS, SPINS, guest, start};
use tasks::{Resources, left_after, task};

/// Kills, unless the environment says otherwise.
const KILLS: u32 = 100;
/// How long stubs may outlive their supervisor.
const PATIENCE: Duration = Duration::from_secs(20);
/// Says that this process is the supervisor to be killed.
const SUPERVISE: &str = "FARSPACE_TEST_SUPERVISE";
/// The engine's deadlines (five seconds for a kick, ten for a steward), and a slow machine.
const DEADLINE: Duration = Duration::from_secs(40);
const SOON: Option<Duration> = Some(Duration::from_secs(30));
/// Where there is nothing yet.
const ELSEWHERE: RemoteAddr = RemoteAddr(0x80_0000);

/// These tests count what descends from this process: one at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Not a test of its own: the process that is killed.
#[test]
fn supervisor_to_be_killed() {
    if std::env::var(SUPERVISE).is_ok() {
        // Not through the harness, which captures.
        rustix::io::write(std::io::stdout(), b"!").expect("a reader");
        supervisor::work();
    }
}

#[test]
fn no_stub_survives_its_supervisor() {
    let _alone = alone();
    // Orphans come here, so that none can be missed.
    // SAFETY: no pointers are passed.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let kills = std::env::var("FARSPACE_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let mut random = Random(3);
    let (mut found, mut slowest) = (0, Duration::ZERO);
    for kill in 0..kills {
        let mut child = Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", "supervisor_to_be_killed", "--nocapture", "--test-threads=1"])
            .env(SUPERVISE, "1")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let stdout = child.stdout.as_mut().expect("piped");
        let mut byte = [0];
        while byte != *b"!" {
            stdout.read_exact(&mut byte).expect("it starts");
        }
        let limit = random.pick(&[2_000, 20_000, 80_000]);
        let limit = if random.one_in(4) { limit / 2 } else { limit };
        std::thread::sleep(Duration::from_micros(random.below(limit)));
        found += tasks::descendants(child.id() as i32).len();
        child.kill().expect("kill");
        let begin = Instant::now();
        child.wait().expect("its end");
        let left = left_after(PATIENCE);
        assert!(left.is_empty(), "kill {kill}: {left:?}");
        slowest = slowest.max(begin.elapsed());
    }
    println!(
        "{kills} kills of supervisors with {found} stubs in all; the last of one was gone after {slowest:.1?}"
    );
    assert!(found > 0, "there was something to survive");
    // SAFETY: as above.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 0) };
}

fn send(pid: i32, signal: i32) {
    // SAFETY: no pointers are passed; the task is a stub of this test's.
    assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
}

/// Sends a signal to a stub while `work` waits; what that gives, within the deadline.
fn while_waiting<T: Send>(pid: i32, signal: i32, deadline: Duration, work: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            send(pid, signal);
        });
        let begin = Instant::now();
        let outcome = work();
        assert!(begin.elapsed() < deadline, "{:?}", begin.elapsed());
        outcome
    })
}

#[test]
fn killed_stubs_are_errors() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let prompt = Duration::from_secs(20);
    // A vCPU: the others go on.
    let (space, mut vcpu) = guest(&engine, SPINS);
    let pid = vcpu.pid();
    let outcome = while_waiting(pid, libc::SIGKILL, prompt, || vcpu.run(None));
    assert_eq!(outcome, Err(Error::Ended { pid }));
    assert_eq!(vcpu.run(None), Err(Error::Ended { pid }));
    let mut other = start(&space);
    assert_eq!(other.run(Some(Duration::from_millis(5))), Ok(Event::Interrupted));
    // A steward: its vCPUs go with it.
    let pid = other.pid();
    let steward = task(pid).expect("it lives").parent;
    let outcome = while_waiting(steward, libc::SIGKILL, prompt, || other.run(None));
    assert_eq!(outcome, Err(Error::Ended { pid }));
    let outcome = space.map_anonymous(ELSEWHERE, 0x1000, Protection::READ);
    assert_eq!(outcome, Err(Error::Ended { pid: steward }));
    assert!(space.fork().is_err() && space.vcpu().is_err());
    // The first steward: what there is goes on, and nothing is added.
    let (space, mut vcpu) = guest(&engine, CALLS);
    let steward = task(vcpu.pid()).expect("it lives").parent;
    let first = task(steward).expect("it lives").parent;
    send(first, libc::SIGKILL);
    assert!(matches!(engine.space(), Err(Error::Ended { .. })));
    assert!(matches!(vcpu.run(SOON), Ok(Event::Syscall(_))));
    space.map_anonymous(ELSEWHERE, 0x1000, Protection::READ).expect("map");
    assert!(matches!(space.fork().expect("fork").vcpu().expect("a vCPU").run(SOON), Ok(Event::Fault(_))));
}

#[test]
fn stewards_take_no_signals() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let (space, mut vcpu) = guest(&engine, CALLS);
    let steward = task(vcpu.pid()).expect("it lives").parent;
    for signal in
        [farspace_abi::vcpu::KICK, libc::SIGSEGV, libc::SIGSYS, libc::SIGTRAP, libc::SIGTERM, libc::SIGHUP]
    {
        send(steward, signal);
        space.map_anonymous(ELSEWHERE, 0x1000, Protection::READ).expect("map");
        // What its children inherit.
        assert!(matches!(start(&space).run(SOON), Ok(Event::Syscall(_))));
        let copy = space.fork().expect("a fork");
        assert!(matches!(start(&copy).run(SOON), Ok(Event::Syscall(_))));
    }
    assert!(matches!(vcpu.run(SOON), Ok(Event::Syscall(_))));
    // Nor do they leave cores, not even to a pipe (core(5)).
    let limits = std::fs::read_to_string(format!("/proc/{steward}/limits")).expect("it lives");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("a limit");
    assert!(core.split_whitespace().nth(4).is_some_and(|soft| ["0", "1"].contains(&soft)), "{core}");
}

#[test]
fn stopped_stubs_are_errors() {
    let _alone = alone();
    let engine = Engine::new().expect("an engine");
    let (space, mut vcpu) = guest(&engine, SPINS);
    let pid = vcpu.pid();
    let timeout = Some(Duration::from_millis(200));
    // It may have been interrupted before the signal came.
    let outcome = while_waiting(pid, libc::SIGSTOP, DEADLINE, || {
        loop {
            match vcpu.run(timeout) {
                Ok(Event::Interrupted) => {}
                outcome => break outcome,
            }
        }
    });
    assert_eq!(outcome, Err(Error::Unresponsive { pid }));
    // Between two runs.
    let mut vcpu = start(&space);
    let pid = vcpu.pid();
    send(pid, libc::SIGSTOP);
    let outcome = while_waiting(pid, libc::SIGSTOP, DEADLINE, || vcpu.run(timeout));
    assert_eq!(outcome, Err(Error::Unresponsive { pid }));
    let steward = task(start(&space).pid()).expect("it lives").parent;
    send(steward, libc::SIGSTOP);
    let begin = Instant::now();
    let outcome = space.map_anonymous(ELSEWHERE, 0x1000, Protection::READ);
    assert_eq!(outcome, Err(Error::Unresponsive { pid: steward }));
    assert!(begin.elapsed() < DEADLINE, "{:?}", begin.elapsed());
}

#[test]
fn runs_and_spaces_leak_nothing() {
    let _alone = alone();
    let file = rustix::fs::memfd_create("leaks", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    rustix::fs::ftruncate(&file, 0x1000).expect("truncate");
    let engine = Engine::new().expect("an engine");
    let (_space, mut vcpu) = guest(&engine, CALLS);
    let first = task(task(vcpu.pid()).expect("it lives").parent).expect("it lives").parent;
    let round = |count: u32| {
        for _ in 0..count {
            let (space, mut vcpu) = guest(&engine, CALLS);
            space
                .map_file(
                    ELSEWHERE,
                    0x1000,
                    Protection::READ,
                    farspace_exec::Sharing::Shared,
                    file.as_fd(),
                    0,
                )
                .expect("map");
            let mut other = start(&space);
            for _ in 0..10 {
                assert!(matches!(vcpu.run(SOON), Ok(Event::Syscall(_))));
            }
            assert!(matches!(other.run(SOON), Ok(Event::Syscall(_))));
            drop(space.fork().expect("a fork"));
        }
    };
    let mut run = |count: u32| {
        for _ in 0..count {
            assert!(matches!(vcpu.run(SOON), Ok(Event::Syscall(_))));
        }
    };
    run(1000);
    round(50);
    let files = || std::fs::read_dir(format!("/proc/{first}/fd")).expect("it lives").count();
    let files_before = files();
    let start = Resources::now();
    let before = Resources::settled(&Resources { descendants: 3, ..start }, PATIENCE);
    run(100_000);
    round(1000);
    let after = Resources::settled(&before, PATIENCE);
    println!("before: {before:?}\nafter: {after:?}");
    assert_eq!(files(), files_before, "descriptors of the first steward");
    assert_eq!((after.descriptors, after.descendants), (before.descriptors, before.descendants));
    assert!(after.threads <= before.threads);
    // The allocator's own.
    assert!(after.mappings <= before.mappings + 4, "mappings");
    assert!(after.resident_kib <= before.resident_kib + 1024, "resident memory");
}
