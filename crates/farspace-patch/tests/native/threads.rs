//! Patching and undoing while another thread runs through the code.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use iced_x86::code_asm::*;

use crate::cases::{load, registers};
use crate::harness::Machine;

const ROUNDS: usize = 400;

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

    let (machine, stop) = (&machine, AtomicBool::new(false));
    let runs = std::thread::scope(|scope| {
        let runner = scope.spawn(|| {
            let mut runs = 0u64;
            while !stop.load(SeqCst) {
                assert_eq!(machine.run(machine.code(), &registers), expected);
                runs += 1;
            }
            runs
        });
        for _ in 0..ROUNDS {
            if runner.is_finished() {
                break;
            }
            site.steps().into_iter().chain(site.undo_steps()).for_each(|step| machine.apply(step));
        }
        stop.store(true, SeqCst);
        runner.join().expect("the runner saw only the original's results")
    });
    println!("{runs} runs of 50 calls, {} landings", machine.landings());
    assert!(runs > 0);
}
