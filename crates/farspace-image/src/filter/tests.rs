//! One test per rule of vma_dump_size (fs/coredump.c), in its order.

use super::*;

const ALL: CoredumpFilter = CoredumpFilter::all();
const NONE: CoredumpFilter = CoredumpFilter::empty();

fn anonymous() -> Vma {
    Vma { backing: Backing::Anonymous, flags: VmFlags::READ, is_written: true, is_dax: false }
}

fn file(is_unlinked: bool, offset: u64) -> Vma {
    let backing = Backing::File { is_unlinked, offset, is_program: true };
    Vma { backing, is_written: false, ..anonymous() }
}

fn with(vma: Vma, flags: VmFlags) -> Vma {
    Vma { flags: vma.flags | flags, ..vma }
}

/// Asserts that `kind` alone decides about `vma`.
fn decided_by(kind: CoredumpFilter, vma: &Vma) {
    assert_eq!(kind.extent(vma), Extent::Full, "{kind:?} {vma:?}");
    assert_eq!(ALL.difference(kind).extent(vma), Extent::None, "without {kind:?}: {vma:?}");
}

#[test]
fn special_mappings_are_dumped_if_they_can_be_read() {
    let special = Vma { backing: Backing::Special, is_written: false, ..anonymous() };
    assert_eq!(NONE.extent(&special), Extent::Full);
    let vvar = with(special, VmFlags::IO | VmFlags::DONTDUMP | VmFlags::PFNMAP);
    assert_eq!(ALL.extent(&vvar), Extent::None);
    let execute_only = Vma { flags: VmFlags::empty(), ..special };
    assert_eq!(ALL.extent(&execute_only), Extent::None);
}

#[test]
fn what_must_not_be_dumped_is_not() {
    for vma in [anonymous(), file(false, 0), with(file(true, 0), VmFlags::SHARED | VmFlags::HUGETLB)] {
        assert_eq!(ALL.extent(&with(vma, VmFlags::DONTDUMP)), Extent::None);
    }
    assert_eq!(ALL.extent(&with(file(false, 0), VmFlags::IO)), Extent::None);
}

#[test]
fn persistent_memory_and_hugetlb_have_bits_of_their_own() {
    let dax = Vma { is_dax: true, ..file(false, 0) };
    decided_by(CoredumpFilter::DAX_PRIVATE, &dax);
    decided_by(CoredumpFilter::DAX_SHARED, &with(dax, VmFlags::SHARED));
    let huge = with(file(true, 0), VmFlags::HUGETLB);
    decided_by(CoredumpFilter::HUGETLB_PRIVATE, &huge);
    decided_by(CoredumpFilter::HUGETLB_SHARED, &with(huge, VmFlags::SHARED));
}

#[test]
fn shared_memory_is_anonymous_without_a_name() {
    decided_by(CoredumpFilter::MAPPED_SHARED, &with(file(false, 0), VmFlags::SHARED));
    decided_by(CoredumpFilter::ANON_SHARED, &with(file(true, 0), VmFlags::SHARED));
}

#[test]
fn written_private_memory_is_dumped() {
    decided_by(CoredumpFilter::ANON_PRIVATE, &anonymous());
    let untouched = Vma { is_written: false, ..anonymous() };
    assert_eq!(ALL.extent(&untouched), Extent::None);

    let data = Vma { is_written: true, ..file(false, 8192) };
    assert_eq!(CoredumpFilter::ANON_PRIVATE.extent(&data), Extent::Full);
    assert_eq!(CoredumpFilter::MAPPED_PRIVATE.extent(&data), Extent::Full);
    assert_eq!(CoredumpFilter::ELF_HEADERS.extent(&data), Extent::None);
}

#[test]
fn a_programs_first_page_is_dumped() {
    let headers = CoredumpFilter::ELF_HEADERS;
    assert_eq!(headers.extent(&file(false, 0)), Extent::FirstPage);
    assert_eq!(headers.extent(&file(false, 4096)), Extent::None);
    assert_eq!(headers.extent(&Vma { flags: VmFlags::empty(), ..file(false, 0) }), Extent::None);
    let backing = Backing::File { is_unlinked: false, offset: 0, is_program: false };
    assert_eq!(headers.extent(&Vma { backing, ..file(false, 0) }), Extent::None);
    assert_eq!(CoredumpFilter::MAPPED_PRIVATE.extent(&file(false, 0)), Extent::Full);
    assert_eq!(NONE.extent(&file(false, 0)), Extent::None);
}

#[test]
fn extents_in_bytes() {
    assert_eq!(Extent::Full.filesz(1 << 20), 1 << 20);
    assert_eq!(Extent::FirstPage.filesz(1 << 20), 4096);
    assert_eq!(Extent::None.filesz(1 << 20), 0);
}

#[test]
fn masks_are_read_as_the_kernel_prints_and_reads_them() {
    assert_eq!(CoredumpFilter::default().bits(), 0x33);
    assert_eq!(CoredumpFilter::from_proc("00000033\n"), Ok(CoredumpFilter::default()));
    assert_eq!(CoredumpFilter::from_proc("ffffffff\n"), Ok(ALL));
    for text in ["0x33", "0X33", "51", "063"] {
        assert_eq!(text.parse(), Ok(CoredumpFilter::default()), "{text}");
    }
    assert_eq!("0".parse(), Ok(NONE));
    assert_eq!("0x1ff".parse(), Ok(ALL));
    assert_eq!(CoredumpFilter::default().to_string(), "0x33");
}

#[test]
fn what_is_no_mask_is_named() {
    assert_eq!("0x200".parse::<CoredumpFilter>(), Err(ParseFilterError::UnknownBits { mask: 0x200 }));
    for text in ["", "0x", "all", "-1", "4294967296"] {
        let Err(error) = text.parse::<CoredumpFilter>() else { panic!("{text} was taken") };
        assert!(error.to_string().contains(&format!("{text:?} is no core dump filter")), "{error}");
    }
    assert!(CoredumpFilter::from_proc("").is_err());
}
