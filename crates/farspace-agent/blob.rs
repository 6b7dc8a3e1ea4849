//! Root of the blob: the agent as the build script of `farspace-inject` compiles it.

#![no_std]
#![no_main]

#[path = "src/arch/x86_64/mod.rs"]
mod arch;
#[path = "src/guests.rs"]
mod guests;
#[path = "src/life.rs"]
mod life;
#[path = "src/ranges.rs"]
mod ranges;
#[path = "src/send.rs"]
mod send;
#[path = "src/serve.rs"]
mod serve;
#[path = "src/stream.rs"]
mod stream;

/// The blob has no panic path: if one were left, this symbol would be missing at link time.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    unsafe extern "C" {
        fn farspace_agent_has_a_panic_path() -> !;
    }
    // SAFETY: never linked.
    unsafe { farspace_agent_has_a_panic_path() }
}

/// memset(3), for the compiler's own use.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, len: usize) -> *mut u8 {
    // SAFETY: the compiler's promise; the direction flag is clear (System V ABI).
    unsafe { core::arch::asm!("rep stosb", inout("rcx") len => _, inout("rdi") to => _, in("al") byte as u8) };
    to
}

/// memcpy(3), for the compiler's own use.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8 {
    // SAFETY: as above.
    unsafe { core::arch::asm!("rep movsb", inout("rcx") len => _, inout("rdi") to => _, inout("rsi") from => _) };
    to
}
