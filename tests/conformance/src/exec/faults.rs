//! Cases 41 to 44: synchronous faults of the guest, whatever the caller thinks of such signals.

use super::guest;
use super::own::{self, Disposition};
use super::place::{Room, at, expect_signal};
use crate::case::Outcome;
use crate::world::{expect, expect_bytes};
use farspace::{SigContext, SigInfo};

/// si_code values (include/uapi/asm-generic/siginfo.h).
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;
const BUS_ADRERR: i32 = 2;
const ILL_ILLOPN: i32 = 2;
const FPE_INTDIV: i32 = 1;
const TRAP_TRACE: i32 = 2;
const SI_KERNEL: i32 = 0x80;
/// Exceptions of the processor (Intel SDM volume 3, chapter 6).
const DIVIDE: u64 = 0;
const DEBUG: u64 = 1;
const BREAKPOINT: u64 = 3;
const INVALID: u64 = 6;
const PROTECTION: u64 = 13;
const PAGE_FAULT: u64 = 14;
/// Bits of a page fault's error code; whether a page was there doesn't matter here.
const WRITE: u64 = 2;
const USER: u64 = 4;
const FETCH: u64 = 16;
/// The trap flag.
const TF: u64 = 0x100;

/// What covers no field of a fault is zero; si_addr of a fault without an address is, too.
fn expect_clean(info: &SigInfo) -> Outcome {
    expect_bytes("si_errno", &info.bytes[4..8], &[0; 4])?;
    expect_bytes("padding", &info.bytes[12..16], &[0; 4])?;
    // si_addr_lsb and what else is behind the address; the bytes after it are never used.
    expect_bytes("the rest of info", &info.bytes[24..], &[0; 104])
}

pub(super) fn segv() -> Outcome {
    let mut room = Room::with(guest::load())?;
    let (ro, none, hole, data) = (room.ro.addr, room.none.addr, room.hole.addr, room.data.addr);
    let cases = [
        ("load from nothing", guest::load(), hole + 8, SEGV_MAPERR, USER),
        ("store to nothing", guest::store(), hole + 4096, SEGV_MAPERR, USER | WRITE),
        ("jump to nothing", guest::jump(), hole + 2, SEGV_MAPERR, USER | FETCH),
        ("load from the null page", guest::load(), 16, SEGV_MAPERR, USER),
        ("load from PROT_NONE", guest::load(), none + 24, SEGV_ACCERR, USER),
        ("store to read-only memory", guest::store(), ro + 8, SEGV_ACCERR, USER | WRITE),
        ("jump to data", guest::jump(), data + 64, SEGV_ACCERR, USER | FETCH),
    ];
    for (what, guest, addr, code, err) in cases {
        room.load(guest)?;
        let mut context = SigContext { rbx: addr, rax: 0x55, ..room.context() };
        let info = room.run(&mut context)?;
        expect_signal(what, &info, libc::SIGSEGV, code).map_err(|e| at(e, &context))?;
        expect(&format!("{what}: si_addr, cr2"), &(info.addr(), context.cr2), &(addr, addr))?;
        expect(&format!("{what}: trapno"), &context.trapno, &PAGE_FAULT)?;
        expect(&format!("{what}: err"), &(context.err & (USER | WRITE | FETCH)), &err)?;
        let rip = if err & FETCH != 0 { addr } else { room.code.addr };
        expect(&format!("{what}: rip, rax"), &(context.rip, context.rax), &(rip, 0x55))?;
        expect_clean(&info)?;
    }
    room.unharmed()
}

/// An address that no page table can have: a general protection fault, which knows no address.
pub(super) fn segv_not_canonical() -> Outcome {
    let room = Room::with(guest::load())?;
    let mut context = SigContext { rbx: 0x8000_0000_0000_0000, ..room.context() };
    let info = room.run(&mut context)?;
    expect_signal("load", &info, libc::SIGSEGV, SI_KERNEL)?;
    expect("si_addr, trapno", &(info.addr(), context.trapno), &(0, PROTECTION))?;
    expect("rip", &context.rip, &room.code.addr)?;
    expect_clean(&info)?;
    room.unharmed()
}

pub(super) fn bus() -> Outcome {
    let mut room = Room::with(guest::load())?;
    let behind = room.bus.addr + 4096 + 32;
    for (guest, err) in [(guest::load(), USER), (guest::store(), USER | WRITE)] {
        room.load(guest)?;
        let mut context = SigContext { rbx: behind, ..room.context() };
        let info = room.run(&mut context)?;
        expect_signal("behind the file's end", &info, libc::SIGBUS, BUS_ADRERR)?;
        expect("si_addr, cr2", &(info.addr(), context.cr2), &(behind, behind))?;
        expect("trapno", &context.trapno, &PAGE_FAULT)?;
        expect("err", &(context.err & (USER | WRITE | FETCH)), &err)?;
        expect("rip", &context.rip, &room.code.addr)?;
        expect_clean(&info)?;
    }
    room.unharmed()
}

pub(super) fn ill() -> Outcome {
    let room = Room::with(guest::undefined())?;
    let mut context = room.context();
    let info = room.run(&mut context)?;
    expect_signal("ud2", &info, libc::SIGILL, ILL_ILLOPN)?;
    let rip = room.code.addr;
    expect("si_addr, rip, trapno", &(info.addr(), context.rip, context.trapno), &(rip, rip, INVALID))?;
    expect_clean(&info)?;
    room.unharmed()
}

