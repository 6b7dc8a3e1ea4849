// SPDX-License-Identifier: GPL-2.0-only

//! What is copied of the caller's memory, each word once.

use kernel::bindings;
use kernel::prelude::*;

/// Words of a context that mean something.
pub(crate) const CONTEXT: usize = bindings::VM_EXEC_CONTEXT as usize;

fn done(is_done: bool) -> Result {
    if is_done {
        Ok(())
    } else {
        Err(EFAULT)
    }
}

/// The words of a context that a guest is made of (the others stay as they are), and a signal mask behind them.
pub(crate) fn read_context(address: usize, mask: usize, words: &mut [usize; CONTEXT + 1]) -> Result {
    // SAFETY: as many words are written to.
    done(unsafe { bindings::vm_exec_get_context(words.as_mut_ptr(), address, mask) })
}

/// Copies out what a guest may have changed of a context, and of a fault what it was.
pub(crate) fn write_context(address: usize, words: &[usize; CONTEXT], is_fault: bool) -> Result {
    // SAFETY: as many words are read.
    done(unsafe { bindings::vm_exec_put_context(address, words.as_ptr(), is_fault) })
}

/// Writes one word.
pub(crate) fn write_word(address: usize, word: usize) -> Result {
    // SAFETY: the address is checked.
    done(unsafe { bindings::vm_exec_put_word(address, word) })
}

/// Copies a siginfo out. What the kernel's lacks is zero.
pub(crate) fn write_info(address: usize, info: &bindings::kernel_siginfo) -> Result {
    // SAFETY: whoever makes a siginfo clears it first, so every byte is initialized.
    done(unsafe { bindings::vm_exec_put_info(address, info) })
}
