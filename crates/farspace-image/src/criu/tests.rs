//! Images are written and read; bytes that criu 3.17.1 itself has written; hostile ones.

use proptest::prelude::*;

use super::*;

const LAZY: PageFlags = PageFlags::PRESENT.union(PageFlags::LAZY);

fn run(vaddr: u64, nr_pages: u64, flags: PageFlags) -> PageRun {
    PageRun { vaddr, nr_pages, flags }
}

fn written(runs: &[PageRun]) -> Vec<u8> {
    let mut writer = PagemapWriter::new(Vec::new(), 7).expect("memory");
    runs.iter().for_each(|run| writer.push(*run).expect("in order"));
    writer.finish().expect("memory")
}

#[test]
fn a_pagemap_is_read_as_it_was_written() {
    let runs = [
        run(0x1000, 2, LAZY),
        run(0x3000, 1, PageFlags::PARENT),
        run(0x8000, 5, PageFlags::PRESENT),
        run(0x7fff_ffff_e000, 1, LAZY),
    ];
    let read = Pagemap::read(written(&runs).as_slice()).expect("valid");
    assert_eq!((read.pages_id, read.runs()), (7, &runs[..]));
    assert_eq!(read.pages_bytes(), Some(8 * PAGE_SIZE));
}

#[test]
fn runs_that_continue_each_other_become_one() {
    let runs = [run(0x1000, 1, LAZY), run(0x2000, 3, LAZY), run(0x5000, 1, PageFlags::PRESENT)];
    let read = Pagemap::read(written(&runs).as_slice()).expect("valid");
    assert_eq!(read.runs(), [run(0x1000, 4, LAZY), run(0x5000, 1, PageFlags::PRESENT)]);
    assert!(read.listed(0x2000..0x9000).eq(std::iter::once(0x2000..0x6000)));
    assert_eq!(read.listed(0..0x1000).count() + read.listed(0x6000..u64::MAX).count(), 0);
}

#[test]
fn a_run_is_as_long_as_memory() {
    let long = run(0, 1 << 35, PageFlags::PRESENT);
    let read = Pagemap::read(written(&[long]).as_slice()).expect("valid");
    assert!(read.runs().len() > 1 && read.listed(0..u64::MAX).eq([long.range()]));
}

#[test]
fn a_writer_refuses_what_a_reader_would() {
    let mut writer = PagemapWriter::new(Vec::new(), 1).expect("memory");
    writer.push(run(0x4000, 1, LAZY)).expect("the first");
    for bad in [
        run(0x4000, 1, LAZY),
        run(0x5001, 1, LAZY),
        run(0x6000, 0, LAZY),
        run(u64::MAX - 0xfff, 2, LAZY),
        run(0x6000, 1, PageFlags::PARENT | PageFlags::PRESENT),
    ] {
        assert!(matches!(writer.push(bad), Err(CriuError::Run { .. })), "{bad:?}");
    }
}

#[test]
fn an_inventory_of_criu() {
    // `criu pre-dump --track-mem`, criu 3.17.1: dump_uptime 15920000, pre_dump_mode 1, and no version.
    let bytes = [0x16, 0x31, 0x31, 0x58, 9, 0, 0, 0, 0x08, 0x00, 0x40, 0x80, 0xd7, 0xcb, 0x07, 0x48, 0x01];
    let read = Inventory::read(&mut &bytes[..]).expect("valid");
    let expected = Inventory { dump_uptime_us: Some(15_920_000), pre_dump_mode: Some(PreDumpMode::Splice) };
    assert_eq!(read, expected);
    let mut own = Vec::new();
    expected.write(&mut own).expect("memory");
    // The same, but for the version.
    assert_eq!((&own[..9], own[9], &own[10..]), (&bytes[..9], 2, &bytes[10..]));
}

#[test]
fn old_pagemaps_have_no_flags() {
    // magic numbers; pages_id 1; 1 page at 0x1000; 1 page at 0x2000 in the parent.
    let mut bytes = vec![0x19, 0x43, 0x56, 0x54, 0x25, 0x40, 0x08, 0x56];
    for message in [&[0x08, 1][..], &[0x08, 0x80, 0x20, 0x10, 1], &[0x08, 0x80, 0x40, 0x10, 1, 0x18, 1]] {
        bytes.extend((message.len() as u32).to_le_bytes());
        bytes.extend(message);
    }
    let read = Pagemap::read(bytes.as_slice()).expect("valid");
    assert_eq!(read.runs(), [run(0x1000, 1, PageFlags::PRESENT), run(0x2000, 1, PageFlags::PARENT)]);
}

#[test]
fn statistics_are_read_as_they_were_written() {
    let stats = DumpStats { pages_written: 5, shared_pages_written: 6, ..DumpStats::default() };
    let mut bytes = Vec::new();
    stats.write(&mut bytes).expect("memory");
    assert_eq!(DumpStats::read(&mut bytes.as_slice()).expect("valid"), stats);
}

#[test]
fn names() {
    for id in [ImageId::Process(42), ImageId::Shared(1 << 40)] {
        assert_eq!(ImageId::from_pagemap_name(&id.pagemap_name()), Some(id));
    }
    assert_eq!(ImageId::Shared(3).pagemap_name(), "pagemap-shmem-3.img");
    for name in ["pagemap-.img", "pagemap-+1.img", "pagemap-01.img", "pages-1.img", "pagemap-shmem--1.img"] {
        assert_eq!(ImageId::from_pagemap_name(name), None, "{name}");
    }
    assert_eq!(pages_name(3), "pages-3.img");
}

#[test]
fn damaged_images_are_refused() {
    let good = written(&[run(0x1000, 1, LAZY), run(0x4000, 2, LAZY)]);
    // Cut anywhere: an error, or fewer runs at the border of a message.
    for len in 0..good.len() {
        match Pagemap::read(&good[..len]) {
            Ok(read) => assert!(read.runs().len() < 2),
            Err(error) => assert!(matches!(error, CriuError::Cut | CriuError::Empty), "{error}"),
        }
    }
    let mut long = good[..8].to_vec();
    long.extend([0xff; 8]);
    assert!(matches!(Pagemap::read(long.as_slice()), Err(CriuError::Long { .. })));
    assert!(matches!(Inventory::read(&mut good.as_slice()), Err(CriuError::Magic { .. })));
    let mut swapped = written(&[run(0x4000, 1, LAZY)]);
    swapped.extend(&written(&[run(0x1000, 1, LAZY)])[14..]);
    assert!(matches!(Pagemap::read(swapped.as_slice()), Err(CriuError::Run { .. })));
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        fuzzing::images(&bytes);
    }

    #[test]
    fn changed_images_are_read_or_refused(at in 0_usize..200, byte: u8, gaps in prop::collection::vec(1_u64..9, 1..20)) {
        let mut vaddr = 0;
        let runs: Vec<_> = gaps
            .iter()
            .map(|gap| {
                vaddr += gap * PAGE_SIZE;
                let run = run(vaddr, *gap, if gap % 2 == 0 { PageFlags::PARENT } else { LAZY });
                vaddr = run.range().end;
                run
            })
            .collect();
        let mut bytes = written(&runs);
        fuzzing::images(&bytes);
        let at = at % bytes.len();
        bytes[at] = byte;
        fuzzing::images(&bytes);
    }
}
