//! x86-64: the window after a `syscall`, the bytes that trap, where a trampoline may be, and what it consists of.

pub mod layout;
pub(crate) mod place;
pub(crate) mod relocate;
pub mod traps;
pub(crate) mod window;

/// Length of `syscall`, in bytes.
pub const SYSCALL_LEN: usize = 2;

/// The bytes of `syscall`.
pub const SYSCALL: [u8; SYSCALL_LEN] = [0x0f, 0x05];

/// Length of `jmp rel32`, in bytes: all that is ever changed at a site.
pub const PATCH_LEN: usize = 5;

/// First byte of `jmp rel32`.
pub(crate) const JMP_REL32: u8 = 0xe9;

/// Most bytes that a site's decision depends on: the `syscall`, two more bytes of the patch, and the longest
/// instruction that may begin at the last of the five. Reading this many is always enough.
pub const WINDOW_MAX: usize = PATCH_LEN - 1 + 15;

/// Size of the pages that trampolines are packed into, in bytes.
pub const PAGE: u64 = 4096;
