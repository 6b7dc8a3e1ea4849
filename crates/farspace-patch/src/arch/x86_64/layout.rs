//! What a trampoline consists of.
//!
//! ```text
//! +0   48 8d 0d disp32     lea rcx, [rip + after]       syscall clobbers rcx as well; flags stay
//! +7   ff 25 00000000      jmp qword ptr [rip + 0]      to the common code
//! +13  u64                 address of the common code
//! +21  u64                 S+2, what syscall would have left in rcx: the common code finds it at [rcx - 8]
//! +29  after:              the displaced instructions, relocated
//!      e9 rel32            jmp to the first instruction that wasn't displaced; none after ret or jmp
//! ```
//!
//! The common code is entered with all registers and flags of the guest but rcx, which is `after`. It leaves by a jump
//! to `after` with rax as the result; to be like the kernel it also puts the value at [rcx - 8] into rcx and the flags
//! into r11.
//!
//! A signal that arrives behind the `lea` finds the guest at S with rcx changed. That is harmless: whoever is about
//! to execute `syscall` has given up rcx.

/// Offset of the entry: where the patch jumps to.
pub const ENTRY_AT: usize = 0;

/// Offset of the `jmp` to the common code.
pub const JMP_AT: usize = 7;

/// Offset of the literal with the address of the common code, 8 bytes.
pub const COMMON_AT: usize = 13;

/// Offset of the literal S+2, 8 bytes.
pub const RETURN_AT: usize = 21;

/// Offset of the relocated instructions.
pub const AFTER_AT: usize = 29;

/// Distance from `after` back to the literal S+2.
pub const RETURN_BEFORE_AFTER: usize = AFTER_AT - RETURN_AT;

const _: () = assert!(JMP_AT == ENTRY_AT + 7 && COMMON_AT == JMP_AT + 6 && RETURN_AT == COMMON_AT + 8);
const _: () = assert!(RETURN_BEFORE_AFTER == 8);

/// The code before the literals.
pub(crate) const ENTRY: [u8; COMMON_AT] = {
    let after_from_lea = (AFTER_AT - JMP_AT) as u8;
    [0x48, 0x8d, 0x0d, after_from_lea, 0, 0, 0, 0xff, 0x25, 0, 0, 0, 0]
};
