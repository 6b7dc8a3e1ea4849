//! Patching and undoing while another thread runs through the code.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::time::{Duration, Instant};

use iced_x86::code_asm::*;

use crate::cases::{load, registers};
use crate::harness::Machine;

/// How often at least the site is patched and undone, and the code run meanwhile.
const ROUNDS: u64 = 400;
const RUNS: u64 = 100;

#[test]
fn patching_under_a_running_thread() {
    let mut machine = Machine::lock();
    let site = load(&machine, |a, site, _| {
        a.inc(r12d)?; // S+2, three bytes
        a.dec(ebx)?; // not reached by the patch
        a.mov(eax, libc::SYS_getpid as i32)?;
        a.jne(site)?;
        a.pop(rbx)?;
        a.ret()
    });
    let mut registers = registers();
    registers.general[3] = 50;
    let expected = machine.run(machine.code(), &registers);
    let site = machine.prepare(site).expect("patchable").site().clone();

    machine.landings();
    let (machine, stop, runs) = (&machine, AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            while !stop.load(SeqCst) {
                assert_eq!(machine.run(machine.code(), &registers), expected);
                runs.fetch_add(1, SeqCst);
            }
        });
        let (deadline, mut rounds) = (Instant::now() + Duration::from_secs(10), 0);
        while !runner.is_finished()
            && (rounds < ROUNDS || runs.load(SeqCst) < RUNS)
            && Instant::now() < deadline
        {
            site.steps().into_iter().chain(site.undo_steps()).for_each(|step| machine.apply(step));
            rounds += 1;
        }
        stop.store(true, SeqCst);
        runner.join().expect("the runner saw only the original's results");
    });
    println!("{} runs of 50 calls, {} landings", runs.load(SeqCst), machine.landings());
    assert!(runs.load(SeqCst) > 0);
}
