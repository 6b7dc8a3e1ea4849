//! The general registers of a stopped thread, and restarting the system call it was taken from.

use farspace_abi::RemoteAddr;

/// The bytes of the `syscall` instruction.
pub const SYSCALL_INSTRUCTION: [u8; 2] = [0x0f, 0x05];

/// Kernel-internal results that ask for a restart (include/linux/errno.h).
const ERESTARTSYS: i64 = -512;
const ERESTARTNOINTR: i64 = -513;
const ERESTARTNOHAND: i64 = -514;
const ERESTART_RESTARTBLOCK: i64 = -516;
const NR_RESTART_SYSCALL: u64 = 219;
const NR_CLOSE: u64 = 3;
/// Code segments (arch/x86/include/asm/segment.h).
const USER_CS: u64 = 0x33;

/// `struct user_regs_struct` (arch/x86/include/asm/user_64.h).
#[derive(Clone, Copy, Debug)]
pub struct Registers(pub libc::user_regs_struct);

impl Registers {
    /// True if the thread runs 64-bit code.
    pub fn is_64_bit(&self) -> bool {
        self.0.cs == USER_CS
    }

    /// The next instruction.
    pub fn instruction(&self) -> RemoteAddr {
        RemoteAddr(self.0.rip)
    }

    /// Points the next instruction elsewhere.
    pub fn set_instruction(&mut self, at: RemoteAddr) {
        self.0.rip = at.0;
    }

    /// All of them, in the order of the structure.
    pub fn to_array(&self) -> [u64; 27] {
        let r = &self.0;
        [
            r.r15, r.r14, r.r13, r.r12, r.rbp, r.rbx, r.r11, r.r10, r.r9, r.r8, r.rax, r.rcx, r.rdx, r.rsi,
            r.rdi, r.orig_rax, r.rip, r.cs, r.eflags, r.rsp, r.ss, r.fs_base, r.gs_base, r.ds, r.es, r.fs,
            r.gs,
        ]
    }

    /// The result of the last system call.
    pub fn result(&self) -> i64 {
        self.0.rax as i64
    }

