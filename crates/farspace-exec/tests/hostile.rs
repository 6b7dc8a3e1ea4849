//! A guest that attacks: it scribbles over all that it can write to, jumps to every byte of the stub, and tries every
//! way into the kernel, while the supervisor goes on with its work in the same space.
//!
//! FARSPACE_TEST_ATTEMPTS overrides the number of attempts, FARSPACE_TEST_SEED the seed.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use farspace_abi::vcpu::{SCRATCH, VCPU_CODE, area, area_of};
use farspace_exec::{Engine, Error, Event, Reg, RemoteAddr};

#[path = "hostile/attempts.rs"]
mod attempts;
#[path = "hostile/guests.rs"]
mod guests;
#[path = "hostile/observer.rs"]
mod observer;
#[path = "hostile/random.rs"]
mod random;
#[path = "hostile/stage.rs"]
mod stage;
#[path = "hostile/watchdog.rs"]
mod watchdog;

use observer::Seen;
use random::Random;
use stage::{Stage, is_its_own_fault, timed};
use watchdog::Watchdog;

/// Attempts, unless the environment says otherwise.
const ATTEMPTS: u64 = 40_000;
/// Attempts before a space is replaced.
const PER_SPACE: u64 = 4000;
/// Spaces that are attacked side by side.
const WORKERS: u64 = 2;

#[test]
fn nothing_happens_that_was_not_asked_for() {
    let attempts = number("FARSPACE_TEST_ATTEMPTS").unwrap_or(ATTEMPTS);
    let seed = number("FARSPACE_TEST_SEED").unwrap_or(1);
    let begin = Instant::now();
    // Before the engine, whose tasks inherit it.
    let seen = observer::observe();
    let engine = Engine::new().expect("an engine");
    let mut tally = BTreeMap::new();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..WORKERS)
            .map(|worker| {
                let (engine, seen) = (&engine, &*seen);
                let mut random = Random(seed << 32 | worker);
                scope.spawn(move || attack(engine, seen, attempts.div_ceil(WORKERS), &mut random))
            })
            .collect();
        for worker in workers {
            for (what, count) in worker.join().expect("no supervisor fails") {
                *tally.entry(what).or_insert(0) += count;
            }
        }
    });
    println!("{attempts} attempts, seed {seed}, in {:.1?}: {tally:?}", begin.elapsed());
    println!("{} system calls of stewards", seen.calls.load(Ordering::Relaxed));
    let wrong = seen.wrong.lock().expect("no panics");
    assert!(wrong.is_empty(), "system calls that nobody ordered: {wrong:#?}");
    assert!(seen.calls.load(Ordering::Relaxed) > 100, "the observer sees");
}

#[test]
fn the_observer_sees() {
    std::thread::spawn(|| {
        let seen = observer::observe();
        observer::provoke();
        assert_eq!(seen.wrong.lock().expect("no panics").len(), 1);
    })
    .join()
    .expect("it is seen");
}

/// A thread says that the next vCPU has started before it has. The page of orders must not change under that one.
#[test]
fn a_forged_start_changes_no_orders() {
    let seen = observer::observe();
    let engine = Engine::new().expect("an engine");
    let mut random = Random(2);
    let stage = Stage::new(&engine, &seen, &mut random);
    let forger = stage.vcpu();
    // The area of the second is mapped from now on.
    drop(stage.vcpu());
    let is_over = AtomicBool::new(false);
    let mut forged = 0;
    std::thread::scope(|scope| {
        let (is_over, mut forger) = (&is_over, forger);
        scope.spawn(move || {
            let mut regs = farspace_exec::Registers::default();
            regs[Reg::Rip] = guests::first();
            regs[Reg::Rdi] = area_of(1);
            regs[Reg::Rsi] = area_of(1) + area::STACK as u64 + 0x1000;
            while !is_over.load(Ordering::Relaxed) {
                regs[Reg::Rdx] = 10_000;
                forger.load(&regs).expect("load");
                forger.run(Some(Duration::from_secs(5))).expect("run");
            }
        });
        let _end = Over(is_over);
        for _ in 0..200 {
            let vcpu = timed("a vCPU", || stage.space.vcpu());
            // Many steps over those of the start.
            let fork = timed("a fork", || stage.space.fork());
            assert!(!matches!(fork, Err(Error::Unresponsive { .. })), "{fork:?}");
            forged += u32::from(vcpu.is_err());
        }
    });
    println!("{forged} forged starts were noticed");
    let wrong = seen.wrong.lock().expect("no panics");
    assert!(wrong.is_empty(), "system calls that nobody ordered: {wrong:#?}");
}

