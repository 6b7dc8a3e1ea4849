//! A program that changes its memory at random, in every way there is; the seed says how.
//!
//! `step N` makes N changes, `run MS` goes on for so long; both answer `ok N` when done, and then nothing changes until
//! the next command. With `--children N` so many processes do the same, each in its own way, and share the memory of one file.

use crate::{Verdict, control, option, sys};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr;
use std::time::{Duration, Instant};

const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;
/// Pages of the arena that things happen in.
const PAGES: usize = 32 << 20 >> 12;
/// Pages of the file, for the most part never written.
const FILE_PAGES: usize = 256 * PAGES;
/// Pages of one kind that a call of its own maps, behind the arena.
const HUGETLB_PAGES: usize = 2 * HUGE / PAGE;

/// What is mapped at a page of the arena.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reserved,
    Private,
    File,
    Shared,
}

struct Mapper {
    base: *mut u8,
    kinds: Vec<Kind>,
    writable: Vec<bool>,
    hugetlb: Option<*mut u8>,
    /// The file of private and shared file mappings.
    memfd: i32,
    heap: Vec<Vec<u8>>,
    state: u64,
}

pub(crate) fn main(args: &[String]) -> Verdict {
    let mut mapper = Mapper::new(option(args, "--seed", 1)?)?;
    let mut children = Vec::new();
    for _ in 0..option(args, "--children", 0)? {
        mapper.state += 1 << 32;
        children.push(Relative::new(&mut mapper)?);
    }
    control::ready(if mapper.hugetlb.is_some() { "hugetlb" } else { "" });
    serve(&mut mapper, &children)
}

/// Does what it is told, together with its children.
fn serve(mapper: &mut Mapper, children: &[Relative]) -> Verdict {
    loop {
        let line = control::command()?;
        children.iter().try_for_each(|child| child.tell(line.as_deref().unwrap_or("exit")))?;
        let words = line.as_deref().unwrap_or("exit").split_whitespace().collect::<Vec<_>>();
        let number = |word: &str| word.parse::<u64>().map_err(|_| format!("{word:?} is no number"));
        let done = match words.as_slice() {
            ["step", n] => {
                let n = number(n)?;
                (0..n).try_for_each(|_| mapper.change())?;
                n
            }
            ["run", ms] => {
                let end = Instant::now() + Duration::from_millis(number(ms)?);
                let mut n = 0;
                while Instant::now() < end {
                    mapper.change()?;
                    n += 1;
                }
                n
            }
            ["exit"] => {
                children.iter().try_for_each(Relative::answer)?;
                children.iter().try_for_each(|child| sys::wait_success(child.pid))?;
                control::say("ok");
                return Ok(());
            }
            _ => return Err(format!("{words:?} is not a command")),
        };
        children.iter().try_for_each(Relative::answer)?;
        control::say(&format!("ok {done}"));
    }
}

/// A child that does the same, with pipes in the place of stdin and stdout.
struct Relative {
    pid: i32,
    to: OwnedFd,
    from: OwnedFd,
}

impl Relative {
    fn new(mapper: &mut Mapper) -> Result<Self, String> {
        let ((stdin, to), (from, stdout)) = (sys::pipe()?, sys::pipe()?);
        let pid = sys::fork(|| {
            // These pages are reserved for the parent alone.
            if let Some(hugetlb) = mapper.hugetlb.take() {
                // SAFETY: nothing refers to it.
                unsafe { libc::munmap(hugetlb.cast(), HUGETLB_PAGES * PAGE) };
            }
            // SAFETY: no pointers, and nobody else's descriptors.
            let fds = unsafe { libc::dup2(stdin.as_raw_fd(), 0) | libc::dup2(stdout.as_raw_fd(), 1) };
            let lived = sys::os("dup2", fds).and_then(|_| sys::die_with_parent());
            i32::from(lived.and_then(|()| serve(mapper, &[])).is_err())
        })?;
        Ok(Self { pid, to, from })
    }

    fn tell(&self, line: &str) -> Verdict {
        sys::write_all(&self.to, format!("{line}\n").as_bytes())
    }

    /// Waits for its answer, which is one line.
    fn answer(&self) -> Verdict {
        let mut byte = [0];
        while byte != *b"\n" {
            if sys::read(&self.from, &mut byte)? == 0 {
                return Err(format!("child {} ended", self.pid));
            }
        }
        Ok(())
    }
}

