//! A program that has all pages of the machine's pool of huge pages (hugetlbfs), drops one after the other and asks for it
//! again: if somebody else has taken one meanwhile, it dies of SIGBUS.
//!
//! The `n`th page that it asks for is the page `n % pages`, and begins with `n`. Before it drops pages again it looks whether all
//! that it wrote is there.

use crate::{Verdict, control, option, sys};
use std::ptr::null_mut;
use std::time::Duration;

const HUGE: usize = 2 << 20;

pub(crate) fn main(args: &[String]) -> Verdict {
    let pages = option(args, "--pages", 1_usize)?;
    let reserve = if option(args, "--noreserve", 0)? == 0 { 0 } else { libc::MAP_NORESERVE };
    let (both, how) = (
        libc::PROT_READ | libc::PROT_WRITE,
        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | reserve,
    );
    // SAFETY: a new mapping.
    let base = unsafe { libc::mmap(null_mut(), pages * HUGE, both, how, -1, 0) };
    if base == libc::MAP_FAILED {
        control::say(&format!("skip {pages} huge pages: {}", control::describe(sys::errno())));
        return Ok(());
    }
    let page = |n: usize| base.cast::<u8>().wrapping_add(n % pages * HUGE);
    let mut first = 0;
    let mut round = || {
        for n in first..first + pages {
            // SAFETY: the mapping just made, which nothing refers to.
            unsafe {
                libc::madvise(page(n).cast(), HUGE, libc::MADV_DONTNEED);
                page(n).cast::<usize>().write_volatile(n);
            }
        }
        for n in first..first + pages {
            // SAFETY: as above.
            let found = unsafe { page(n).cast::<usize>().read_volatile() };
            if found != n {
                return Err(format!("{n} was written to page {}, and {found} is there", n % pages));
            }
        }
        first += pages;
        Ok(())
    };
    round()?;
    control::ready(&format!("hugetlb:{:#x}:{}:0", base as usize, pages * HUGE));
    while !control::has_command() {
        round()?;
        sys::sleep(Duration::from_micros(200))?;
    }
    match control::command()?.as_deref() {
        None | Some("exit") => {
            round()?;
            control::say("ok");
            Ok(())
        }
        other => Err(format!("{other:?} is not a command here; use exit")),
    }
}
