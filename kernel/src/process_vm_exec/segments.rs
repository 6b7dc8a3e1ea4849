// SPDX-License-Identifier: GPL-2.0-only

//! Segment bases and selectors, which are in the processor and not in `pt_regs`.

use core::arch::asm;
use kernel::bindings;

/// Those of the side that doesn't run.
#[derive(Clone, Copy)]
pub(crate) struct Segments {
    pub(crate) fs_base: usize,
    pub(crate) gs_base: usize,
    selectors: Selectors,
}

#[derive(Clone, Copy)]
struct Selectors {
    fs: u16,
    gs: u16,
    ds: u16,
    es: u16,
}

impl Selectors {
    const NONE: Self = Self { fs: 0, gs: 0, ds: 0, es: 0 };

    /// What is loaded.
    fn loaded() -> Self {
        let (fs, gs, ds, es): (u16, u16, u16, u16);
        // SAFETY: reads registers.
        unsafe {
            asm!("mov {:x}, fs", "mov {:x}, gs", "mov {:x}, ds", "mov {:x}, es",
                out(reg) fs, out(reg) gs, out(reg) ds, out(reg) es, options(nomem, nostack, preserves_flags));
        }
        Self { fs, gs, ds, es }
    }

    fn are_none(self) -> bool {
        self.fs | self.gs | self.ds | self.es == 0
    }
}

impl Segments {
    /// A guest's at its start.
    pub(crate) fn new(fs_base: usize, gs_base: usize) -> Self {
        Self { fs_base, gs_base, selectors: Selectors::NONE }
    }

    /// The two selectors that a context has.
    pub(crate) fn fs_gs(&self) -> (u16, u16) {
        (self.selectors.fs, self.selectors.gs)
    }

    /// Exchanges them with what is loaded.
    pub(crate) fn swap(&mut self) {
        let next = *self;
        self.selectors = Selectors::loaded();
        // SAFETY: the kernel uses neither base, and a processor without the instructions is refused. What is loaded was
        // loaded before, or has been checked.
        unsafe {
            asm!("rdfsbase {}", out(reg) self.fs_base, options(nomem, nostack, preserves_flags));
            self.gs_base = bindings::vm_exec_swap_gsbase(next.gs_base);
            if !(self.selectors.are_none() && next.selectors.are_none()) {
                let Selectors { fs, gs, ds, es } = next.selectors;
                bindings::vm_exec_load_selectors(fs, gs, ds, es);
                // That has changed it.
                bindings::vm_exec_swap_gsbase(next.gs_base);
            }
            asm!("wrfsbase {}", in(reg) next.fs_base, options(nostack, preserves_flags));
        }
    }
}
