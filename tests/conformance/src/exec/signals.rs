//! Cases 45 to 47: signals to the caller while the guest runs.

use super::guest;
use super::own::{self, Disposition, bit, signal_thread, tid};
use super::place::{GETPID, Place, Room, at};
use crate::case::Outcome;
use crate::world::{expect, expect_bytes};
use libtest_mimic::Failed;
use rustix::io::Errno;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

const SI_USER: i32 = 0;
const SI_TKILL: i32 = -6;
const SI_KERNEL: i32 = 0x80;
const SI_QUEUE: i32 = -1;

/// A timer's signal that nobody handles: it would end the caller, but it is in the mask.
pub(super) fn alarm(place: &Place) -> Result<String, Failed> {
    let mut context = place.context();
    for round in 0..3 {
        let mask = own::blocked();
        let count = place.read_word(place.data.addr)?;
        let info = std::thread::scope(|scope| {
            let timer = scope.spawn(|| start_timer_beyond(place, count));
            let info = place.call(&mut context, 0, bit(libc::SIGALRM));
            timer.join().map_err(|_| "the thread that starts the timer has panicked")??;
            Ok::<_, Failed>(info.map_err(|e| format!("round {round}: {e:?}"))?)
        })?;
        expect("event", &(info.signo(), info.code()), &(libc::SIGALRM, SI_KERNEL))?;
        expect("the caller's mask", &own::blocked(), &mask)?;
    }
    place.release()?;
    place.run_to_syscall(&mut context, GETPID)?;
    expect("the count", &place.read_word(place.data.addr)?, &context.r12)?;
    Ok("ok".to_owned())
}

/// Starts a timer as soon as the guest has counted beyond `count`: earlier its signal could end the caller. For a thread of
/// its own.
fn start_timer_beyond(place: &Place, count: u64) -> Outcome {
    own::change_mask(libc::SIG_BLOCK, libc::SIGALRM)?;
    place.wait_for_count(count)?;
    let soon = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: 0, tv_usec: 5_000 },
    };
    // SAFETY: the value is only read.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &soon, std::ptr::null_mut()) };
    Ok(())
}

pub(super) fn default_action() -> Outcome {
    let room = Room::counting(guest::spin())?;
    room.play("alarm")?;
    room.unharmed()
}

/// The signal is the process's, and is sent from outside.
pub(super) fn terminate(place: &Place) -> Result<String, Failed> {
    let mut context = place.context();
    crate::caller::say("running");
    let info = place.call(&mut context, 0, bit(libc::SIGTERM)).map_err(|e| format!("{e:?}"))?;
    let pid = i32::from_ne_bytes([info.bytes[16], info.bytes[17], info.bytes[18], info.bytes[19]]);
    let sender = std::os::unix::process::parent_id() as i32;
    expect("event, sender", &(info.signo(), info.code(), pid), &(libc::SIGTERM, SI_USER, sender))?;
    expect_bytes("the rest of info", &info.bytes[24..], &[0; 104])?;
    Ok("ok".to_owned())
}

pub(super) fn from_outside() -> Outcome {
    let room = Room::counting(guest::spin())?;
    let mut caller = room.caller("terminate")?;
    expect("caller", &caller.line()?.as_str(), &"running")?;
    room.wait_for_count(0)?;
    farspace_victims::sys::kill(caller.pid(), libc::SIGTERM)?;
    expect("caller", &caller.line()?.as_str(), &"ok")?;
    room.unharmed()
}

/// With a signal of the mask pending, not one instruction of the guest runs.
pub(super) fn pending() -> Outcome {
    let room = Room::counting(guest::count())?;
    // Often enough for a guest that now and then gets a start.
    for signal in [libc::SIGUSR1, libc::SIGRTMIN() + 3].repeat(50) {
        own::change_mask(libc::SIG_BLOCK, signal)?;
        let blocked = own::blocked();
        signal_thread(tid(), signal)?;
        let mut context = room.context();
        let result = room.call(&mut context, 0, bit(signal));
        let after = own::blocked();
        // Untaken, it would end this program.
        let was_left = own::drain(signal);
        own::change_mask(libc::SIG_UNBLOCK, signal)?;
        let info = result.map_err(|e| format!("the call gives {e:?}"))?;
        expect("event", &(info.signo(), info.code()), &(signal, SI_TKILL))?;
        expect("the context is as it was", &context, &room.context())?;
        expect("the guest's counter", &room.read_word(room.data.addr)?, &0)?;
        expect("the caller's mask", &after, &blocked)?;
        expect("the signal was taken", &was_left, &false)?;
    }
    // The next call runs.
    let mut context = room.context();
    room.run_to_syscall(&mut context, GETPID)?;
    expect("the guest's counter", &room.read_word(room.data.addr)?, &1)?;
    room.unharmed()
}

