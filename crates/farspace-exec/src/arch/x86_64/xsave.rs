//! The XSAVE area of a signal frame (struct _fpstate_64, struct _xstate: arch/x86/include/uapi/asm/sigcontext.h; the
//! processor's manual, volume 1, 13.4). Offsets in bytes from its start, standard format.

use std::sync::OnceLock;

/// u32 each: MXCSR and which of its bits may be set.
pub(crate) const MXCSR: usize = 24;
/// `struct _fpx_sw_bytes`, to the end of the legacy part.
pub(crate) const SOFTWARE: usize = 464;
/// u32: [`MAGIC1`].
pub(crate) const SW_MAGIC: usize = SOFTWARE;
/// u64: the features that the area has room for.
pub(crate) const SW_FEATURES: usize = SOFTWARE + 8;
/// u32: bytes of the area without the [`MAGIC2`] behind it.
pub(crate) const SW_SIZE: usize = SOFTWARE + 16;
/// u64: the features that aren't in their initial state.
pub(crate) const XSTATE_BV: usize = 512;
/// u64, 0 in the standard format; the rest of the header is 0 as well.
pub(crate) const XCOMP_BV: usize = 520;
/// First byte after the header.
pub(crate) const EXTENDED: usize = 576;

/// FP_XSTATE_MAGIC1.
pub(crate) const MAGIC1: u32 = 0x4650_5853;
/// FP_XSTATE_MAGIC2, after the area.
pub(crate) const MAGIC2: u32 = 0x4650_5845;
/// MXCSR as the processor starts with it: all exceptions masked.
pub(crate) const MXCSR_INIT: u32 = 0x1f80;
/// Bit of the protection keys' register, and what Linux starts a program with: all keys but 0 closed
/// (arch/x86/mm/pkeys.c, init_pkru_value).
pub(crate) const PKRU: u64 = 1 << 9;
/// See [`PKRU`].
pub(crate) const PKRU_INIT: u32 = 0x5555_5554;

/// Where the protection keys' register lies (CPUID leaf 0xd, sub-leaf 9, EBX).
pub(crate) fn pkru_offset() -> usize {
    static OFFSET: OnceLock<usize> = OnceLock::new();
    *OFFSET.get_or_init(|| core::arch::x86_64::__cpuid_count(0xd, 9).ebx as usize)
}
