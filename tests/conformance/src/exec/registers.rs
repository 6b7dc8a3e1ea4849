//! Cases 37, 50 and 51: general registers, flags, and the two bases.

use super::guest;
use super::own;
use super::place::{FLAGS, GETPID, Place, Room};
use crate::case::Outcome;
use crate::world::expect;
use farspace::SigContext;
use farspace_victims::pattern;
use libtest_mimic::Failed;

/// All general registers, in the order of [`guest::exchange`].
fn all(c: &SigContext) -> [u64; 16] {
    [
        c.rax, c.rbx, c.rcx, c.rdx, c.rsi, c.rdi, c.rbp, c.r8, c.r9, c.r10, c.r11, c.r12, c.r13, c.r14,
        c.r15, c.rsp,
    ]
}

fn with(values: [u64; 16], c: SigContext) -> SigContext {
    let [rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rsp] = values;
    SigContext { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rsp, ..c }
}

/// Sixteen values that no program has; the stack pointer must be canonical.
fn values(seed: u64) -> [u64; 16] {
    let mut values = [0; 16];
    for (index, value) in (0..).zip(&mut values) {
        *value = pattern::word(seed, index);
    }
    values[15] &= 0x7fff_ffff_ffff;
    values
}

/// All registers and flags go in and come out, by a fault: nothing of them is the processor's to change there.
pub(super) fn round_trip() -> Outcome {
    let mut room = Room::with(guest::exchange())?;
    for (round, flags) in [0, FLAGS, 0x400, 0x801, 0x0c4].into_iter().enumerate() {
        // The exchange changes its own stores.
        room.load(guest::exchange())?;
        let (before, after) = (values(2 * round as u64 + 1), values(2 * round as u64 + 2));
        let loaded = after.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
        let new_flags = FLAGS & !flags | 0x202;
        room.write(room.code.addr + guest::LOADED, &loaded)?;
        room.write(room.code.addr + guest::LOADED + 128, &new_flags.to_le_bytes())?;
        let mut context = with(before, SigContext { eflags: flags | 0x202, ..room.context() });
        room.run_to_end(&mut context)?;
        let stored = (0..17).map(|n| room.read_word(room.code.addr + guest::STORED + 8 * n));
        let stored = stored.collect::<Result<Vec<_>, _>>()?;
        expect("registers, in", &stored[..16], &before[..])?;
        expect("flags, in", &(stored[16] & FLAGS), &flags)?;
        expect("registers, out", &all(&context), &after)?;
        expect("flags, out", &(context.eflags & FLAGS), &(new_flags & FLAGS))?;
    }
    room.unharmed()
}

/// The same by a system call, which gives RCX and R11 to the processor, and RAX.
pub(super) fn round_trip_syscall() -> Outcome {
    let room = Room::with(guest::syscall())?;
    for (round, flags) in [0, FLAGS, 0x400].into_iter().enumerate() {
        let before = values(40 + round as u64);
        let before = SigContext { rax: GETPID, ..with(before, room.context()) };
        let before = SigContext { eflags: flags | 0x202, ..before };
        let mut context = before;
        room.run_to_syscall(&mut context, GETPID)?;
        let kept = SigContext { rax: before.rax, rcx: before.rcx, r11: before.r11, ..context };
        expect("registers", &all(&kept), &all(&before))?;
        expect("flags", &(context.eflags & FLAGS), &flags)?;
        // And once more into the guest, to its end.
        let again = with(values(60 + round as u64), context);
        context = again;
        room.run_to_end(&mut context)?;
        expect("registers at the end", &all(&context), &all(&again))?;
    }
    room.unharmed()
}

pub(super) fn bases_round_trip() -> Outcome {
    let room = Room::with(guest::base_loads())?;
    let (fs, gs) = (room.data.addr + 256, room.data.addr + 512);
    let mut context = room.context();
    (context.reserved1[0], context.reserved1[1]) = (fs, gs);
    room.run_to_end(&mut context)?;
    expect("by the FS base", &context.rax, &room.data.word(256))?;
    expect("by the GS base", &context.rdx, &room.data.word(520))?;
    expect("bases, out", &context.reserved1[..2], &[fs, gs][..])?;
    room.unharmed()
}

/// The guest changes its bases itself.
pub(super) fn bases_written() -> Outcome {
    let room = Room::with(guest::bases())?;
    let (fs, gs) = (room.data.addr + 256, room.data.addr + 512);
    let mut context = SigContext { r8: 0x1234_5678, r9: 0x7fff_1234_0000, ..room.context() };
    (context.reserved1[0], context.reserved1[1]) = (fs, gs);
    room.run_to_end(&mut context)?;
    expect("bases, out", &context.reserved1[..2], &[0x1234_5678, 0x7fff_1234_0000][..])?;
    // Twice the same code with what came out: the new bases are in force, and point to nothing.
    context.rip = room.code.addr;
    let info = room.run(&mut context)?;
    expect("a load by the new base", &(info.signo(), info.addr()), &(libc::SIGSEGV, 0x1234_5678))?;
    room.unharmed()
}

/// The caller's own bases survive all that.
pub(super) fn own_bases(place: &Place) -> Result<String, Failed> {
    const ARCH_SET_GS: i32 = 0x1001;
    const ARCH_GET_FS: i32 = 0x1003;
    const ARCH_GET_GS: i32 = 0x1004;
    let base = |which: i32| {
        let mut value = 0_u64;
        // SAFETY: the value is written to; no base changes.
        own::os("arch_prctl", unsafe { libc::syscall(libc::SYS_arch_prctl, which, &raw mut value) })?;
        Ok::<_, Failed>(value)
    };
    // SAFETY: nothing in this program uses the GS base.
    own::os("arch_prctl", unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, 0x5678_0000_u64) })?;
    let before = (base(ARCH_GET_FS)?, base(ARCH_GET_GS)?);
    for guest_base in [0, 0x1000, place.data.addr] {
        let mut context = SigContext { r8: 0x1234_5678, r9: 0x9abc_0000, ..place.context() };
        (context.reserved1[0], context.reserved1[1]) = (guest_base, guest_base);
        let info = place.run(&mut context)?;
        let wanted = if guest_base == place.data.addr { libc::SIGILL } else { libc::SIGSEGV };
        expect("the guest's end", &info.signo(), &wanted)?;
        expect("the caller's bases", &(base(ARCH_GET_FS)?, base(ARCH_GET_GS)?), &before)?;
    }
    Ok("ok".to_owned())
}

pub(super) fn own_bases_survive() -> Outcome {
    let room = Room::with(guest::bases())?;
    room.play("own_bases")?;
    room.unharmed()
}
