//! Cases 30 and 31: the pipe holds the target's pages, not copies.
//!
//! The probe is page identity, seen from the data: what the target writes to a page after the call and before
//! the pipe is drained shows in the pipe. A copy taken during the call could not know it, whoever took it.

use crate::case::Outcome;
use crate::world::{PAGE, Pipe, SLOTS, expect_bytes, expect_count, memory, range, unharmed};
use farspace_victims::harness::Victim;
use farspace_victims::pattern;

const LEN: u64 = SLOTS as u64 * PAGE;

/// Splices a pipe full of `name`, lets the target rewrite all of it, and compares what the pipe gives.
fn later_write_shows(victim: &mut Victim, name: &str, seed: u64) -> Outcome {
    let region = victim.region(name)?;
    let pipe = Pipe::new()?;
    expect_count(name, pipe.call(victim.pid(), &[range(region, 0, LEN)], 0), LEN)?;
    victim.command(&format!("write {name} 0 {LEN} {seed}"))?;
    let data = pipe.drain()?;
    if data == region.bytes(0, LEN) {
        return Err(format!("{name}: a write after the call does not show: the bytes were copied").into());
    }
    expect_bytes(&format!("{name}: the pages as they are now"), &data, &pattern::bytes(seed, 0, LEN as usize))
}

pub(super) fn no_byte_copied() -> Outcome {
    let mut victim = memory(&["anon:64K", "shared", "fileshared", "filecow"])?;
    for (name, seed) in [("anon", 101), ("shared", 102), ("fileshared", 103), ("filecow", 104)] {
        later_write_shows(&mut victim, name, seed)?;
    }
    eprintln!(
        "probe: page identity (a later write of the target shows in the pipe), 16 pages each of four kinds"
    );
    unharmed(victim)
}

/// What only the native backend promises: the same, again and again, in a target that forks all the time would
/// not hold on a stock kernel.
pub(super) fn live_page() -> Outcome {
    let mut victim = memory(&["anon:64K"])?;
    for seed in 200..232 {
        later_write_shows(&mut victim, "anon", seed)?;
    }
    unharmed(victim)
}