impl Mapper {
    fn new(seed: u64) -> Result<Self, String> {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: new mappings at addresses of the kernel's choice, and a new descriptor.
        let (reserved, hugetlb, memfd) = unsafe {
            let reserved = libc::mmap(ptr::null_mut(), PAGES * PAGE + HUGE, libc::PROT_NONE, flags, -1, 0);
            let both = libc::PROT_READ | libc::PROT_WRITE;
            let huge = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB;
            let hugetlb = libc::mmap(ptr::null_mut(), HUGETLB_PAGES * PAGE, both, huge, -1, 0);
            (reserved, hugetlb, libc::memfd_create(c"mapper".as_ptr(), libc::MFD_CLOEXEC))
        };
        if reserved == libc::MAP_FAILED {
            return Err(format!("mmap: {}", control::describe(sys::errno())));
        }
        sys::os("memfd_create", memfd)?;
        // Mappings that are moved and grow show parts of the file far behind the first.
        let len = (FILE_PAGES * PAGE) as i64;
        // SAFETY: no pointers.
        sys::os("ftruncate", unsafe { libc::ftruncate(memfd, len) })?;
        let base = (reserved as usize).next_multiple_of(HUGE) as *mut u8;
        Ok(Self {
            base,
            kinds: vec![Kind::Reserved; PAGES],
            writable: vec![false; PAGES],
            hugetlb: (hugetlb != libc::MAP_FAILED).then_some(hugetlb.cast()),
            memfd,
            heap: Vec::new(),
            state: seed,
        })
    }

    fn random(&mut self, below: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (crate::pattern::word(self.state, 0) % below as u64) as usize
    }

    /// First page and number of pages of a range: short ones mostly, and some that are whole huge pages.
    fn range(&mut self) -> (usize, usize) {
        let huge = HUGE / PAGE;
        if self.random(5) == 0 {
            let first = self.random(PAGES / huge) * huge;
            let nr = (1 + self.random(3)) * huge;
            return (first, nr.min(PAGES - first));
        }
        let first = self.random(PAGES);
        let longest = if self.random(3) == 0 { 700 } else { 12 };
        let nr = 1 + self.random(longest);
        (first, nr.min(PAGES - first))
    }

    fn at(&self, page: usize) -> *mut u8 {
        self.base.wrapping_add(page * PAGE)
    }

    fn set(&mut self, first: usize, nr: usize, kind: Kind, writable: bool) {
        self.kinds[first..first + nr].fill(kind);
        self.writable[first..first + nr].fill(writable);
    }

    /// One change.
    fn change(&mut self) -> Verdict {
        match self.random(20) {
            0..=5 => self.write(),
            6..=8 => self.map(),
            9 => self.unmap(),
            10 | 11 => self.advise(),
            12 | 13 => self.remap(),
            14 => self.protect(),
            15 => return self.fork(),
            16 => self.change_file(),
            17 => self.change_heap(),
            18 => self.touch(),
            _ => self.write_huge(),
        }
        Ok(())
    }

    fn write(&mut self) {
        let (first, nr) = self.range();
        let every = 1 + self.random(4);
        for page in (first..first + nr).step_by(every) {
            self.write_page(page);
        }
    }

    fn write_page(&mut self, page: usize) {
        if self.writable[page] {
            let (word, value) = (self.random(PAGE / 8), self.state);
            // SAFETY: the page is mapped and writable, as noted; nothing refers to it.
            unsafe { self.at(page).cast::<u64>().add(word).write_volatile(value) };
        }
    }

    /// Reads pages, so that some of them become pages of zeros.
    fn touch(&mut self) {
        let (first, nr) = self.range();
        for page in first..first + nr {
            if self.writable[page] {
                // SAFETY: as in `write_page`.
                unsafe { self.at(page).read_volatile() };
            }
        }
    }

    fn map(&mut self) {
        let (first, nr) = self.range();
        let kind = [Kind::Private, Kind::Private, Kind::Private, Kind::File, Kind::Shared][self.random(5)];
        let how = match kind {
            Kind::File => libc::MAP_PRIVATE,
            Kind::Shared if self.random(2) == 0 => libc::MAP_SHARED,
            Kind::Shared => libc::MAP_SHARED | libc::MAP_ANONYMOUS,
            _ => libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
        };
        let (fd, offset) =
            if how & libc::MAP_ANONYMOUS == 0 { (self.memfd, (first * PAGE) as i64) } else { (-1, 0) };
        let both = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: within the arena, in which nothing is referred to.
        let mapped =
            unsafe { libc::mmap(self.at(first).cast(), nr * PAGE, both, how | libc::MAP_FIXED, fd, offset) };
        if mapped == libc::MAP_FAILED {
            return;
        }
        self.set(first, nr, kind, true);
        if self.random(2) == 0 {
            // SAFETY: advice on the mapping just made.
            unsafe { libc::madvise(mapped, nr * PAGE, libc::MADV_HUGEPAGE) };
        }
        if self.random(2) == 0 {
            (first..first + nr).for_each(|page| self.write_page(page));
        }
    }

    /// Unmaps, and for the most part leaves a hole.
    fn unmap(&mut self) {
        let (first, nr) = self.range();
        // SAFETY: within the arena.
        if unsafe { libc::munmap(self.at(first).cast(), nr * PAGE) } == 0 {
            self.set(first, nr, Kind::Reserved, false);
        }
    }

