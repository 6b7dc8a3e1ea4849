// SPDX-License-Identifier: GPL-2.0-only

//! `struct sigcontext` as the caller sees it, and what of it a guest may have.

use super::segments::Segments;
use super::task::Fields;
use super::user;
use core::mem::{offset_of, size_of};
use core::ptr::addr_of;
use kernel::bindings;
use kernel::prelude::*;

/// Flags that belong to the guest: AC, OF, DF, TF, SF, ZF, AF, PF, CF and RF, as with sigreturn.
const FLAGS: usize = 0x5_0dd5;
/// Interrupts on, and the bit that is always set.
const FIXED_FLAGS: usize = 0x202;
/// __USER_CS and __USER_DS (arch/x86/include/asm/segment.h).
const USER_CS: u16 = 0x33;
const USER_DS: u16 = 0x2b;

/// The begin of `struct sigcontext_64` (arch/x86/include/uapi/asm/sigcontext.h).
#[repr(C)]
pub(crate) struct Context {
    r8: usize,
    r9: usize,
    r10: usize,
    r11: usize,
    r12: usize,
    r13: usize,
    r14: usize,
    r15: usize,
    rdi: usize,
    rsi: usize,
    rbp: usize,
    rbx: usize,
    rdx: usize,
    rax: usize,
    rcx: usize,
    rsp: usize,
    rip: usize,
    eflags: usize,
    cs: u16,
    gs: u16,
    fs: u16,
    ss: u16,
    err: usize,
    trapno: usize,
    oldmask: usize,
    cr2: usize,
    /// Address of an XSAVE area in the caller, or 0.
    pub(crate) fpstate: usize,
    fs_base: usize,
    gs_base: usize,
    /// The call's signal mask, which comes from somewhere else.
    pub(crate) mask: usize,
}

const _: () = assert!(size_of::<Context>() == 8 * (user::CONTEXT + 1));

impl Context {
    pub(crate) const EMPTY: Self = Self {
        r8: 0,
        r9: 0,
        r10: 0,
        r11: 0,
        r12: 0,
        r13: 0,
        r14: 0,
        r15: 0,
        rdi: 0,
        rsi: 0,
        rbp: 0,
        rbx: 0,
        rdx: 0,
        rax: 0,
        rcx: 0,
        rsp: 0,
        rip: 0,
        eflags: 0,
        cs: 0,
        gs: 0,
        fs: 0,
        ss: 0,
        err: 0,
        trapno: 0,
        oldmask: 0,
        cr2: 0,
        fpstate: 0,
        fs_base: 0,
        gs_base: 0,
        mask: 0,
    };

    /// Copies a context and a mask in.
    pub(crate) fn read(&mut self, address: usize, mask: usize) -> Result {
        let words: *mut Self = self;
        // SAFETY: the structure is that many words, without padding, and any are a value.
        user::read_context(address, mask, unsafe { &mut *words.cast() })
    }

    /// Copies out what a guest may have changed, and what a fault has left (`is_fault`).
    pub(crate) fn write(&self, address: usize, is_fault: bool) -> Result {
        let words: *const Self = self;
        // SAFETY: as above, and these are the first ones.
        user::write_context(address, unsafe { &*words.cast() }, is_fault)
    }

    /// Writes what a system call gave, for the context at `address`.
    pub(crate) fn write_result(address: usize, result: isize) -> Result {
        user::write_word(address.wrapping_add(offset_of!(Self, rax)), result as usize)
    }

    /// Refuses what the processor would fault on while it is still in the kernel.
    pub(crate) fn check(&self) -> Result {
        let processor = addr_of!(bindings::boot_cpu_data).cast::<u8>();
        // SAFETY: a byte of it, which doesn't change after boot.
        let unused = 64 - u32::from(unsafe { processor.add(bindings::CPU_VIRT_BITS).read() });
        let is_canonical = |address: usize| ((address << unused) as isize >> unused) as usize == address;
        match [self.rip, self.rsp, self.fs_base, self.gs_base].into_iter().all(is_canonical) {
            true => Ok(()),
            false => Err(EINVAL),
        }
    }

    /// RAX.
    pub(crate) fn rax(&self) -> usize {
        self.rax
    }

    /// The six arguments of a system call: `pt_regs` with nothing else in it.
    pub(crate) fn arguments(&self) -> bindings::pt_regs {
        let mut regs = bindings::pt_regs::default();
        self.put_arguments(&mut regs);
        regs
    }

    /// Number and arguments of a system call, as after its entry.
    pub(crate) fn put_arguments(&self, regs: &mut bindings::pt_regs) {
        (regs.di, regs.si, regs.dx) = (self.rdi, self.rsi, self.rdx);
        (regs.r10, regs.r8, regs.r9) = (self.r10, self.r8, self.r9);
        regs.orig_ax = self.rax;
    }

    /// Makes `regs` those of the guest. Selectors are the usual ones whatever the context says.
    pub(crate) fn load(&self, regs: &mut bindings::pt_regs) {
        (regs.r8, regs.r9, regs.r10, regs.r11) = (self.r8, self.r9, self.r10, self.r11);
        (regs.r12, regs.r13, regs.r14, regs.r15) = (self.r12, self.r13, self.r14, self.r15);
        (regs.di, regs.si, regs.bp, regs.bx) = (self.rdi, self.rsi, self.rbp, self.rbx);
        (regs.dx, regs.ax, regs.cx) = (self.rdx, self.rax, self.rcx);
        (regs.sp, regs.ip) = (self.rsp, self.rip);
        regs.flags = self.eflags & FLAGS | FIXED_FLAGS;
        // No system call: nothing restarts.
        regs.orig_ax = usize::MAX;
        // Only the lower halves: what is above is the processor's (FRED).
        regs.__bindgen_anon_1.cs = USER_CS;
        regs.__bindgen_anon_2.ss = USER_DS;
    }

    /// Takes the guest's registers.
    pub(crate) fn store(&mut self, regs: &bindings::pt_regs) {
        (self.r8, self.r9, self.r10, self.r11) = (regs.r8, regs.r9, regs.r10, regs.r11);
        (self.r12, self.r13, self.r14, self.r15) = (regs.r12, regs.r13, regs.r14, regs.r15);
        (self.rdi, self.rsi, self.rbp, self.rbx) = (regs.di, regs.si, regs.bp, regs.bx);
        (self.rdx, self.rax, self.rcx) = (regs.dx, regs.ax, regs.cx);
        (self.rsp, self.rip, self.eflags) = (regs.sp, regs.ip, regs.flags);
        // SAFETY: all variants of the unions are integers.
        (self.cs, self.ss) = unsafe { (regs.__bindgen_anon_1.cs, regs.__bindgen_anon_2.ss) };
    }

    /// Takes the guest's segments.
    pub(crate) fn store_segments(&mut self, segments: &Segments) {
        (self.fs, self.gs) = segments.fs_gs();
        (self.fs_base, self.gs_base) = (segments.fs_base, segments.gs_base);
    }

    /// Takes what the last exception left in the thread, as a signal frame does.
    pub(crate) fn store_fault(&mut self, task: Fields) {
        self.trapno = task.read(bindings::TASK_TRAP_NR);
        self.err = task.read(bindings::TASK_ERROR_CODE);
        self.cr2 = task.read(bindings::TASK_CR2);
    }

    /// The guest's segments at its start.
    pub(crate) fn segments(&self) -> Segments {
        Segments::new(self.fs_base, self.gs_base)
    }
}
