//! No tracking: all that exists counts as changed.

use farspace_sys::RemoteIoVec;
use farspace_sys::pagemap::Pagemap;
use farspace_sys::process::Mapping;

use super::{Changes, Coverage, PageSet, coverage};
use crate::Result;

/// An address space that can't be watched.
#[derive(Debug)]
pub(super) struct Whole {
    pagemap: Pagemap,
    known: PageSet,
}

impl Whole {
    pub(super) fn new(pid: i32) -> Result<Self> {
        Ok(Self { pagemap: Pagemap::open(pid)?, known: PageSet::default() })
    }

    pub(super) fn known(&self) -> &PageSet {
        &self.known
    }

    pub(super) fn rescan(&mut self, maps: &[Mapping]) -> Result<Changes> {
        let mut changes = Changes::default();
        for mapping in maps {
            let range = RemoteIoVec { base: mapping.start, len: mapping.len_bytes() };
            match coverage(mapping) {
                Coverage::None(why) => changes.untracked.push((range, why)),
                Coverage::OwnPages => changes.untracked.push((range, "a file's")),
                Coverage::Full => self.pagemap.populated(range, &mut |run| {
                    changes.changed.insert(run.base.0..run.base.0 + run.len);
                })?,
            }
        }
        changes.gone = std::mem::replace(&mut self.known, changes.changed.clone());
        changes.gone.subtract(&changes.changed);
        Ok(changes)
    }
}
