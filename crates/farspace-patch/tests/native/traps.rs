//! Each byte of the trap set faults at once, whatever follows it.

use farspace_patch::arch::x86_64::traps::TRAPS;

use crate::harness::{CODE_LEN, Machine, Outcome, Registers, fork, unmap};

const SUFFIXES: u64 = 3000;

#[test]
fn every_byte_traps_whatever_follows() {
    // In a child: a byte that doesn't trap could do anything.
    let machine = Machine::lock();
    let status = fork(|| {
        let mut random = 0x9e37_79b9_7f4a_7c15u64;
        for byte in TRAPS {
            for round in 0..SUFFIXES {
                let mut code = [byte; 16];
                for place in &mut code[1..] {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    *place = if round < 256 { round as u8 } else { (random >> 56) as u8 };
                }
                let at = machine.code() + 256;
                machine.write(at, &code);
                if machine.run(at, &Registers::default()) != Outcome::Faulted(at) {
                    eprintln!("{code:02x?} doesn't trap");
                    return 1;
                }
            }
        }
        0
    });
    assert_eq!(status, 0);
}

/// The fault is reported at the byte even if the fetch of what follows is what fails.
#[test]
fn every_byte_traps_at_the_end_of_a_mapping() {
    let machine = Machine::lock();
    let status = fork(|| {
        let end = machine.code() + CODE_LEN as u64 / 2;
        unmap(end, CODE_LEN / 2);
        for byte in TRAPS {
            machine.write(end - 1, &[byte]);
            if machine.run(end - 1, &Registers::default()) != Outcome::Faulted(end - 1) {
                eprintln!("{byte:02x} doesn't trap");
                return 1;
            }
        }
        0
    });
    assert_eq!(status, 0);
}

/// The test would notice: a byte that is not in the set.
#[test]
fn other_bytes_dont() {
    let machine = Machine::lock();
    machine.write(machine.code(), &[0x90, 0xc3]);
    assert!(matches!(machine.run(machine.code(), &Registers::default()), Outcome::Returned(..)));
}
