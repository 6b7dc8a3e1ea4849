//! A program that writes to one page after the other, round and round, and never rests: what its memory can be at one
//! instant is known.
//!
//! The `n`th write puts `n` at the beginning of page `n % pages`. So if `n` is the last one, the page `p` has the largest
//! number up to `n` that leaves the remainder `p`.

use crate::{Verdict, control, option, sys};
use std::ptr::null_mut;
use std::time::Duration;

const PAGE: usize = 4096;
/// Writes between two looks for a command.
const BATCH: u64 = 64;

pub(crate) fn main(args: &[String]) -> Verdict {
    let pages = option(args, "--pages", 1024_usize)?;
    let pause = Duration::from_micros(option(args, "--pause-us", 100)?);
    let (both, how) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping.
    let base = unsafe { libc::mmap(null_mut(), pages * PAGE, both, how, -1, 0) };
    if base == libc::MAP_FAILED {
        return Err(format!("mmap: {}", control::describe(sys::errno())));
    }
    let mut n = 0;
    let mut sweep = |writes: u64| {
        for _ in 0..writes {
            n += 1;
            let page = (n as usize % pages) * PAGE;
            // SAFETY: within the mapping, which nothing refers to.
            unsafe { base.cast::<u8>().add(page).cast::<u64>().write_volatile(n) };
        }
    };
    sweep(pages as u64);
    control::ready(&format!("anon:{:#x}:{}:0", base as usize, pages * PAGE));
    while !control::has_command() {
        sweep(BATCH);
        sys::sleep(pause)?;
    }
    match control::command()?.as_deref() {
        Some("exit") => {
            control::say("ok");
            Ok(())
        }
        other => Err(format!("{other:?} is not a command here; use exit")),
    }
}
