//! Case 55: the kernel writes a thread's restartable-sequence area (rseq) whenever the thread was moved or preempted. While
//! it runs a guest, that address means something else.

use super::guest;
use super::own::{self, Page, tid};
use super::place::{GETPID, Place, Room};
use crate::case::Outcome;
use crate::world::expect;
use libtest_mimic::Failed;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// `struct rseq` as first published (include/uapi/linux/rseq.h).
const BYTES: usize = 32;
const UNREGISTER: i32 = 1;
const SIGNATURE: u32 = 0x5305_3053;

/// Registers, or unregisters, the begin of the page for the calling thread.
fn register(page: &Page, flags: i32) -> Outcome {
    // SAFETY: the page lives until it is unregistered; this thread has no other such area, as the test arranged.
    let result = unsafe { libc::syscall(libc::SYS_rseq, page.addr(), BYTES, flags, SIGNATURE) };
    own::os("rseq", result).map(drop)
}

/// Moves a thread to one CPU after the other.
fn move_to(thread: i32, cpu: usize) -> Outcome {
    // SAFETY: an all-zero set is empty; the set is valid for the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &set)
    };
    own::os("sched_setaffinity", result.into()).map(drop)
}

/// The CPU that the kernel wrote into the area when this thread last came back from it.
fn cpu_in(page: &Page) -> u32 {
    (page.load::<u64>() >> 32) as u32
}

/// Plays a caller whose area lies where the target has something else, and which is moved about.
pub(super) fn moved(place: &Place) -> Result<String, Failed> {
    let page = Page::at(place.mirror.addr)?;
    page.store(&[0_u32, u32::MAX, 0, 0, 0, 0, 0, 0]);
    register(&page, 0)?;
    let cpus = std::thread::available_parallelism()?.get();
    let (caller, done) = (tid(), AtomicBool::new(false));
    let mut context = place.context();
    std::thread::scope(|scope| {
        let mover = scope.spawn(|| -> Outcome {
            for round in 0.. {
                if done.load(Ordering::SeqCst) {
                    return Ok(());
                }
                if round == 500 {
                    place.release()?;
                }
                move_to(caller, round % cpus)?;
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        // A long stay in the guest, then many short ones.
        let mut stay = || -> Outcome {
            place.run_to_syscall(&mut context, GETPID)?;
            for _ in 0..300 {
                context.rip = place.code.addr;
                place.run_to_syscall(&mut context, GETPID)?;
            }
            Ok(())
        };
        let stayed = stay();
        done.store(true, Ordering::SeqCst);
        mover.join().map_err(|_| "the mover panicked")??;
        stayed
    })?;
    // The area still is this thread's.
    for cpu in (0..cpus).rev() {
        move_to(caller, cpu)?;
        expect("the CPU in the caller's area", &cpu_in(&page), &(cpu as u32))?;
    }
    register(&page, UNREGISTER)?;
    Ok("ok".to_owned())
}

pub(super) fn no_write_into_the_target() -> Outcome {
    let room = Room::counting(guest::spin())?;
    // The C library would register an area of its own choice.
    let mut caller = room.caller_with("moved", |command| {
        command.env("GLIBC_TUNABLES", "glibc.pthread.rseq=0");
    })?;
    expect("caller", &caller.line()?.as_str(), &"ok")?;
    // The target's page at the caller's address has its pattern still: the victim looks.
    room.unharmed()
}
