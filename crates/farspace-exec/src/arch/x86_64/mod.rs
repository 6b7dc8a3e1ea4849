//! x86-64: the code of the stub, its image, its filter, and where registers lie in a signal frame.

pub(crate) mod filter;
pub(crate) mod frame;
pub(crate) mod image;
mod starter;
mod steward;
mod vcpu;
pub(crate) mod xsave;

pub(crate) use vcpu::VcpuCode;

/// The bytes of the stub's code between two symbols.
///
/// # Safety
///
/// Both are symbols of one section that is never written to, `end` not before `start`.
unsafe fn between(start: *const u8, end: *const u8) -> &'static [u8] {
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(start, end.offset_from(start) as usize) }
}