pub(super) fn fpe() -> Outcome {
    let room = Room::with(guest::divide())?;
    let mut context = SigContext { rax: 5, rcx: 0, ..room.context() };
    let info = room.run(&mut context)?;
    expect_signal("division by zero", &info, libc::SIGFPE, FPE_INTDIV)?;
    let rip = room.code.addr;
    expect("si_addr, rip, trapno", &(info.addr(), context.rip, context.trapno), &(rip, rip, DIVIDE))?;
    expect_clean(&info)?;
    // The divisor repaired, the same instruction does its work.
    context.rcx = 2;
    room.run_to_end(&mut context)?;
    expect("5 / 2", &(context.rax, context.rdx), &(2, 1))?;
    room.unharmed()
}

pub(super) fn trap() -> Outcome {
    let room = Room::with(guest::breakpoint())?;
    let mut context = room.context();
    let info = room.run(&mut context)?;
    expect_signal("int3", &info, libc::SIGTRAP, SI_KERNEL)?;
    expect("rip, trapno", &(context.rip, context.trapno), &(room.code.addr + 1, BREAKPOINT))?;
    expect_clean(&info)?;
    room.run_to_end(&mut context)?;
    room.unharmed()
}

/// By the trap flag a guest makes one instruction after the other.
pub(super) fn single_step() -> Outcome {
    let room = Room::with(guest::steps())?;
    let mut context = SigContext { rax: 10, ..room.context() };
    for (length, rax) in [(1, 10), (4, 11), (5, 11), (8, 12)] {
        context.eflags |= TF;
        let info = room.run(&mut context)?;
        expect_signal("step", &info, libc::SIGTRAP, TRAP_TRACE).map_err(|e| at(e, &context))?;
        let rip = room.code.addr + length;
        expect("rip, si_addr, rax", &(context.rip, info.addr(), context.rax), &(rip, rip, rax))?;
        expect("trapno", &context.trapno, &DEBUG)?;
    }
    // Without the flag it runs on.
    context.eflags &= !TF;
    room.run_to_end(&mut context)?;
    room.unharmed()
}

/// Blocked or ignored by the caller, or with a handler of its own: the fault is returned, and that stays as it was.
pub(super) fn unwanted() -> Outcome {
    extern "C" fn never(_: i32) {
        std::process::abort();
    }
    let mut room = Room::with(guest::load())?;
    let faults = [
        (libc::SIGSEGV, guest::load(), room.hole.addr),
        (libc::SIGBUS, guest::load(), room.bus.addr + 4096),
        (libc::SIGILL, guest::undefined(), 0),
        (libc::SIGFPE, guest::divide(), 0),
        (libc::SIGTRAP, guest::breakpoint(), 0),
    ];
    for (signal, guest, rbx) in faults {
        room.load(guest)?;
        for handler in [libc::SIG_DFL, libc::SIG_IGN, never as *const () as libc::sighandler_t] {
            for block in [false, true] {
                let disposition = Disposition::set(signal, handler, libc::SA_NODEFER)?;
                if block {
                    own::change_mask(libc::SIG_BLOCK, signal)?;
                }
                let before = (disposition.now(), own::blocked());
                let info = room.run(&mut SigContext { rbx, ..room.context() });
                let after = (disposition.now(), own::blocked());
                own::change_mask(libc::SIG_UNBLOCK, signal)?;
                expect("the signal", &info?.signo(), &signal)?;
                expect("the caller's disposition and mask", &after, &before)?;
            }
        }
    }
    room.unharmed()
}

/// What was missing is put there, and the guest goes on as if it had always been.
pub(super) fn repair() -> Outcome {
    const ANONYMOUS: u64 = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE) as u64;
    let (read, write) = (libc::PROT_READ as u64, (libc::PROT_READ | libc::PROT_WRITE) as u64);
    let mut room = Room::with(guest::store())?;
    let page = room.hole.addr + 8192;
    let mut context = SigContext { rbx: page + 8, rax: 0x77, ..room.context() };
    let info = room.run(&mut context)?;
    expect("nothing there", &(info.signo(), info.addr()), &(libc::SIGSEGV, page + 8))?;
    let args = [page, 4096, write, ANONYMOUS, u64::MAX, 0];
    room.expect_syscall("mmap", libc::SYS_mmap, &args, page as i64)?;
    room.run_to_end(&mut context)?;
    expect("what the guest wrote", &room.read_word(page + 8)?, &0x77)?;
    room.expect_syscall("munmap", libc::SYS_munmap, &[page, 4096], 0)?;

    room.announce("ro", 16, 8)?;
    let ro = room.ro;
    let mut context = SigContext { rbx: ro.addr + 16, rax: 0x88, ..room.context() };
    let info = room.run(&mut context)?;
    expect("read-only", &(info.signo(), info.code()), &(libc::SIGSEGV, SEGV_ACCERR))?;
    room.expect_syscall("mprotect", libc::SYS_mprotect, &[ro.addr, ro.len, write], 0)?;
    room.run_to_end(&mut context)?;
    expect("what the guest wrote", &room.read_word(ro.addr + 16)?, &0x88)?;
    room.expect_syscall("mprotect back", libc::SYS_mprotect, &[ro.addr, ro.len, read], 0)?;
    room.unharmed()
}
