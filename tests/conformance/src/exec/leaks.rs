//! Case 70: however often, nothing is left behind.

use super::guest;
use super::own::status;
use super::place::{GETPID, Room};
use crate::case::Outcome;
use crate::world::expect;
use libtest_mimic::Failed;

const ENTERS: u64 = 100_000;
/// Enters after which everything that is made once has been made.
const WARM: u64 = 2_000;
/// KiB that a process may grow meanwhile by what has nothing to do with it.
const SLACK_KIB: u64 = 512;

/// What a process has.
#[derive(Debug)]
struct Possessions {
    memory_kib: u64,
    descriptors: usize,
    tasks: usize,
    mappings: usize,
}

impl Possessions {
    fn of(pid: i32) -> Result<Self, Failed> {
        let count = |what: &str| Ok::<_, Failed>(std::fs::read_dir(format!("/proc/{pid}/{what}"))?.count());
        Ok(Self {
            memory_kib: status(pid, "VmRSS")?,
            descriptors: count("fd")?,
            tasks: count("task")?,
            mappings: std::fs::read_to_string(format!("/proc/{pid}/maps"))?.lines().count(),
        })
    }

    fn expect_no_more(&self, what: &str, before: &Self) -> Outcome {
        let more = self.memory_kib > before.memory_kib + SLACK_KIB
            || self.descriptors > before.descriptors
            || self.tasks > before.tasks
            || self.mappings > before.mappings + 1;
        if more { Err(format!("{what} has {self:?}, before {before:?}").into()) } else { Ok(()) }
    }
}

pub(super) fn enters() -> Outcome {
    let room = Room::counting(guest::count())?;
    let own = std::process::id() as i32;
    let tasks = || std::fs::read_dir("/proc").map(|all| all.count());
    let mut context = room.context();
    let mut before = None;
    for n in 1..=ENTERS {
        if n % 10 == 0 {
            // A fault as well as a system call: nothing is at this address.
            let mut lost = farspace::SigContext { rip: room.hole.addr, ..context };
            expect("a fault", &room.run(&mut lost)?.signo(), &libc::SIGSEGV)?;
        } else {
            room.run_to_syscall(&mut context, GETPID)?;
        }
        if n == WARM {
            before = Some((Possessions::of(own)?, Possessions::of(room.pid)?, tasks()?));
        }
    }
    expect("the guest's count", &context.r12, &(ENTERS - ENTERS / 10))?;
    let (caller, target, processes) = before.ok_or("too few enters")?;
    Possessions::of(own)?.expect_no_more("the caller", &caller)?;
    Possessions::of(room.pid)?.expect_no_more("the target", &target)?;
    let more = tasks()?.saturating_sub(processes);
    expect("processes that came up meanwhile are few", &(more < 50), &true)?;
    room.unharmed_by_itself()
}
