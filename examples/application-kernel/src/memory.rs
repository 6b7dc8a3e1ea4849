//! The guest's address space: what it has asked for, and how much of that exists.
//!
//! A mapping is a note at first. The space gets it in pieces of [`PIECE`] bytes, when the guest touches them or a
//! system call copies there. So each region is either wholly there or not there at all.

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::AsFd;
use std::rc::Rc;

use farspace_exec::{Access, Protection, RESERVED_BASE, RESERVED_END, RemoteAddr, Sharing, Space};
use rustix::io::Errno;

use crate::descriptors::OpenFile;
use crate::kernel::Stop;

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;
/// Bytes that are mapped at a fault: a balance between round trips and memory.
const PIECE: u64 = 64 << 10;
/// Mappings without a place of their own lie below this.
const HIGHEST: u64 = 0x7f00_0000_0000;
/// vm.mmap_min_addr, as most systems have it.
const LOWEST: u64 = 0x1_0000;
/// TASK_SIZE with four-level page tables.
const TASK_END: u64 = 0x7fff_ffff_f000;

/// What a region shows.
#[derive(Clone, Debug)]
pub(crate) enum Backing {
    /// Zeros.
    Anonymous,
    /// A file from this offset on.
    File(Rc<OpenFile>, u64, Sharing),
}

