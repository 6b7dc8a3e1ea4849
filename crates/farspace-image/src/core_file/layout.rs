//! Where each byte of a core goes.

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};
use std::mem::size_of;

use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_NONE, EM_X86_64, ET_CORE, EV_CURRENT, FileHeader64, Ident,
    PN_XNUM, PT_LOAD, PT_NOTE, ProgramHeader64, SHN_UNDEF, SHT_NULL, SectionHeader64,
};
use object::endian::{LittleEndian as Le, U16, U32, U64};
use object::pod::bytes_of;
use thiserror::Error;

use super::{CoreSpec, Segment, XSAVE_MIN_LEN, mapped_file, notes, trim_xsave};
use crate::auxv;

/// Size of a page of x86-64, and the alignment of each segment in memory and in the file, in bytes.
pub const PAGE_SIZE: u64 = 4096;

const EHDR_LEN: u64 = size_of::<FileHeader64<Le>>() as u64;
const PHDR_LEN: u64 = size_of::<ProgramHeader64<Le>>() as u64;
const SHDR_LEN: u64 = size_of::<SectionHeader64<Le>>() as u64;
const _: () = assert!(EHDR_LEN == 64 && PHDR_LEN == 56 && SHDR_LEN == 64);

/// Why a [`CoreSpec`] can't be laid out.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// There is no thread.
    #[error("a core needs at least one thread; the process may have exited meanwhile")]
    NoThreads,
    /// An xsave area is too short.
    #[error(
        "the xsave area of thread {tid} has {len} bytes, fewer than the {XSAVE_MIN_LEN} of the smallest one"
    )]
    ShortXsave {
        /// The thread.
        tid: i32,
        /// Length found, in bytes.
        len: usize,
    },
    /// The auxiliary vector ends in the middle of an entry.
    #[error("the auxiliary vector has {len} bytes, not a multiple of {}", auxv::ENTRY_LEN)]
    CutAuxv {
        /// Length found, in bytes.
        len: usize,
    },
    /// A segment's address or a length is not a multiple of the page size, or `filesz` is above `memsz`, or the end
    /// is past the address space.
    #[error(
        "segment {index} at {vaddr:#x} has an address or a length that is impossible: memsz {memsz:#x}, filesz {filesz:#x}"
    )]
    BadSegment {
        /// Its place in [`CoreSpec::segments`].
        index: usize,
        /// Its first address.
        vaddr: u64,
        /// Its length in the target, in bytes.
        memsz: u64,
        /// Its length in the file, in bytes.
        filesz: u64,
    },
    /// A segment begins before the end of the one before it.
    #[error("segment {index} at {vaddr:#x} overlaps the segment before it or is out of order")]
    SegmentOrder {
        /// Its place in [`CoreSpec::segments`].
        index: usize,
        /// Its first address.
        vaddr: u64,
    },
    /// The file would be longer than a file offset can say.
    #[error("the core would be longer than 2^63 - 1 bytes; dump fewer mappings (see --filter)")]
    TooLong,
}

/// A core whose layout is settled: what the header says, and where each segment's data goes.
///
/// # Invariants
///
/// Segment data begins at `data_offset`, a multiple of [`PAGE_SIZE`] at or after the header's end; the segments'
/// file ranges follow each other without gap or overlap up to `file_len`, which fits an `i64`.
#[derive(Clone, Debug)]
pub struct CoreLayout {
    spec: CoreSpec,
    notes_len: u64,
    /// Per segment, in the order of `spec.segments`.
    offsets: Vec<u64>,
    file_len: u64,
}

impl CoreLayout {
    /// Checks `spec`, trims its xsave areas ([`trim_xsave`]) and assigns every part its place in the file.
    ///
    /// # Errors
    ///
    /// The spec describes no possible core; the variants of [`LayoutError`] say why.
    pub fn new(mut spec: CoreSpec) -> Result<Self, LayoutError> {
        check_notes(&spec)?;
        check_segments(&spec.segments)?;
        spec.threads.iter_mut().for_each(|thread| trim_xsave(&mut thread.xsave));
        let mut notes_len = 0;
        let Ok(()) = notes::visit(&spec, |note| {
            notes_len += note.len();
            Ok::<(), Infallible>(())
        });
        let mut layout = Self { spec, notes_len, offsets: Vec::new(), file_len: 0 };
        let mut offset = layout.data_offset();
        let mut offsets = Vec::with_capacity(layout.spec.segments.len());
        for segment in &layout.spec.segments {
            offsets.push(offset);
            offset = offset.checked_add(segment.filesz).ok_or(LayoutError::TooLong)?;
        }
        if i64::try_from(offset).is_err() {
            return Err(LayoutError::TooLong);
        }
        // INVARIANT: data_offset is a multiple of the page size, so is every filesz (check_segments).
        layout.offsets = offsets;
        layout.file_len = offset;
        Ok(layout)
    }

