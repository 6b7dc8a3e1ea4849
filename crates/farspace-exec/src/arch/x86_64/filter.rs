//! The system call filter behind user dispatch (seccomp(2), linux/filter.h).
//!
//! User dispatch turns each system call of the guest into a signal, wherever it is made. It doesn't see the
//! vsyscall page, and lets through what is called from the vCPUs' code. This filter sees both: it lets a vCPU wait, wake,
//! yield, return from a signal and renew its own dispatch; everything else is a SIGSYS, which is reported like a
//! dispatched call.

use farspace_abi::vcpu::{RESERVED_BASE, VCPU_OFFSET};

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug)]
struct Instruction {
    code: u16,
    jump_true: u8,
    jump_false: u8,
    k: u32,
}

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const JUMP_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const JUMP_ABOVE: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000; // SECCOMP_RET_ALLOW
const TRAP: u32 = 0x0003_0000; // SECCOMP_RET_TRAP
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

// struct seccomp_data: nr 0, arch 4, instruction pointer 8, arguments from 16 on; low halves first.
const NR: u32 = 0;
const ARCH: u32 = 4;
const POINTER: u32 = 8;
const fn argument(index: u32) -> u32 {
    16 + 8 * index
}

const fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, jump_true: 0, jump_false: 0, k: offset }
}

const fn give(verdict: u32) -> Instruction {
    Instruction { code: RETURN, jump_true: 0, jump_false: 0, k: verdict }
}

/// The filter for a vCPU whose code page is at `code`; the numbers in `direct` may run in the stub.
pub(crate) fn program(stub: u64, direct: &[u32]) -> Vec<u8> {
    let code = stub + VCPU_OFFSET;
    let (high, low) = ((code >> 32) as u32, code as u32);
    let trap_unless_equal =
        |k| [Instruction { code: JUMP_EQUAL, jump_true: 1, jump_false: 0, k }, give(TRAP)];
    let mut program = vec![load(ARCH)];
    program.extend(trap_unless_equal(AUDIT_ARCH_X86_64));
    // From the code page, in the order of how often: futex (FUTEX_WAIT, FUTEX_WAKE), sched_yield, rt_sigreturn, the
    // engine's bell, what may run in the stub. The pointer is that after the instruction.
    let mut inside = vec![load(NR)];
    inside.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 4, k: libc::SYS_futex as u32 });
    inside.push(load(argument(1)));
    inside.push(Instruction { code: JUMP_ABOVE, jump_true: 1, jump_false: 0, k: 1 });
    inside.push(give(ALLOW));
    inside.push(give(TRAP));
    for nr in [libc::SYS_sched_yield as u32, libc::SYS_rt_sigreturn as u32].iter().chain(direct) {
        inside.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 1, k: *nr });
        inside.push(give(ALLOW));
    }
    // write(0, ..., 8); in a created space no descriptor is open, and the engine waits by futex.
    if stub != RESERVED_BASE {
        inside.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 5, k: libc::SYS_write as u32 });
        inside.push(load(argument(0)));
        inside.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 3, k: 0 });
        inside.push(load(argument(2)));
        inside.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 1, k: 8 });
        inside.push(give(ALLOW));
    }
    inside.push(give(TRAP));
    // Where the pointer isn't in the page, everything of that is jumped over; 255 is as far as that goes.
    assert!(inside.len() < 240, "few numbers run in the stub");
    let over = inside.len() as u8;
    program.push(load(POINTER + 4));
    program.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 3 + over, k: high });
    program.push(load(POINTER));
    program.push(Instruction { code: JUMP_ABOVE, jump_true: 0, jump_false: 1 + over, k: low });
    program.push(Instruction { code: JUMP_ABOVE, jump_true: over, jump_false: 0, k: low + 0xfff });
    program.extend(inside);
    program.push(load(NR));
    // What a new vCPU still has to do when it has its filter, from anywhere: user dispatch stops a guest's calls.
    if stub == RESERVED_BASE {
        let nr = libc::SYS_rt_sigprocmask as u32;
        program.push(Instruction { code: JUMP_EQUAL, jump_true: 0, jump_false: 1, k: nr });
        program.push(give(ALLOW));
    }
    // prctl(PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, code, 4096, ...)
    program.extend(trap_unless_equal(libc::SYS_prctl as u32));
    for (index, value) in [(0, 59), (1, 1), (2, low), (3, 0x1000)] {
        program.push(load(argument(index)));
        program.extend(trap_unless_equal(value));
    }
    program.push(give(ALLOW));
    let mut bytes = Vec::with_capacity(program.len() * 8);
    for instruction in program {
        bytes.extend(instruction.code.to_le_bytes());
        bytes.extend([instruction.jump_true, instruction.jump_false]);
        bytes.extend(instruction.k.to_le_bytes());
    }
    bytes
}
