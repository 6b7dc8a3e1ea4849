//! The bytes that always fault when executed as the first byte of an instruction in 64-bit user mode.
//!
//! Sources: Intel SDM volume 2, appendix A (opcode map, superscript i64) and the pages of the instructions; AMD APM
//! volume 3, appendix A and "Invalid and Reassigned Instructions in 64-Bit Mode". `tests/traps.rs` executes each.
//!
//! Left out on purpose:
//!
//! * 62, c4, c5, d5, d4: invalid as what they were (BOUND, LES, LDS, AAD, AAM), but EVEX, VEX and APX gave, or may give,
//!   them a new meaning.
//! * fa, fb (CLI, STI): the kernel skips them silently for a task that has called iopl(3) (`fixup_iopl_exception`,
//!   arch/x86/kernel/traps.c), and CR4.PVI gives them a meaning.
//! * 6c-6f, e4-e7, ec-ef (in, out): permitted by ioperm.
//! * f1 (INT1): traps, but is undocumented on older processors, and hypervisors have got it wrong.

/// The bytes that trap, ascending.
///
/// | bytes | what they were | fault |
/// |---|---|---|
/// | 06 07 0e 16 17 1e 1f | push and pop of es, cs, ss, ds | #UD |
/// | 27 2f 37 3f | daa, das, aaa, aas | #UD |
/// | 60 61 | pusha, popa | #UD |
/// | 82 | alias of 80 | #UD |
/// | 9a ea | far call and jump to an immediate | #UD |
/// | cc | int3 | #BP, reported one byte late: see [`faulting_address`] |
/// | ce | into | #UD |
/// | d6 | salc; since 2024 documented as UDB, "always raises #UD" | #UD |
/// | f4 | hlt | #GP |
///
/// If the byte is the last of its page and the next isn't mapped, the fetch may raise #PF first, with the same
/// instruction pointer.
pub const TRAPS: [u8; 20] = [
    0x06, 0x07, 0x0e, 0x16, 0x17, 0x1e, 0x1f, 0x27, 0x2f, 0x37, 0x3f, 0x60, 0x61, 0x82, 0x9a, 0xcc, 0xce,
    0xd6, 0xea, 0xf4,
];

/// `int3`.
pub(crate) const INT3: u8 = 0xcc;

const IS_TRAP: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < TRAPS.len() {
        table[TRAPS[i] as usize] = true;
        i += 1;
    }
    table
};

/// Returns whether an instruction that begins with `byte` always faults.
pub const fn is_trap(byte: u8) -> bool {
    IS_TRAP[byte as usize]
}

/// Converts the instruction pointer of a signal frame into the address of the instruction that has faulted.
///
/// `vector` is the exception's number (`trapno` of the frame, REG_TRAPNO). #BP is a trap: its frame points behind the
/// one byte of `int3`. The others are faults and point at the instruction.
pub const fn faulting_address(vector: u64, ip: u64) -> u64 {
    const BREAKPOINT: u64 = 3;
    if vector == BREAKPOINT { ip.wrapping_sub(1) } else { ip }
}

#[cfg(test)]
mod tests {
    use iced_x86::{Decoder, DecoderOptions, Mnemonic};

    use super::*;

    /// A second opinion: the decoder knows no instruction that begins with one of the bytes, but int3 and hlt.
    #[test]
    fn the_decoder_agrees() {
        for byte in TRAPS {
            let mut code = [0u8; 16];
            for modrm in 0..=255u8 {
                code[0] = byte;
                code[1] = modrm;
                let decoded = Decoder::new(64, &code, DecoderOptions::NONE).decode();
                let trap = match byte {
                    0xcc => decoded.mnemonic() == Mnemonic::Int3,
                    0xf4 => decoded.mnemonic() == Mnemonic::Hlt,
                    0xd6 => decoded.is_invalid() || decoded.len() == 1, // newer decoders know UDB
                    _ => decoded.is_invalid(),
                };
                assert!(trap, "{byte:02x} {modrm:02x} decodes");
            }
        }
    }

    #[test]
    fn breakpoints_are_reported_late() {
        assert_eq!(faulting_address(3, 0x1001), 0x1000);
        assert_eq!(faulting_address(6, 0x1001), 0x1001);
    }
}
