// SPDX-License-Identifier: GPL-2.0-only

//! Words of the caller's memory. All that the call reads or writes consists of them.

use kernel::bindings;
use kernel::prelude::*;

/// Words of a `siginfo_t`, and of the part of it that the kernel has.
const INFO: usize = 16;
const KERNEL_INFO: usize = core::mem::size_of::<bindings::kernel_siginfo>() / 8;

/// Copies words in, each once.
pub(crate) fn read(address: usize, words: &mut [usize]) -> Result {
    // SAFETY: there is room for as many words.
    match unsafe { bindings::vm_exec_get_words(words.as_mut_ptr(), address, words.len()) } {
        true => Ok(()),
        false => Err(EFAULT),
    }
}

/// Copies words out.
pub(crate) fn write(address: usize, words: &[usize]) -> Result {
    // SAFETY: there are as many words.
    match unsafe { bindings::vm_exec_put_words(address, words.as_ptr(), words.len()) } {
        true => Ok(()),
        false => Err(EFAULT),
    }
}

/// Copies a siginfo out. What the kernel's lacks is zero.
pub(crate) fn write_info(address: usize, info: &bindings::kernel_siginfo) -> Result {
    let mut words = [0; INFO];
    let from: *const bindings::kernel_siginfo = info;
    // SAFETY: whoever makes a siginfo clears it first, so every byte is initialized; a word needs no more alignment.
    let known = unsafe { core::slice::from_raw_parts(from.cast::<usize>(), KERNEL_INFO) };
    for (to, word) in words.iter_mut().zip(known) {
        *to = *word;
    }
    write(address, &words)
}
