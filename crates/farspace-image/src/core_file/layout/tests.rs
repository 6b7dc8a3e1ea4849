//! What was laid out is read back with `object`, which knows nothing of this crate.

use object::elf::{
    EM_X86_64, ET_CORE, FileHeader64, NT_AUXV, NT_FILE, NT_PRFPREG, NT_PRPSINFO, NT_PRSTATUS, NT_SIGINFO,
    NT_X86_XSTATE, PN_XNUM, PT_LOAD, PT_NOTE, ProgramHeader64,
};
use object::endian::LittleEndian as Le;
use object::read::elf::{FileHeader as _, ProgramHeader as _};
use proptest::prelude::*;

use super::*;
use crate::core_file::{MappedFile, SIGINFO_LEN, SegmentFlags, Thread};

/// A note as it was read: owner, type, descriptor.
type ReadNote = (Vec<u8>, u32, Vec<u8>);

/// The program headers and notes of `header`.
fn read(header: &[u8]) -> (Vec<ProgramHeader64<Le>>, Vec<ReadNote>) {
    let file = FileHeader64::<Le>::parse(header).unwrap();
    assert_eq!(file.e_type(Le), ET_CORE);
    assert_eq!(file.e_machine(Le), EM_X86_64);
    let programs = file.program_headers(Le, header).unwrap();
    let mut iter = programs[0].notes(Le, header).unwrap().unwrap();
    let mut notes = Vec::new();
    while let Some(note) = iter.next().unwrap() {
        notes.push((note.name().to_vec(), note.n_type(Le), note.desc().to_vec()));
    }
    (programs.to_vec(), notes)
}

fn thread(tid: i32) -> Thread {
    Thread {
        tid,
        xsave: vec![tid as u8; XSAVE_MIN_LEN],
        siginfo: Some([tid as u8; SIGINFO_LEN]),
        ..Thread::default()
    }
}

fn pages(vaddr: u64, memsz: u64, filesz: u64) -> Segment {
    let [vaddr, memsz, filesz] = [vaddr, memsz, filesz].map(|pages| pages * PAGE_SIZE);
    Segment { vaddr, memsz, filesz, flags: SegmentFlags::READ }
}

fn spec(segments: Vec<Segment>) -> CoreSpec {
    CoreSpec { threads: vec![thread(7)], segments, ..CoreSpec::default() }
}

#[test]
fn notes_come_in_the_kernels_order() {
    let files = vec![MappedFile { start: 0, end: 4096, page_offset: 0, path: b"/bin/true".to_vec() }];
    let threads = vec![thread(7), Thread { siginfo: None, ..thread(8) }, thread(9)];
    let spec = CoreSpec { auxv: vec![0; 32], files, threads, ..CoreSpec::default() };
    let layout = CoreLayout::new(spec).unwrap();
    let (_, notes) = read(&layout.header_bytes());
    let kinds: Vec<u32> = notes.iter().map(|note| note.1).collect();
    let registers = [NT_PRFPREG, NT_X86_XSTATE];
    assert_eq!(kinds[..5], [NT_PRSTATUS, NT_PRPSINFO, NT_SIGINFO, NT_AUXV, NT_FILE]);
    assert_eq!(kinds[5..7], registers);
    assert_eq!(kinds[7..8], [NT_PRSTATUS]);
    assert_eq!(kinds[8..10], registers);
    assert_eq!(kinds[10..12], [NT_PRSTATUS, NT_SIGINFO]);
    assert_eq!(kinds[12..], registers);
    for (owner, kind, descriptor) in &notes {
        assert_eq!(owner.as_slice(), if *kind == NT_X86_XSTATE { b"LINUX".as_slice() } else { b"CORE" });
        if *kind == NT_PRSTATUS {
            assert_eq!(descriptor.len(), 336);
        }
    }
}

#[test]
fn what_is_unknown_has_no_note() {
    let threads = vec![Thread { tid: 1, ..Thread::default() }];
    let layout = CoreLayout::new(CoreSpec { threads, ..CoreSpec::default() }).unwrap();
    let (programs, notes) = read(&layout.header_bytes());
    assert_eq!(notes.iter().map(|note| note.1).collect::<Vec<_>>(), [NT_PRSTATUS, NT_PRPSINFO]);
    assert_eq!(programs.len(), 1);
    assert_eq!(layout.file_len(), layout.data_offset());
}

