//! A target that unmaps, and maps something else over the same addresses afterwards.
//!
//! Nobody else takes addresses in a process whose threads are all its own, so it may (mmap(2), MAP_FIXED). Commands:
//! `open` unmaps, and whoever lets the kernel choose is given one of those addresses next; `fill` maps over them and writes to
//! every page; `child` forks a process that lives until the end, and answers `pid=N`.

use crate::witness::Witness;
use crate::{Verdict, control, pattern, sys};

const PAGE: usize = 4096;
/// Lengths, in bytes: there is a hole in which each of them fits best.
const LENGTHS: [usize; 5] = [PAGE, 10 * PAGE, 1 << 20, 1 << 26, 1 << 33];
/// Pages of the longest that are written.
const WRITTEN: usize = 512;

struct Hole {
    at: *mut libc::c_void,
    len: usize,
}

pub(crate) fn main(_: &[String]) -> Verdict {
    let holes = LENGTHS.into_iter().map(Hole::new).collect::<Result<Vec<_>, _>>()?;
    holes.iter().for_each(Hole::fill);
    let mut children = Vec::new();
    let mut are_open = false;
    let mut witness = Witness::start()?;
    control::ready("");
    control::serve(&mut witness, |_, words| match words {
        ["open"] => {
            are_open = true;
            Some(holes.iter().try_for_each(Hole::open).map(|()| "ok".to_owned()))
        }
        ["fill"] => {
            let filled = holes.iter().try_for_each(|hole| hole.map(libc::MAP_FIXED).map(|_| hole.fill()));
            are_open = false;
            Some(filled.map(|()| "ok".to_owned()))
        }
        ["child"] => Some(child().map(|pid| {
            children.push(pid);
            format!("pid={pid}")
        })),
        _ => {
            let buried =
                if words.first() == Some(&"exit") { children.drain(..).try_for_each(bury) } else { Ok(()) };
            let verified = if are_open { Ok(()) } else { holes.iter().try_for_each(Hole::verify) };
            buried.and(verified).err().map(Err)
        }
    })
}

fn bury(pid: i32) -> Verdict {
    // SAFETY: no memory is involved; the child is this process's own and not reaped yet.
    sys::os("kill", unsafe { libc::kill(pid, libc::SIGKILL) })?;
    sys::wait(pid).map(drop)
}

fn child() -> Result<i32, String> {
    sys::fork(|| {
        if sys::die_with_parent().is_err() {
            return 1;
        }
        loop {
            // SAFETY: no memory is involved.
            unsafe { libc::pause() };
        }
    })
}

impl Hole {
    fn new(len: usize) -> Result<Self, String> {
        let unplaced = Self { at: std::ptr::null_mut(), len };
        Ok(Self { at: unplaced.map(0)?, len })
    }

    fn map(&self, fixed: i32) -> Result<*mut libc::c_void, String> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | fixed;
        // SAFETY: an address of the kernel's choice, or one that was this hole's and is used by nobody.
        let at = unsafe { libc::mmap(self.at, self.len, protection, flags, -1, 0) };
        if at == libc::MAP_FAILED {
            Err(format!("mmap: {}", control::describe(sys::errno())))
        } else {
            Ok(at)
        }
    }

    fn open(&self) -> Verdict {
        // SAFETY: nothing refers to it.
        sys::os("munmap", unsafe { libc::munmap(self.at, self.len) }).map(drop)
    }

    /// The first words of the pages that are written.
    fn words(&self) -> impl Iterator<Item = (u64, *mut u64)> {
        let step = (self.len / WRITTEN).max(PAGE);
        let pages = (self.at as usize..self.at as usize + self.len).step_by(step);
        pages.map(|page| (pattern::word(self.len as u64, page as u64), page as *mut u64))
    }

    fn fill(&self) {
        // SAFETY: mapped and writable, and nothing refers to it.
        self.words().for_each(|(value, word)| unsafe { word.write_volatile(value) });
    }

    fn verify(&self) -> Verdict {
        // SAFETY: as above, or another has unmapped it, which shows.
        match self.words().find(|(value, word)| unsafe { word.read_volatile() } != *value) {
            Some((_, word)) => Err(format!("the page at {word:p} isn't as it was written")),
            None => Ok(()),
        }
    }
}
