//! Finding out which pages were written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::{AtomicU64, Ordering};

use farspace::probe;

use super::{Capability, Found, errno_name};

/// Bit of a pagemap entry that says "written since the last clear" (Documentation/admin-guide/mm/soft-dirty.rst).
const SOFT_DIRTY: u64 = 1 << 55;

pub(super) fn probe() -> Vec<Capability> {
    vec![write_protect(), soft_dirty()]
}

fn write_protect() -> Capability {
    let name = "write-tracking";
    match probe::write_tracking() {
        Ok(found) if found.exact => Capability::new(
            name,
            true,
            "exact",
            "userfaultfd write-protect + PAGEMAP_SCAN: exact, 4 KiB, no stop",
        ),
        Ok(_) => {
            Capability::new(name, Found::Partly, "inexact", "a scan reports pages that were not written")
                .remedy("a newer kernel")
        }
        Err(errno) => {
            let meaning = "no live rounds before the last stop; snapshot, frozen and fuzzy work without it";
            Capability::new(name, false, errno_name(errno), meaning)
                .remedy("Linux 6.7 or later with CONFIG_USERFAULTFD; root, or vm.unprivileged_userfaultfd=1")
        }
    }
}

fn soft_dirty() -> Capability {
    let name = "soft-dirty";
    let remedy = "only for chains of predumps and for CRIU: a kernel with CONFIG_MEM_SOFT_DIRTY";
    let meaning =
        "links one predump to the next, and to criu dump; else only where write-tracking is missing";
    match soft_dirty_works() {
        Ok(true) => Capability::new(name, true, "works", meaning),
        Ok(false) => Capability::new(name, false, "bit 55 is never set", meaning).remedy(remedy),
        Err(error) => {
            Capability::new(name, false, crate::failure::errno_text(&error), meaning).remedy(remedy)
        }
    }
}

/// Clears the bits of this process, writes a page, and looks for its bit; then clears and looks again.
fn soft_dirty_works() -> io::Result<bool> {
    // A page of its own, so that no other variable's write is mistaken for this one.
    let page: Vec<AtomicU64> = (0..2048).map(AtomicU64::new).collect();
    let word = &page[1024];
    let offset = (std::ptr::from_ref(word) as u64) / 4096 * 8;
    let pagemap = File::open("/proc/self/pagemap")?;
    let is_dirty = || -> io::Result<bool> {
        let mut entry = [0u8; 8];
        pagemap.read_exact_at(&mut entry, offset)?;
        Ok(u64::from_ne_bytes(entry) & SOFT_DIRTY != 0)
    };
    std::fs::write("/proc/self/clear_refs", "4")?;
    word.store(1, Ordering::SeqCst);
    let after_write = is_dirty()?;
    std::fs::write("/proc/self/clear_refs", "4")?;
    Ok(after_write && !is_dirty()?)
}
