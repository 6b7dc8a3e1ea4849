//! Reading the target's memory out of a file: an ELF core, or a plain concatenation of ranges.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use farspace_abi::RemoteIoVec;
use object::LittleEndian;
use object::elf::{FileHeader64, PT_LOAD};
use object::read::ReadCache;
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use super::client::SampleTarget;
use super::pattern::{Checksum, HotCheck, HotVerdict, words};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::interrupt;

/// A range of the target's memory and where it is in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    address: u64,
    len: u64,
    offset: u64,
}

/// A file that holds the target's memory.
#[derive(Debug)]
pub(crate) struct DumpFile {
    file: File,
    segments: Vec<Segment>,
}

impl DumpFile {
    /// Opens an ELF core by its PT_LOAD headers.
    pub(crate) fn open_core(path: &Path) -> anyhow::Result<Self> {
        let open = || File::open(path).with_context(|| format!("open {}", path.display()));
        // The cache keeps what was read, so it serves the headers only.
        let cache = ReadCache::new(open()?);
        let not_a_core = || format!("{} is not an ELF core", path.display());
        let header = FileHeader64::<LittleEndian>::parse(&cache).with_context(not_a_core)?;
        let headers = header.program_headers(LittleEndian, &cache).with_context(not_a_core)?;
        let loads = headers.iter().filter(|h| h.p_type(LittleEndian) == PT_LOAD);
        let segments = loads.map(|h| Segment {
            address: h.p_vaddr(LittleEndian),
            len: h.p_filesz(LittleEndian),
            offset: h.p_offset(LittleEndian),
        });
        Ok(Self { file: open()?, segments: segments.filter(|s| s.len > 0).collect() })
    }

    /// Opens a file that holds `ranges` one after the other.
    pub(crate) fn open_copy(path: &Path, ranges: &[RemoteIoVec]) -> anyhow::Result<Self> {
        let mut offset = 0;
        let mut segments = Vec::new();
        for range in ranges {
            segments.push(Segment { address: range.base.0, len: range.len, offset });
            offset += range.len;
        }
        Ok(Self { file: File::open(path).with_context(|| format!("open {}", path.display()))?, segments })
    }

    /// The ranges that it holds.
    pub(crate) fn ranges(&self) -> Vec<RemoteIoVec> {
        self.segments.iter().map(|s| RemoteIoVec::new(s.address, s.len)).collect()
    }

    /// Compares it with what the target says about itself.
    ///
    /// Fails if a byte of the static region is wrong; the answer tells whether the hot region is one instant.
    pub(crate) fn verify(&self, target: &SampleTarget) -> anyhow::Result<HotVerdict> {
        let hello = &target.hello;
        let mut sum = Checksum::default();
        self.read(hello.static_base, hello.static_len, |bytes| sum.words(words(bytes)))?;
        let wrong =
            |what: &str| Failure::new(Exit::Failed, format!("the copy of process {}: {what}", hello.pid));
        if sum.finish() != hello.checksum {
            return Err(wrong("its checksum is not the target's").into());
        }
        let mut hot = HotCheck::default();
        self.read(hello.hot_base, hello.hot_len, |bytes| hot.bytes(bytes))?;
        match hot.finish() {
            HotVerdict::Wrong => Err(wrong("words of the changing region are not where they belong").into()),
            verdict => Ok(verdict),
        }
    }

    /// Hands over `len` bytes from `address` on, in pieces of whole pages.
    fn read(&self, mut address: u64, mut len: u64, mut use_bytes: impl FnMut(&[u8])) -> anyhow::Result<()> {
        let mut buffer = vec![0u8; 1 << 20];
        while len > 0 {
            interrupt::check()?;
            let holds = |s: &&Segment| s.address <= address && address - s.address < s.len;
            let Some(segment) = self.segments.iter().find(holds) else {
                bail!("the dump lacks the target's memory at {address:#x}");
            };
            let skip = address - segment.address;
            let piece = (segment.len - skip).min(len).min(buffer.len() as u64);
            let bytes = &mut buffer[..piece as usize];
            self.file.read_exact_at(bytes, segment.offset + skip).context("read the dump back")?;
            use_bytes(bytes);
            address += piece;
            len -= piece;
        }
        Ok(())
    }
}