    /// What is laid out.
    pub fn spec(&self) -> &CoreSpec {
        &self.spec
    }

    /// The segments, in the order of the program headers after PT_NOTE.
    pub fn segments(&self) -> &[Segment] {
        &self.spec.segments
    }

    /// The segments, each with the file offset of its data in bytes.
    pub fn segments_with_offsets(&self) -> impl ExactSizeIterator<Item = (&Segment, u64)> {
        self.spec.segments.iter().zip(self.offsets.iter().copied())
    }

    /// The file offset, in bytes, of the data of segment `index`, or `None` if there is no such segment.
    ///
    /// A segment that is not dumped has an offset too, where nothing of it is.
    pub fn segment_offset(&self, index: usize) -> Option<u64> {
        self.offsets.get(index).copied()
    }

    /// Length of the header in bytes: ELF header, program headers, section header if there is one, notes.
    pub fn header_len(&self) -> u64 {
        self.notes_offset() + self.notes_len
    }

    /// The file offset of the first segment's data in bytes, a multiple of [`PAGE_SIZE`].
    pub fn data_offset(&self) -> u64 {
        self.header_len().next_multiple_of(PAGE_SIZE)
    }

    /// Length of the whole file in bytes.
    ///
    /// Memory that is absent at the end leaves a hole there, so the file's length has to be set (ftruncate(2)).
    pub fn file_len(&self) -> u64 {
        self.file_len
    }

    /// The file offset of the section header that holds the number of program headers, in bytes.
    ///
    /// There is one from 65,535 program headers on (PN_XNUM, elf(5)). It is part of the header, unlike the kernel's,
    /// which is at the end of the file.
    pub fn section_header_offset(&self) -> Option<u64> {
        self.is_extended().then(|| EHDR_LEN + self.nr_program_headers() * PHDR_LEN)
    }

    /// The file offset of the notes in bytes.
    pub fn notes_offset(&self) -> u64 {
        let section_header_len = if self.is_extended() { SHDR_LEN } else { 0 };
        EHDR_LEN + self.nr_program_headers() * PHDR_LEN + section_header_len
    }

    /// Length of the notes in bytes.
    pub fn notes_len(&self) -> u64 {
        self.notes_len
    }

    /// How many of [`CoreSpec::files`] are left out because NT_FILE would exceed
    /// [`FILE_NOTE_MAX`](super::FILE_NOTE_MAX).
    pub fn nr_dropped_files(&self) -> usize {
        self.spec.files.len() - mapped_file::nr_fitting(&self.spec.files)
    }

