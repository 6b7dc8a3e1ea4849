//! Cases 48 and 49: the caller is stopped, continued, and killed.

use super::guest;
use super::own::{state, wait_until};
use super::place::{GETPID, Place, Room};
use crate::case::Outcome;
use crate::world::expect;
use farspace_victims::pace;
use libtest_mimic::Failed;
use std::time::{Duration, Instant};

/// Plays a caller whose guest counts until it is released.
pub(super) fn spin(place: &Place) -> Result<String, Failed> {
    let mut context = place.context();
    crate::caller::say("running");
    place.run_to_syscall(&mut context, GETPID)?;
    expect("the count", &place.read_word(place.data.addr)?, &context.r12)?;
    Ok("ok".to_owned())
}

pub(super) fn stop_and_continue() -> Outcome {
    let room = Room::counting(guest::spin())?;
    let mut caller = room.caller("spin")?;
    expect("caller", &caller.line()?.as_str(), &"running")?;
    let mut count = room.wait_for_count(0)?;
    for _ in 0..3 {
        farspace_victims::sys::kill(caller.pid(), libc::SIGSTOP)?;
        wait_until("the caller stops", || Ok(state(caller.pid())? == 'T'))?;
        std::thread::sleep(Duration::from_millis(20));
        farspace_victims::sys::kill(caller.pid(), libc::SIGCONT)?;
        wait_until("the caller runs again", || Ok(state(caller.pid())? != 'T'))?;
        count = room.wait_for_count(count)?;
    }
    // It noticed nothing: its one call ends by the guest's system call.
    room.release()?;
    expect("caller", &caller.line()?.as_str(), &"ok")?;
    room.unharmed()
}

pub(super) fn kill() -> Outcome {
    const PROMPT: Duration = Duration::from_secs(20);
    let room = Room::counting(guest::spin())?;
    for _ in 0..5 {
        room.write(room.data.addr, &[0; 16])?;
        let mut caller = room.caller("spin")?;
        expect("caller", &caller.line()?.as_str(), &"running")?;
        room.wait_for_count(0)?;
        let killed = Instant::now();
        farspace_victims::sys::kill(caller.pid(), libc::SIGKILL)?;
        wait_until("the caller ends", || Ok(state(caller.pid())? == 'Z'))?;
        expect("the caller ended promptly", &(killed.elapsed() < pace::limit(PROMPT)), &true)?;
        // And so did what ran for it.
        wait_until("the guest ends", || {
            let count = room.read_word(room.data.addr)?;
            std::thread::sleep(Duration::from_millis(20));
            Ok(room.read_word(room.data.addr)? == count)
        })?;
        expect("the guest ended promptly", &(killed.elapsed() < pace::limit(PROMPT)), &true)?;
    }
    room.unharmed()
}
