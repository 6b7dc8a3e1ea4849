//! Soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst).
//!
//! To read the bits and to clear them are two steps, and a write between the two would be lost: so all threads are stopped
//! for a look. A mapping that is new has the bit for all its pages.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use farspace::Target;
use farspace_sys::RemoteIoVec;
use farspace_sys::pagemap::{ENTRY_FILE, ENTRY_PRESENT, ENTRY_SOFT_DIRTY, ENTRY_SWAPPED, Pagemap};
use farspace_sys::process::Mapping;
use rustix::io::Errno;

use super::page_set::PAGE;
use super::{Changes, Coverage, PageSet, coverage};
use crate::Result;

/// How long to wait for the threads to stop.
const PATIENCE: Duration = Duration::from_secs(2);

/// An address space whose bits are read and cleared.
#[derive(Debug)]
pub(super) struct SoftDirty {
    pid: i32,
    pagemap: Pagemap,
    clear: File,
    known: PageSet,
    is_armed: bool,
}

impl SoftDirty {
    /// Opens what is needed, or says why there are no such bits.
    pub(super) fn new(pid: i32) -> std::result::Result<Self, String> {
        if !works().unwrap_or(false) {
            return Err("this kernel is built without CONFIG_MEM_SOFT_DIRTY".to_owned());
        }
        let path = format!("/proc/{pid}/clear_refs");
        let clear = OpenOptions::new().write(true).open(&path).map_err(|e| format!("{path}: {e}"))?;
        let pagemap = Pagemap::open(pid).map_err(|e| e.to_string())?;
        Ok(Self { pid, pagemap, clear, known: PageSet::default(), is_armed: false })
    }

    pub(super) fn known(&self) -> &PageSet {
        &self.known
    }

    pub(super) fn rescan(&mut self, target: &Target, maps: &[Mapping]) -> Result<Changes> {
        let frozen = target.freeze(PATIENCE)?;
        let changes = self.settle(maps).and_then(|changes| {
            self.clear
                .write_all(b"4")
                .map_err(|e| {
                    let errno = Errno::from_io_error(&e).unwrap_or(Errno::IO);
                    farspace_sys::Error::new("clear the soft-dirty bits", self.pid, errno)
                })
                .map_err(Into::into)
                .map(|()| changes)
        });
        let stop = frozen.thaw();
        let changes = changes?;
        self.is_armed = true;
        Ok(Changes { stop, ..changes })
    }

    pub(super) fn settle(&mut self, maps: &[Mapping]) -> Result<Changes> {
        let mut changes = Changes::default();
        let mut there = PageSet::default();
        for mapping in maps {
            let range = RemoteIoVec { base: mapping.start, len: mapping.len_bytes() };
            if let Coverage::None(why) = coverage(mapping) {
                changes.untracked.push((range, why));
                continue;
            }
            self.pagemap.entries(range, &mut |at, entry| {
                let is_there = entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0;
                if !is_there || entry & ENTRY_FILE != 0 {
                    return;
                }
                there.insert(at.0..at.0 + PAGE);
                if !self.is_armed || entry & ENTRY_SOFT_DIRTY != 0 || !self.known.contains(at.0) {
                    changes.changed.insert(at.0..at.0 + PAGE);
                }
            })?;
        }
        changes.gone = std::mem::replace(&mut self.known, there);
        changes.gone.subtract(&self.known);
        Ok(changes)
    }
}

/// Whether a write to a page of this process sets the bit. The bits of this process aren't cleared for that, which
/// would disturb whoever watches it: a page that was just written has the bit anyway, or there is none.
fn works() -> std::io::Result<bool> {
    let page = vec![1_u8; 2 * PAGE as usize];
    let address = page.as_ptr() as u64 + PAGE;
    let mut entry = [0; 8];
    File::open("/proc/self/pagemap")?.read_exact_at(&mut entry, address / PAGE * 8)?;
    std::hint::black_box(&page);
    let has_bit = u64::from_le_bytes(entry) & ENTRY_SOFT_DIRTY != 0;
    Ok(has_bit && fs::metadata("/proc/self/clear_refs").is_ok())
}
