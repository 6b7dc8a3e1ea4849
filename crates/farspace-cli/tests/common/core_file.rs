//! Reading memory out of a core.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::ReadCache;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

/// An ELF core and what its PT_LOAD headers say.
pub(crate) struct CoreFile {
    file: File,
    segments: Vec<Segment>,
}

/// Memory that the core holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) address: u64,
    pub(crate) len: u64,
    offset: u64,
}

impl CoreFile {
    /// Opens a core.
    #[track_caller]
    pub(crate) fn open(path: &Path) -> Self {
        let cache = ReadCache::new(File::open(path).unwrap());
        let header = FileHeader64::<LittleEndian>::parse(&cache).unwrap();
        let headers = header.program_headers(LittleEndian, &cache).unwrap();
        let loads = headers.iter().filter(|h| h.p_type(LittleEndian) == PT_LOAD);
        let segments = loads.map(|h| Segment {
            address: h.p_vaddr(LittleEndian),
            len: h.p_filesz(LittleEndian),
            offset: h.p_offset(LittleEndian),
        });
        Self { file: File::open(path).unwrap(), segments: segments.filter(|s| s.len > 0).collect() }
    }

    /// The memory that it holds.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The page at an address, if the core holds it.
    pub(crate) fn page(&self, address: u64) -> Option<[u8; 4096]> {
        let segment = self.segments.iter().find(|s| address.wrapping_sub(s.address) < s.len)?;
        let mut page = [0; 4096];
        self.file.read_exact_at(&mut page, segment.offset + (address - segment.address)).unwrap();
        Some(page)
    }

    /// The C string at the start of a page, if the core holds it.
    pub(crate) fn text(&self, address: u64) -> Option<String> {
        let page = self.page(address)?;
        Some(page.iter().take_while(|&&b| b != 0).map(|&b| char::from(b)).collect())
    }
}
