//! mmap(2) and its relatives.

use std::ops::Range;
use std::rc::Rc;

use farspace_exec::{Protection, Sharing};
use rustix::fs::FileType;
use rustix::io::Errno;

use crate::kernel::{Answer, Call, Ending, Kernel, Stop};
use crate::memory::{Backing, PAGE};

pub(crate) const CALLS: &[(i64, Call)] = &[
    (libc::SYS_mmap, mmap),
    (libc::SYS_munmap, munmap),
    (libc::SYS_mprotect, mprotect),
    (libc::SYS_mremap, mremap),
    (libc::SYS_brk, brk),
    (libc::SYS_madvise, madvise),
    (libc::SYS_msync, |_, _| Ok(0)),
];

/// The page-aligned range of an address and a length.
fn range(at: u64, len: u64) -> Result<Range<u64>, Stop> {
    let len = len.checked_next_multiple_of(PAGE).filter(|len| *len > 0).ok_or(Errno::INVAL)?;
    let end = at.checked_add(len).ok_or(Errno::INVAL)?;
    if at.is_multiple_of(PAGE) { Ok(at..end) } else { Err(Errno::INVAL.into()) }
}

fn protection(bits: u64) -> Result<Protection, Stop> {
    Ok(Protection::from_bits(bits as u32).ok_or(Errno::INVAL)?)
}

fn mmap(kernel: &mut Kernel, &[at, len, bits, flags, fd, offset]: &[u64; 6]) -> Answer {
    let flags = flags as i32;
    let protection = protection(bits)?;
    let backing = if flags & libc::MAP_ANONYMOUS != 0 {
        Backing::Anonymous
    } else {
        let sharing =
            if flags & libc::MAP_TYPE == libc::MAP_PRIVATE { Sharing::Private } else { Sharing::Shared };
        let file = kernel.files.get(fd)?;
        let kind = FileType::from_raw_mode(rustix::fs::fstat(&file.host)?.st_mode);
        if kind != FileType::RegularFile {
            return Err(Errno::NODEV.into());
        }
        if !offset.is_multiple_of(PAGE) {
            return Err(Errno::INVAL.into());
        }
        Backing::File(Rc::clone(&file), offset, sharing)
    };
    let fixed = flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE) != 0;
    let wish = range(if fixed { at } else { at / PAGE * PAGE }, len)?;
    let free = kernel.memory.is_free(&wish);
    if flags & libc::MAP_FIXED_NOREPLACE != 0 && !free {
        return Err(Errno::EXIST.into());
    }
    let range = if fixed || at != 0 && free { wish } else { kernel.memory.gap(wish.end - wish.start)? };
    kernel.memory.map(range.clone(), protection, backing)?;
    Ok(range.start)
}

fn munmap(kernel: &mut Kernel, &[at, len, ..]: &[u64; 6]) -> Answer {
    kernel.memory.unmap(range(at, len)?)?;
    Ok(0)
}

fn madvise(kernel: &mut Kernel, &[at, len, advice, ..]: &[u64; 6]) -> Answer {
    // All other advice may be ignored.
    if advice as i32 == libc::MADV_DONTNEED && len > 0 {
        kernel.memory.forget(range(at, len)?)?;
    }
    Ok(0)
}

fn mprotect(kernel: &mut Kernel, &[at, len, bits, ..]: &[u64; 6]) -> Answer {
    if len > 0 {
        kernel.memory.protect(range(at, len)?, protection(bits)?)?;
    }
    Ok(0)
}

fn mremap(kernel: &mut Kernel, &[at, old_len, new_len, flags, ..]: &[u64; 6]) -> Answer {
    const MAYMOVE: u64 = 1;
    let (old, new) = (range(at, old_len)?, range(at, new_len)?);
    if flags & !MAYMOVE != 0 {
        return Err(Errno::INVAL.into());
    }
    let memory = &mut kernel.memory;
    if !memory.is_mapped(&old) {
        return Err(Errno::FAULT.into());
    }
    if new.end <= old.end {
        if new.end < old.end {
            memory.unmap(new.end..old.end)?;
        }
        return Ok(at);
    }
    let (start, last) = memory.region(old.end - 1).ok_or(Errno::FAULT)?;
    let (protection, more) = (last.protection, last.backing.skip(old.end - start));
    let stays = memory.is_free(&(old.end..new.end));
    if !stays && flags & MAYMOVE == 0 {
        return Err(Errno::NOMEM.into());
    }
    let to = if stays { new } else { memory.gap(new.end - at)? };
    let old_len = old.end - at;
    if to.start != at {
        // Half of it may be there and half here: as if memory had run out.
        memory.relocate(old, to.start).map_err(|stop| match stop {
            Stop::Errno(_) => Stop::End(Ending::Killed(libc::SIGKILL)),
            stop => stop,
        })?;
    }
    memory.map(to.start + old_len..to.end, protection, more)?;
    Ok(to.start)
}

/// Answers with the end of the heap, which is the old one if the new can't be.
fn brk(kernel: &mut Kernel, &[wish, ..]: &[u64; 6]) -> Answer {
    let memory = &mut kernel.memory;
    let heap = memory.heap.clone();
    if wish < heap.start {
        return Ok(heap.end);
    }
    let (old, new) = (heap.end.next_multiple_of(PAGE), wish.next_multiple_of(PAGE));
    let both = Protection::READ | Protection::WRITE;
    let done = if new > old {
        memory.is_free(&(old..new)) && memory.map(old..new, both, Backing::Anonymous).is_ok()
    } else {
        new == old || memory.unmap(new..old).is_ok()
    };
    if done {
        memory.heap.end = wish;
    }
    Ok(memory.heap.end)
}
