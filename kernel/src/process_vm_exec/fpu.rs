// SPDX-License-Identifier: GPL-2.0-only

//! Two vector states for one task.
//!
//! `fpu.fpstate` points to the state of the side that runs, as KVM does it for its guests.

use super::task::Fields;
use core::arch::asm;
use core::mem::size_of;
use core::ptr::{addr_of, null_mut};
use kernel::bindings;
use kernel::ffi::c_int;
use kernel::prelude::*;

/// What MXCSR is where nobody has changed it.
const MXCSR_DEFAULT: u32 = 0x1f80;
/// `sw_reserved` in `struct fxregs_state`.
const MARKS: usize = 464;
/// Behind the area.
const MAGIC2_BYTES: u32 = 4;

/// The state of the side that doesn't run.
///
/// # Invariants
///
/// `guest` is null or a buffer that belongs to this object. `home` is the caller's own while the guest's is in its place, else
/// null.
pub(crate) struct Fpu {
    guest: *mut bindings::fpstate,
    home: *mut bindings::fpstate,
    pkru: u32,
    has_pkru: bool,
}

impl Fpu {
    /// None yet.
    pub(crate) fn new() -> Self {
        // SAFETY: looks at the processor.
        Self {
            guest: null_mut(),
            home: null_mut(),
            pkru: 0,
            has_pkru: unsafe { bindings::vm_exec_has_pkru() },
        }
    }

    /// Makes the guest's buffer, or a new one where a dynamic feature has made the old one grow.
    ///
    /// # Errors
    ///
    /// ENOMEM.
    #[inline]
    pub(crate) fn make(&mut self) -> Result {
        // SAFETY: it doesn't change after boot; a buffer that is there is the task's own.
        let is_there = unsafe {
            let size = addr_of!(bindings::fpu_kernel_cfg.default_size).read();
            !self.guest.is_null() && addr_of!((*self.guest).size).read() == size
        };
        if !is_there {
            self.free();
            // SAFETY: may sleep.
            self.guest = unsafe { bindings::vm_exec_fpu_make() };
        }
        if self.guest.is_null() {
            Err(ENOMEM)
        } else {
            Ok(())
        }
    }

    /// Gives the buffer back, while it isn't in use.
    pub(crate) fn free(&mut self) {
        // SAFETY: by the type invariant.
        unsafe { bindings::vfree(self.guest.cast()) };
        self.guest = null_mut();
    }

    /// The guest's state from now on: that of the area in the caller's memory, or a clean one. PKRU changes last: memory can be
    /// out of reach after that.
    ///
    /// # Errors
    ///
    /// EINVAL: the processor refuses what is in the area.
    pub(crate) fn start(&mut self, task: Fields, area: usize) -> Result {
        let at = |offset: usize| self.guest.cast::<u8>().wrapping_add(offset);
        // SAFETY: both are in the buffer. Whatever is not in use is loaded as its initial state; only MXCSR may be loaded
        // nevertheless.
        unsafe {
            at(bindings::FPSTATE_XFEATURES).cast::<u64>().write(0);
            at(bindings::FPSTATE_MXCSR).cast::<u32>().write(MXCSR_DEFAULT);
        }
        self.install_guest(task);
        if area == 0 {
            self.swap_pkru(initial_pkru());
            return Ok(());
        }
        self.load(task, area)
    }

    #[cold]
    fn load(&mut self, task: Fields, area: usize) -> Result {
        self.pkru = self.loaded_pkru();
        // SAFETY: the caller's memory is there; everything in the area is checked.
        if unsafe { bindings::fpu__restore_sig(area as *mut _, 0) } {
            return Ok(());
        }
        self.stop(task, 0, false);
        Err(EINVAL)
    }

    /// The guest's state again, as it was when it was stopped with `keep`.
    pub(crate) fn go_on(&mut self, task: Fields) {
        self.install_guest(task);
        self.swap_pkru(self.pkru);
    }