#[test]
fn idle_tiles_are_cut_before_the_layout_is_settled() {
    let mut area = vec![0; 11_008];
    area[464..472].copy_from_slice(&0x602e7u64.to_le_bytes());
    let threads = vec![Thread { xsave: area, ..Thread::default() }];
    let layout = CoreLayout::new(CoreSpec { threads, ..CoreSpec::default() }).unwrap();
    let (_, notes) = read(&layout.header_bytes());
    assert_eq!(notes.last().map(|note| (note.1, note.2.len())), Some((NT_X86_XSTATE, 2696)));
}

#[test]
fn many_segments_are_counted_in_a_section_header() {
    for (nr, is_extended) in [(65_533, false), (65_534, true), (65_535, true), (70_000, true)] {
        let layout = CoreLayout::new(spec((0..nr).map(|i| pages(2 * i, 1, i % 2)).collect())).unwrap();
        let header = layout.header_bytes();
        assert_eq!(header.len() as u64, layout.header_len());
        let file = FileHeader64::<Le>::parse(header.as_slice()).unwrap();
        assert_eq!(file.e_phnum(Le) == PN_XNUM, is_extended);
        assert_eq!(layout.section_header_offset().is_some(), is_extended);
        assert_eq!(file.e_shoff(Le), layout.section_header_offset().unwrap_or(0));
        assert!(file.e_shoff(Le).is_multiple_of(8));
        let (programs, notes) = read(&header);
        assert_eq!(programs.len() as u64, nr + 1);
        assert_eq!(programs.last().unwrap().p_vaddr(Le), 2 * (nr - 1) * PAGE_SIZE);
        assert_eq!(notes[0].1, NT_PRSTATUS);
    }
}

#[test]
fn impossible_specs_are_refused() {
    let bad = |segments: Vec<Segment>| CoreLayout::new(spec(segments)).unwrap_err();
    assert_eq!(CoreLayout::new(CoreSpec::default()).unwrap_err(), LayoutError::NoThreads);
    assert_eq!(
        bad(vec![pages(1, 2, 0), pages(2, 1, 0)]),
        LayoutError::SegmentOrder { index: 1, vaddr: 8192 }
    );
    assert!(matches!(bad(vec![pages(1, 1, 2)]), LayoutError::BadSegment { index: 0, .. }));
    assert!(matches!(bad(vec![pages(1, 0, 0)]), LayoutError::BadSegment { .. }));
    assert!(matches!(bad(vec![Segment { vaddr: 1, ..pages(1, 1, 1) }]), LayoutError::BadSegment { .. }));
    let last_page = Segment { vaddr: PAGE_SIZE.wrapping_neg(), ..pages(0, 2, 0) };
    assert!(matches!(bad(vec![last_page]), LayoutError::BadSegment { .. }));
    let half = 1 << 50;
    assert_eq!(bad(vec![pages(0, half, half), pages(half, half, half)]), LayoutError::TooLong);

    let short = Thread { xsave: vec![0; 512], ..thread(3) };
    let with = CoreSpec { threads: vec![short], ..CoreSpec::default() };
    assert_eq!(CoreLayout::new(with).unwrap_err(), LayoutError::ShortXsave { tid: 3, len: 512 });
    let cut = CoreSpec { auxv: vec![0; 24], ..spec(Vec::new()) };
    assert_eq!(CoreLayout::new(cut).unwrap_err(), LayoutError::CutAuxv { len: 24 });
}

