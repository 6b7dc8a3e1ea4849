//! Code for process_vm_exec, at a fixed address of every target.

/// Where the code is.
pub(crate) const CODE: u64 = 0x1400_0000_0000;
/// Memory beside it, which stays; [`DATA_BYTES`] long.
pub(crate) const DATA: u64 = 0x1400_0001_0000;
pub(crate) const DATA_BYTES: u64 = 0x1_0000;
/// Memory that comes and goes.
pub(crate) const AREA: u64 = 0x1400_0010_0000;
pub(crate) const AREA_BYTES: u64 = 0x4_0000;

/// Bytes between two entries.
pub(crate) const STEP: u64 = 16;

/// One entry each. RDI is an address that they may use.
pub(crate) const ENTRIES: &[&[u8]] = &[
    &[0x0f, 0x05, 0xeb, 0xfc],       // syscall, again and again
    &[0xeb, 0xfe],                   // spins
    &[0x48, 0x8b, 0x07, 0xeb, 0xfb], // mov rax, [rdi]
    &[0x48, 0xff, 0x07, 0xeb, 0xfb], // inc qword ptr [rdi]
    &[0xcd, 0x80, 0xeb, 0xfc],       // int 0x80
    &[0x0f, 0x0b],                   // ud2
    &[0xcc, 0xeb, 0xfd],             // int3
    &[0xf4],                         // hlt: not for user space
    &[0x0f, 0x34],                   // sysenter
    &[0x66, 0x0f, 0xef, 0xc0, 0x66, 0x0f, 0x76, 0xc0, 0xeb, 0xf6], // changes xmm0, spins
];

/// All of it, as it is put at [`CODE`].
pub(crate) fn page() -> Vec<u8> {
    let mut page = vec![0xcc; ENTRIES.len() * STEP as usize];
    for (place, entry) in page.chunks_mut(STEP as usize).zip(ENTRIES) {
        place[..entry.len()].copy_from_slice(entry);
    }
    page
}
