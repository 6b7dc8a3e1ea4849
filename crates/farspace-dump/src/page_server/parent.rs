//! What the parent images have, asked in the order of the addresses.

use std::fs::File;
use std::io::{self, BufReader};
use std::ops::Range;
use std::path::Path;

use farspace_image::criu::{ImageId, PageRun, PagemapReader};

use crate::{Error, Result};

/// The pagemap of the parent, read as far as was asked for.
pub(super) struct ParentPages {
    reader: PagemapReader<BufReader<File>>,
    last: Option<PageRun>,
}

impl ParentPages {
    /// Opens the pagemap of an image in a directory; `None` if there is none.
    pub(super) fn open(directory: &Path, image: ImageId) -> Result<Option<Self>> {
        let path = directory.join(image.pagemap_name());
        let failed = |source| Error::Parent { path: path.clone(), source };
        match File::open(&path) {
            Ok(file) => {
                let reader = PagemapReader::new(BufReader::new(file)).map_err(failed)?;
                Ok(Some(Self { reader, last: None }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error.into())),
        }
    }

    /// True if each page of the range is listed; ranges are asked for in order.
    pub(super) fn have(&mut self, range: Range<u64>) -> bool {
        let mut at = range.start;
        while at < range.end {
            match self.last {
                Some(run) if run.range().contains(&at) => at = run.range().end,
                Some(run) if run.range().start > at => return false,
                // A damaged pagemap has nothing more.
                _ => match self.reader.next() {
                    Some(Ok(run)) => self.last = Some(run),
                    _ => return false,
                },
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use farspace_image::criu::{PageFlags, PagemapWriter};

    #[test]
    fn pages_are_there_or_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let image = ImageId::Process(7);
        let open = || ParentPages::open(directory.path(), image).expect("readable");
        assert!(open().is_none());
        let file = File::create(directory.path().join(image.pagemap_name())).expect("created");
        let mut pagemap = PagemapWriter::new(file, 1).expect("written");
        for (vaddr, nr_pages, flags) in
            [(0x1000, 2, PageFlags::PRESENT), (0x3000, 1, PageFlags::PARENT), (0x8000, 4, PageFlags::PRESENT)]
        {
            pagemap.push(PageRun { vaddr, nr_pages, flags }).expect("written");
        }
        pagemap.finish().expect("written");
        let mut pages = open().expect("there");
        assert!(pages.have(0x1000..0x2000) && pages.have(0x2000..0x4000));
        assert!(!pages.have(0x4000..0x5000));
        assert!(!pages.have(0x7000..0x9000) && pages.have(0x9000..0xc000));
        assert!(!pages.have(0xb000..0xd000) && !pages.have(0x10_0000..0x10_1000));
    }
}