/// A value sent along comes with the signal (sigqueue(3)).
pub(super) fn pending_value() -> Outcome {
    let room = Room::counting(guest::count())?;
    let signal = libc::SIGRTMIN() + 4;
    own::change_mask(libc::SIG_BLOCK, signal)?;
    // SAFETY: an all-zero siginfo is valid; the kernel reads 128 bytes of it.
    let sent = unsafe {
        let mut info: [u32; 32] = [0; 32];
        (info[0], info[2]) = (signal as u32, SI_QUEUE as u32);
        (info[4], info[5]) = (std::process::id(), 0);
        (info[6], info[7]) = (0x5566_7788, 0x1122_3344);
        libc::syscall(libc::SYS_rt_tgsigqueueinfo, std::process::id(), tid(), signal, info.as_ptr())
    };
    let result = room.call(&mut room.context(), 0, bit(signal));
    own::drain(signal);
    own::change_mask(libc::SIG_UNBLOCK, signal)?;
    own::os("rt_tgsigqueueinfo", sent)?;
    let info = result.map_err(|e| format!("the call gives {e:?}"))?;
    expect("event", &(info.signo(), info.code()), &(signal, SI_QUEUE))?;
    expect("value", &info.bytes[24..32], &0x1122_3344_5566_7788_u64.to_ne_bytes()[..])?;
    expect("the guest's counter", &room.read_word(room.data.addr)?, &0)?;
    room.unharmed()
}

static HANDLED: AtomicU32 = AtomicU32::new(0);

extern "C" fn count(_: i32) {
    HANDLED.fetch_add(1, Ordering::SeqCst);
}

/// A handler runs, the call gives EINTR, and made again goes on with what the guest was doing; SA_RESTART or not.
pub(super) fn handler() -> Outcome {
    for flags in [0, libc::SA_RESTART] {
        let room = Room::counting(guest::spin())?;
        let _handler = Disposition::set(libc::SIGUSR2, count as *const () as libc::sighandler_t, flags)?;
        HANDLED.store(0, Ordering::SeqCst);
        let caller = tid();
        let place: &Place = &room;
        let mut context = place.context();
        for round in 1..=3 {
            let before = context.r12;
            let interrupted = std::thread::scope(|scope| {
                let sender = scope.spawn(|| -> Outcome {
                    place.wait_for_count(before)?;
                    signal_thread(caller, libc::SIGUSR2)
                });
                // The default action of another signal in the mask has nothing to do with it.
                let result = room.call(&mut context, 0, bit(libc::SIGALRM));
                sender.join().map_err(|_| Failed::from("the sender panicked"))??;
                Ok::<_, Failed>(result.map(drop))
            })?;
            expect("the call", &interrupted, &Err(Errno::INTR))?;
            expect("runs of the handler", &HANDLED.load(Ordering::SeqCst), &round)?;
            // In the middle of the loop: the counter is the register, or one behind.
            let counter = room.read_word(room.data.addr)?;
            let near = context.r12 > before && (context.r12 == counter || context.r12 == counter + 1);
            expect("the guest has run", &near, &true).map_err(|e| at(e, &context))?;
        }
        room.release()?;
        room.run_to_syscall(&mut context, GETPID)?;
        expect("the count at the end", &room.read_word(room.data.addr)?, &context.r12)?;
        expect("runs of the handler", &HANDLED.load(Ordering::SeqCst), &3)?;
        room.unharmed()?;
    }
    Ok(())
}

/// Signals that are ignored, or blocked and not in the mask, disturb nothing.
pub(super) fn not_for_the_guest() -> Outcome {
    let room = Room::counting(guest::spin())?;
    let _ignored = Disposition::set(libc::SIGUSR1, libc::SIG_IGN, 0)?;
    let handled = Disposition::set(libc::SIGUSR2, count as *const () as libc::sighandler_t, 0)?;
    own::change_mask(libc::SIG_BLOCK, libc::SIGUSR2)?;
    HANDLED.store(0, Ordering::SeqCst);
    let caller = tid();
    let place: &Place = &room;
    let mut context = place.context();
    let result = std::thread::scope(|scope| {
        let sender = scope.spawn(|| -> Outcome {
            for signal in [libc::SIGUSR1, libc::SIGUSR2, libc::SIGUSR1] {
                let count = place.read_word(place.data.addr)?;
                place.wait_for_count(count)?;
                signal_thread(caller, signal)?;
            }
            std::thread::sleep(Duration::from_millis(50));
            place.release()
        });
        let result = place.run_to_syscall(&mut context, GETPID);
        sender.join().map_err(|_| Failed::from("the sender panicked"))??;
        result
    });
    let handled_meanwhile = HANDLED.load(Ordering::SeqCst);
    own::change_mask(libc::SIG_UNBLOCK, libc::SIGUSR2)?;
    result?;
    expect("runs of the handler while blocked", &handled_meanwhile, &0)?;
    expect("runs of the handler after that", &HANDLED.load(Ordering::SeqCst), &1)?;
    drop(handled);
    room.unharmed()
}
