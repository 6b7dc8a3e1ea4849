//! Why a guest stopped.

use farspace_abi::RemoteAddr;

/// Why a guest stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It made a system call, which was not executed. RIP is after the instruction, RAX the number: put the result
    /// there and run on.
    Syscall(Syscall),
    /// An instruction could not be completed; RIP is at it (after it, for a trap like a single step).
    Fault(Fault),
    /// [`Interrupter::interrupt`](crate::Interrupter::interrupt) was called.
    Interrupted,
}

/// A system call of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syscall {
    /// Its number in the table of `arch`.
    pub nr: u64,
    /// RDI, RSI, RDX, R10, R8 and R9; for the 32-bit table EBX, ECX, EDX, ESI, EDI and EBP.
    pub args: [u64; 6],
    /// Which table: AUDIT_ARCH_X86_64 or AUDIT_ARCH_I386 (int 0x80, sysenter).
    pub arch: u32,
    /// The way that it came.
    pub route: Route,
}

/// How a system call came out of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// From a patched site: no signal was needed.
    Patched,
    /// By SIGSYS.
    Trapped,
}

/// AUDIT_ARCH_X86_64 (include/uapi/linux/audit.h).
pub const ARCH_X86_64: u32 = 0xc000_003e;
/// AUDIT_ARCH_I386.
pub const ARCH_I386: u32 = 0x4000_0003;

/// A fault of the guest, as sigaction(2) and the processor's manual describe it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// SIGSEGV, SIGBUS, SIGILL, SIGFPE or SIGTRAP.
    pub signal: i32,
    /// si_code.
    pub code: i32,
    /// si_addr: the address that was accessed, or the instruction.
    pub addr: RemoteAddr,
    /// Number of the processor's exception (14: page fault).
    pub trapno: u64,
    /// Error code of the exception: for page faults bit 1 is a write, bit 4 an instruction fetch.
    pub err: u64,
}

/// What a page fault wanted to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Instruction fetch.
    Execute,
}

impl Fault {
    /// What was to be done at `addr`; `None` if this isn't a page fault.
    pub fn access(&self) -> Option<Access> {
        match (self.trapno, self.err) {
            (14, err) if err & 1 << 4 != 0 => Some(Access::Execute),
            (14, err) if err & 1 << 1 != 0 => Some(Access::Write),
            (14, _) => Some(Access::Read),
            _ => None,
        }
    }
}
