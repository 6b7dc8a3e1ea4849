//! Cases 52 to 54: the vector registers and PKRU of caller and guest.

use super::guest;
use super::place::{Place, Room};
use super::xstate::{
    AVX, AVX512, Area, FILLED_MXCSR, NR_PROCESS_VM_EXEC, SSE, call_with, enabled, with_controls,
};
use crate::case::Outcome;
use crate::world::expect;
use core::arch::asm;
use farspace::{SigContext, SigInfo};

/// Bytes of the data that a guest stores its state to, and offset of what it loads.
const DUMP: u64 = 0x4000;

/// A room for vector states.
fn room() -> Result<Room, libtest_mimic::Failed> {
    let mut room = Room::with(guest::xsave())?;
    room.clear(0, 2 * DUMP)?;
    Ok(room)
}

/// What a guest sees of its vector state when it is entered with this `fpstate`.
fn seen(room: &mut Room, components: u64, fpstate: u64) -> Result<Area, libtest_mimic::Failed> {
    room.load(guest::xsave())?;
    room.clear(0, DUMP)?;
    let mut context = SigContext { rax: components, rdx: 0, fpstate, ..room.context() };
    room.run_to_end(&mut context)?;
    expect("fpstate, out", &context.fpstate, &fpstate)?;
    Ok(Area::from_bytes(&room.read(room.data.addr, DUMP)?))
}

/// A guest that changes its vector state to that of `area`.
fn change(room: &mut Room, components: u64, fpstate: u64, area: &Area) -> Outcome {
    room.load(guest::xrstor())?;
    room.write(room.data.addr + DUMP, area.all())?;
    let data = room.data.addr + DUMP;
    let mut context = SigContext { rax: components, rdx: 0, rbx: data, fpstate, ..room.context() };
    room.run_to_end(&mut context)
}

/// Without an area the guest starts clean, whatever the caller has in its registers, and whatever a guest before did.
pub(super) fn hidden() -> Outcome {
    let components = enabled() & AVX512;
    let mut room = room()?;
    let mut sentinel = Area::of_frame()?;
    sentinel.fill(components, 1);
    let (dump, controls) = with_controls(|| seen(&mut room, components, 0));
    dump?.expect("at first", components, &Area::clean())?;
    expect("the caller's controls", &controls, &(0x27f, FILLED_MXCSR))?;
    change(&mut room, components, 0, &sentinel)?;
    seen(&mut room, components, 0)?.expect("after another guest", components, &Area::clean())?;
    room.unharmed()
}

/// The system call itself leaves every vector register of the caller's as it was. (Of a function nobody expects that.)
pub(super) fn kept_by_the_call() -> Outcome {
    let components = enabled() & AVX512;
    let mut room = room()?;
    let (mut sentinel, mut other) = (Area::of_frame()?, Area::of_frame()?);
    sentinel.fill(components, 1);
    other.fill(components, 2);
    room.write(room.data.addr + DUMP, other.all())?;
    for (guest, rbx) in [(guest::xsave(), room.data.addr), (guest::xrstor(), room.data.addr + DUMP)] {
        room.load(guest)?;
        let mut context = SigContext { rax: components, rdx: 0, rbx, ..room.context() };
        let (mut info, mask) = (SigInfo::default(), 0_u64);
        let pointers = (&raw mut context as u64, &raw mut info as u64, &raw const mask as u64);
        let arguments = [room.pid as u64, pointers.0, 0, pointers.1, pointers.2, 8];
        let (result, after) = call_with(&sentinel, components, NR_PROCESS_VM_EXEC, arguments);
        expect("the call", &result, &0)?;
        expect("the guest's end", &info.signo(), &libc::SIGILL)?;
        after.expect("the caller's registers", components, &sentinel)?;
    }
    let seen = Area::from_bytes(&room.read(room.data.addr, DUMP)?);
    seen.expect("what the guest saw", components, &Area::clean())?;
    room.unharmed()
}

