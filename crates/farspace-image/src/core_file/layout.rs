//! Where each byte of a core goes.

use std::convert::Infallible;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};

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
/// The file ranges of segments are multiples of [`PAGE_SIZE`], and those of header and segments don't overlap. In a layout
/// of [`CoreLayout::new`] they follow each other without a gap up to `file_len`, which fits an `i64`.
#[derive(Clone, Debug)]
pub struct CoreLayout {
    spec: CoreSpec,
    notes_len: u64,
    /// Per segment, in the order of `spec.segments`.
    offsets: Vec<u64>,
    file_len: u64,
    /// Where the program headers begin, and after them the rest of the header.
    tables_offset: u64,
}

impl CoreLayout {
    /// Checks `spec`, trims its xsave areas ([`trim_xsave`]) and assigns every part its place in the file.
    ///
    /// # Errors
    ///
    /// The spec describes no possible core; the variants of [`LayoutError`] say why.
    pub fn new(spec: CoreSpec) -> Result<Self, LayoutError> {
        let (spec, notes_len) = measure(spec)?;
        let mut layout = Self { spec, notes_len, offsets: Vec::new(), file_len: 0, tables_offset: EHDR_LEN };
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

    /// As [`CoreLayout::new`] for data that is in the file already: of each segment at its place in `offsets`, all of it from
    /// `room` on. The header is in the first `room` bytes if it fits, and behind the data if it doesn't; only the ELF header
    /// itself is always at the beginning. Readers find the rest by it (`e_phoff`, elf(5)).
    ///
    /// # Errors
    ///
    /// As there; also a place that is too low, not a multiple of [`PAGE_SIZE`], or taken by another segment.
    pub fn placed(spec: CoreSpec, offsets: Vec<u64>, room: u64) -> Result<Self, LayoutError> {
        let (spec, notes_len) = measure(spec)?;
        let data_end = check_places(&spec.segments, &offsets, room)?;
        let mut layout = Self { spec, notes_len, offsets, file_len: data_end, tables_offset: EHDR_LEN };
        if layout.header_len() > room {
            // INVARIANT: data_end is a multiple of the page size, behind all segments.
            layout.tables_offset = data_end;
            layout.file_len = layout.header_len();
        }
        if i64::try_from(layout.file_len).is_err() {
            return Err(LayoutError::TooLong);
        }
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

    /// The file offset where the header ends, in bytes: ELF header, program headers, section header if there is one, notes.
    /// It is its length, too, unless it is [behind the data](CoreLayout::placed).
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
        self.is_extended().then(|| self.tables_offset + self.nr_program_headers() * PHDR_LEN)
    }

    /// The file offset of the notes in bytes.
    pub fn notes_offset(&self) -> u64 {
        let section_header_len = if self.is_extended() { SHDR_LEN } else { 0 };
        self.tables_offset + self.nr_program_headers() * PHDR_LEN + section_header_len
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
    /// Needs memory for one note at a time. Where the header is [behind the data](CoreLayout::placed), it goes there.
    ///
    /// # Errors
    ///
    /// Those of `out`.
    pub fn write_header(&self, out: impl Write + Seek) -> io::Result<()> {
        let mut out = BufWriter::with_capacity(1 << 16, out);
        let mut is_first = true;
        self.visit_header(|bytes| {
            out.write_all(bytes)?;
            if std::mem::take(&mut is_first) && self.tables_offset != EHDR_LEN {
                out.seek(SeekFrom::Start(self.tables_offset))?;
            }
            Ok::<(), io::Error>(())
        })?;
        out.flush()
    }

    /// Calls `sink` with the header's bytes, piece by piece in order.
    fn visit_header<E>(&self, mut sink: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let nr = self.nr_program_headers();
        sink(bytes_of(&headers::file(nr, self.tables_offset, self.section_header_offset())))?;
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

/// Checks a spec, trims it, and says how long its notes are.
fn measure(mut spec: CoreSpec) -> Result<(CoreSpec, u64), LayoutError> {
    check_notes(&spec)?;
    check_segments(&spec.segments)?;
    spec.threads.iter_mut().for_each(|thread| trim_xsave(&mut thread.xsave));
    let mut notes_len = 0;
    let Ok(()) = notes::visit(&spec, |note| {
        notes_len += note.len();
        Ok::<(), Infallible>(())
    });
    Ok((spec, notes_len))
}

/// Checks the places of the segments' data; returns where the last of it ends, or `room` if there is none.
fn check_places(segments: &[Segment], offsets: &[u64], room: u64) -> Result<u64, LayoutError> {
    let bad =
        |index: usize| LayoutError::BadPlace { index, offset: offsets.get(index).copied().unwrap_or(0) };
    if segments.len() != offsets.len() {
        return Err(bad(segments.len().min(offsets.len())));
    }
    let mut taken: Vec<(u64, u64, usize)> = Vec::with_capacity(segments.len());
    for (index, (segment, &offset)) in segments.iter().zip(offsets).enumerate() {
        let end = offset.checked_add(segment.filesz).ok_or(LayoutError::TooLong)?;
        if !offset.is_multiple_of(PAGE_SIZE) || offset < room {
            return Err(bad(index));
        }
        if segment.filesz > 0 {
            taken.push((offset, end, index));
        }
    }
    taken.sort_unstable();
    match taken.windows(2).find(|pair| pair[1].0 < pair[0].1) {
        Some(pair) => Err(bad(pair[1].2)),
        None => Ok(taken.last().map_or(room, |last| last.1).next_multiple_of(PAGE_SIZE)),
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
