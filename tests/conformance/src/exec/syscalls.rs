//! Cases 35, 36 and 38 to 40: system calls of the guest are reported, whatever the entry, and never executed.

use super::guest;
use super::place::{GETPID, I386, Room, X86_64, at, describe, expect_syscall};
use crate::case::Outcome;
use crate::world::{expect, expect_bytes};
use farspace::SigContext;

/// Pages of the vsyscall area (arch/x86/include/uapi/asm/vsyscall.h), and the calls that they stand for.
const VSYSCALLS: [(u64, i64); 3] = [
    (0xffff_ffff_ff60_0000, libc::SYS_gettimeofday),
    (0xffff_ffff_ff60_0400, libc::SYS_time),
    (0xffff_ffff_ff60_0800, libc::SYS_getcpu),
];

pub(super) fn every_field() -> Outcome {
    let room = Room::with(guest::syscall())?;
    let args = SigContext { rdi: 1, rsi: 2, rdx: 3, r10: 4, r8: 5, r9: 6, ..room.context() };
    for nr in [libc::SYS_read, libc::SYS_execve, libc::SYS_exit_group] {
        let before = SigContext { rax: nr as u64, ..args };
        let mut context = before;
        let info = room.run_to_syscall(&mut context, nr as u64)?;
        let after = room.code.addr + 2;
        let mut wanted = [0; 128];
        wanted[..4].copy_from_slice(&libc::SIGSYS.to_ne_bytes());
        wanted[8..12].copy_from_slice(&2_i32.to_ne_bytes());
        wanted[16..24].copy_from_slice(&after.to_ne_bytes());
        wanted[24..28].copy_from_slice(&(nr as i32).to_ne_bytes());
        wanted[28..32].copy_from_slice(&X86_64.to_ne_bytes());
        // Every byte: what no field covers is zero, not what was there, and nothing of the kernel's or the agent's.
        expect_bytes("info", &info.bytes, &wanted)?;
        expect("rip", &context.rip, &after)?;
        let args = |c: &SigContext| [c.rdi, c.rsi, c.rdx, c.r10, c.r8, c.r9];
        expect("arguments", &args(&context), &args(&before))?;
        expect("rbx, rsp", &(context.rbx, context.rsp), &(before.rbx, before.rsp))?;
    }
    room.unharmed()
}

pub(super) fn rax_is_the_result() -> Outcome {
    let mut room = Room::with(guest::results())?;
    let results = [0, 1, -1_i64 as u64, 0x1234_5678_9abc_def0, 1 << 63];
    room.clear(0, 8 * results.len() as u64)?;
    let mut context = SigContext { rax: GETPID, ..room.context() };
    for result in results {
        let nr = context.rax;
        room.run_to_syscall(&mut context, nr)?;
        context.rax = result;
    }
    room.run(&mut context)?;
    let stored = (0..results.len() as u64).map(|n| room.read_word(room.data.addr + 8 * n));
    expect("what the guest got", &stored.collect::<Result<Vec<_>, _>>()?, &results.to_vec())?;
    room.unharmed()
}

pub(super) fn invalid_number() -> Outcome {
    let room = Room::with(guest::syscall())?;
    // Beyond the table; of x32; what other entries mean by -1; and more than the 32 bits that a number has.
    for nr in [9999, 0x4000_0027, i32::MAX as u64, u32::MAX.into(), u64::MAX, 0x1_0000_0027, 548, 549] {
        let mut context = SigContext { rax: nr, ..room.context() };
        room.run_to_syscall(&mut context, nr).map_err(|e| at(e, &context))?;
        expect("rip", &context.rip, &(room.code.addr + 2))?;
    }
    room.unharmed()
}

pub(super) fn int80() -> Outcome {
    let room = Room::with(guest::int80())?;
    for nr in [20_u64, 1, 11, 9999] {
        let before = SigContext { rax: nr, rcx: 2, rdx: 3, rsi: 4, rdi: 5, rbp: 6, ..room.context() };
        let mut context = before;
        let info = room.run(&mut context)?;
        expect_syscall(&info, &context, nr, I386)?;
        expect("si_call_addr, rip", &(info.addr(), context.rip), &(room.code.addr + 2, room.code.addr + 2))?;
        let args = |c: &SigContext| [c.rbx, c.rcx, c.rdx, c.rsi, c.rdi, c.rbp].map(|word| word as u32);
        expect("arguments", &args(&context), &args(&before))?;
        context.rax = 77;
        room.run_to_end(&mut context)?;
        expect("the result", &context.rax, &77)?;
    }
    room.unharmed()
}

pub(super) fn sysenter() -> Outcome {
    let room = Room::with(guest::sysenter())?;
    // The entry reads the sixth argument from the stack, at a 32-bit address.
    let stack = room.stack.addr + 4096;
    let mut context = SigContext { rax: 20, rbp: stack, rsp: stack, ..room.context() };
    let info = room.run(&mut context)?;
    let event = (info.signo(), info.syscall(), info.arch());
    // Some processors have no such instruction in 64-bit mode.
    if info.signo() != libc::SIGILL {
        expect("event", &event, &(libc::SIGSYS, 20, I386)).map_err(|e| at(e, &context))?;
    }
    room.unharmed()
}

pub(super) fn vsyscall() -> Outcome {
    let mut room = Room::with(guest::call())?;
    room.clear(0, 8)?;
    // A push below the stack pointer is the guest's own.
    room.announce("stack", room.stack.len - 72, 8)?;
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let is_there = maps.contains("[vsyscall]");
    for (page, nr) in VSYSCALLS {
        // Where it would be executed, it would write to memory that nobody announced.
        let (rdi, rsi) = (room.data.addr + 64, room.data.addr + 128);
        let mut context = SigContext { rax: page, rdi, rsi, ..room.context() };
        let rsp = context.rsp;
        let info = room.run(&mut context)?;
        if !is_there {
            expect("without vsyscall", &(info.signo(), info.addr()), &(libc::SIGSEGV, page))?;
            continue;
        }
        expect("event", &describe(&info), &format!("syscall {nr} of {X86_64:#x}"))
            .map_err(|e| at(e, &context))?;
        context.rax = 0x1234;
        room.run_to_end(&mut context).map_err(|e| at(e, &context))?;
        expect("what the call returned", &room.read_word(room.data.addr)?, &0x1234)?;
        expect("the stack is balanced", &context.rsp, &rsp)?;
    }
    room.unharmed()
}