impl Backing {
    /// The backing `bytes` further on.
    pub(crate) fn skip(&self, bytes: u64) -> Self {
        match self {
            Self::Anonymous => Self::Anonymous,
            Self::File(file, offset, sharing) => Self::File(Rc::clone(file), offset + bytes, *sharing),
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Region {
    pub(crate) end: u64,
    pub(crate) protection: Protection,
    pub(crate) backing: Backing,
    present: bool,
}

/// The guest's address space.
#[derive(Debug)]
pub(crate) struct AddressSpace {
    space: Space,
    /// By start; they don't overlap.
    regions: BTreeMap<u64, Region>,
    filled: u64,
    /// The heap of brk(2).
    pub(crate) heap: Range<u64>,
}

impl AddressSpace {
    pub(crate) fn new(space: Space) -> Self {
        Self { space, regions: BTreeMap::new(), filled: 0, heap: 0..0 }
    }

    /// How many pieces were mapped.
    pub(crate) fn filled(&self) -> u64 {
        self.filled
    }

    /// Notes a mapping, in place of what was there.
    pub(crate) fn map(
        &mut self,
        range: Range<u64>,
        protection: Protection,
        backing: Backing,
    ) -> Result<(), Stop> {
        allowed(&range)?;
        self.unmap(range.clone())?;
        self.insert(range.start, Region { end: range.end, protection, backing, present: false });
        Ok(())
    }

    pub(crate) fn unmap(&mut self, range: Range<u64>) -> Result<(), Stop> {
        allowed(&range)?;
        for (start, region) in self.take(&range) {
            if region.present {
                self.space.unmap(RemoteAddr(start), region.end - start)?;
            }
        }
        Ok(())
    }

    /// Drops the contents of a range: what it shows afterwards is its backing (MADV_DONTNEED).
    pub(crate) fn forget(&mut self, range: Range<u64>) -> Result<(), Stop> {
        for (start, mut region) in self.take(&range) {
            if region.present {
                self.space.unmap(RemoteAddr(start), region.end - start)?;
            }
            region.present = false;
            self.insert(start, region);
        }
        Ok(())
    }

    /// Moves a range to where nothing is. A space can't move pages: contents are copied, but for those of a shared file,
    /// which show there by themselves.
    pub(crate) fn relocate(&mut self, range: Range<u64>, to: u64) -> Result<(), Stop> {
        for (start, mut region) in self.take(&range) {
            let new = to + (start - range.start);
            let len = region.end - start;
            let shared = matches!(region.backing, Backing::File(_, _, Sharing::Shared));
            if region.present && !shared {
                self.space.map_anonymous(RemoteAddr(new), len, region.protection)?;
                let mut contents = vec![0; len as usize];
                let count = self.space.read(RemoteAddr(start), &mut contents)?;
                self.space.write(RemoteAddr(new), &contents[..count])?;
                region.backing = Backing::Anonymous;
            }
            if region.present {
                self.space.unmap(RemoteAddr(start), len)?;
            }
            region.present &= !shared;
            self.insert(new, Region { end: new + len, ..region });
        }
        Ok(())
    }

    pub(crate) fn protect(&mut self, range: Range<u64>, protection: Protection) -> Result<(), Stop> {
        if !self.is_mapped(&range) {
            return Err(Errno::NOMEM.into());
        }
        for (start, mut region) in self.take(&range) {
            let mut result = Ok(());
            if region.present {
                result = self.space.protect(RemoteAddr(start), region.end - start, protection);
            }
            if result.is_ok() {
                region.protection = protection;
            }
            self.insert(start, region);
            result?;
        }
        Ok(())
    }

    /// A free range of `len` bytes, as high as possible.
    pub(crate) fn gap(&self, len: u64) -> Result<Range<u64>, Stop> {
        let mut end = HIGHEST;
        for (start, region) in self.regions.range(..HIGHEST).rev() {
            if end.saturating_sub(region.end) >= len {
                break;
            }
            end = end.min(*start);
        }
        let range = end.checked_sub(len).ok_or(Errno::NOMEM)?..end;
        allowed(&range)?;
        Ok(range)
    }

    /// True if nothing is mapped in the range, and something may be.
    pub(crate) fn is_free(&self, range: &Range<u64>) -> bool {
        let last = self.regions.range(..range.end).next_back();
        allowed(range).is_ok() && last.is_none_or(|(_, region)| region.end <= range.start)
    }

    pub(crate) fn is_mapped(&self, range: &Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.region(at) {
                Some((_, region)) => at = region.end,
                None => return false,
            }
        }
        true
    }

    /// The region around an address, with its start.
    pub(crate) fn region(&self, at: u64) -> Option<(u64, &Region)> {
        let (start, region) = self.regions.range(..=at).next_back()?;
        (at < region.end).then_some((*start, region))
    }

    /// Maps what the guest has touched.
    ///
    /// # Errors
    ///
    /// EFAULT: it may not, or nothing is to be there.
    pub(crate) fn fault(&mut self, at: u64, access: Access) -> Result<(), Stop> {
        match self.region(at) {
            Some((_, region)) if !region.present => self.fill(at..at + 1, access),
            // It is there, so it must be its protection that stands against the access.
            _ => Err(Errno::FAULT.into()),
        }
    }

    /// Makes a range exist, for a copy or a fault.
    fn fill(&mut self, range: Range<u64>, access: Access) -> Result<(), Stop> {
        let mut at = range.start;
        while at < range.end {
            let (start, region) = self.region(at).ok_or(Errno::FAULT)?;
            let needed = match access {
                Access::Read => Protection::READ,
                Access::Write => Protection::WRITE,
                Access::Execute => Protection::EXECUTE,
            };
            // The processor can't write or execute without reading.
            let readable = access == Access::Read && !region.protection.is_empty();
            if !readable && !region.protection.contains(needed) {
                return Err(Errno::FAULT.into());
            }
            if region.present {
                at = region.end;
                continue;
            }
            let piece = at / PIECE * PIECE..range.end.div_ceil(PIECE) * PIECE;
            let piece = piece.start.max(start)..piece.end.min(region.end);
            self.make_present(&piece)?;
            at = piece.end;
        }
        Ok(())
    }

    fn make_present(&mut self, piece: &Range<u64>) -> Result<(), Stop> {
        for (start, mut region) in self.take(piece) {
            let (at, len) = (RemoteAddr(start), region.end - start);
            let result = match &region.backing {
                Backing::Anonymous => self.space.map_anonymous(at, len, region.protection),
                Backing::File(file, offset, sharing) => {
                    self.space.map_file(at, len, region.protection, *sharing, file.host.as_fd(), *offset)
                }
            };
            self.filled += 1;
            region.present = result.is_ok();
            self.insert(start, region);
            result?;
        }
        Ok(())
    }

    /// Copies from the guest.
    ///
    /// # Errors
    ///
    /// EFAULT: the guest couldn't read it either.
    pub(crate) fn read(&mut self, from: u64, buffer: &mut [u8]) -> Result<(), Stop> {
        let end = from.checked_add(buffer.len() as u64).ok_or(Errno::FAULT)?;
        self.fill(from..end, Access::Read)?;
        let read = if buffer.is_empty() { 0 } else { self.space.read(RemoteAddr(from), buffer)? };
        if read < buffer.len() { Err(Errno::FAULT.into()) } else { Ok(()) }
    }

    /// Copies to the guest.
    ///
    /// # Errors
    ///
    /// EFAULT: the guest couldn't write there either.
    pub(crate) fn write(&mut self, to: u64, bytes: &[u8]) -> Result<(), Stop> {
        let end = to.checked_add(bytes.len() as u64).ok_or(Errno::FAULT)?;
        self.fill(to..end, Access::Write)?;
        if !bytes.is_empty() {
            self.space.write(RemoteAddr(to), bytes)?;
        }
        Ok(())
    }

    /// Takes the regions of a range out, cut at its ends.
    fn take(&mut self, range: &Range<u64>) -> Vec<(u64, Region)> {
        self.cut(range.start);
        self.cut(range.end);
        self.regions.extract_if(range.clone(), |_, _| true).collect()
    }

    fn cut(&mut self, at: u64) {
        let Some((start, region)) = self.regions.range_mut(..at).next_back() else { return };
        if at < region.end {
            let right = Region { backing: region.backing.skip(at - start), ..region.clone() };
            region.end = at;
            self.regions.insert(at, right);
        }
    }

    /// Puts a region where nothing is, joined with an anonymous neighbour below that is like it.
    fn insert(&mut self, start: u64, region: Region) {
        if let Some((_, below)) = self.regions.range_mut(..start).next_back()
            && below.end == start
            && (below.protection, below.present) == (region.protection, region.present)
            && matches!((&below.backing, &region.backing), (Backing::Anonymous, Backing::Anonymous))
        {
            below.end = region.end;
            return;
        }
        self.regions.insert(start, region);
    }
}

/// Refuses ranges that no guest may have.
fn allowed(range: &Range<u64>) -> Result<(), Stop> {
    let outside = range.end <= RESERVED_BASE || range.start >= RESERVED_END;
    if range.start < LOWEST || range.start >= range.end || range.end > TASK_END || !outside {
        return Err(Errno::NOMEM.into());
    }
    Ok(())
}