/// A thread spoils the message that brings a fork its descriptors. What comes of it takes no orders of the space's.
#[test]
fn a_spoiled_fork_takes_no_orders() {
    let seen = observer::observe();
    let engine = Engine::new().expect("an engine");
    let mut random = Random(3);
    let stage = Stage::new(&engine, &seen, &mut random);
    // Lengths with room for one descriptor, for two, and so on.
    let lengths: Vec<u8> = (0..64).flat_map(|n: u64| (16 + n % 5 * 4).to_le_bytes()).collect();
    stage.space.write(RemoteAddr(attempts::VALUES), &lengths).expect("write");
    let mut spoiler = stage.vcpu();
    let is_over = AtomicBool::new(false);
    let mut spoiled = 0;
    std::thread::scope(|scope| {
        let is_over = &is_over;
        scope.spawn(move || {
            let mut regs = farspace_exec::Registers::default();
            regs[Reg::Rip] = guests::scribble();
            // msg_controllen (recvmsg(2))
            regs[Reg::Rdi] = SCRATCH + 0x100 + 40;
            regs[Reg::Rsi] = 1;
            regs[Reg::Rbx] = 1;
            regs[Reg::R9] = attempts::VALUES;
            while !is_over.load(Ordering::Relaxed) {
                regs[Reg::Rdx] = 10_000;
                spoiler.load(&regs).expect("load");
                spoiler.run(Some(Duration::from_secs(5))).expect("run");
            }
        });
        let _end = Over(is_over);
        let (begin, mut round) = (Instant::now(), 0);
        while spoiled < 20 && begin.elapsed() < Duration::from_secs(5) {
            round += 1;
            let fork = timed("a fork", || stage.space.fork());
            assert!(!matches!(fork, Err(Error::Unresponsive { .. })), "{fork:?}");
            spoiled += u32::from(fork.is_err());
            stage.check_orders(round);
        }
    });
    println!("{spoiled} forks were spoiled");
    let wrong = seen.wrong.lock().expect("no panics");
    assert!(wrong.is_empty(), "system calls that nobody ordered: {wrong:#?}");
}

