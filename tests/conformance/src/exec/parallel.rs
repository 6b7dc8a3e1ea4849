//! Cases 56 and 57: many callers, and the target's own threads meanwhile.

use super::guest;
use super::place::{GETPID, Place, Room};
use crate::case::Outcome;
use crate::timeline;
use crate::world::expect;
use farspace::SigContext;
use libtest_mimic::Failed;
use std::time::{Duration, Instant};

/// Bytes of data, and of stack, for each caller.
const SLOT: u64 = 64;
const STACK: u64 = 16 << 10;

/// Enters a counting guest of its own `rounds` times and follows every step of it.
fn count(place: &Place, slot: u64, rounds: u64) -> Outcome {
    let rbx = place.data.addr + SLOT * slot;
    let mut context = SigContext { rbx, rsp: place.stack.addr + STACK * (slot + 1) - 64, ..place.context() };
    for round in 1..=rounds {
        let what = format!("caller {slot}, round {round}");
        place.run_to_syscall(&mut context, GETPID).map_err(|e| super::place::at(e, &context))?;
        expect(&what, &(context.r12, context.rbx, place.read_word(rbx)?), &(round, rbx, round))?;
        // Results of other callers must not turn up here.
        context.rax = slot << 32 | round;
    }
    Ok(())
}

/// Callers in several rooms at a time.
fn together(rooms: &mut [Room], callers: u64, rounds: u64) -> Outcome {
    for room in rooms.iter_mut() {
        room.clear(0, SLOT * callers)?;
    }
    std::thread::scope(|scope| {
        let places = rooms.iter().map(|room| -> &Place { room });
        let threads = places.flat_map(|place| (0..callers).map(move |slot| (place, slot)));
        let threads = threads.map(|(place, slot)| scope.spawn(move || count(place, slot, rounds)));
        let threads = threads.collect::<Vec<_>>();
        threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| "a caller panicked")?)
    })
}

pub(super) fn one_target() -> Outcome {
    let mut rooms = [Room::with(guest::count())?];
    together(&mut rooms, 8, 200)?;
    rooms.into_iter().try_for_each(Room::unharmed)
}

pub(super) fn several_targets() -> Outcome {
    let rooms = (0..4).map(|_| Room::with(guest::count()));
    let mut rooms = rooms.collect::<Result<Vec<_>, _>>()?;
    together(&mut rooms, 2, 200)?;
    rooms.into_iter().try_for_each(Room::unharmed)
}

pub(super) fn target_undisturbed() -> Outcome {
    // Each call of a backend that stops the target shows; the machine's own pauses come and go.
    const ATTEMPTS: u32 = 3;
    let mut room = Room::spawn("timeline", &["--threads", "1", "--room"], guest::count())?;
    room.clear(0, 16)?;
    // What the first call has to set up is not what is looked at.
    let mut context = room.context();
    room.run_to_syscall(&mut context, GETPID)?;
    let mut outcome = Ok(());
    for _ in 0..ATTEMPTS {
        outcome = compare_periods(&mut room, &mut context)?;
        if outcome.is_ok() {
            break;
        }
    }
    outcome?;
    room.unharmed()
}

/// An idle period and one of calls: the inner result is whether the target was disturbed.
fn compare_periods(room: &mut Room, context: &mut SigContext) -> Result<Outcome, Failed> {
    const PERIOD: Duration = Duration::from_millis(1500);
    room.victim().command("reset")?;
    std::thread::sleep(PERIOD);
    let idle = timeline::gaps(room.victim())?;
    // A wake-up after the idle time is not what is looked at either.
    room.run_to_syscall(context, GETPID)?;
    room.victim().command("reset")?;
    let (begin, before) = (Instant::now(), context.r12);
    let mut calls = 0;
    while begin.elapsed() < PERIOD {
        room.run_to_syscall(context, GETPID)?;
        calls += 1;
        expect("the count", &context.r12, &(before + calls))?;
    }
    let busy = timeline::gaps(room.victim())?;
    Ok(timeline::expect_undisturbed(&idle, &busy, calls))
}
