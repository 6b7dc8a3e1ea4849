//! Image directories, read as a restore reads them.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use farspace_image::criu::{ImageId, PARENT, PageFlags, PageRun, Pagemap, pages_name};

/// Bytes of a page.
pub(crate) const PAGE: u64 = 4096;

/// One image and the images that it refers to.
pub(crate) struct Chain {
    levels: Vec<Level>,
}

/// The image of one directory.
struct Level {
    map: Pagemap,
    /// Where each present run begins in the pages file, by its address.
    offsets: BTreeMap<u64, (PageRun, u64)>,
    pages: File,
}

impl Chain {
    /// Opens an image with its parents; `None` where the directory doesn't have it.
    pub(crate) fn open(directory: &Path, image: ImageId) -> Option<Self> {
        let mut levels = Vec::new();
        let mut at: Option<PathBuf> = Some(directory.to_owned());
        while let Some(directory) = at {
            let Some(level) = Level::open(&directory, image) else { break };
            levels.push(level);
            let link = directory.join(PARENT);
            at = fs::symlink_metadata(&link).is_ok().then_some(link);
        }
        (!levels.is_empty()).then_some(Self { levels })
    }

    /// The runs that the directory itself lists.
    pub(crate) fn runs(&self) -> &[PageRun] {
        self.levels[0].map.runs()
    }

    /// A page's content; `None` for one that isn't listed.
    pub(crate) fn page(&self, vaddr: u64) -> Option<[u8; PAGE as usize]> {
        let is_listed = |level: &Level| level.map.listed(vaddr..vaddr + PAGE).next().is_some();
        if !is_listed(&self.levels[0]) {
            return None;
        }
        for level in &self.levels {
            assert!(is_listed(level), "{vaddr:#x} is in no image that the ones before it refer to");
            if let Some(bytes) = level.present(vaddr) {
                return Some(bytes);
            }
        }
        panic!("{vaddr:#x} is in a parent that there isn't");
    }
}

impl Level {
    fn open(directory: &Path, image: ImageId) -> Option<Self> {
        let file = File::open(directory.join(image.pagemap_name())).ok()?;
        let map = Pagemap::read(file).expect("a valid pagemap");
        let pages = File::open(directory.join(pages_name(map.pages_id))).expect("its pages");
        let mut offset = 0;
        let mut offsets = BTreeMap::new();
        for run in map.runs().iter().filter(|run| run.flags.contains(PageFlags::PRESENT)) {
            offsets.insert(run.vaddr, (*run, offset));
            offset += run.len_bytes();
        }
        assert_eq!(pages.metadata().expect("a file").len(), offset, "the pages file is as long as its pages");
        Some(Self { map, offsets, pages })
    }

    fn present(&self, vaddr: u64) -> Option<[u8; PAGE as usize]> {
        let (_, (run, offset)) = self.offsets.range(..=vaddr).next_back()?;
        let within = run.range().contains(&vaddr).then_some(vaddr - run.vaddr)?;
        let mut bytes = [0; PAGE as usize];
        self.pages.read_exact_at(&mut bytes, offset + within).expect("it is as long as its pages");
        Some(bytes)
    }
}