    /// The caller's state from now on. The guest's goes to the area, if there is one; false if that can't be written.
    /// Needs the caller's memory.
    pub(crate) fn stop(&mut self, task: Fields, area: usize, keep: bool) -> bool {
        let used: *mut bindings::fpstate = task.read(bindings::TASK_FPSTATE);
        self.swap_pkru(self.pkru);
        let is_stored = area == 0 || self.store(used, area);
        // SAFETY: by the type invariant it is the caller's.
        unsafe { bindings::vm_exec_fpu_install(self.home, keep) };
        self.home = null_mut();
        if used != self.guest {
            // fpstate_realloc() leaves a buffer alone that it has not made.
            self.free();
            self.guest = used;
        }
        is_stored
    }

    fn install_guest(&mut self, task: Fields) {
        self.home = task.read(bindings::TASK_FPSTATE);
        // SAFETY: by the type invariant it is a buffer for this.
        unsafe { bindings::vm_exec_fpu_install(self.guest, true) };
    }

    fn store(&self, used: *mut bindings::fpstate, area: usize) -> bool {
        // SAFETY: it doesn't change after boot; the buffer is current's. Only user memory is written to, and checked.
        unsafe {
            let size = area_size();
            // With a dynamic feature in use, it is larger than what the caller has provided.
            addr_of!((*used).user_size).read() == size
                && bindings::copy_fpstate_to_sigframe(
                    area as *mut _,
                    area as *mut _,
                    (size + MAGIC2_BYTES) as c_int,
                    self.pkru,
                )
        }
    }

    /// PKRU, which the kernel doesn't keep with the rest.
    fn loaded_pkru(&self) -> u32 {
        let mut pkru = 0;
        if self.has_pkru {
            // SAFETY: the processor has it, and the kernel has enabled it.
            unsafe { asm!("rdpkru", out("eax") pkru, in("ecx") 0, out("edx") _, options(nomem, nostack)) };
        }
        pkru
    }

    /// Loads a value, keeping the one that was there in `self.pkru`. Writing takes longer than looking whether it is needed.
    fn swap_pkru(&mut self, next: u32) {
        self.pkru = self.loaded_pkru();
        if self.has_pkru && self.pkru != next {
            // SAFETY: as above; memory that the keys protect isn't touched by this code.
            unsafe { asm!("wrpkru", in("eax") next, in("ecx") 0, in("edx") 0, options(nostack)) };
        }
    }
}

/// What a new program starts with.
fn initial_pkru() -> u32 {
    #[cfg(CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS)]
    // SAFETY: it may change at any time, and is read once.
    return unsafe { addr_of!(bindings::init_pkru_value).read_volatile() };
    #[cfg(not(CONFIG_X86_INTEL_MEMORY_PROTECTION_KEYS))]
    0
}

/// The size of an area, without the mark at its end.
fn area_size() -> u32 {
    // SAFETY: it doesn't change after boot.
    unsafe { addr_of!(bindings::fpu_user_cfg.default_size).read() }
}

/// Copies a value that is any bytes.
///
/// # Safety
///
/// All bytes are a value of `T`.
unsafe fn read<T: Default>(address: usize) -> Result<T> {
    let mut value = T::default();
    // SAFETY: as many bytes are written to.
    let left = unsafe {
        bindings::copy_from_user((&mut value as *mut T).cast(), address as *const _, size_of::<T>() as _)
    };
    if left == 0 {
        Ok(value)
    } else {
        Err(EFAULT)
    }
}

/// Says early whether an area looks like that of a signal frame; what loads it checks everything else.
///
/// # Errors
///
/// EFAULT: it can't be read; EINVAL: it is none, or of another size.
pub(crate) fn check(area: usize) -> Result {
    let size = area_size();
    // SAFETY: integers.
    let marks: bindings::_fpx_sw_bytes = unsafe { read(area.wrapping_add(MARKS))? };
    if marks.magic1 != bindings::FP_XSTATE_MAGIC1 || marks.xstate_size != size {
        return Err(EINVAL);
    }
    // SAFETY: an integer.
    let end: u32 = unsafe { read(area.wrapping_add(size as usize))? };
    if end == bindings::FP_XSTATE_MAGIC2 {
        Ok(())
    } else {
        Err(EINVAL)
    }
}
