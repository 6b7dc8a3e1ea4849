//! Where things lie in a signal frame (struct rt_sigframe, arch/x86/include/asm/sigframe.h; struct sigcontext_64,
//! arch/x86/include/uapi/asm/sigcontext.h). Offsets in bytes from the start of the frame.

/// `struct ucontext`, after the return address.
pub(crate) const UCONTEXT: usize = 8;
/// `struct sigcontext_64` in it.
pub(crate) const SIGCONTEXT: usize = UCONTEXT + 40;
/// The signal mask, after the context.
pub(crate) const SIGMASK: usize = SIGCONTEXT + 256;
/// `siginfo_t`, after the ucontext.
pub(crate) const SIGINFO: usize = SIGMASK + 8;
/// Bytes of the frame without the vector state.
pub(crate) const BYTES: usize = SIGINFO + 128;

pub(crate) const R8: usize = SIGCONTEXT;
pub(crate) const R9: usize = SIGCONTEXT + 8;
pub(crate) const R10: usize = SIGCONTEXT + 16;
pub(crate) const R11: usize = SIGCONTEXT + 24;
pub(crate) const R12: usize = SIGCONTEXT + 32;
pub(crate) const R13: usize = SIGCONTEXT + 40;
pub(crate) const R14: usize = SIGCONTEXT + 48;
pub(crate) const R15: usize = SIGCONTEXT + 56;
pub(crate) const RDI: usize = SIGCONTEXT + 64;
pub(crate) const RSI: usize = SIGCONTEXT + 72;
pub(crate) const RBP: usize = SIGCONTEXT + 80;
pub(crate) const RBX: usize = SIGCONTEXT + 88;
pub(crate) const RDX: usize = SIGCONTEXT + 96;
pub(crate) const RAX: usize = SIGCONTEXT + 104;
pub(crate) const RCX: usize = SIGCONTEXT + 112;
pub(crate) const RSP: usize = SIGCONTEXT + 120;
pub(crate) const RIP: usize = SIGCONTEXT + 128;
pub(crate) const RFLAGS: usize = SIGCONTEXT + 136;
/// CS and SS of 64-bit user code (arch/x86/include/asm/segment.h).
pub(crate) const USER_CS: u64 = 0x33;
pub(crate) const USER_SS: u64 = 0x2b;
/// u16 each: CS, GS, FS, SS.
pub(crate) const SELECTORS: usize = SIGCONTEXT + 144;
pub(crate) const ERR: usize = SIGCONTEXT + 152;
pub(crate) const TRAPNO: usize = SIGCONTEXT + 160;
pub(crate) const CR2: usize = SIGCONTEXT + 176;
/// Address of the XSAVE area in the frame, or 0.
pub(crate) const FPSTATE: usize = SIGCONTEXT + 184;

/// Fields of siginfo_t (sigaction(2)).
pub(crate) mod siginfo {
    use super::SIGINFO;
    pub(crate) const SIGNO: usize = SIGINFO;
    pub(crate) const CODE: usize = SIGINFO + 8;
    /// si_addr, si_call_addr.
    pub(crate) const ADDR: usize = SIGINFO + 16;
    pub(crate) const SYSCALL: usize = SIGINFO + 24;
    pub(crate) const ARCH: usize = SIGINFO + 28;
}