/// Segments made of (gap before it, pages in memory, how many of them are in the file) triples.
fn segments() -> impl Strategy<Value = Vec<Segment>> {
    prop::collection::vec((0u64..5, 1u64..1000, 0u64..=1000), 0..80).prop_map(|triples| {
        let mut next = 0;
        let place = |(gap, memsz, filesz): (u64, u64, u64)| {
            let vaddr = next + gap;
            next = vaddr + memsz;
            pages(vaddr, memsz, filesz.min(memsz))
        };
        triples.into_iter().map(place).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_file_is_covered_without_overlap(
        segments in segments(),
        nr_threads in 1i32..9,
        auxv_entries in 0usize..30,
        paths in prop::collection::vec(prop::collection::vec(1u8.., 0..40), 0..20),
    ) {
        let files: Vec<_> =
            paths.into_iter().map(|path| MappedFile { path, ..MappedFile::default() }).collect();
        let auxv = vec![0; auxv_entries * auxv::ENTRY_LEN];
        let threads: Vec<_> = (1..=nr_threads).map(thread).collect();
        let layout =
            CoreLayout::new(CoreSpec { threads, auxv, files, segments: segments.clone(), ..CoreSpec::default() })
                .unwrap();

        let header = layout.header_bytes();
        let mut written = io::Cursor::new(Vec::new());
        layout.write_header(&mut written).unwrap();
        let written = written.into_inner();
        prop_assert_eq!(&header, &written);
        prop_assert_eq!(header.len() as u64, layout.header_len());
        prop_assert_eq!(layout.header_len(), layout.notes_offset() + layout.notes_len());
        prop_assert!(layout.data_offset() >= layout.header_len());

        let (programs, notes) = read(&header);
        prop_assert_eq!(notes.iter().filter(|note| note.1 == NT_PRSTATUS).count(), nr_threads as usize);
        prop_assert_eq!(programs[0].p_type(Le), PT_NOTE);
        prop_assert_eq!(programs.len(), segments.len() + 1);
        let mut offset = layout.data_offset();
        for (index, (program, segment)) in programs[1..].iter().zip(&segments).enumerate() {
            prop_assert_eq!(program.p_type(Le), PT_LOAD);
            prop_assert_eq!(program.p_vaddr(Le), segment.vaddr);
            prop_assert_eq!(program.p_memsz(Le), segment.memsz);
            prop_assert_eq!(program.p_filesz(Le), segment.filesz);
            prop_assert_eq!(program.p_flags(Le), segment.flags.bits());
            prop_assert_eq!(program.p_offset(Le), offset);
            prop_assert_eq!(layout.segment_offset(index), Some(offset));
            prop_assert!(offset.is_multiple_of(PAGE_SIZE));
            offset += segment.filesz;
        }
        prop_assert_eq!(layout.file_len(), offset);
        prop_assert_eq!(layout.segment_offset(segments.len()), None);
    }
}

#[test]
fn data_that_is_there_already() {
    let segments = vec![pages(1, 2, 2), pages(3, 4, 1), pages(9, 1, 0)];
    let offsets = vec![80 * PAGE_SIZE, 70 * PAGE_SIZE, 70 * PAGE_SIZE];
    let layout = |room| CoreLayout::placed(spec(segments.clone()), offsets.clone(), room).unwrap();
    let in_front = layout(64 * PAGE_SIZE);
    assert_eq!(in_front.file_len(), 82 * PAGE_SIZE);
    assert_eq!(in_front.notes_offset() + in_front.notes_len(), in_front.header_len());
    assert!(in_front.header_len() <= 64 * PAGE_SIZE);
    // No room: behind the data.
    let behind = layout(64);
    assert_eq!(behind.file_len(), behind.header_len());
    assert_eq!(behind.notes_offset(), 82 * PAGE_SIZE + 4 * PHDR_LEN);
    for layout in [in_front, behind] {
        let mut file = io::Cursor::new(vec![0; layout.file_len() as usize]);
        layout.write_header(&mut file).unwrap();
        let (programs, notes) = read(file.get_ref());
        assert_eq!(notes.len(), 5);
        let loads: Vec<_> = programs[1..].iter().map(|p| (p.p_offset(Le), p.p_filesz(Le))).collect();
        assert_eq!(loads[0], (80 * PAGE_SIZE, 2 * PAGE_SIZE));
        assert_eq!(loads[1], (70 * PAGE_SIZE, PAGE_SIZE));
    }
}

#[test]
fn places_that_cannot_be() {
    let of = |offsets: &[u64], room| {
        let segments = vec![pages(1, 2, 2), pages(3, 1, 1)];
        let offsets = offsets.iter().map(|page| page * PAGE_SIZE).collect();
        CoreLayout::placed(spec(segments), offsets, room * PAGE_SIZE).map(drop)
    };
    assert_eq!(of(&[1, 3], 1), Ok(()));
    assert_eq!(of(&[1, 2], 1), Err(LayoutError::BadPlace { index: 1, offset: 2 * PAGE_SIZE }));
    assert_eq!(of(&[1, 3], 2), Err(LayoutError::BadPlace { index: 0, offset: PAGE_SIZE }));
    assert!(matches!(of(&[1], 1), Err(LayoutError::BadPlace { index: 1, .. })));
}
