//! Cases 68 and 69: another thread of the caller's takes the context away, or writes to it, during the call.

use super::guest;
use super::own::{self, Page, bit, signal_thread, tid};
use super::place::{Place, Room};
use crate::case::Outcome;
use crate::world::expect;
use core::arch::asm;
use farspace::{SigContext, SigInfo};
use farspace_victims::pattern;
use libtest_mimic::Failed;
use rustix::io::Errno;
use std::mem::offset_of;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Plays a caller whose context, then whose info, is gone when the call comes back.
pub(super) fn unmapped(place: &Place) -> Result<String, Failed> {
    own::change_mask(libc::SIG_BLOCK, libc::SIGUSR1)?;
    for what in ["context", "info"] {
        // Whether a call that fails has taken the signal is nobody's business.
        own::drain(libc::SIGUSR1);
        place.write(place.data.addr, &[0; 16])?;
        let page = Page::new()?;
        let (mut context, mut info, mask) = (place.context(), SigInfo::default(), bit(libc::SIGUSR1));
        page.store(&context);
        let pointers = match what {
            "context" => (page.addr() as *mut SigContext, &raw mut info),
            _ => (&raw mut context, page.addr() as *mut SigInfo),
        };
        let caller = tid();
        let result = std::thread::scope(|scope| {
            let other = scope.spawn(move || -> Outcome {
                place.wait_for_count(0)?;
                drop(page);
                signal_thread(caller, libc::SIGUSR1)
            });
            // SAFETY: that one of the pointers becomes bad is what is tested; nothing else is ever at that address.
            let result =
                unsafe { farspace::raw::process_vm_exec(place.pid, pointers.0, 0, pointers.1, &mask, 8) };
            other.join().map_err(|_| "the other thread panicked")??;
            Ok::<_, Failed>(result)
        })?;
        expect(what, &result, &Err(Errno::FAULT))?;
    }
    // And the caller goes on, here and there.
    own::drain(libc::SIGUSR1);
    place.release()?;
    place.run_to_syscall(&mut place.context(), super::place::GETPID)?;
    Ok("ok".to_owned())
}

pub(super) fn context_unmapped() -> Outcome {
    let room = Room::counting(guest::spin())?;
    room.play("unmapped")?;
    room.unharmed()
}

/// What a context could hold: valid, wrong, and forbidden. No code but the guest's can be reached by it, and that one
/// writes nothing.
fn values(place: &Place) -> [(usize, Vec<u64>); 12] {
    let code = place.code.addr;
    let selectors = vec![0x002b_0000_0000_0033, 0, 0x002b_0000_0000_0023, u64::MAX, 0x0018_0053_002b_0010];
    let flags = vec![0x202, 0, 0x302, 0x4_0202, 0x3202, 0x4202, 0x602, 0x2_0202, u64::MAX, 0x1_0000_0202];
    [
        (
            offset_of!(SigContext, rip),
            vec![code, code + 2, place.hole.addr, 1 << 63, 0xffff_ffff_8100_0000, 0],
        ),
        (offset_of!(SigContext, rsp), vec![place.stack.addr + 4096, 0, 1 << 63, u64::MAX, 8]),
        (offset_of!(SigContext, eflags), flags),
        (offset_of!(SigContext, cs), selectors),
        (offset_of!(SigContext, rax), vec![39, 60, u64::MAX, 15]),
        (offset_of!(SigContext, rcx), vec![0, 1 << 63]),
        (offset_of!(SigContext, r11), vec![0, u64::MAX]),
        (offset_of!(SigContext, fpstate), vec![0, 8, place.hole.addr, 1 << 63, 0x1800_0000_0000]),
        (offset_of!(SigContext, reserved1), vec![0, place.data.addr, 1 << 63, u64::MAX]),
        (offset_of!(SigContext, reserved1) + 8, vec![0, place.data.addr, 1 << 63, u64::MAX]),
        (offset_of!(SigContext, err), vec![0, u64::MAX]),
        (offset_of!(SigContext, oldmask), vec![0, u64::MAX]),
    ]
}

/// Flags and MXCSR of this thread that a guest's context must not get to.
fn own_state() -> (u64, u32) {
    let (flags, mut mxcsr): (u64, u32);
    mxcsr = 0;
    // SAFETY: the flags go over the stack; the value is written to.
    unsafe {
        asm!("pushfq", "pop {flags}", "stmxcsr [{at}]", flags = out(reg) flags, at = in(reg) &raw mut mxcsr)
    };
    // Trap, direction, I/O privilege, nested task, alignment check.
    (flags & (0x100 | 0x400 | 0x3000 | 0x4000 | 0x4_0000), mxcsr & !0x3f)
}

/// Plays a caller whose context another thread scribbles over.
pub(super) fn rewritten(place: &Place) -> Result<String, Failed> {
    const PERIOD: Duration = Duration::from_secs(3);
    let page = Page::at(0x1800_0000_0000)?;
    let (at, done, values) = (page.addr(), AtomicBool::new(false), values(place));
    let before = own_state();
    let (mut calls, mut good) = (0_u64, 0_u64);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for round in 0.. {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                let random = pattern::word(0x69, round);
                let (offset, choices) = &values[random as usize % values.len()];
                // The first of each is the good one; half of all writes are.
                let choice = if random & 1 << 40 == 0 { 0 } else { (random >> 32) as usize % choices.len() };
                // SAFETY: inside the page, aligned; nobody has a reference into it.
                unsafe { ((at + *offset as u64) as *mut u64).write_volatile(choices[choice]) };
                if random & 0xff00 == 0 {
                    std::thread::yield_now();
                }
            }
        });
        let begin = Instant::now();
        // Longer where attaching has taken all that time.
        let is_over = |good| begin.elapsed() >= if good > 0 { PERIOD } else { 6 * PERIOD };
        let mut check = || -> Outcome {
            while !is_over(good) {
                let (mut info, mask) = (SigInfo::default(), 0_u64);
                if calls % 4 == 0 {
                    page.store(&place.context());
                }
                // SAFETY: the context is never referred to; info and mask are this function's own.
                let result = unsafe {
                    farspace::raw::process_vm_exec(place.pid, at as *mut _, 0, &raw mut info, &mask, 8)
                };
                calls += 1;
                match result {
                    Ok(()) => good += 1,
                    Err(Errno::INVAL | Errno::FAULT) => {}
                    Err(errno) => return Err(format!("the call gives {errno:?}").into()),
                }
                expect("the caller's own flags and MXCSR", &own_state(), &before)?;
            }
            Ok(())
        };
        let checked = check();
        done.store(true, Ordering::SeqCst);
        writer.join().map_err(|_| "the writer panicked")?;
        checked
    })?;
    eprintln!("{calls} calls, {good} of them ran a guest");
    expect("some ran", &(good > 0), &true)?;
    place.run_to_syscall(&mut SigContext { rax: 7, ..place.context() }, 7)?;
    Ok("ok".to_owned())
}

pub(super) fn context_rewritten() -> Outcome {
    let room = Room::with(guest::syscall())?;
    room.play("rewritten")?;
    room.unharmed()
}
