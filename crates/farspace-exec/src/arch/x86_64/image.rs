//! The stub as a program: an ELF file of one read-only, executable segment.

use farspace_abi::vcpu::{
    CONSTANTS_OFFSET, ONE_OFFSET, RESERVED_BASE, STEWARD_CODE, STEWARD_OFFSET, STUB_BYTES, VCPU_OFFSET,
};

use super::{VcpuCode, starter, steward};

/// SYSCALL_DISPATCH_FILTER_BLOCK (include/uapi/linux/prctl.h).
const BLOCK: u8 = 1;

/// The file that the first steward executes; mapped at [`RESERVED_BASE`] from its first byte.
pub(crate) fn program() -> Vec<u8> {
    let mut image = image(steward::code());
    image[..64].copy_from_slice(&header());
    image[64..120].copy_from_slice(&segment());
    image
}

/// The same for foreign processes: without headers, and with the code that prepares a task in the steward's place.
pub(crate) fn stub() -> Vec<u8> {
    image(starter::code())
}

fn image(first: &[u8]) -> Vec<u8> {
    let mut image = vec![0; STUB_BYTES as usize];
    let mut put = |offset: u64, bytes: &[u8]| {
        let offset = offset as usize;
        assert!(bytes.len() <= 0x1000, "each part has one page");
        image[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(STEWARD_OFFSET, first);
    put(VCPU_OFFSET, VcpuCode::get().bytes);
    put(CONSTANTS_OFFSET, &[BLOCK]);
    put(CONSTANTS_OFFSET + ONE_OFFSET, &1u64.to_le_bytes());
    image
}

/// `Elf64_Ehdr` (elf(5)): x86-64, executable, one program header right after it.
fn header() -> [u8; 64] {
    let mut header = [0; 64];
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes()); // ET_EXEC
    put(18, &62u16.to_le_bytes()); // EM_X86_64
    put(20, &1u32.to_le_bytes());
    put(24, &STEWARD_CODE.to_le_bytes()); // e_entry
    put(32, &64u64.to_le_bytes()); // e_phoff
    put(52, &64u16.to_le_bytes()); // e_ehsize
    put(54, &56u16.to_le_bytes()); // e_phentsize
    put(56, &1u16.to_le_bytes()); // e_phnum
    put(58, &64u16.to_le_bytes()); // e_shentsize
    header
}

/// `Elf64_Phdr`: PT_LOAD of the whole file, read and execute.
fn segment() -> [u8; 56] {
    let mut segment = [0; 56];
    let words = [0, RESERVED_BASE, RESERVED_BASE, STUB_BYTES, STUB_BYTES, 0x1000];
    segment[..4].copy_from_slice(&1u32.to_le_bytes());
    segment[4..8].copy_from_slice(&5u32.to_le_bytes());
    for (place, word) in segment[8..].chunks_exact_mut(8).zip(words) {
        place.copy_from_slice(&u64::to_le_bytes(word));
    }
    segment
}