/// In by the area, seen and changed by the guest, out by the area.
fn round_trip(components: u64) -> Outcome {
    let mut room = room()?;
    let mut area = Area::of_frame()?;
    for round in 0..3 {
        let mut other = area.clone();
        area.fill(components, 10 + 2 * round);
        let before = area.clone();
        seen(&mut room, components, area.addr())?.expect("in", components, &before)?;
        area.expect("out, unchanged", components, &before)?;
        other.fill(components, 11 + 2 * round);
        change(&mut room, components, area.addr(), &other)?;
        area.expect("out, changed", components, &other)?;
        seen(&mut room, components, area.addr())?.expect("in again", components, &other)?;
    }
    // The initial state is a state like any other.
    change(&mut room, components, area.addr(), &Area::clean())?;
    area.expect("out, clean", components, &Area::clean())?;
    room.unharmed()
}

pub(super) fn fpstate_sse() -> Outcome {
    round_trip(SSE)
}

pub(super) fn fpstate_avx() -> Outcome {
    round_trip(AVX)
}

pub(super) fn fpstate_avx512() -> Outcome {
    round_trip(AVX512)
}

/// An area that the processor would refuse to load harms nobody: an error, or an event, and the next call works.
pub(super) fn fpstate_hostile() -> Outcome {
    let components = enabled() & AVX;
    let mut room = room()?;
    let good = Area::of_frame()?;
    let hostile: [(&str, usize, u64); 5] = [
        ("reserved bits of MXCSR", 24, 0xffff_ffff),
        ("components that don't exist", 512, u64::MAX),
        ("the compacted format", 520, 1 << 63 | 3),
        ("reserved bytes of the header", 528, u64::MAX),
        ("a size beyond everything", 468, u64::MAX),
    ];
    for (what, offset, word) in hostile {
        let mut bytes = good.all().to_vec();
        bytes[offset..offset + 8].copy_from_slice(&word.to_ne_bytes());
        let area = Area::from_bytes(&bytes);
        room.load(guest::xsave())?;
        let mut context = SigContext { rax: components, rdx: 0, fpstate: area.addr(), ..room.context() };
        let result = room.call(&mut context, 0, 0).map(|info| info.signo());
        eprintln!("{what}: {result:?}");
        seen(&mut room, components, 0)?.expect(what, components, &Area::clean())?;
    }
    room.unharmed()
}

fn rdpkru() -> u32 {
    let value: u32;
    // SAFETY: the case runs only where the kernel has switched on protection keys; it only reads.
    unsafe { asm!("rdpkru", in("ecx") 0, out("eax") value, out("edx") _, options(nomem, nostack)) };
    value
}

fn wrpkru(value: u32) {
    // SAFETY: as above; the callers deny keys only that nothing here uses.
    unsafe { asm!("wrpkru", in("eax") value, in("ecx") 0, in("edx") 0, options(nostack)) };
}

/// The guest writes PKRU; the caller's stays. Twice: with memory still allowed to the guest, and with none.
fn pkru_of(place: &Place, guest_value: u32) -> Outcome {
    let before = rdpkru();
    // Key 15, which nobody has allocated.
    let mine = before ^ 1 << 30;
    wrpkru(mine);
    let mut context = SigContext { rax: guest_value.into(), rcx: 0, rdx: 0, ..place.context() };
    let result = place.call(&mut context, 0, 0);
    let after = rdpkru();
    wrpkru(before);
    expect("the caller's PKRU", &after, &mine)?;
    expect("the guest's end", &result.map(|info| info.signo()), &Ok(libc::SIGILL))
}

pub(super) fn pkru() -> Outcome {
    let room = Room::with(guest::wrpkru())?;
    for value in [0, 0xffff_fffc, 0x5555_5554] {
        pkru_of(&room, value)?;
    }
    room.unharmed()
}

pub(super) fn pkru_denies_everything() -> Outcome {
    let room = Room::with(guest::wrpkru())?;
    pkru_of(&room, u32::MAX)?;
    room.unharmed()
}
