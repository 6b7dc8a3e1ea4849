//! The structures of process_vm_exec, laid out as the kernel's.

/// `struct sigcontext` of x86-64 (arch/x86/include/uapi/asm/sigcontext.h).
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the processor's and the kernel's")]
pub struct SigContext {
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rdi: u64,
    pub rsi: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub rdx: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rsp: u64,
    pub rip: u64,
    pub eflags: u64,
    pub cs: u16,
    pub gs: u16,
    pub fs: u16,
    pub ss: u16,
    pub err: u64,
    pub trapno: u64,
    pub oldmask: u64,
    pub cr2: u64,
    /// Address of a signal-frame XSAVE area in the caller, or 0: a clean state, whose changes are dropped.
    pub fpstate: u64,
    /// `[0]`: FS base; `[1]`: GS base.
    pub reserved1: [u64; 8],
}

/// `siginfo_t` (include/uapi/asm-generic/siginfo.h): 128 bytes, read by accessors.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SigInfo {
    /// The structure's bytes.
    pub bytes: [u8; 128],
}

impl Default for SigInfo {
    fn default() -> Self {
        Self { bytes: [0; 128] }
    }
}

impl SigInfo {
    fn word(&self, at: usize) -> u32 {
        u32::from_ne_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]])
    }

    /// si_signo
    pub fn signo(&self) -> i32 {
        self.word(0) as i32
    }

    /// si_code
    pub fn code(&self) -> i32 {
        self.word(8) as i32
    }

    /// si_addr, or si_call_addr of SIGSYS.
    pub fn addr(&self) -> u64 {
        u64::from(self.word(16)) | u64::from(self.word(20)) << 32
    }

    /// si_syscall of SIGSYS.
    pub fn syscall(&self) -> i32 {
        self.word(24) as i32
    }

    /// si_arch of SIGSYS.
    pub fn arch(&self) -> u32 {
        self.word(28)
    }
}

/// PROCESS_VM_EXEC_SYSCALL: one system call instead of guest code.
pub const SYSCALL: u64 = 1;
/// PROCESS_VM_EXEC_PIDFD: `pid` is a pidfd.
pub const PIDFD: u64 = 2;
/// si_code of a system call event (include/uapi/asm-generic/siginfo.h).
pub const SYS_USER_DISPATCH: i32 = 2;

const _: () = assert!(size_of::<SigContext>() == 256 && size_of::<SigInfo>() == 128);
