//! The ELF, program and section headers (elf(5)), with the values that the kernel gives them (fs/binfmt_elf.c).

use std::mem::size_of;

use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, ELFOSABI_NONE, EM_X86_64, ET_CORE, EV_CURRENT, FileHeader64, Ident,
    PN_XNUM, PT_LOAD, PT_NOTE, ProgramHeader64, SHN_UNDEF, SHT_NULL, SectionHeader64,
};
use object::endian::{LittleEndian as Le, U16, U32, U64};

use super::{PAGE_SIZE, Segment};

/// Length of the ELF header in bytes; the program headers follow.
pub(super) const EHDR_LEN: u64 = size_of::<FileHeader64<Le>>() as u64;
/// Length of a program header in bytes.
pub(super) const PHDR_LEN: u64 = size_of::<ProgramHeader64<Le>>() as u64;
/// Length of a section header in bytes.
pub(super) const SHDR_LEN: u64 = size_of::<SectionHeader64<Le>>() as u64;
const _: () = assert!(EHDR_LEN == 64 && PHDR_LEN == 56 && SHDR_LEN == 64);

/// The number of program headers that `e_phnum` can't hold, nor any above.
pub(super) const NR_EXTENDED: u64 = PN_XNUM as u64;

/// The ELF header of a core with `nr_program_headers`, counted in a section header if there is one.
pub(super) fn file(
    nr_program_headers: u64,
    program_headers_offset: u64,
    section_header_offset: Option<u64>,
) -> FileHeader64<Le> {
    let (e_phnum, e_shnum, e_shentsize) = match section_header_offset {
        Some(_) => (PN_XNUM, 1, SHDR_LEN as u16),
        None => (nr_program_headers as u16, 0, 0),
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
        e_phoff: u64(program_headers_offset),
        e_shoff: u64(section_header_offset.unwrap_or(0)),
        e_flags: u32(0),
        e_ehsize: u16(EHDR_LEN as u16),
        e_phentsize: u16(PHDR_LEN as u16),
        e_phnum: u16(e_phnum),
        e_shentsize: u16(e_shentsize),
        e_shnum: u16(e_shnum),
        e_shstrndx: u16(SHN_UNDEF),
    }
}

/// The program header of the notes.
pub(super) fn note(offset: u64, len: u64) -> ProgramHeader64<Le> {
    ProgramHeader64 {
        p_type: u32(PT_NOTE),
        p_flags: u32(0),
        p_offset: u64(offset),
        p_vaddr: u64(0),
        p_paddr: u64(0),
        p_filesz: u64(len),
        p_memsz: u64(0),
        p_align: u64(4),
    }
}

/// The program header of `segment`, whose data is at `offset`.
pub(super) fn load(segment: &Segment, offset: u64) -> ProgramHeader64<Le> {
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

/// Section header 0, which holds the number of program headers (fill_extnum_info).
pub(super) fn section(nr_program_headers: u64) -> SectionHeader64<Le> {
    SectionHeader64 {
        sh_name: u32(0),
        sh_type: u32(SHT_NULL),
        sh_flags: u64(0),
        sh_addr: u64(0),
        sh_offset: u64(0),
        sh_size: u64(1),
        sh_link: u32(SHN_UNDEF.into()),
        sh_info: u32(nr_program_headers as u32),
        sh_addralign: u64(0),
        sh_entsize: u64(0),
    }
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
