//! The rows of others.

use anyhow::Context as _;
use farspace::baseline::{
    Cpus, Futex, Getpid, LocalSigsys, Rounds, SharedLine, Spawn, Sysemu, UserNotif, Way,
};

use super::entry::{Entry, Round};

/// What it otherwise takes to have a fresh address space.
pub(super) const SPAWNS: &[Entry] = &[
    Entry::baseline("fork-exec-static", || rounds(Spawn::start(Way::Fork)?)),
    Entry::baseline("spawn-static", || rounds(Spawn::start(Way::PosixSpawn)?)),
];

/// All others.
pub(super) const ENTRIES: &[Entry] = &[
    Entry::baseline("native-getpid", || rounds(Getpid)),
    Entry::baseline("sysemu-one-cpu", || rounds(Sysemu::start(one()?)?)),
    Entry::baseline("sysemu-two-cpus", || rounds(Sysemu::start(two()?)?)),
    Entry::baseline("sysemu-unpinned", || rounds(Sysemu::start(Cpus::unpinned())?)),
    Entry::baseline("local-sigsys", || rounds(LocalSigsys::start()?)),
    Entry::baseline("shared-line-two-cpus", || rounds(SharedLine::start(two()?)?)),
    // Two spinners on one CPU would wait for the end of each other's time slice.
    Entry::baseline("shared-line-unpinned", || {
        two().and_then(|_| rounds(SharedLine::start(Cpus::unpinned())?))
    }),
    Entry::baseline("futex-one-cpu", || rounds(Futex::start(one()?)?)),
    Entry::baseline("futex-two-cpus", || rounds(Futex::start(two()?)?)),
    Entry::baseline("user-notif-one-cpu", || rounds(UserNotif::start(one()?)?)),
    Entry::baseline("user-notif-two-cpus", || rounds(UserNotif::start(two()?)?)),
];

fn rounds(mut of: impl Rounds + 'static) -> anyhow::Result<Round> {
    Ok(Box::new(move |nr_calls| Ok(of.round(nr_calls)?)))
}

pub(super) fn one() -> anyhow::Result<Cpus> {
    Cpus::one().context("it isn't known which CPUs are allowed")
}

pub(super) fn two() -> anyhow::Result<Cpus> {
    Cpus::two().context("only one CPU is allowed to this process")
}
