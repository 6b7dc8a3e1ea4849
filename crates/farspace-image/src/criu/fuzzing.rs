//! What a fuzzer calls: any bytes as each kind of image. Nothing may panic, and what was understood must survive being
//! written and read again.

use super::{DumpStats, Inventory, Pagemap, PagemapWriter};

/// Reads `bytes` as each image.
///
/// # Panics
///
/// An image that was read is another one after having been written.
pub fn images(bytes: &[u8]) {
    if let Ok(inventory) = Inventory::read(&mut &*bytes) {
        let mut again = Vec::new();
        let written = inventory.write(&mut again);
        assert!(written.is_ok() && Inventory::read(&mut &*again).is_ok_and(|read| read == inventory));
    }
    if let Ok(stats) = DumpStats::read(&mut &*bytes) {
        let mut again = Vec::new();
        let written = stats.write(&mut again);
        assert!(written.is_ok() && DumpStats::read(&mut &*again).is_ok_and(|read| read == stats));
    }
    if let Ok(pagemap) = Pagemap::read(bytes) {
        let _ = pagemap.pages_bytes();
        let again = rewrite(&pagemap);
        let total = |map: &Pagemap| map.runs().iter().map(|run| u128::from(run.len_bytes())).sum::<u128>();
        assert!(again.is_some_and(|read| read.pages_id == pagemap.pages_id
            && total(&read) == total(&pagemap)
            && read.listed(0..u64::MAX).eq(pagemap.listed(0..u64::MAX))));
    }
}

fn rewrite(pagemap: &Pagemap) -> Option<Pagemap> {
    let mut writer = PagemapWriter::new(Vec::new(), pagemap.pages_id).ok()?;
    pagemap.runs().iter().try_for_each(|run| writer.push(*run)).ok()?;
    Pagemap::read(writer.finish().ok()?.as_slice()).ok()
}
