//! Memory of every kind, with known content.

use crate::{pattern, sys};
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd};
use std::ptr::null_mut;

/// The page size of x86-64.
pub const PAGE: usize = 4096;
const HUGE: usize = 2 << 20;
/// Far below where the kernel places mappings: the page after it stays unmapped.
const EDGE_AT: usize = 0x1200_0000_0000;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// Every kind, its default length and what makes it.
pub(crate) const KINDS: &[(&str, usize, Make)] = &[
    ("anon", 4 << 20, |len| map(null_mut(), len, RW, PRIVATE, -1)),
    ("untouched", 64 << 10, |len| map(null_mut(), len, RW, PRIVATE, -1)),
    ("readonly", 64 << 10, |len| map(null_mut(), len, RW, PRIVATE, -1)),
    ("protnone", 64 << 10, |len| map(null_mut(), len, RW, PRIVATE, -1)),
    ("dontfork", 64 << 10, |len| advised(len, PAGE, libc::MADV_DONTFORK)),
    ("thp", 4 << 20, |len| advised(len, HUGE, libc::MADV_HUGEPAGE)),
    ("hugetlb", 4 << 20, |len| map(null_mut(), len, RW, PRIVATE | libc::MAP_HUGETLB, -1)),
    ("file", 64 << 10, |len| file(len, libc::PROT_READ, libc::MAP_PRIVATE)),
    ("filecow", 64 << 10, |len| file(len, RW, libc::MAP_PRIVATE)),
    ("fileshared", 64 << 10, |len| file(len, RW, libc::MAP_SHARED)),
    ("shared", 64 << 10, |len| map(null_mut(), len, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)),
    ("secretmem", 64 << 10, secretmem),
    ("edge", 64 << 10, |len| map(EDGE_AT as *mut _, len, RW, PRIVATE | libc::MAP_FIXED_NOREPLACE, -1)),
    ("vvar", 0, |_| vvar()),
    ("sharednone", 64 << 10, |len| map(null_mut(), len, RW, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1)),
];

/// Maps a region of at least the given length: its address and the length.
type Make = fn(usize) -> Result<(usize, usize), String>;

/// A region and what must be in it.
pub(crate) struct Region {
    pub(crate) name: &'static str,
    pub(crate) addr: usize,
    pub(crate) len: usize,
    pub(crate) seed: u64,
    /// (offset, length, seed) of what was written since.
    writes: Vec<(usize, usize, u64)>,
}

impl Region {
    /// Maps and fills the region.
    pub(crate) fn new(name: &str, len: Option<usize>) -> Result<Self, String> {
        let at = KINDS.iter().position(|(known, ..)| *known == name);
        let (seed, (name, default, make)) = match at {
            Some(at) => (at as u64 + 1, KINDS[at]),
            None => return Err("no such kind of region".to_owned()),
        };
        let (addr, len) = make(len.unwrap_or(default).next_multiple_of(PAGE))?;
        let region = Self { name, addr, len, seed, writes: Vec::new() };
        if region.has_pattern() {
            if name != "file" {
                region.fill(0, region.len, seed);
            }
            region.protect(region.protection())?;
        }
        Ok(region)
    }

    /// `untouched` stays so, and what `vvar` holds is the kernel's.
    fn has_pattern(&self) -> bool {
        !matches!(self.name, "untouched" | "vvar")
    }

    fn protection(&self) -> i32 {
        match self.name {
            "protnone" | "sharednone" => libc::PROT_NONE,
            "readonly" | "file" => libc::PROT_READ,
            _ => RW,
        }
    }

    fn protect(&self, protection: i32) -> Result<(), String> {
        if self.name == "sharednone" {
            // The page table forgets what the memory still has.
            // SAFETY: as below.
            unsafe { libc::madvise(self.addr as *mut _, self.len, libc::MADV_DONTNEED) };
        }
        // SAFETY: the region is this program's own mapping, to which there are no references.
        sys::os("mprotect", unsafe { libc::mprotect(self.addr as *mut _, self.len, protection) }).map(drop)
    }

    /// Writes the pattern `seed` to bytes that belong to the region.
    fn fill(&self, offset: usize, len: usize, seed: u64) {
        let mut at = offset;
        while at < offset + len {
            let target = (self.addr + at) as *mut u8;
            // SAFETY: inside the mapping, which is writable here; volatile because others watch it.
            unsafe {
                if at.is_multiple_of(8) && offset + len - at >= 8 {
                    target.cast::<u64>().write_volatile(pattern::word(seed, at as u64 / 8));
                    at += 8;
                } else {
                    target.write_volatile(pattern::byte(seed, at as u64));
                    at += 1;
                }
            }
        }
    }

    /// Changes part of the region, as asked for by the tester.
    pub(crate) fn write(&mut self, offset: usize, len: usize, seed: u64) -> Result<(), String> {
        if offset.checked_add(len).is_none_or(|end| end > self.len) || self.protection() != RW {
            return Err(format!("{}: {offset}+{len} is not writable", self.name));
        }
        self.fill(offset, len, seed);
        self.writes.push((offset, len, seed));
        Ok(())
    }