    /// Loads a system call, to be made by the instruction at `at`; no restart of the interrupted one.
    pub fn load_syscall(&mut self, at: RemoteAddr, nr: u64, args: [u64; 6]) {
        let r = &mut self.0;
        (r.rip, r.rax, r.orig_rax) = (at.0, nr, u64::MAX);
        [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = args;
    }

    /// Tells the kernel not to restart a system call when the thread goes on from elsewhere.
    pub fn forget_syscall(&mut self) {
        self.0.orig_rax = u64::MAX;
    }

    /// Number of the system call that the stop interrupted, if it did.
    pub fn interrupted_syscall(&self) -> Option<u64> {
        ((self.0.orig_rax as i64) >= 0).then_some(self.0.orig_rax)
    }

    /// Turns an EINTR that the stop itself has caused into a restart; true if there was one.
    ///
    /// Some calls (epoll_wait, semop, sigtimedwait, io_getevents, those under SO_RCVTIMEO...: signal(7))
    /// give a plain EINTR where others ask for a restart. With ERESTARTNOHAND the kernel decides as it does
    /// for pause(2): restart, unless a handler runs. A finite timeout begins anew. close(2) is left alone: its
    /// descriptor is gone.
    pub fn restart_instead_of_eintr(&mut self) -> bool {
        let interrupted = self.interrupted_syscall().is_some_and(|nr| nr != NR_CLOSE);
        let eintr = interrupted && self.result() == -i64::from(libc::EINTR);
        if eintr {
            self.0.rax = ERESTARTNOHAND as u64;
        }
        eintr
    }

    /// Turns the restart of an interrupted system call into an EINTR; true if there was one.
    pub fn eintr_instead_of_restart(&mut self) -> bool {
        let restart = self.interrupted_syscall().is_some() && is_restart(self.result());
        if restart {
            self.0.rax = -i64::from(libc::EINTR) as u64;
            self.forget_syscall();
        }
        restart
    }

    /// The registers with which the thread goes on by itself, as the kernel would restart it
    /// (arch_do_signal_or_restart, arch/x86/kernel/signal.c).
    #[must_use]
    pub fn restarted(mut self) -> Self {
        if let Some(nr) = self.interrupted_syscall() {
            let again = match self.result() {
                ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND => Some(nr),
                ERESTART_RESTARTBLOCK => Some(NR_RESTART_SYSCALL),
                _ => None,
            };
            if let Some(nr) = again {
                self.0.rax = nr;
                self.0.rip = self.0.rip.wrapping_sub(SYSCALL_INSTRUCTION.len() as u64);
            }
        }
        self.forget_syscall();
        self
    }

    /// Values of the registers that a system call needs or changes: rax, rcx, rdx, rsi, rdi, r8, r9, r10, r11
    /// (`farspace_abi::boot::RESUME_REGISTERS`).
    pub fn syscall_registers(&self) -> [u64; 9] {
        let r = &self.0;
        [r.rax, r.rcx, r.rdx, r.rsi, r.rdi, r.r8, r.r9, r.r10, r.r11]
    }

    /// Machine code that makes one system call, loads those registers and jumps back: what a thread runs by
    /// itself if its tracer dies. Uses no stack and changes no flags.
    pub fn syscall_and_resume(&self) -> Vec<u8> {
        /// `movabs` to the registers above, in order (Intel SDM, MOV).
        const MOVABS: [[u8; 2]; 9] = [
            [0x48, 0xb8],
            [0x48, 0xb9],
            [0x48, 0xba],
            [0x48, 0xbe],
            [0x48, 0xbf],
            [0x49, 0xb8],
            [0x49, 0xb9],
            [0x49, 0xba],
            [0x49, 0xbb],
        ];
        /// `jmp [rip + 0]`.
        const JUMP: [u8; 6] = [0xff, 0x25, 0, 0, 0, 0];
        let mut code = SYSCALL_INSTRUCTION.to_vec();
        for (opcode, value) in MOVABS.iter().zip(self.syscall_registers()) {
            code.extend(opcode);
            code.extend(value.to_le_bytes());
        }
        code.extend(JUMP);
        code.extend(self.0.rip.to_le_bytes());
        code
    }
}

/// True for a result that asks for a restart, which no program ever sees.
pub fn is_restart(result: i64) -> bool {
    matches!(result, ERESTARTSYS | ERESTARTNOINTR | ERESTARTNOHAND | ERESTART_RESTARTBLOCK)
}

/// Machine code that makes one system call and then exits the thread (exit(2), not exit_group).
pub fn syscall_and_exit() -> Vec<u8> {
    let mut code = SYSCALL_INSTRUCTION.to_vec();
    // mov eax, 60; xor edi, edi; syscall; ud2
    code.extend([0xb8, 60, 0, 0, 0, 0x31, 0xff, 0x0f, 0x05, 0x0f, 0x0b]);
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registers() -> Registers {
        // SAFETY: plain old data; all zeros is a valid value.
        Registers(unsafe { std::mem::zeroed() })
    }

    #[test]
    fn restart_goes_back_over_the_instruction() {
        let mut r = registers();
        (r.0.rip, r.0.rax, r.0.orig_rax) = (0x1002, ERESTARTSYS as u64, 61);
        let restarted = r.restarted();
        assert_eq!((restarted.0.rip, restarted.0.rax, restarted.0.orig_rax), (0x1000, 61, u64::MAX));
        r.0.rax = ERESTART_RESTARTBLOCK as u64;
        assert_eq!(r.restarted().0.rax, NR_RESTART_SYSCALL);
    }

    #[test]
    fn a_restart_becomes_eintr() {
        let mut r = registers();
        (r.0.rip, r.0.rax, r.0.orig_rax) = (0x1002, ERESTARTSYS as u64, 0);
        assert!(r.eintr_instead_of_restart());
        assert_eq!((r.0.rip, r.result(), r.interrupted_syscall()), (0x1002, -4, None));
        // Part of the work was done.
        (r.0.rax, r.0.orig_rax) = (5, 1);
        assert!(!r.eintr_instead_of_restart() && r.result() == 5);
    }

    #[test]
    fn eintr_becomes_a_restart_only_in_a_system_call() {
        let mut r = registers();
        (r.0.rax, r.0.orig_rax) = (-4i64 as u64, 232);
        assert!(r.restart_instead_of_eintr());
        assert_eq!(r.result(), ERESTARTNOHAND);
        (r.0.rax, r.0.orig_rax) = (-4i64 as u64, u64::MAX);
        assert!(!r.restart_instead_of_eintr());
        (r.0.rax, r.0.orig_rax) = (-4i64 as u64, NR_CLOSE);
        assert!(!r.restart_instead_of_eintr());
    }
}