/// Without a watchdog: what hides in the stub's own code is given up.
#[test]
fn a_guest_that_can_not_be_interrupted_is_given_up() {
    let engine = Engine::new().expect("an engine");
    let seen = Seen::default();
    let mut random = Random(1);
    let stage = Stage::new(&engine, &seen, &mut random);
    let mut vcpu = stage.vcpu();
    // FUTEX_WAIT at an instruction of the stub's, for an answer that never comes: found by trying.
    let mut regs = farspace_exec::Registers::default();
    regs[Reg::Rax] = libc::SYS_futex as u64;
    regs[Reg::Rbx] = area_of(0);
    regs[Reg::Rdi] = area_of(0) + area::ANSWERED as u64;
    regs[Reg::Rbp] = 0x7fff_0000;
    for gate in stage.gates.iter().filter(|gate| **gate >= VCPU_CODE) {
        regs[Reg::Rip] = *gate;
        if vcpu.load(&regs).is_err() {
            vcpu = stage.vcpu();
            vcpu.load(&regs).expect("load");
        }
        let begin = Instant::now();
        let outcome = vcpu.run(Some(Duration::from_millis(50)));
        assert!(begin.elapsed() < stage::LIMIT, "{:?}", begin.elapsed());
        if matches!(outcome, Err(Error::Unresponsive { .. })) {
            return;
        }
    }
    panic!("nothing hides");
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

type Tally = BTreeMap<&'static str, u64>;

fn attack(engine: &Engine, seen: &Seen, attempts: u64, random: &mut Random) -> Tally {
    let mut tally = Tally::new();
    let mut done = 0;
    while done < attempts {
        let stage = Stage::new(engine, seen, random);
        let count = PER_SPACE.min(attempts - done);
        play(&stage, done, count, random, &mut tally);
        done += count;
        // What is forked from a hostile space is as good as any, or isn't there.
        if let Ok(space) = timed("a fork", || stage.space.fork()) {
            space.vcpu().expect("a vCPU of its own");
        }
    }
    tally
}

/// Attempts in one space, with one more vCPU that scribbles.
fn play(stage: &Stage, first: u64, count: u64, random: &mut Random, tally: &mut Tally) {
    let (watchdog, guard) = (Watchdog::new(), Watchdog::new());
    let is_over = AtomicBool::new(false);
    let may_trace = random.one_in(3);
    let mut scribbling = Random(random.next());
    std::thread::scope(|scope| {
        scope.spawn(|| watchdog.watch());
        scope.spawn(|| guard.watch());
        scope.spawn(|| scribble(stage, &guard, &is_over, &mut scribbling));
        // Whatever happens here, the others end.
        let _end = End(&watchdog, &guard, &is_over);
        let mut vcpu = stage.vcpu();
        let mut spoils_mode = false;
        for number in first..first + count {
            if random.one_in(48) {
                stage.disturb(random);
            }
            if random.one_in(2000) {
                let forked = timed("a fork", || stage.space.fork());
                assert!(!matches!(forked, Err(Error::Unresponsive { .. })), "{forked:?}");
            }
            // Whatever mode, selectors and protection keys the last attempts have left.
            if spoils_mode || random.one_in(32) {
                vcpu = stage.vcpu();
            }
            let regs = attempts::registers(number, may_trace, &stage.gates, random);
            spoils_mode = [guests::far(), guests::copy(), guests::keys()].contains(&regs[Reg::Rip])
                && !random.one_in(8);
            let outcome = timed("an attempt", || {
                watchdog.guard(vcpu.pid(), || {
                    vcpu.load(&regs)?;
                    let event = vcpu.run(Some(Duration::from_millis(3)))?;
                    if random.one_in(8) {
                        look(&mut vcpu)?;
                    }
                    Ok(event)
                })
            });
            let what = match outcome {
                Ok(Event::Syscall(_)) => "system calls",
                Ok(Event::Fault(_)) => "faults",
                Ok(Event::Interrupted) => "interrupted",
                Err(ref error) if is_its_own_fault(error) => {
                    vcpu = stage.vcpu();
                    spoils_mode = false;
                    match error {
                        Error::Damaged { .. } => "damaged",
                        Error::Unresponsive { .. } => "unresponsive",
                        _ => "ended",
                    }
                }
                Err(error) => panic!("attempt {number}: {error:?}"),
            };
            *tally.entry(what).or_default() += 1;
        }
    });
    *tally.entry("killed by the watchdog").or_default() += watchdog.kills.load(Ordering::Relaxed);
}

/// Everything that a supervisor may look at.
fn look(vcpu: &mut farspace_exec::Vcpu) -> farspace_exec::Result<()> {
    vcpu.registers();
    vcpu.fs_base()?;
    vcpu.gs_base()?;
    let mut vectors = [0; 4096];
    let len = vcpu.vector_state(&mut vectors)?;
    vcpu.set_vector_state(&vectors[..len])
}

fn scribble(stage: &Stage, guard: &Watchdog, is_over: &AtomicBool, random: &mut Random) {
    let mut vcpu = stage.vcpu();
    while !is_over.load(Ordering::Relaxed) {
        let regs = Stage::scribbler(random);
        let outcome = timed("a scribble", || {
            guard.guard(vcpu.pid(), || {
                vcpu.load(&regs)?;
                vcpu.run(Some(Duration::from_millis(5)))
            })
        });
        match outcome {
            Ok(_) => {}
            Err(error) if is_its_own_fault(&error) => vcpu = stage.vcpu(),
            Err(error) => panic!("{error:?}"),
        }
        std::thread::sleep(Duration::from_micros(random.below(1000)));
    }
}

/// Ends the other thread, whatever happens here.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct End<'a>(&'a Watchdog, &'a Watchdog, &'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.end();
        self.1.end();
        self.2.store(true, Ordering::Relaxed);
    }
}