    /// The header in one piece, [`header_len`](Self::header_len) bytes, for offset 0 of the file.
    pub fn header_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.header_len() as usize);
        let Ok(()) = self.visit_header(|bytes| {
            out.extend(bytes);
            Ok::<(), Infallible>(())
        });
        out
    }

    /// Writes the header, [`header_len`](Self::header_len) bytes, to `out`, which is at offset 0 of the file.
    ///
    /// Needs memory for one note at a time.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_header(&self, out: impl Write) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 16, out);
        self.visit_header(|bytes| out.write_all(bytes))?;
        out.flush()
    }

    /// Calls `sink` with the header's bytes, piece by piece in order.
    fn visit_header<E>(&self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        sink(bytes_of(&self.file_header()))?;
        sink(bytes_of(&self.note_header()))?;
        for (segment, offset) in self.segments_with_offsets() {
            sink(bytes_of(&load_header(segment, offset)))?;
        }
        if self.is_extended() {
            sink(bytes_of(&self.section_header()))?;
        }
        notes::visit(&self.spec, |note| sink(&note.bytes()))
    }

    fn nr_program_headers(&self) -> u64 {
        self.spec.segments.len() as u64 + 1
    }

    /// Whether `e_phnum` can't hold the number of program headers.
    fn is_extended(&self) -> bool {
        self.nr_program_headers() >= u64::from(PN_XNUM)
    }

    fn file_header(&self) -> FileHeader64<Le> {
        let section_header = self.section_header_offset();
        let (e_phnum, e_shnum) = match section_header {
            Some(_) => (PN_XNUM, 1),
            None => (self.nr_program_headers() as u16, 0),
        };
        FileHeader64 {
            e_ident: Ident {
                magic: ELFMAG,
                class: ELFCLASS64,
                data: ELFDATA2LSB,
                version: EV_CURRENT,
                os_abi: ELFOSABI_NONE,
                abi_version: 0,
                padding: [0; 7],
            },
            e_type: u16(ET_CORE),
            e_machine: u16(EM_X86_64),
            e_version: u32(EV_CURRENT.into()),
            e_entry: u64(0),
            e_phoff: u64(EHDR_LEN),
            e_shoff: u64(section_header.unwrap_or(0)),
            e_flags: u32(0),
            e_ehsize: u16(EHDR_LEN as u16),
            e_phentsize: u16(PHDR_LEN as u16),
            e_phnum: u16(e_phnum),
            e_shentsize: u16(if section_header.is_some() { SHDR_LEN as u16 } else { 0 }),
            e_shnum: u16(e_shnum),
            e_shstrndx: u16(SHN_UNDEF),
        }
    }

    fn note_header(&self) -> ProgramHeader64<Le> {
        ProgramHeader64 {
            p_type: u32(PT_NOTE),
            p_flags: u32(0),
            p_offset: u64(self.notes_offset()),
            p_vaddr: u64(0),
            p_paddr: u64(0),
            p_filesz: u64(self.notes_len),
            p_memsz: u64(0),
            p_align: u64(4),
        }
    }

    /// Section header 0 as fill_extnum_info makes it (fs/binfmt_elf.c).
    fn section_header(&self) -> SectionHeader64<Le> {
        SectionHeader64 {
            sh_name: u32(0),
            sh_type: u32(SHT_NULL),
            sh_flags: u64(0),
            sh_addr: u64(0),
            sh_offset: u64(0),
            sh_size: u64(1),
            sh_link: u32(SHN_UNDEF.into()),
            sh_info: u32(self.nr_program_headers() as u32),
            sh_addralign: u64(0),
            sh_entsize: u64(0),
        }
    }
}

fn load_header(segment: &Segment, offset: u64) -> ProgramHeader64<Le> {
    ProgramHeader64 {
        p_type: u32(PT_LOAD),
        p_flags: u32(segment.flags.bits()),
        p_offset: u64(offset),
        p_vaddr: u64(segment.vaddr),
        p_paddr: u64(0),
        p_filesz: u64(segment.filesz),
        p_memsz: u64(segment.memsz),
        p_align: u64(PAGE_SIZE),
    }
}

fn check_notes(spec: &CoreSpec) -> Result<(), LayoutError> {
    if spec.threads.is_empty() {
        return Err(LayoutError::NoThreads);
    }
    for thread in &spec.threads {
        if !thread.xsave.is_empty() && thread.xsave.len() < XSAVE_MIN_LEN {
            return Err(LayoutError::ShortXsave { tid: thread.tid, len: thread.xsave.len() });
        }
    }
    if !spec.auxv.len().is_multiple_of(auxv::ENTRY_LEN) {
        return Err(LayoutError::CutAuxv { len: spec.auxv.len() });
    }
    Ok(())
}

fn check_segments(segments: &[Segment]) -> Result<(), LayoutError> {
    let mut previous_end = 0;
    for (index, &Segment { vaddr, memsz, filesz, .. }) in segments.iter().enumerate() {
        let aligned = [vaddr, memsz, filesz].iter().all(|n| n.is_multiple_of(PAGE_SIZE));
        let Some(end) = vaddr.checked_add(memsz).filter(|_| aligned && memsz > 0 && filesz <= memsz) else {
            return Err(LayoutError::BadSegment { index, vaddr, memsz, filesz });
        };
        if vaddr < previous_end {
            return Err(LayoutError::SegmentOrder { index, vaddr });
        }
        previous_end = end;
    }
    Ok(())
}

fn u16(value: u16) -> U16<Le> {
    U16::new(Le, value)
}

fn u32(value: u32) -> U32<Le> {
    U32::new(Le, value)
}

fn u64(value: u64) -> U64<Le> {
    U64::new(Le, value)
}

#[cfg(test)]
mod tests;
