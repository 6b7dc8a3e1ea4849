//! Orders for a steward: system calls in a row, composed here and carried out in the space.

use std::sync::atomic::Ordering;

use farspace_abi::vcpu::{ORDERS, orders};

use crate::memory::SpaceMemory;

/// A list of system calls with the data that they point to.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    steps: Vec<(u32, u32, [u64; 6])>,
    data: Vec<u8>,
}

impl Orders {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A system call that must succeed.
    pub(crate) fn call(&mut self, nr: i64, args: &[u64]) -> &mut Self {
        self.step(nr as u32, 0, args)
    }

    /// A system call that must succeed, whose result is the answer.
    pub(crate) fn keep(&mut self, nr: i64, args: &[u64]) -> &mut Self {
        self.step(nr as u32, orders::KEEP, args)
    }

    /// A system call whose failure is no matter.
    pub(crate) fn try_call(&mut self, nr: i64, args: &[u64]) -> &mut Self {
        self.step(nr as u32, orders::MAY_FAIL, args)
    }

    /// A system call whose result is the answer even if it fails; what follows is done anyway.
    pub(crate) fn keep_any(&mut self, nr: i64, args: &[u64]) -> &mut Self {
        self.step(nr as u32, orders::KEEP | orders::MAY_FAIL, args)
    }

    /// A system call of at most five arguments that must give this very result, or the task ends.
    pub(crate) fn must(&mut self, nr: i64, args: &[u64], result: u64) -> &mut Self {
        let mut all = [0, 0, 0, 0, 0, result];
        all[..args.len()].copy_from_slice(args);
        self.step(nr as u32, orders::EXPECT, &all)
    }

    /// A clone, whose pid is the answer; the parent goes on with what follows, up to [`Orders::child`].
    pub(crate) fn clone(&mut self, args: &[u64]) -> &mut Self {
        self.step(libc::SYS_clone as u32, orders::KEEP | orders::BRANCH, args)
    }

    /// Ends the orders of the parent and begins those of the child of the last clone.
    pub(crate) fn child(&mut self) -> &mut Self {
        self.step(orders::END, 0, &[]);
        let first = self.steps.len() as u32;
        if let Some((_, flags, _)) = self.steps.iter_mut().rfind(|(_, flags, _)| flags & orders::BRANCH != 0)
        {
            *flags |= first;
        }
        self
    }

    /// Leaves the steward's code for good.
    pub(crate) fn jump(&mut self, to: u64, rdi: u64, rsi: u64) -> &mut Self {
        self.step(orders::JUMP, 0, &[to, rdi, rsi])
    }

    fn step(&mut self, nr: u32, flags: u32, args: &[u64]) -> &mut Self {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.steps.push((nr, flags, all));
        self
    }

    /// Puts data into the orders and returns its address in the space.
    pub(crate) fn data(&mut self, bytes: &[u8]) -> u64 {
        let offset = self.data.len().next_multiple_of(16);
        self.data.resize(offset, 0);
        self.data.extend(bytes);
        ORDERS + (orders::DATA + offset) as u64
    }

    /// Writes everything to the page of orders; the steward looks once it is woken.
    pub(crate) fn publish(&self, memory: &SpaceMemory, number: u32) {
        assert!(self.steps.len() < orders::MAX_STEPS, "orders are short");
        assert!(orders::DATA + self.data.len() <= 0x1000, "orders have little data");
        memory.u64(orders::ONE).store(1, Ordering::Relaxed);
        memory.put(orders::DATA, &self.data);
        for (index, (nr, flags, args)) in self.steps.iter().enumerate() {
            let at = orders::STEPS + index * orders::STEP_BYTES;
            memory.u32(at).store(*nr, Ordering::Relaxed);
            memory.u32(at + 4).store(*flags, Ordering::Relaxed);
            for (i, arg) in args.iter().enumerate() {
                memory.u64(at + 8 + 8 * i).store(*arg, Ordering::Relaxed);
            }
        }
        let end = orders::STEPS + self.steps.len() * orders::STEP_BYTES;
        memory.u32(end).store(orders::END, Ordering::Relaxed);
        memory.u32(orders::NUMBER).store(number, Ordering::Release);
    }
}
