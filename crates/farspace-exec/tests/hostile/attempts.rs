//! One attempt: the registers with which a vCPU sets out, and where it goes.

use farspace_abi::vcpu::{
    AREA_BYTES, CONSTANTS, ORDERS, RESERVED_BASE, SCRATCH, STEWARD_CODE, VCPU_CODE, area, area_of,
};
use farspace_exec::{Reg, Registers, RemoteAddr};

use crate::guests;
use crate::random::Random;

/// Read and write: values of interest, a hand-made frame, a stack.
pub(crate) const DATA: RemoteAddr = RemoteAddr(0x50_0000);
pub(crate) const DATA_BYTES: u64 = 0x8000;
/// Where the 64 values of interest lie.
pub(crate) const VALUES: u64 = DATA.0;
/// Where the hand-made frame lies.
pub(crate) const FRAME: u64 = DATA.0 + 0x1000;
/// Bytes of a frame without vector state.
pub(crate) const FRAME_BYTES: u64 = 8 + 304 + 128;
/// Top of the guest's stack.
pub(crate) const STACK: u64 = DATA.0 + DATA_BYTES;

/// vCPUs that a stage has, and their areas.
pub(crate) const SLOTS: u64 = 4;
/// Longer than either part of the stub.
const CODE_BYTES: u64 = 0x500;

/// Calls with an effect that would be seen: each of them would end, open, change or start something.
const CALLS: [u64; 32] = [
    libc::SYS_exit as u64,
    libc::SYS_exit_group as u64,
    libc::SYS_mmap as u64,
    libc::SYS_munmap as u64,
    libc::SYS_mprotect as u64,
    libc::SYS_mremap as u64,
    libc::SYS_madvise as u64,
    libc::SYS_sigaltstack as u64,
    libc::SYS_rt_sigaction as u64,
    libc::SYS_rt_sigprocmask as u64,
    libc::SYS_rt_sigreturn as u64,
    libc::SYS_prctl as u64,
    libc::SYS_arch_prctl as u64,
    libc::SYS_seccomp as u64,
    libc::SYS_modify_ldt as u64,
    libc::SYS_kill as u64,
    libc::SYS_tgkill as u64,
    libc::SYS_clone as u64,
    libc::SYS_clone3 as u64,
    libc::SYS_fork as u64,
    libc::SYS_vfork as u64,
    libc::SYS_execve as u64,
    libc::SYS_open as u64,
    libc::SYS_openat as u64,
    libc::SYS_socket as u64,
    libc::SYS_read as u64,
    libc::SYS_write as u64,
    libc::SYS_lseek as u64,
    libc::SYS_dup2 as u64,
    libc::SYS_futex as u64,
    libc::SYS_ptrace as u64,
    libc::SYS_process_vm_writev as u64,
];

/// The number of a call, as it is or from the x32 table.
fn call(random: &mut Random) -> u64 {
    random.pick(&CALLS) | if random.one_in(6) { 0x4000_0000 } else { 0 }
}

/// An address, a number or anything.
pub(crate) fn value(random: &mut Random) -> u64 {
    match random.below(16) {
        0 => 0,
        1 => call(random),
        2 => random.below(64),
        3 => area_of(random.below(SLOTS) as usize),
        4 => area_of(random.below(SLOTS) as usize) + random.below(AREA_BYTES / 8) * 8,
        5 => area_of(random.below(SLOTS) as usize) + AREA_BYTES - random.below(0x1000),
        6 => SCRATCH + random.below(0x200) * 8,
        7 => random.pick(&[RESERVED_BASE, STEWARD_CODE, VCPU_CODE, CONSTANTS, ORDERS, ORDERS + 0x100]),
        8 => VCPU_CODE + random.below(CODE_BYTES),
        9 => STEWARD_CODE + random.below(CODE_BYTES),
        10 => DATA.0 + random.below(DATA_BYTES / 8) * 8,
        11 => guests::CODE.0 + random.below(0x100),
        12 => random.pick(&[59, 1, 0x1000, 35, 31, 11, 2, 5, 6, 8, 9]),
        13 => {
            random.pick(&[u64::MAX, 1 << 63, 1 << 47, (1 << 47) - 1, 0xffff_ffff_ff60_0000, u64::MAX - 4095])
        }
        14 => random.next() >> random.below(64),
        _ => random.next(),
    }
}

/// A selector for CS and its neighbours in a frame, or a mask, flags, a signal: what decides something there.
pub(crate) fn value_of_frames(random: &mut Random) -> u64 {
    match random.below(8) {
        0 => random.pick(&[0x33, 0x23, 0x2b, 0x10, 0x18, 0x0f, 0x17, 0]) | 0x2b << 48,
        1 => random.pick(&[u64::MAX, 0, 1 << 30, 1 << 34, 1 << 10]),
        2 => random.pick(&[0x202, 0x302, 0x4_0202, 0x602, 0x3000, u64::MAX]),
        3 => random.pick(&[31, 11, 35, 5, 7, 4, 9, 17]) | random.below(4) << 32,
        4 => random.below(64) << 2 | random.below(4),
        _ => value(random),
    }
}

