//! Where each byte of a core goes.

use std::convert::Infallible;
use std::io::{self, BufWriter, Write};

use object::pod::bytes_of;

use super::headers::{self, EHDR_LEN, PHDR_LEN, SHDR_LEN};
use super::{CoreSpec, LayoutError, Segment, XSAVE_MIN_LEN, mapped_file, notes, trim_xsave};
use crate::auxv;

/// Size of a page of x86-64, and the alignment of each segment in memory and in the file, in bytes.
pub const PAGE_SIZE: u64 = 4096;

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
    /// which is at the end of the file. `readelf` finds the value in it unexpected, in either place.
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
        let nr = self.nr_program_headers();
        sink(bytes_of(&headers::file(nr, self.section_header_offset())))?;
        sink(bytes_of(&headers::note(self.notes_offset(), self.notes_len)))?;
        for (segment, offset) in self.segments_with_offsets() {
            sink(bytes_of(&headers::load(segment, offset)))?;
        }
        if self.is_extended() {
            sink(bytes_of(&headers::section(nr)))?;
        }
        notes::visit(&self.spec, |note| sink(&note.bytes()))
    }

    fn nr_program_headers(&self) -> u64 {
        self.spec.segments.len() as u64 + 1
    }

    /// Whether `e_phnum` can't hold the number of program headers.
    fn is_extended(&self) -> bool {
        self.nr_program_headers() >= headers::NR_EXTENDED
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

#[cfg(test)]
mod tests;