    /// What must be at `offset`.
    fn expected(&self, offset: usize) -> u8 {
        let written = self.writes.iter().rev().find(|(at, len, _)| (*at..at + len).contains(&offset));
        match written {
            Some((_, _, seed)) => pattern::byte(*seed, offset as u64),
            None if self.has_pattern() => pattern::byte(self.seed, offset as u64),
            None => 0,
        }
    }

    /// Compares the whole region with what must be in it.
    pub(crate) fn verify(&self) -> Result<(), String> {
        if self.name == "vvar" || (self.name == "untouched" && self.writes.is_empty()) {
            return Ok(());
        }
        if self.protection() == libc::PROT_NONE {
            self.protect(libc::PROT_READ)?;
        }
        let mut at = 0;
        let mut result = Ok(());
        while at < self.len {
            // SAFETY: inside the mapping, aligned, readable.
            let word = unsafe { ((self.addr + at) as *const u64).read_volatile() };
            let whole = self.writes.is_empty() && word == pattern::word(self.seed, at as u64 / 8);
            if !whole && (0..8).any(|i| word.to_le_bytes()[i] != self.expected(at + i)) {
                result = Err(format!("{}: content at offset {at:#x} changed", self.name));
                break;
            }
            at += 8;
        }
        if self.protection() == libc::PROT_NONE {
            self.protect(libc::PROT_NONE)?;
        }
        result
    }

    /// The digest of the content.
    pub(crate) fn checksum(&self) -> Result<u64, String> {
        if matches!(self.name, "protnone" | "sharednone" | "vvar") {
            return Err(format!("{} can't be read", self.name));
        }
        // SAFETY: the mapping is readable, and only this thread writes to it.
        Ok(pattern::digest(unsafe { std::slice::from_raw_parts(self.addr as *const u8, self.len) }))
    }

    /// Gives the memory back.
    pub(crate) fn unmap(self) -> Result<(), String> {
        // SAFETY: the region is this program's own mapping and is used no more.
        sys::os("munmap", unsafe { libc::munmap(self.addr as *mut _, self.len) }).map(drop)
    }
}

fn map(at: *mut libc::c_void, len: usize, prot: i32, flags: i32, fd: i32) -> Result<(usize, usize), String> {
    let len = if flags & libc::MAP_HUGETLB != 0 { len.next_multiple_of(HUGE) } else { len };
    // SAFETY: a new mapping; a fixed address is never one that is in use (NOREPLACE).
    let addr = unsafe { libc::mmap(at, len, prot, flags, fd, 0) };
    if addr == libc::MAP_FAILED {
        Err(format!("mmap: {}", std::io::Error::last_os_error()))
    } else {
        Ok((addr as usize, len))
    }
}

/// An anonymous region with an alignment and an madvise.
fn advised(len: usize, align: usize, advice: i32) -> Result<(usize, usize), String> {
    let len = len.next_multiple_of(align);
    let (addr, _) = map(null_mut(), len + align, RW, PRIVATE, -1)?;
    let aligned = addr.next_multiple_of(align);
    // SAFETY: everything is inside the new mapping; what is before and behind the aligned part is given back.
    unsafe {
        if aligned > addr {
            libc::munmap(addr as *mut _, aligned - addr);
        }
        libc::munmap((aligned + len) as *mut _, align - (aligned - addr));
        sys::os("madvise", libc::madvise(aligned as *mut _, len, advice))?;
    }
    Ok((aligned, len))
}

/// A mapping of an unlinked file with the pattern in it.
fn file(len: usize, prot: i32, flags: i32) -> Result<(usize, usize), String> {
    let path = std::env::temp_dir().join(format!("farspace-victim-{}-region", std::process::id()));
    let failed = |e: std::io::Error| format!("{}: {e}", path.display());
    let seed = 1 + KINDS.iter().position(|(name, ..)| *name == "file").unwrap_or(0) as u64;
    std::fs::write(&path, pattern::bytes(seed, 0, len)).map_err(failed)?;
    let file = File::options().read(true).write(true).open(&path).map_err(failed)?;
    std::fs::remove_file(&path).map_err(failed)?;
    map(null_mut(), len, prot, flags, file.as_raw_fd())
}

fn secretmem(len: usize) -> Result<(usize, usize), String> {
    // SAFETY: no memory is involved; the descriptor is new and ours.
    let file = unsafe {
        let fd = sys::os("memfd_secret", libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC))?;
        File::from_raw_fd(fd as i32)
    };
    file.set_len(len as u64).map_err(|e| format!("memfd_secret: {e}"))?;
    map(null_mut(), len, RW, libc::MAP_SHARED, file.as_raw_fd())
}

/// The kernel's own data page: VM_IO and VM_PFNMAP.
fn vvar() -> Result<(usize, usize), String> {
    let maps = std::fs::read_to_string("/proc/self/maps").map_err(|e| format!("/proc/self/maps: {e}"))?;
    let line = maps.lines().find(|line| line.ends_with("[vvar]")).ok_or("no [vvar] mapping")?;
    let hex = |text: &str| usize::from_str_radix(text, 16).ok();
    let (start, end) =
        line.split_whitespace().next().and_then(|range| range.split_once('-')).ok_or("maps")?;
    match (hex(start), hex(end)) {
        (Some(start), Some(end)) => Ok((start, end - start)),
        _ => Err(format!("/proc/self/maps: {line}")),
    }
}