/// Everything random, with a stack and flags that let most code go on.
fn any(random: &mut Random) -> Registers {
    let mut regs = Registers::default();
    for reg in Reg::ALL {
        regs[reg] = value(random);
    }
    regs[Reg::Rsp] = if random.one_in(4) { value(random) } else { STACK - 0x800 };
    regs[Reg::Rflags] = 0x202;
    regs
}

/// A byte of the stub: all of them one after the other, or one of the system call instructions' neighbours.
fn stub_byte(number: u64, random: &mut Random) -> u64 {
    if random.one_in(16) {
        return RESERVED_BASE + random.below(0x4000);
    }
    let byte = number % (2 * CODE_BYTES);
    if byte < CODE_BYTES { STEWARD_CODE + byte } else { VCPU_CODE + byte - CODE_BYTES }
}

/// The registers of attempt `number`; RIP says what it is. `gates` are the stub's system call instructions.
pub(crate) fn registers(number: u64, may_trace: bool, gates: &[u64], random: &mut Random) -> Registers {
    let mut regs = any(random);
    let byte = stub_byte(number, random);
    // Where the pieces that change something go on.
    regs[Reg::Rcx] = byte;
    if random.one_in(2) {
        regs[Reg::Rax] = call(random);
    }
    if random.one_in(3) {
        // What the stub itself has there.
        regs[Reg::Rbx] = area_of(random.below(SLOTS) as usize);
        regs[Reg::R12] = regs[Reg::Rbx] + area::STACK as u64 + random.below(0x600) * 8;
    }
    regs[Reg::Rip] = match random.below(22) {
        0..8 => byte,
        20 | 21 => {
            regs[Reg::Rax] = call(random);
            random.pick(gates)
        }
        8 => {
            regs[Reg::R15] =
                random.pick(&[0, 1, 2, 3, 0x0f, 0x17, 0x1f, 0x2b, 0x23, 0x33, 0x53, 0x63, 0x7b, 0x7fff]);
            guests::selector()
        }
        9 => {
            let trace = if may_trace && random.one_in(2) { 0x100 } else { 0 };
            regs[Reg::R14] = random.pick(&[0x202, 0x4_0202, 0x602, 0x3202, 0x20_0202, 0x4202]) | trace;
            guests::flags()
        }
        10 => guests::bases(),
        11 => guests::keys(),
        12 => {
            regs[Reg::Rsi] = FRAME;
            regs[Reg::Rdi] =
                area_of(random.below(SLOTS) as usize) + area::STACK as u64 + random.below(0xc00) * 8;
            regs[Reg::Rcx] = FRAME_BYTES;
            regs[Reg::R12] = regs[Reg::Rdi];
            regs[Reg::Rsp] = regs[Reg::Rdi] + 8;
            // rt_sigreturn: from where RSP or EAX is set for it, five bytes each.
            regs[Reg::Rax] = random.pick(gates) - random.pick(&[5, 10]);
            guests::copy()
        }
        13 | 14 => random.pick(&[guests::syscall(), guests::int80(), guests::sysenter()]),
        15 => {
            regs[Reg::Rcx] = 0xffff_ffff_ff60_0000 + random.pick(&[0, 0x400, 0x800, 0xc00, 1]);
            guests::call()
        }
        16 => {
            regs[Reg::Rcx] = random.pick(&[guests::int80_32(), guests::sysenter_32(), guests::syscall_32()]);
            guests::far()
        }
        17 => {
            regs[Reg::Rdi] = value(random);
            guests::store()
        }
        18 => guests::hot(),
        _ => value(random),
    };
    regs
}

/// A hand-made signal frame.
pub(crate) fn frame(random: &mut Random) -> Vec<u8> {
    let mut words: Vec<u64> = (0..FRAME_BYTES / 8).map(|_| value_of_frames(random)).collect();
    // After the return address: uc_flags, uc_link, uc_stack; 16 general registers, RIP, flags, selectors.
    let registers = 1 + 5;
    words[1] = random.pick(&[0, 1, 2, 4, 7]);
    if random.one_in(2) {
        // A signal stack that the kernel accepts.
        let area = area_of(random.below(SLOTS) as usize);
        words[3] = random.pick(&[DATA.0, area + area::STACK as u64]);
        words[4] = random.pick(&[0, 2, 1 << 31]);
        words[5] = 0x7000;
    }
    words[registers + 15] = STACK - 0x1000;
    let anywhere = value(random);
    words[registers + 16] = random.pick(&[guests::syscall(), VCPU_CODE, guests::int80_32(), anywhere]);
    words[registers + 17] = random.pick(&[0x202, 0x4_0202, 0x3202]);
    words[registers + 18] = random.pick(&[0x33, 0x33, 0x23, 0x10]) | 0x2b << 48;
    // No vector state, or whatever.
    words[registers + 23] = if random.one_in(3) { value(random) } else { 0 };
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
