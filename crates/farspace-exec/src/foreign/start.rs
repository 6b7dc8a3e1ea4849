//! What a new task does before it runs guests: the list of system calls that the starter makes.
//!
//! The task comes from the agent: with all signals blocked, a copy of the agent's descriptors, and the target's signal
//! actions.

use std::sync::atomic::Ordering;

use farspace_abi::vcpu::{
    AREA_BYTES, AREAS_OFFSET, CONSTANTS_OFFSET, STEWARD_OFFSET, VCPU_OFFSET, area, orders,
};

use super::Place;
use crate::arch::{VcpuCode, filter};
use crate::engine::{CAUGHT, SIGNAL_FLAGS, action};

/// Name of the task, as in `ps` (prctl(2), PR_SET_NAME).
const NAME: &[u8; 16] = b"farspace-vcpu\0\0\0";
const PR_SET_SYSCALL_USER_DISPATCH: u64 = 59;
const PR_SYS_DISPATCH_ON: u64 = 1;

/// The signals that stay blocked in a task: all but those that it has handlers for. So no handler of the target's runs
/// in it.
pub(super) fn blocked() -> u64 {
    !CAUGHT.iter().fold(0, |caught, signal| caught | 1 << (signal - 1))
}

/// Where a task enters, in a room.
pub(super) const fn entry(room: u64) -> u64 {
    room + STEWARD_OFFSET
}

/// What the list needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    /// The agent's pid as the task sees it.
    pub(super) parent: u64,
    /// Number of the bell in the agent's table.
    pub(super) bell: u64,
}

struct List<'a> {
    place: &'a Place,
    next_step: usize,
    /// Data grows down from the end.
    data: usize,
}

impl List<'_> {
    fn call(&mut self, nr: i64, flags: u32, args: &[u64]) {
        let memory = &self.place.space.memory;
        let at = self.place.offset() as usize + self.next_step;
        memory.u32(at).store(nr as u32, Ordering::Relaxed);
        memory.u32(at + 4).store(flags, Ordering::Relaxed);
        for index in 0..6 {
            let arg = args.get(index).copied().unwrap_or(0);
            memory.u64(at + 8 + 8 * index).store(arg, Ordering::Relaxed);
        }
        self.next_step += orders::STEP_BYTES;
        assert!(self.next_step < self.data, "the list is short");
    }

    /// Puts data beside the list; its address.
    fn data(&mut self, bytes: &[u8]) -> u64 {
        self.data = (self.data - bytes.len()) & !15;
        self.place.space.memory.put(self.place.offset() as usize + self.data, bytes);
        self.place.address().0 + self.data as u64
    }
}

impl Start {
    /// Writes the list to the area.
    pub(super) fn write(self, place: &Place) {
        let room = place.space.room.0;
        let mut list = List { place, next_step: area::START, data: area::STACK };
        // Not to outlive the agent, that may have ended since.
        list.call(libc::SYS_prctl, 0, &[libc::PR_SET_PDEATHSIG as u64, libc::SIGKILL as u64]);
        list.call(libc::SYS_getppid, orders::EXPECT, &[0, 0, 0, 0, 0, self.parent]);
        list.call(libc::SYS_dup2, 0, &[self.bell, 0]);
        list.call(libc::SYS_close_range, 0, &[1, u64::from(u32::MAX)]);
        let name = list.data(NAME);
        list.call(libc::SYS_prctl, orders::MAY_FAIL, &[libc::PR_SET_NAME as u64, name]);
        // No core of the target's memory, not even through a pipe (core(5)).
        let no_core = list.data(&bytes(&[1, 1]));
        list.call(libc::SYS_prlimit64, orders::MAY_FAIL, &[0, u64::from(libc::RLIMIT_CORE), no_core]);
        let stack = [place.address().0 + area::STACK as u64, 0, AREA_BYTES - area::STACK as u64];
        let stack = list.data(&bytes(&stack));
        list.call(libc::SYS_sigaltstack, 0, &[stack]);
        let catch = list.data(&action(room + VCPU_OFFSET + VcpuCode::get().handler, SIGNAL_FLAGS));
        for signal in CAUGHT {
            list.call(libc::SYS_rt_sigaction, 0, &[signal as u64, catch, 0, 8]);
        }
        let mask = list.data(&bytes(&[blocked()]));
        list.call(libc::SYS_rt_sigprocmask, 0, &[libc::SIG_SETMASK as u64, mask, 0, 8]);
        list.call(libc::SYS_prctl, 0, &[libc::PR_SET_NO_NEW_PRIVS as u64, 1]);
        let program = filter::program(room, &[]);
        let instructions = list.data(&program);
        let program = list.data(&bytes(&[program.len() as u64 / 8, instructions]));
        list.call(libc::SYS_seccomp, 0, &[u64::from(libc::SECCOMP_SET_MODE_FILTER), 0, program]);
        let selector = room + CONSTANTS_OFFSET;
        let code = room + VCPU_OFFSET;
        list.call(
            libc::SYS_prctl,
            0,
            &[PR_SET_SYSCALL_USER_DISPATCH, PR_SYS_DISPATCH_ON, code, 0x1000, selector],
        );
        let end = place.offset() as usize + list.next_step;
        place.space.memory.u32(end).store(orders::END, Ordering::Release);
        debug_assert!(place.offset() >= AREAS_OFFSET);
    }
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