    fn advise(&mut self) {
        const COLLAPSE: i32 = 25;
        let (first, nr) = self.range();
        let advice = [
            libc::MADV_DONTNEED,
            libc::MADV_DONTNEED,
            libc::MADV_FREE,
            libc::MADV_COLD,
            libc::MADV_PAGEOUT,
            libc::MADV_HUGEPAGE,
            libc::MADV_REMOVE,
            COLLAPSE,
        ][self.random(8)];
        // SAFETY: the contents of the arena are nobody's.
        unsafe { libc::madvise(self.at(first).cast(), nr * PAGE, advice) };
        if let (Some(hugetlb), 0) = (self.hugetlb, self.random(3)) {
            let at = hugetlb.wrapping_add(self.random(HUGETLB_PAGES * PAGE / HUGE) * HUGE);
            // SAFETY: as above.
            unsafe { libc::madvise(at.cast(), HUGE, libc::MADV_DONTNEED) };
        }
    }

    /// Moves, grows or shrinks a mapping.
    fn remap(&mut self) {
        const DONTUNMAP: i32 = 4;
        let (from, nr) = self.range();
        let kind = self.kinds[from];
        let writable = self.writable[from];
        let same = (from..from + nr).take_while(|&p| self.kinds[p] == kind && self.writable[p] == writable);
        let nr = same.count();
        let to = self.random(PAGES - nr);
        if kind == Kind::Reserved || from < to + nr && to < from + nr {
            return;
        }
        if self.random(3) == 0 {
            // In place: shrunk, or grown where there is room; but shared memory without a file has an end.
            let new = 1 + self.random(if kind == Kind::Shared { nr } else { 2 * nr });
            // SAFETY: within the arena, or up to the next mapping behind it.
            let done = unsafe { libc::mremap(self.at(from).cast(), nr * PAGE, new * PAGE, 0) };
            if done != libc::MAP_FAILED && new < nr {
                self.set(from + new, nr - new, Kind::Reserved, false);
            } else if done != libc::MAP_FAILED {
                let end = (from + new).min(PAGES);
                self.set(from + nr, end - (from + nr).min(end), kind, writable);
            }
            return;
        }
        let dont_unmap = if kind == Kind::Private && self.random(2) == 0 { DONTUNMAP } else { 0 };
        let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED | dont_unmap;
        // SAFETY: from and to somewhere in the arena, and no two in the same place.
        let done = unsafe {
            libc::mremap(self.at(from).cast(), nr * PAGE, nr * PAGE, flags, self.at(to).cast::<u8>())
        };
        if done != libc::MAP_FAILED {
            if dont_unmap == 0 {
                self.set(from, nr, Kind::Reserved, false);
            }
            self.set(to, nr, kind, writable);
            return;
        }
        // Several mappings may have been moved in part.
        for first in [from, to] {
            let (flags, at) = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED, self.at(first));
            // SAFETY: within the arena.
            unsafe { libc::mmap(at.cast(), nr * PAGE, libc::PROT_NONE, flags, -1, 0) };
            self.set(first, nr, Kind::Reserved, false);
        }
    }

    fn protect(&mut self) {
        let (first, nr) = self.range();
        if self.kinds[first..first + nr].contains(&Kind::Reserved) {
            return;
        }
        let protection = [libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ, libc::PROT_NONE];
        let protection = protection[self.random(3)];
        // SAFETY: within the arena.
        if unsafe { libc::mprotect(self.at(first).cast(), nr * PAGE, protection) } == 0 {
            self.writable[first..first + nr].fill(protection & libc::PROT_WRITE != 0);
        }
    }

    /// A child that writes to its copy. Then this process does to its own.
    fn fork(&mut self) -> Verdict {
        let pages: Vec<usize> = (0..50).map(|_| self.random(PAGES)).collect();
        let child = sys::fork(|| {
            pages.iter().for_each(|&page| self.write_page(page));
            0
        })?;
        sys::wait_success(child)?;
        pages.iter().step_by(2).for_each(|&page| self.write_page(page));
        Ok(())
    }

    /// Writes to the file, under private mappings of it.
    fn change_file(&mut self) {
        let (first, nr) = self.range();
        let text = vec![self.random(256) as u8; PAGE];
        for page in first..(first + nr).min(first + 20) {
            // SAFETY: the text is valid for its length.
            unsafe { libc::pwrite(self.memfd, text.as_ptr().cast(), PAGE, (page * PAGE) as i64) };
        }
    }

    fn change_heap(&mut self) {
        if self.heap.len() > 20 || self.random(3) == 0 {
            let half = self.heap.len() / 2;
            self.heap.truncate(half);
        } else {
            let len = 1 + self.random(300_000);
            self.heap.push(vec![self.state as u8; len]);
        }
    }

    fn write_huge(&mut self) {
        let Some(hugetlb) = self.hugetlb else { return };
        let at = hugetlb.wrapping_add(self.random(HUGETLB_PAGES) * PAGE);
        // SAFETY: within the mapping, which is writable.
        unsafe { at.cast::<u64>().write_volatile(self.state) };
    }
}
